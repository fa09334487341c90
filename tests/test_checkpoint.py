"""Checkpoints: the round trip, atomic writing, and that a hostile file gives one line, runs nothing and never hangs."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import os
import pickle
import random
import re
import sys
import zipfile

import pandas as pd
import pytest
import torch

from svda_analysis.checkpoint import FORMAT, Checkpoint, build_model, export, load, load_model, save
from svda_analysis.errors import InputError
from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.model import ViT, ViTConfig

CONFIG = ViTConfig(depth=1, dim=8, heads=2, attention="svda")


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A checkpoint of 14 kB without a history. Not to be written to."""
    path = tmp_path_factory.mktemp("small") / "small.pt"
    save(checkpoint(), path)
    return path


def checkpoint(**changes):
    return Checkpoint(**{"config": CONFIG, "model": ViT(CONFIG).state_dict(), "epoch": 1, **changes})


def refusal(path):
    """The message that loading ``path`` is refused with: one line, naming the file."""
    with pytest.raises(InputError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def same_tensors(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


# --- the round trip -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dot", "svda"])
def test_everything_survives_a_second_trip_through_a_file(tiny, kind, tmp_path):
    first = load(tiny[kind])
    save(first, tmp_path / "again.pt")
    second = load(tmp_path / "again.pt")
    assert same_tensors(first.model, second.model)
    for name in ("config", "epoch", "recipe", "data", "versions"):
        assert getattr(first, name) == getattr(second, name), name
    pd.testing.assert_frame_equal(first.history, second.history, check_exact=True)
    before, after = first.optimizer["state"], second.optimizer["state"]
    assert before
    assert all(same_tensors(before[key], after[key]) for key in before)
    assert first.optimizer["param_groups"] == second.optimizer["param_groups"]


def test_a_trained_checkpoint_says_what_it_is(tiny):
    found = load(tiny["svda"])
    assert found.config == ViTConfig(depth=2, dim=24, heads=2, attention="svda")
    assert (found.seed, found.epoch) == (0, 1)
    assert found.recipe["dataset"] == found.data["name"] == "fashion_mnist"
    assert found.recipe["batch_size"] == 100
    assert found.history.dtypes.astype(str).to_dict() == TABLE_COLUMNS
    assert set(found.history["epoch"]) == {1}
    assert torch.__version__.startswith(found.versions["torch"])


def test_an_empty_history_and_missing_numbers_keep_their_types(tmp_path):
    row = {"model": "m", "indicator": "loss", "source": "train", "mean": 0.1, "n": 2**40}  # layer, std: missing
    for rows in ([], [row]):
        save(checkpoint(history=make_frame(rows, TABLE_COLUMNS)), tmp_path / "c.pt")
        history = load(tmp_path / "c.pt").history
        pd.testing.assert_frame_equal(history, make_frame(rows, TABLE_COLUMNS), check_exact=True)


def test_the_model_comes_back_in_eval_mode_with_identical_logits(tmp_path):
    torch.manual_seed(0)
    model = ViT(dataclasses.replace(CONFIG, dropout=0.5, attention_dropout=0.5)).eval()
    with torch.no_grad():
        for weight in model.parameters():  # the head starts at zero
            weight.add_(0.1 * torch.randn_like(weight))
    save(checkpoint(config=model.config, model=model.state_dict()), tmp_path / "c.pt")
    images = torch.randn(3, 1, 28, 28)
    for again in (build_model(load(tmp_path / "c.pt")), load_model(tmp_path / "c.pt")):
        assert not any(module.training for module in again.modules())
        assert all(weight.requires_grad and not weight.is_meta for weight in again.parameters())
        with torch.no_grad():
            assert again(images).abs().max() > 0.01
            assert torch.equal(again(images), model(images))


def test_saving_leaves_the_model_that_it_came_from_alone(tmp_path):
    model = ViT(CONFIG)
    save(checkpoint(model=model.state_dict()), tmp_path / "c.pt")
    loaded = load_model(tmp_path / "c.pt")
    with torch.no_grad():
        loaded.cls_token.fill_(7)
    assert not torch.equal(model.cls_token, loaded.cls_token)


def test_export_drops_the_optimizer_alone(tiny, tmp_path):
    export(tiny["svda"], tmp_path / "new folder" / "shared.pt")
    full, shared = load(tiny["svda"]), load(tmp_path / "new folder" / "shared.pt")
    assert full.optimizer is not None
    assert shared.optimizer is None
    assert same_tensors(full.model, shared.model)
    assert (full.config, full.recipe, full.data) == (shared.config, shared.recipe, shared.data)
    pd.testing.assert_frame_equal(full.history, shared.history)
    sizes = [path.stat().st_size for path in (tmp_path / "new folder" / "shared.pt", tiny["svda"])]
    assert sizes[0] < 0.6 * sizes[1]


def test_weights_that_are_not_finite_are_weights(tmp_path):
    weights = {name: torch.full_like(value, torch.nan) for name, value in ViT(CONFIG).state_dict().items()}
    save(checkpoint(model=weights), tmp_path / "c.pt")
    assert load_model(tmp_path / "c.pt").cls_token.isnan().all()


# --- atomic writing -------------------------------------------------------------------------------------------------


def no_space(*_):
    raise OSError(28, "No space left on device")


def interrupt(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize(("fault", "error"), [(no_space, InputError), (interrupt, KeyboardInterrupt)])
def test_a_failing_save_leaves_the_old_file_and_nothing_else(small, tmp_path, monkeypatch, step, fault, error):
    path = tmp_path / "c.pt"
    path.write_bytes(small.read_bytes())
    with monkeypatch.context() as patch:
        patch.setattr(os, step, fault)
        with pytest.raises(error) as caught:
            save(checkpoint(epoch=2), path)
    if error is InputError:
        assert str(caught.value) == f"{path} cannot be written: No space left on device"
    assert os.listdir(tmp_path) == ["c.pt"]
    assert path.read_bytes() == small.read_bytes()
    save(checkpoint(epoch=2), path)
    assert load(path).epoch == 2


def test_a_full_disk_is_told_in_one_line(small, tmp_path):
    resource = pytest.importorskip("resource", reason="limits on file size are a Unix matter")
    path = tmp_path / "c.pt"
    path.write_bytes(small.read_bytes())
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limit[1]))
    try:
        with pytest.raises(InputError, match=r"c\.pt cannot be written: File too large$"):
            save(checkpoint(), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert os.listdir(tmp_path) == ["c.pt"]
    assert path.read_bytes() == small.read_bytes()


def test_a_place_that_cannot_be_written_is_told_in_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "c.pt", tmp_path / "folder", tmp_path / f"{'x' * 300}.pt"):
        with pytest.raises(InputError, match=f"^{re.escape(str(path))} cannot be written: [^\n]+$"):
            save(checkpoint(), path)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert os.listdir(tmp_path / "folder") == []


# --- files that are no checkpoints ----------------------------------------------------------------------------------


def test_what_is_no_file_of_its_own(tmp_path):
    (tmp_path / "empty.pt").touch()
    (tmp_path / "text.pt").write_text("epoch,loss\n1,2.3\n")
    (tmp_path / "junk.pt").write_bytes(random.Random(0).randbytes(5000))
    assert refusal(tmp_path / "none.pt") == f"no such file: {tmp_path / 'none.pt'}"
    assert refusal(tmp_path / "text.pt" / "c.pt").startswith("no such file: ")
    assert refusal(tmp_path / "nul\0.pt").startswith("no such file: ")
    assert "is a directory" in refusal(tmp_path)
    assert "is empty" in refusal(tmp_path / "empty.pt")
    assert "is not a checkpoint" in refusal(tmp_path / "text.pt")
    assert "is not a checkpoint" in refusal(tmp_path / "junk.pt")
    assert "cannot be read" in refusal(tmp_path / f"{'x' * 300}.pt")


class RunsCode:
    """Unpickling one of these runs a command of the shell."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("protocol", [2, pickle.DEFAULT_PROTOCOL, pickle.HIGHEST_PROTOCOL])
@pytest.mark.parametrize("written_by", ["pickle", "torch", "old torch"])
def test_a_pickle_is_refused_and_never_run(tmp_path, protocol, written_by):
    path, marker = tmp_path / "c.pt", tmp_path / "marker"
    content = {"kind": "svda_analysis checkpoint", "format": FORMAT, "model": RunsCode(marker)}
    if written_by == "pickle":
        path.write_bytes(pickle.dumps(content, protocol))
    else:
        torch.save(content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=written_by == "torch")
    message = refusal(path)
    assert "was refused" in message
    assert ("system" in message) == (protocol == 2)  # a newer protocol is not even read that far
    assert not marker.exists()
    with contextlib.suppress(RuntimeError):  # a plain pickle has no storages after it
        torch.load(path, weights_only=False)
    assert marker.exists(), "the file must be one that runs code where it is let"


def test_a_whole_module_and_a_script_are_refused(small, tmp_path):
    torch.save(build_model(load(small)), tmp_path / "module.pt")
    assert "was refused: it holds svda_analysis.model.ViT" in refusal(tmp_path / "module.pt")
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:  # what torch takes for a script of TorchScript
        archive.writestr("script/constants.pkl", b"")
        archive.writestr("script/data.pkl", b"\x80\x02}.")
    (tmp_path / "script.pt").write_bytes(buffer.getvalue())
    refusal(tmp_path / "script.pt")


def test_a_plain_state_dict_is_told_from_a_checkpoint(tmp_path):
    torch.save(ViT(CONFIG).state_dict(), tmp_path / "weights.pt")
    assert "is not a checkpoint of svda_analysis" in refusal(tmp_path / "weights.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    assert "is not a checkpoint of svda_analysis" in refusal(tmp_path / "list.pt")


# --- checkpoints that were changed ----------------------------------------------------------------------------------

STATE = ViT(CONFIG).state_dict()
CHANGES = {
    "a newer format": ({"format": FORMAT + 1}, f"format {FORMAT + 1}, this version reads {FORMAT}"),
    "a format of no sense": ({"format": torch.ones(2)}, "format"),
    "no config": ({"config": None}, "damaged"),
    "an unknown key in the config": ({"config.width": 3}, "width"),
    "an invalid value in the config": ({"config.dim": 9}, "dim must be a multiple of heads 2, got 9"),
    "a value of another type": ({"config.mlp_ratio": "big"}, "damaged"),
    "an endless model": ({"config.depth": 10**12}, "depth 1000000000000"),
    "a model beyond any memory": ({"config.dim": 2**40}, "damaged"),
    "an infinite model": ({"config.mlp_ratio": torch.inf}, "damaged"),
    "a config for other weights": ({"config.dim": 16}, "proj.bias is (8,) float32, expected (16,) float32"),
    "a weight of another shape": ({"model.norm.weight": torch.ones(9)}, "norm.weight is (9,)"),
    "a weight of another type": ({"model.norm.weight": torch.ones(8).long()}, "norm.weight is (8,) int64"),
    "a sparse weight": ({"model.norm.weight": torch.ones(8).to_sparse()}, "not a state dict"),
    "a weight without its data": ({"model.norm.weight": torch.ones(8, device="meta")}, "not a state dict"),
    "a weight that is a number": ({"model.norm.weight": 1.0}, "not a state dict"),
    "a missing weight": ({"model.norm.weight": ...}, "norm.weight is absent, expected (8,)"),
    "an extra weight": ({"model.norm.extra": torch.ones(8)}, "norm.extra is (8,) float32, expected absent"),
    "no weights": ({"model": {}}, "do not fit its config"),
    "weights that are no dict": ({"model": [torch.ones(2)]}, "not a state dict"),
    "weights without names": ({"model": {1: torch.ones(2), **STATE}}, "not a state dict"),
    "no epoch": ({"epoch": ...}, "damaged"),
    "an epoch in words": ({"epoch": "three"}, "epoch"),
    "a recipe that is no dict": ({"recipe": [1]}, "recipe"),
    "a recipe of tensors": ({"recipe.lr": torch.ones(2)}, "damaged"),
    "a seed in words": ({"recipe.seed": "zero"}, "damaged"),
    "a seed beyond 64 bits": ({"recipe.seed": 2**80}, "seed"),
    "data without a name": ({"data": {"mean": [0.5]}}, "data has no name"),
    "an optimizer that is no dict": ({"optimizer": 3}, "optimizer"),
    "a history that is no dict": ({"history": torch.ones(2)}, "history"),
    "a history that lacks a column": ({"history.mean": ...}, "mean"),
    "a history of uneven columns": ({"history.mean": [1.0]}, "damaged"),
    "a history of dicts": ({"history": {name: [{}] for name in TABLE_COLUMNS}}, "damaged"),
    "a trace that is no dict": ({"trace": [1]}, "damaged"),
    "a trace of uneven epochs": (
        {"trace": {"epochs": torch.ones(7), "sigma": None, "maps": torch.zeros(1, 1, 1, 1)}},
        "damaged",
    ),
    "a history beyond 64 bits": ({"history": {name: [2**80] for name in TABLE_COLUMNS}}, "damaged"),
}


@pytest.mark.parametrize(("changes", "said"), CHANGES.values(), ids=CHANGES)
def test_a_changed_checkpoint_is_refused_in_one_line(small, tmp_path, changes, said):
    content = torch.load(small, weights_only=True)
    for place, value in changes.items():
        part, dot, key = place.partition(".")
        target = content[part] if dot else content
        target.pop(key or part, None)
        if value is not ...:
            target[key or part] = value
    torch.save(content, tmp_path / "c.pt")
    assert said in refusal(tmp_path / "c.pt")


@contextlib.contextmanager
def at_most(steps):
    """Fail in the code inside if it calls and returns more often: what would go on for ever does."""
    done, before = itertools.count(), sys.getprofile()

    def count(*_):
        if next(done) == steps:
            pytest.fail(f"took more than {steps} steps")

    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)


def loads_or_refuses(data, path):
    """Whether the bytes load; anything but a whole model or a refusal of one line fails."""
    path.write_bytes(data)
    try:
        with at_most(5_000_000):  # a whole one takes 150 000
            load_model(path)
    except InputError:
        refusal(path)
        return False
    return True


def test_a_checkpoint_cut_anywhere_is_refused(tiny, tmp_path):
    data = tiny["svda"].read_bytes()
    (tmp_path / "half.pt").write_bytes(data[: len(data) // 2])
    assert "cut off" in refusal(tmp_path / "half.pt")
    rng = random.Random(1)
    lengths = [1, 2, 3, 4, 5, 100, len(data) - 1, *(rng.randrange(len(data)) for _ in range(60))]
    loaded = [length for length in lengths if loads_or_refuses(data[:length], tmp_path / "cut.pt")]
    assert not loaded


def test_flipped_bits_are_refused_or_harmless(small, tmp_path):
    data, rng = small.read_bytes(), random.Random(2)
    loaded = 0
    for _ in range(120):
        flipped = bytearray(data)
        flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        loaded += loads_or_refuses(bytes(flipped), tmp_path / "flipped.pt")
    assert 0 < loaded < 120


def test_a_pickle_changed_behind_whole_checksums_is_refused_or_harmless(tiny, tmp_path):
    """A flip of the file is mostly caught by its checksums; here they are made anew, so the reader must cope."""
    with zipfile.ZipFile(tiny["svda"]) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in parts if name.endswith("data.pkl"))
    rng, loaded = random.Random(3), 0
    for _ in range(120):
        changed = bytearray(parts[name])
        changed[rng.randrange(rng.choice([300, 3000, len(changed)]))] = rng.randrange(256)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for each, data in {**parts, name: bytes(changed)}.items():
                archive.writestr(each, data)
        loaded += loads_or_refuses(buffer.getvalue(), tmp_path / "changed.pt")
    assert 0 < loaded < 120
