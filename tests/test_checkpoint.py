"""Checkpoints: the round trip, atomic writing, and that a hostile file gives one line, runs nothing and never hangs."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import itertools
import os
import pickle
import random
import re
import sys
import warnings
import zipfile

import pandas as pd
import pytest
import torch
from torch import nn

from svda_analysis.checkpoint import FORMAT, Checkpoint, build_model, export, load, load_model, save
from svda_analysis.errors import InputError, one_line
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
    assert one_line(path) in message
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


def test_export_drops_the_optimizer_and_the_place_of_the_images_alone(tiny, tmp_path):
    export(tiny["svda"], tmp_path / "new folder" / "shared.pt")
    full, shared = load(tiny["svda"]), load(tmp_path / "new folder" / "shared.pt")
    assert full.optimizer is not None
    assert shared.optimizer is None
    assert same_tensors(full.model, shared.model)
    source, _, place = full.data["source"].partition(" from ")
    assert place
    assert (full.config, full.recipe, {**full.data, "source": source}) == (shared.config, shared.recipe, shared.data)
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
TRACE = {"epochs": torch.tensor([1]), "sigma": torch.zeros(1, 1, 2, 4), "maps": torch.zeros(1, 1, 1, 49)}
CHANGES = {
    "a newer format": ({"format": FORMAT + 1}, f"format {FORMAT + 1}, this version reads {FORMAT}"),
    "a format of no sense": ({"format": torch.ones(2)}, "format"),
    "no config": ({"config": None}, "damaged"),
    "an unknown key in the config": ({"config.width": 3}, "width"),
    "an invalid value in the config": ({"config.dim": 9}, "dim must be a multiple of heads 2, got 9"),
    "a value of another type": ({"config.mlp_ratio": "big"}, "invalid config: mlp_ratio must be a number, got 'big'"),
    "an endless model": ({"config.depth": 10**12}, "depth must be at most 1000, got 1000000000000"),
    "a model beyond any memory": ({"config.dim": 2**40}, "dim must be at most 65536"),
    "an infinite model": ({"config.mlp_ratio": torch.inf}, "mlp_ratio must be"),
    "a config for other weights": ({"config.dim": 16}, "proj.bias is (8,) float32, expected (16,) float32"),
    "a weight of another shape": ({"model.norm.weight": torch.ones(9)}, "norm.weight is (9,)"),
    "a weight of another type": ({"model.norm.weight": torch.ones(8).long()}, "norm.weight is (8,) int64"),
    "a sparse weight": ({"model.norm.weight": torch.ones(8).to_sparse()}, "it holds sparse tensors"),
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
    "a recipe that is deep": ({"recipe": {"lr": [[[1]]]}}, "recipe.lr holds a list"),
    "a recipe of endless words": ({"recipe": {"dataset": "x" * 10**6}}, "a text of 1000000 characters"),
    "a recipe of endless digits": ({"recipe": {"lr": 2**70}}, "beyond 64 bits"),
    "a seed that is true": ({"recipe.seed": True}, "seed is True"),
    "a mean for other channels": ({"data": {"name": "x", "mean": [0.5, 0.5]}}, "data.mean"),
    "a deviation of 0": ({"data": {"name": "x", "std": [0.0]}}, "data.std"),
    "a mean that is no number": ({"data": {"name": "x", "mean": [float("nan")]}}, "data.mean"),
    "classes that are no names": ({"data": {"name": "x", "classes": [1, 2]}}, "data.classes"),
    "more classes than the model has": ({"data": {"name": "x", "classes": ["a"] * 11}}, "the model has 10"),
    "a name that is no text": ({"data": {"name": "\udcff"}}, "must be valid UTF-8"),
    "a trace of other layers": ({"trace": TRACE | {"maps": torch.zeros(1, 1, 3, 49)}}, "trace.maps"),
    "a trace of other heads": ({"trace": TRACE | {"sigma": torch.zeros(1, 1, 3, 4)}}, "trace.sigma"),
    "a trace of later epochs": ({"trace": TRACE | {"epochs": torch.tensor([2])}}, "trace.epochs"),
    "a trace of broken epochs": ({"trace": TRACE | {"epochs": torch.tensor([torch.nan])}}, "trace.epochs"),
    "a trace larger than its bytes": ({"trace": TRACE | {"maps": torch.zeros(1).expand(1, 10**9, 1, 49)}}, "trace"),
    "a digest that is none": ({"digest": 3}, "digest"),
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


# --- rot, and what is not weights ------------------------------------------------------------------------------------


def members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(parts, path, packed=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", packed) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return path


def test_one_flipped_bit_in_the_weights_is_refused_by_name(small, tmp_path):
    """Of the bytes that tensors are stored as, in a file whose size and directory are whole."""
    with zipfile.ZipFile(small) as archive:
        held = [member for member in archive.infolist() if "/data/" in member.filename]
    largest = max(held, key=lambda member: member.file_size)
    rng, data = random.Random(4), small.read_bytes()
    start = data.index(largest.filename.encode()) + len(largest.filename) + 64
    for _ in range(20):
        rotten = bytearray(data)
        rotten[start + rng.randrange(largest.file_size - 64)] ^= 1 << rng.randrange(8)
        (tmp_path / "rotten.pt").write_bytes(rotten)
        assert f"checksum of its member {largest.filename} does not fit" in refusal(tmp_path / "rotten.pt")


def test_other_weights_under_whole_checksums_are_refused_by_the_digest(small, tmp_path):
    parts = members(small)
    name = max((name for name in parts if "/data/" in name), key=lambda name: len(parts[name]))
    changed = bytes([parts[name][0] ^ 1]) + parts[name][1:]
    assert "digest does not fit" in refusal(archive_of({**parts, name: changed}, tmp_path / "changed.pt"))
    assert load(archive_of(parts, tmp_path / "same.pt")).epoch == 1


def test_a_file_of_an_earlier_version_has_no_digest_and_loads(small, tmp_path):
    content = torch.load(small, weights_only=True)
    del content["digest"]
    torch.save(content, tmp_path / "old.pt")
    assert load(tmp_path / "old.pt").epoch == 1


def test_the_digest_covers_the_optimizer_and_the_trace(tiny, tmp_path):
    content = torch.load(tiny["svda"], weights_only=True)
    moments = content["optimizer"]["state"][0]
    for tensor in (moments["exp_avg"], moments["exp_avg_sq"], content["trace"]["maps"], content["trace"]["sigma"]):
        before = tensor.clone()
        tensor += 1
        torch.save(content, tmp_path / "changed.pt")
        assert "digest does not fit" in refusal(tmp_path / "changed.pt")
        tensor.copy_(before)
    torch.save(content, tmp_path / "changed.pt")
    load(tmp_path / "changed.pt")


def test_a_script_is_refused_before_torch_sees_it(tmp_path, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would like other ways
        torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "script.pt"))
    archive_of({"archive/data.pkl": b"\x80\x02}.", "archive/code/__torch__.py": b""}, tmp_path / "code.pt")
    archive_of({"archive/data.pkl": b"\x80\x02}.", "archive/constants.pkl": b""}, tmp_path / "constants.pt")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch was given a file that holds code"))
    for name in ("script", "code", "constants"):
        assert "was refused: it holds code" in refusal(tmp_path / f"{name}.pt")


def test_members_that_grow_are_refused(small, tmp_path):
    parts = members(small)
    bomb = archive_of({**parts, "small/data/bomb": bytes(10**7)}, tmp_path / "bomb.pt", zipfile.ZIP_DEFLATED)
    assert "is packed, which torch.save never does" in refusal(bomb)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("c/data.pkl", b"\x80\x02}.")
        archive.writestr("c/data/0", bytes(1000))
        archive.filelist.extend(copy.copy(archive.filelist[-1]) for _ in range(9))  # ten names for the same bytes
        for at, member in enumerate(archive.filelist[1:]):
            member.filename = f"c/data/{at}"
        archive._didModify = True
    (tmp_path / "overlap.pt").write_bytes(buffer.getvalue())
    assert "members are larger than the file" in refusal(tmp_path / "overlap.pt")


@pytest.mark.parametrize(
    "name", ["__builtin__\nbytearray", "builtins\nbytearray", "torch\nFloatTensor", "torch\nTensor"]
)
@pytest.mark.parametrize("in_archive", [True, False])
def test_a_pickle_that_asks_for_memory_is_refused_before_torch_sees_it(tmp_path, monkeypatch, name, in_archive):
    asking = b"\x80\x02c" + name.encode() + b"\nJ\x00\x00\x00\x7f\x85R."
    path = tmp_path / "c.pt"
    archive_of({"c/data.pkl": asking, "c/version": b"3"}, path) if in_archive else path.write_bytes(asking)
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch was given a file that asks for memory"))
    assert "which can ask for any memory" in refusal(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "c.pt")
    assert "is a pipe, a socket or a device" in refusal(tmp_path / "c.pt")


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
