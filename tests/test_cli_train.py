"""``svda train``: a run in parts is the run, bad input is one line and exit code 2."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from command_line import (
    TINY,
    empty_folder,  # noqa: F401  # commands run in it, each test by itself
    refused,
    run,
)
from late_cases import base_spec, photographs
from making import write_image

from svda_analysis.checkpoint import load
from svda_analysis.cli import main
from svda_analysis.cli.train import _say_begun
from svda_analysis.converted import replaced
from svda_analysis.errors import InputError
from svda_analysis.model import ViTConfig
from svda_analysis.recipe import TrainConfig
from svda_analysis.specs import open_model

# arguments of svda train behind those of a tiny run into folder/run.pt, and a part of the message
BAD_TRAINING = {
    "late blocks of nothing": (
        ["--dataset", "sample", "--late-blocks", "2"],
        "--late-blocks, --start and --features need --base",
    ),
    "a start of nothing": (
        ["--dataset", "sample", "--start", "weights"],
        "--late-blocks, --start and --features need --base",
    ),
    "features of nothing": (
        ["--dataset", "sample", "--features", "kept"],
        "--late-blocks, --start and --features need",
    ),
    "late blocks resumed": (["--dataset", "sample", "--base", "x.pt", "--resume"], "--resume does not go with --base"),
    "late blocks compiled": (
        ["--dataset", "sample", "--base", "x.pt", "--compile"],
        "--compile does not go with --base",
    ),
    "late blocks of a size": (
        ["--dataset", "sample", "--base", "x.pt"],
        "--set depth does not go with --base, whose model is as it is",
    ),
    "no data set named": ([], "Missing option '--dataset'"),
    "an unknown data set": (["--dataset", "cifar11"], "got 'cifar11'; did you mean cifar10"),
    "a number for a data set": (["--dataset", "10"], "got '10'"),
    "an empty folder": (["--dataset", "imagefolder:OTHERS/folder.pt"], "no images in OTHERS/folder.pt"),
    "an unknown attention": (["--dataset", "sample", "--attention", "linear"], "'linear' is not one of"),
    "an unknown preset": (["--dataset", "sample", "--preset", "vit_huge"], "got 'vit_huge'"),
    "a preset for other images": (["--dataset", "sample", "--preset", "cifar10"], "the model takes 32 x 32"),
    "a setting without a value": (["--dataset", "sample", "--set", "depth"], "--set must be KEY=VALUE, got 'depth'"),
    "a field said twice": (
        ["--dataset", "sample", "--set", "epochs=2"],
        "--set epochs must be left out where --epochs is given, got --epochs 1 and --set epochs=2",
    ),
    "another data set than named": (
        ["--dataset", "sample", "--set", "dataset=fashion_mnist"],
        "--set dataset must be left out where --dataset is given, got --dataset sample and --set dataset=fashion_mnist",
    ),
    "an unknown setting": (["--dataset", "sample", "--set", "deep=3"], "got 'deep'"),
    "a setting in words": (["--dataset", "sample", "--set", "depth=three"], "depth must be a number like"),
    "half a layer": (["--dataset", "sample", "--set", "depth=1.5"], "depth must be a number like"),
    "a setting out of range": (
        ["--dataset", "sample", "--set", "lr=-1"],
        "lr must be a finite number of at least 0, got -1",
    ),
    "a rate that is no number": (
        ["--dataset", "sample", "--set", "lr=nan"],
        "lr must be a finite number of at least 0, got nan",
    ),
    "a rate beyond all numbers": (
        ["--dataset", "sample", "--set", "lr=1e400"],
        "lr must be a finite number of at least 0, got inf",
    ),
    "a switch in words": (["--dataset", "sample", "--set", "flip=maybe"], "flip must be true or false, got 'maybe'"),
    "a number for a word": (["--dataset", "sample", "--set", "sigma_form=1"], "sigma_form must be one of"),
    "sizes that do not fit": (["--dataset", "sample", "--set", "dim=9"], "dim must be a multiple of heads 2, got 9"),
    "no epochs": (["--dataset", "sample", "--epochs", "0"], "epochs must be a whole number of at least 1, got 0"),
    "a stop before the start": (["--dataset", "sample", "--stop-after", "0"], "stop_after must be at least 1, got 0"),
    "a negative seed": (["--dataset", "sample", "--seed", "-1"], "seed must lie in"),
    "an unknown tracker": (["--dataset", "sample", "--track", "notebook"], "notebook"),
    "an output that is a folder": (["--dataset", "sample", "--out", "OTHERS/folder.pt"], "folder.pt"),
    "an output that exists": (
        ["--dataset", "sample", "--out", "OTHERS/whole.pt"],
        "out already exists: OTHERS/whole.pt",
    ),
    "an output under a file": (["--dataset", "sample", "--out", "OTHERS/text.pt/run.pt"], "cannot be written"),
    "a broken run to resume": (["--dataset", "sample", "--out", "OTHERS/half.pt", "--resume"], "half.pt is cut off"),
}


@pytest.mark.parametrize(("arguments", "said"), BAD_TRAINING.values(), ids=BAD_TRAINING)
def test_bad_input_of_train_is_one_line(others, capsys, arguments, said):
    before = {path: path.read_bytes() for path in others.glob("*.pt") if path.is_file()}
    filled = [
        each.replace("OTHERS", str(others)) for each in ["--out", "folder/run.pt", "--epochs", "1", *TINY, *arguments]
    ]
    assert said.replace("OTHERS", str(others)) in refused(capsys, main, "train", *filled)
    assert before == {path: path.read_bytes() for path in others.glob("*.pt") if path.is_file()}


def test_images_without_classes_are_nothing_to_train_on(tmp_path, capsys):
    write_image(tmp_path / "pictures" / "a.png")
    for name in (f"images:{tmp_path / 'pictures'}", f"imagefolder:{tmp_path / 'pictures'}"):
        message = refused(capsys, main, "train", "--dataset", name, "--out", "run.pt", *TINY)
        assert f"{name} has no classes to train on" in message


def test_training_without_the_data_says_how_to_get_it(capsys):
    message = refused(capsys, main, "train", "--dataset", "fashion_mnist", "--out", "run.pt")
    assert "apt-get install dataset-fashion-mnist, or pass --data-root DIR" in message


def test_set_says_what_an_option_does_where_that_is_left_out(fashion, monkeypatch):
    asked = []

    def trained(config, recipe, *_, **__):
        asked.append((config.attention, recipe.seed, recipe.epochs))
        raise InputError("asked")

    monkeypatch.setattr("svda_analysis.training.train", trained)
    start = ["train", "--dataset", "fashion_mnist", "--data-root", fashion, "--out", "run.pt"]
    for more in ([], ["--set", "attention=dot", "--set", "seed=5", "--set", "epochs=3"]):
        assert run(main, *start, *more) == 2
    assert asked == [("svda", 0, TrainConfig().epochs), ("dot", 5, 3)]


def test_resuming_with_another_recipe_is_refused(tiny, fashion, capsys):
    shutil.copy(tiny["svda"], "run.pt")
    before = Path("run.pt").read_bytes()
    arguments = ["train", "--dataset", "fashion_mnist", "--data-root", fashion, "--out", "run.pt", "--resume"]
    arguments += ["--set", "depth=2", "--set", "dim=24", "--set", "heads=2", "--epochs", 1]
    message = refused(capsys, main, *arguments, "--set", "batch_size=100", "--set", "probe_images=16", "--seed", "3")
    assert "run.pt cannot be resumed with another recipe: seed 0 -> 3" in message
    assert Path("run.pt").read_bytes() == before


def test_a_training_in_two_parts_equals_one_in_a_single_run(fashion, capsys):
    start = ["train", "--dataset", "fashion_mnist", "--data-root", fashion, "--seed", 5, "--epochs", 4, *TINY]
    start += ["--set", "dropout=0.1"]
    assert run(main, *start, "--out", "whole.pt") == 0
    assert run(main, *start, "--out", "parts.pt", "--stop-after", 2) == 0
    assert load("parts.pt").epoch == 2
    assert run(main, *start, "--out", "parts.pt", "--resume") == 0
    printed = capsys.readouterr().out
    assert "checkpoint: parts.pt (epoch 2 of 4)" in printed
    assert printed.count("epoch 4/4  loss ") == 2
    whole, parts = load("whole.pt"), load("parts.pt")
    assert whole.epoch == parts.epoch == 4
    for name, weight in whole.model.items():
        assert torch.equal(weight, parts.model[name]), name
    for key, state in whole.optimizer["state"].items():
        assert all(torch.equal(value, parts.optimizer["state"][key][name]) for name, value in state.items())
    left, right = (
        each.history[each.history["indicator"] != "epoch_seconds"].drop(columns="model") for each in (whole, parts)
    )
    assert set(left["epoch"]) == {1, 2, 3, 4}
    pd.testing.assert_frame_equal(left, right, check_exact=True)


def test_what_set_reaches_is_listed_and_a_slip_is_answered(capsys):
    assert run(main, "train", "--list-settings") == 0
    said = capsys.readouterr().out.splitlines()
    fields = [field.name for cls in (ViTConfig, TrainConfig) for field in dataclasses.fields(cls)]
    whole, late = said[: (at := said.index("with --base, where that is other:"))], said[at + 1 :]
    not_one_word = {"score_dims", "norm_dims"}
    assert [line.split()[0] for line in whole if line.startswith("  ")] == [x for x in fields if x not in not_one_word]
    assert late == ["  sigma_form = linear", "  epochs = 10", "  lr = 0.0003"]
    assert "must name a field" in refused(
        capsys, main, "train", "--dataset", "sample", "--set", "score_dims=8", "--out", "x.pt"
    )
    assert "got 'dept': did you mean depth?" in refused(
        capsys, main, "train", "--dataset", "sample", "--set", "dept=2", "--out", "x.pt"
    )


def test_a_program_is_told_what_the_last_epoch_came_to_and_nothing_else(fashion, capsys):
    start = ["train", "--dataset", "fashion_mnist", "--data-root", fashion, "--epochs", 2, *TINY]
    assert run(main, *start, "--out", "run.pt", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["checkpoint"], found["epoch"], found["epochs"]) == ("run.pt", 2, 2)
    numbers = {(one["indicator"], one["source"]): one["mean"] for one in found["numbers"]}
    rows = load("run.pt").history.query("indicator == 'accuracy' and source == 'test' and epoch == 2")
    assert numbers["accuracy", "test"] == rows["mean"].item()
    assert run(main, *start, "--out", "again.pt", "--quiet") == 0
    assert capsys.readouterr().out == "checkpoint: again.pt (epoch 2 of 2)\n"
    assert "out must be a file such as folder/svda_s0.pt" in refused(capsys, main, *start, "--out", "folder/")


@pytest.mark.parametrize(
    ("track", "said"), [("tensorboard", ["log: runs/a b_s0/ (tensorboard --logdir runs)"]), (None, [])]
)
def test_where_the_log_of_a_tracker_lies_is_said(track, said, capsys):
    _say_begun("runs/a b_s0.pt", track, ["a line"])
    assert capsys.readouterr().out.splitlines() == ["a line", *said]


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        (False, "interrupted; no epoch was done"),
        (True, "interrupted; go on after its last whole epoch with: svda train --dataset sample --out run.pt --resume"),
    ],
)
def test_after_an_interruption_it_says_how_to_go_on(saved, said, capsys, monkeypatch):
    def interrupted(*_, **__):
        if saved:
            Path("run.pt").touch()
        raise KeyboardInterrupt

    monkeypatch.setattr("svda_analysis.training.train", interrupted)
    assert run(main, "train", "--dataset", "sample", "--out", "run.pt") == 130
    assert capsys.readouterr() == ("", f"{said}\n")


# arguments of svda train behind --base SPEC --dataset DATA --out late.pt, and what is said
BAD_LATE_BLOCKS = {
    "half precision": (["--mixed-precision", "bf16"], "--mixed-precision does not go with --base"),
    "a tracker": (["--track", "tensorboard"], "--track does not go with --base"),
    "a part of the schedule": (["--stop-after", "1"], "--stop-after does not go with --base"),
    "a size": (["--preset", "vit_tiny"], "--preset does not go with --base"),
    "augmentation": (
        ["--set", "flip=true"],
        "--set flip does not go with --base: its frozen part sees each image once",
    ),
    "more blocks than there are": (["--late-blocks", "4"], "late_blocks must be at most the 3 blocks of hf, got 4"),
    "no block": (["--late-blocks", "0"], "late_blocks must be a whole number of at least 1"),
    "an unknown recipe": (["--recipe", "theirs"], "recipe must be one of"),
    "no such base": (["--base", "none.pt"], "no such file"),
    "a base of windows": (["--base", "timm:swin_tiny_patch4_window7_224"], "cannot be converted"),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Arguments that name a model of Hugging Face as base and small photographs."""
    folder = tmp_path_factory.mktemp("base")
    return ["--base", base_spec("hf vit", folder), "--dataset", photographs(folder / "photographs")]


