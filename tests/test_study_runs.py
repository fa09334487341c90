"""Which runs a study has: trained where they are missing, found in a folder, never overwritten."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from process_cases import is_worker, of_proc, workers
from study_cases import TINY, run_paper, wait_for

from svda_analysis.checkpoint import load, save
from svda_analysis.compression import compress
from svda_analysis.convert_files import convert_file
from svda_analysis.data import load_dataset
from svda_analysis.errors import InputError
from svda_analysis.model import ViTConfig
from svda_analysis.recipe import TrainConfig
from svda_analysis.study.manifest import load_manifest
from svda_analysis.study.report import read_study
from svda_analysis.study.runs import find_checkpoints, train_missing
from svda_analysis.training import train
from svda_analysis.verdicts import INCONCLUSIVE

pytestmark = pytest.mark.usefixtures("bare_machine")


def test_the_manifest_says_in_which_precision_runs_are_trained(tmp_path, fashion):
    weights = {}
    for precision, jobs in (("no", 1), ("bf16", 2)):  # here, and in workers
        path = tmp_path / f"{precision}.toml"
        path.write_text(f"mixed_precision = '{precision}'\n{TINY}")
        study = dataclasses.replace(load_manifest(path), seeds=(0,), variants={"svda": {"attention": "svda"}})
        trained = train_missing(study, tmp_path / precision, data_root=fashion, jobs=jobs)
        weights[precision] = trained[0].subject.checkpoint.model["head.weight"]
    assert not torch.equal(weights["no"], weights["bf16"])
    before = (tmp_path / "no" / study.runs("fashion_mnist")[0].file).read_bytes()
    with pytest.raises(InputError, match=r"svda_s0.pt is of another .* mixed_precision 'no' -> 'bf16'; move it away"):
        train_missing(study, tmp_path / "no", data_root=fashion)
    assert (tmp_path / "no" / study.runs("fashion_mnist")[0].file).read_bytes() == before
    whatever = dataclasses.replace(study, mixed_precision="auto")
    assert len(train_missing(whatever, tmp_path / "no", data_root=fashion)) == 1


@pytest.fixture
def process(tmp_path, fashion):
    """``svda paper --jobs 2`` of runs that take long, in a group of its own."""
    path = tmp_path / "long.toml"
    path.write_text(TINY.replace("epochs = 2", "epochs = 2000"))
    arguments = ["--checkpoints", str(tmp_path / "ck"), "--data-root", str(fashion), "--jobs", "2"]
    command = [sys.executable, "-m", "svda_analysis.cli", "paper", str(path), "--out", str(tmp_path / "out")]
    heard = f"import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv({sys.executable!r}, "
    with open(tmp_path / "said", "w") as said:  # a test run in the background is deaf to Ctrl-C, and so would this be
        started = subprocess.Popen(
            [sys.executable, "-c", f"{heard}{[*command, *arguments]!r})"],
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        )
    yield started
    with contextlib.suppress(ProcessLookupError):  # they have all ended, unless a test fails
        os.killpg(started.pid, signal.SIGKILL)
    started.wait()


@of_proc
def test_workers_end_with_the_study_that_was_killed(process, tmp_path):
    wait_for(lambda: list((tmp_path / "ck").rglob("*.pt")) or process.poll() is not None)
    mine = workers(process.pid)
    assert len(mine) == 2
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    wait_for(lambda: not any(map(is_worker, mine)))


@of_proc
@pytest.mark.parametrize(
    ("number", "when", "line"),
    [
        (signal.SIGINT, "while workers import", "interrupted; what is done is kept, go on with: svda paper"),
        (signal.SIGINT, "while they train", "interrupted; what is done is kept, go on with: svda paper"),
        (signal.SIGTERM, "while they train", "stopped by SIGTERM, saved what each run has done"),
    ],
)
def test_a_study_that_is_stopped_stops_its_workers(process, tmp_path, number, when, line):
    trained = functools.partial((tmp_path / "ck").rglob, "*.pt")
    wait_for(lambda: len(workers(process.pid)) == 2 or process.poll() is not None)
    mine = workers(process.pid)
    if when == "while they train":
        wait_for(lambda: len(list(trained())) == 2 or process.poll() is not None)
    else:
        wait_for(lambda: all("libtorch" in Path(f"/proc/{worker}/maps").read_text() for worker in mine))
    os.killpg(process.pid, number)  # as a terminal does, and a scheduler
    assert process.wait(300) == 128 + number
    assert not any(map(is_worker, mine))
    assert len((said := (tmp_path / "said").read_text()).splitlines()) == 1
    assert said.startswith(line)
    for path in trained():
        assert 1 <= load(path).epoch < 2000
        assert load(path).recipe["seed"] == 0  # no further run was begun
    assert list((tmp_path / "ck").rglob(".*")) == []  # no lock, and nothing half-written


def test_from_a_folder_it_only_analyses(tiny, fashion, tmp_path, capsys):
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    source = tmp_path / "deep" / "er"
    source.mkdir(parents=True)
    for path in tiny.values():
        (source / path.name).write_bytes(path.read_bytes())
    half = ViTConfig(depth=1, dim=8, heads=2, patch_size=7)
    recipe = TrainConfig(epochs=2, batch_size=100, probe_images=4)
    train(half, recipe, source / "half_s0.pt", data_root=fashion, stop_after=1)
    short = ViTConfig(attention="dot", depth=1, dim=8, heads=2, patch_size=7, qk_dim=2)
    train(short, recipe, source / "short_s0.pt", data_root=fashion)
    images, _ = next(load_dataset("fashion_mnist", root=fashion, train=True).batches(20))
    save(compress(load(tiny["svda"]), images, budget=0.5), source / "small_s0.pt")
    convert_file(tiny["dot"], source / "whole.pt")
    convert_file(tiny["dot"], source / "part.pt", blocks="last:1")
    study = tmp_path / "tiny.toml"
    study.write_text(TINY)
    run_paper(study, tmp_path / "out", tmp_path / "nowhere", fashion, "--from", str(tmp_path))
    said = capsys.readouterr().err
    assert "half_s0.pt, epoch 1 of 2" in said
    assert "small_s0.pt, compressed" in said
    assert "whole.pt, its history holds no test accuracy" in said  # which was that of the model it is made from
    assert "part.pt, it is no checkpoint of a training of ours" in said
    assert "short_s0.pt" not in said
    assert "short" in set(read_study(tmp_path / "out")[0].datasets[0].trained)
    assert "broken.pt is not a checkpoint" in said
    claims = pd.read_csv(tmp_path / "out" / "tables" / "t3_claims.csv")
    one_each = claims[(claims["Data"] == "FashionMNIST") & (claims["Claim"] == "sparser attention")]
    assert one_each["Verdict"].item() == INCONCLUSIVE
    assert one_each["Why"].item() == "one training run each"
    assert set(claims["Data"]) == {"FashionMNIST"}
    assert "Not run here: CIFAR-100 (data not at hand)" in (tmp_path / "out" / "README.md").read_text()
    figures = {path.stem for path in (tmp_path / "out" / "figures").iterdir()}
    expected = ("accuracy_structure", "by_layer", "epochs_by_layer", "heatmaps", "maps_over_epochs", "spectra_scores")
    assert {f"fashion_mnist_{name}" for name in (*expected, "sigma_over_epochs_svda", "training")} <= figures
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(InputError, match="no finished checkpoint in"):
        find_checkpoints(fashion)
    with pytest.raises(InputError, match="--from must be a folder"):
        find_checkpoints(tmp_path / "absent")


def test_a_checkpoint_of_another_recipe_is_not_touched(manifest, tmp_path, fashion):
    path = tmp_path / "ck" / "fashion_mnist" / "svda_s1.pt"
    config = ViTConfig(depth=1, dim=8, heads=2, patch_size=7, attention="svda")
    recipe = TrainConfig(epochs=1, seed=1, batch_size=100, probe_images=8)
    train(config, recipe, path, data_root=fashion)
    before = path.read_bytes()
    with pytest.raises(
        InputError, match=r"svda_s1.pt is of another recipe than the manifest's: epochs 1 -> 2; move it"
    ):
        train_missing(load_manifest(manifest), tmp_path / "ck", data_root=fashion)
    assert path.read_bytes() == before
    assert len(list((tmp_path / "ck").rglob("*.pt"))) == 1


def test_train_images_are_the_same_for_every_seed(tmp_path, fashion):
    seen = {}
    for seed in (0, 1):
        config = ViTConfig(depth=1, dim=8, heads=2, patch_size=7)
        recipe = TrainConfig(epochs=1, batch_size=10, probe_images=4, train_images=30, seed=seed)
        done = train(config, recipe, tmp_path / f"{seed}.pt", data_root=fashion)
        seen[seed] = done.history.query("indicator == 'loss' and source == 'train'")["n"].item()
    assert seen == {0: 30, 1: 30}
    with pytest.raises(InputError, match="train_images must be a whole number of at least 1, got 0"):
        TrainConfig(train_images=0)


def test_runs_are_found_as_subjects_without_the_state_of_their_optimizers(tiny):
    assert load(tiny["svda"]).optimizer is not None
    found, left_out = find_checkpoints(tiny["svda"].parent)
    assert left_out == []
    assert [(run.dataset, run.name, run.subject.seed) for run in found] == [
        ("fashion_mnist", "dot", 0),
        ("fashion_mnist", "svda", 0),
    ]
    assert all(run.subject.checkpoint.optimizer is None for run in found)


@pytest.mark.parametrize("written", ["{}/zip", "{}/zip/inner/", "{}/link", "{}/gone"])
def test_runs_on_a_folder_of_images_are_of_the_data_set_that_the_manifest_names(tmp_path, written):
    random = np.random.default_rng(0)
    for at in range(8):
        place = tmp_path / "zip" / "inner" / ("train" if at < 4 else "test") / f"class{at % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(place / f"{at}.png")
    (tmp_path / "link").symlink_to("zip")
    (tmp_path / "gone").symlink_to("zip")
    name = f"imagefolder:{written.format(tmp_path)}"
    small = "[model]\nimage_size = 16\npatch_size = 8\ndim = 8\ndepth = 1\nheads = 2\n[recipe]\nepochs = 1\n"
    path = tmp_path / "m.toml"
    path.write_text(f'{small}probe_images = 4\n[datasets."{name}"]\n')
    study = load_manifest(path)
    assert len(train_missing(study, tmp_path / "ck")) == 2
    if written == "{}/gone":
        (tmp_path / "gone").unlink()
    found, left_out = find_checkpoints(tmp_path / "ck", study.datasets)
    assert [run.dataset for run in found] == [name, name]
    assert left_out == []
    apart, _ = find_checkpoints(tmp_path / "ck", ["fashion_mnist"])
    assert {run.dataset for run in apart} == {apart[0].subject.data["name"]}
