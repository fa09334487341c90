"""Compressing checkpoint files: their names, one model at a time, each data set read once."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from pathlib import Path

import pytest

from svda_analysis.checkpoint import Checkpoint, load, save
from svda_analysis.compression import files, images
from svda_analysis.compression.files import compress_files, smaller_files
from svda_analysis.compression.keep import Keep
from svda_analysis.errors import InputError
from svda_analysis.model import ViT, ViTConfig


@pytest.mark.parametrize(
    ("keep", "end"),
    [
        (Keep(), "l0.05"),
        (Keep(min_logit=0.1), "l0.1"),
        (Keep(energy=0.9), "e90"),
        (Keep(budget=0.27), "b27"),
        (Keep(tolerance=0.005), "t0.5"),
    ],
)
def test_the_name_says_how_it_was_made(keep, end, tmp_path):
    given = tmp_path / "svda_s0.pt"
    assert smaller_files([given], None, keep) == [tmp_path / f"svda_s0_{end}.pt"]


def test_out_is_a_folder_for_several_and_a_file_for_one_unless_a_folder_is_there(tmp_path):
    one, two = Path("a/svda_s0.pt"), Path("b/svda_s1.pt")
    assert smaller_files([one], "small.pt", Keep()) == [Path("small.pt")]
    assert smaller_files([one], str(tmp_path), Keep()) == [tmp_path / "svda_s0_l0.05.pt"]
    assert smaller_files([one], "small/", Keep()) == [Path("small/svda_s0_l0.05.pt")]  # as a slash says
    made = smaller_files([one, two], "small", Keep())
    assert made == [Path("small/svda_s0_l0.05.pt"), Path("small/svda_s1_l0.05.pt")]


@pytest.mark.parametrize(
    ("given", "out", "said"),
    [
        (["a.pt", "a.pt"], None, "checkpoints must be different files, got a.pt twice"),
        (["a.pt", "b/../a.pt"], None, "checkpoints must be different files, got a.pt and b/../a.pt, which are one"),
        (
            ["a/s.pt", "b.pt", "b/s.pt"],
            "small",
            "checkpoints must get different names, got a/s.pt and b/s.pt, both to become small/s_l0.05.pt",
        ),
        (["a.pt", "a.x"], None, "checkpoints must get different names, got a.pt and a.x, both to become a_l0.05.pt"),
    ],
)
def test_a_checkpoint_named_twice_and_two_that_would_become_one_file_are_named(given, out, said):
    with pytest.raises(InputError) as refused:
        smaller_files([Path(each) for each in given], out, Keep())
    assert str(refused.value) == said


def test_one_path_given_twice_is_seen_to_be_one():
    with pytest.raises(InputError, match=r"got a\.pt twice"):
        smaller_files([Path("a.pt")] * 2, None, Keep())


@pytest.mark.parametrize("way", ["a/../a/svda_s0.pt", "hard.pt", "soft.pt"])
def test_out_is_never_a_checkpoint_that_is_compressed_under_whatever_name(way, tmp_path, tiny):
    path = tmp_path / "a" / "svda_s0.pt"
    path.parent.mkdir()
    path.write_bytes(tiny["svda"].read_bytes())
    (tmp_path / "hard.pt").hardlink_to(path)
    (tmp_path / "soft.pt").symlink_to(path)
    with pytest.raises(InputError, match="--out must not be what it is made from"):
        compress_files([path], Keep(), out=str(tmp_path / way), force=True)
    assert path.read_bytes() == tiny["svda"].read_bytes()


@pytest.fixture
def two_runs(tiny, tmp_path):
    """Two runs of one model: another seed of it is enough here."""
    origin = load(tiny["svda"])
    save(dataclasses.replace(origin, recipe={**origin.recipe, "seed": 1}), tmp_path / "svda_s1.pt")
    return [tiny["svda"], tmp_path / "svda_s1.pt"]


def test_one_model_is_held_at_a_time_and_each_part_of_the_data_is_read_once(two_runs, fashion, tmp_path, monkeypatch):
    opened, read, alive = [], [], []
    open_model, load_dataset = files.open_model, images.load_dataset

    def remember(given, **options):
        gc.collect()
        alive.append(sum(model() is not None for model in opened))
        subject = open_model(given, **options)
        opened.append(weakref.ref(subject.model))
        return subject

    def counted(name, *, train, **options):
        read.append((name, train))
        return load_dataset(name, train=train, **options)

    monkeypatch.setattr(files, "open_model", remember)
    monkeypatch.setattr(images, "load_dataset", counted)
    monkeypatch.setattr("svda_analysis.training_data.load_dataset", lambda *_, **__: pytest.fail("read again"))
    work = {"epochs": 1, "test_images": 10, "sweep_images": 0, "data_root": fashion}
    with compress_files(two_runs, Keep(energy=0.5), out=str(tmp_path / "small"), **work) as done:
        assert not any(path.exists() for path, _ in done)
    assert [(run.model, run.seed) for _, run in done] == [("svda", 0), ("svda", 1)]
    assert [path.is_file() for path, _ in done] == [True, True]
    assert not any(hasattr(run, "checkpoint") for _, run in done)
    assert max(alive) <= 1  # the last one's, while the next is opened
    assert sorted(read) == [("fashion_mnist", False), ("fashion_mnist", True)]


def test_bad_numbers_are_told_before_any_work(two_runs, monkeypatch):
    monkeypatch.setattr(files, "compress_subject", lambda *_: pytest.fail("it began"))
    with pytest.raises(InputError, match="test_images must be at least 1, got 0"):
        compress_files(two_runs, Keep(), test_images=0)


def broken(path, given):
    """A checkpoint with a weight that is no number."""
    origin = load(given)
    name = next(name for name in origin.model if name.endswith("qkv.weight"))
    save(dataclasses.replace(origin, model={**origin.model, name: origin.model[name] * float("nan")}), path)
    return path


def cosine(path, given):
    """A checkpoint whose attention has no smaller form."""
    config = ViTConfig(depth=1, dim=8, heads=2, attention="cosine")
    save(Checkpoint(config=config, model=ViT(config).state_dict(), epoch=0, data=load(given).data), path)
    return path


def text(path, given):
    """No checkpoint at all."""
    path.write_text("no weights")
    return path


@pytest.mark.parametrize(
    ("made", "said"),
    [(broken, "bad seed 0 has numbers that are not"), (cosine, "bad: .* cosine attention has"), (text, r"bad\.pt")],
)
def test_every_checkpoint_is_looked_at_before_any_work(made, said, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "compress_subject", lambda *_: pytest.fail("it began"))
    with pytest.raises(InputError, match=said):
        compress_files([tiny["svda"], made(tmp_path / "bad.pt", tiny["svda"])], Keep(), out=str(tmp_path / "small"))
    assert not (tmp_path / "small").exists()


@pytest.mark.parametrize("where", ["in the second", "in what follows"])
def test_what_fails_later_leaves_no_file(where, two_runs, fashion, tmp_path, monkeypatch):
    compress_subject = files.compress_subject

    def fails(subject, *others):
        if where == "in the second" and subject.seed == 1:
            raise InputError("late")
        return compress_subject(subject, *others)

    monkeypatch.setattr(files, "compress_subject", fails)
    before = {path.name for path in tmp_path.iterdir()}
    given = compress_files(two_runs, Keep(), out=str(tmp_path / "small"), test_images=10, data_root=fashion)
    with pytest.raises(InputError, match="late"), given:
        raise InputError("late")
    assert {path.name for path in tmp_path.iterdir()} == before