@pytest.mark.parametrize(("arguments", "said"), BAD_LATE_BLOCKS.values(), ids=BAD_LATE_BLOCKS)
def test_bad_input_of_late_blocks_is_one_line(base, capsys, arguments, said):
    assert said in refused(capsys, main, "train", *base, "--out", "late.pt", *arguments)


@pytest.mark.parametrize("recipe", ["ours", "source"])
def test_late_blocks_are_trained_and_the_file_says_what_was_said(base, capsys, recipe):
    small = ["--epochs", 2, "--set", "batch_size=4", "--set", "probe_images=2", "--recipe", recipe]
    assert run(main, "train", *base, "--late-blocks", 1, "--out", "late.pt", *small, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["epoch"] == 2
    said = {row["source"]: row["mean"] for row in found["numbers"] if row["indicator"] == "accuracy"}
    subject = open_model("late.pt")
    assert subject.recipe["late_blocks"] == 1
    assert subject.recipe["batch_size"] == 4
    assert subject.recipe["schedule"] == ("constant" if recipe == "source" else "cosine")
    (layer,) = replaced(subject.model).values()
    assert (layer.sigma.mean() < 3) == (recipe == "source")  # 1, as the source's; else twice the width of a head
    learned = subject.history
    last = learned[(learned["epoch"] == 2) & (learned["indicator"] == "accuracy") & (learned["source"] == "test")]
    assert last["mean"].item() == said["test"]
