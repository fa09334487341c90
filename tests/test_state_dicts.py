"""Weights in the files of training scripts: behind keys and prefixes, beside settings."""

import argparse
import collections
import pathlib

import numpy as np
import pytest
import torch

from svda_analysis.errors import InputError
from svda_analysis.state_dicts import entry, part_of, read_state_dict

STATE = {"a.weight": torch.arange(4.0), "b": torch.ones(2, 2)}


class Harm:
    """What leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(self.path),)


@pytest.mark.parametrize(
    "content",
    [
        STATE,
        {"state_dict": STATE, "epoch": 3},
        {"net": STATE, "acc": 93.0},
        {"model_ema": STATE},
        {"teacher": {f"backbone.{key}": value for key, value in STATE.items()}, "student": {}},
        {"checkpoint": {"model": {f"module.{key}": value for key, value in STATE.items()}}},
        {"state_dict": STATE, "optimizer": {"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": []}},
        {"state_dict": STATE, "args": argparse.Namespace(lr=1e-3, out=pathlib.PurePosixPath("a"))},
        {"state_dict": STATE, "best": np.float64(0.9), "history": np.arange(3)},
    ],
)
def test_weights_are_found_where_training_scripts_put_them(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    found = read_state_dict(tmp_path / "w.pt")
    assert list(found) == list(STATE)
    assert all(torch.equal(found[key], value) for key, value in STATE.items())


def test_of_several_one_is_named(tmp_path):
    path = tmp_path / "w.pt"
    ema = {key: value + 1 for key, value in STATE.items()}
    torch.save({"state_dict": STATE, "state_dict_ema": ema}, path)
    with pytest.raises(InputError, match=r"several models: state_dict, state_dict_ema; name one, as .*#state_dict$"):
        read_state_dict(path)
    assert torch.equal(read_state_dict(path, "state_dict_ema")["b"], ema["b"])
    with pytest.raises(InputError, match="holds no state dict 'ema'; it has state_dict, state_dict_ema"):
        read_state_dict(path, "ema")


def test_a_file_without_weights_says_what_it_has(tmp_path):
    path = tmp_path / "w.pt"
    torch.save({"epoch": 3, "words": ["a"]}, path)
    with pytest.raises(InputError, match=r"it has epoch \(int\), words \(list\); save model.state_dict\(\) alone"):
        read_state_dict(path)
    torch.save([1], path)
    with pytest.raises(InputError, match="it has a list; save"):
        read_state_dict(path)


def test_nothing_in_a_file_is_run(tmp_path):
    harm = tmp_path / "harm"
    for name, extra in {"alone": {}, "beside": {"args": argparse.Namespace(lr=1)}}.items():
        torch.save({"state_dict": STATE, "x": Harm(str(harm)), **extra}, tmp_path / f"{name}.pt")
        with pytest.raises(InputError, match="was refused: it holds "):
            read_state_dict(tmp_path / f"{name}.pt")
        assert not harm.exists()


def test_tables_that_hold_themselves_or_each_other_again_and_again_are_looked_at_once(tmp_path):
    around = {"epoch": 1}
    around["self"] = around
    twice = {"epoch": 1}
    for _ in range(60):  # 2^60 ways through it
        twice = {"a": twice, "b": twice}
    for content in (around, twice):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(InputError, match="holds no state dict"):
            read_state_dict(tmp_path / "w.pt")
        torch.save({"x": content, "state_dict": STATE}, tmp_path / "w.pt")
        assert list(read_state_dict(tmp_path / "w.pt")) == list(STATE)


def test_the_same_weights_under_two_keys_are_one_state_dict(tmp_path):
    torch.save({"model": STATE, "ema": STATE}, tmp_path / "w.pt")
    assert list(read_state_dict(tmp_path / "w.pt")) == list(STATE)


def test_names_with_new_lines_stay_on_one_line(tmp_path):
    for content in ({"a\nb": STATE, "c\x1b[31m": {"d": torch.ones(1)}}, {"a\nb": 3}):
        torch.save(content, tmp_path / "w.pt")
        with pytest.raises(InputError) as refused:
            read_state_dict(tmp_path / "w.pt")
        assert str(refused.value).isprintable()


@pytest.mark.parametrize("prefix", ["student.", "encoder.vit.", "ema_model.", ""])
def test_the_weights_of_a_model_are_found_behind_any_one_prefix(prefix):
    inside = {prefix + name: value for name, value in STATE.items()}
    beside = {"criterion.weight": torch.ones(3), "n_averaged": torch.tensor(3)}
    found, left_out = part_of({**inside, **(beside if prefix else {})}, STATE)
    assert left_out == (list(beside) if prefix else [])
    assert list(found) == list(STATE)
    assert all(torch.equal(found[name], value) for name, value in STATE.items())
    assert torch.equal(entry(inside, "a.weight"), STATE["a.weight"])


def test_two_prefixes_or_none_leave_the_names_as_they_are():
    two = {f"{who}.{name}": value for who in ("student", "teacher") for name, value in STATE.items()}
    assert part_of(two, STATE)[0] is two
    lacking = {"student.a.weight": STATE["a.weight"]}
    assert part_of(lacking, STATE)[0] is lacking
    assert entry(two, "a.weight") is None


def test_what_is_refused_is_told_the_way_out(tmp_path):
    torch.save({"state_dict": STATE, "logs": collections.defaultdict(list, {"loss": [1.0]})}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"only plain weights are read: save model.state_dict\(\) alone"):
        read_state_dict(tmp_path / "w.pt")


def test_numbers_and_words_may_stand_beside_weights(tmp_path):
    torch.save({**STATE, "epoch": 3, "lr": 0.1, "name": "vit", "best": None}, tmp_path / "w.pt")
    assert list(read_state_dict(tmp_path / "w.pt")) == list(STATE)
    beside = {"step": torch.tensor(3), "criterion": {"weight": torch.ones(5), "gamma": 2.0}}
    torch.save({"epoch": 3, "model": STATE, **beside}, tmp_path / "nested.pt")
    assert list(read_state_dict(tmp_path / "nested.pt")) == list(STATE)
    torch.save({"epoch": 3, "step": torch.tensor(3)}, tmp_path / "none.pt")
    with pytest.raises(InputError, match=r"holds no state dict .*; it has epoch \(int\), step \(Tensor\)"):
        read_state_dict(tmp_path / "none.pt")
