"""What several test files share: a tiny FashionMNIST in its original format, and tiny checkpoints trained on it."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import gzip
import io
import os
import struct
import sys
import urllib.error
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from study_cases import TINY, run_paper

from svda_analysis.checkpoint import Checkpoint, save
from svda_analysis.data import DATASETS
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.recipe import TrainConfig
from svda_analysis.training import train

torch.set_num_threads(1)
os.environ["PYTHONSAFEPATH"] = "1"  # programs that tests start import what is installed, not the folder they stand in

gc.set_threshold(50_000, 10, 10)
settings.register_profile("shared machine", deadline=None)  # where the first call may take long
settings.load_profile("shared machine")


@pytest.fixture(autouse=True)
def close_figures():
    """A figure that a test leaves open would be the current one of the next."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


LONGEST = ("study_report", "study_runs", "cli_analyze", "cli_compress", "training", "families", "kills")


def pytest_configure(config):
    config.option.loadscopereorder = False  # pytest-xdist would begin files of few tests last, however long they take


def pytest_collection_modifyitems(items):
    """The files that take longest come first: so no worker is left alone with one of them in the end."""
    names = [f"test_{name}" for name in LONGEST]
    items.sort(key=lambda item: names.index(item.path.stem) if item.path.stem in names else len(names))


def pytest_collection_finish():
    """What was imported is there to the end: to look for garbage among it takes half a second each time."""
    gc.freeze()


def pytest_unconfigure():
    gc.unfreeze()


TRAIN, TEST = 300, 120  # images of the tiny FashionMNIST


def write_idx(path: Path, array: np.ndarray) -> None:
    """An array of bytes as the gzipped idx file that MNIST and FashionMNIST come as."""
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(header + array.tobytes(), 1, mtime=0))


def class_images(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images ``(count, 28, 28) uint8`` of a pattern for each of ten classes under noise, and their labels."""
    patterns = np.random.default_rng(0).integers(0, 200, (10, 28, 28))
    labels = (np.arange(count) % 10).astype(np.uint8)
    noise = np.random.default_rng(seed).integers(0, 56, (count, 28, 28))
    return (patterns[labels] + noise).astype(np.uint8), labels


@pytest.fixture(scope="session")
def fashion(tmp_path_factory) -> Path:
    """A folder with 300 training and 120 test images, as the four original files."""
    folder = tmp_path_factory.mktemp("fashion")
    for part, count in (("train", TRAIN), ("t10k", TEST)):
        images, labels = class_images(count, seed=count)
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{part}-labels-idx1-ubyte.gz", labels)
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory, fashion) -> dict[str, Path]:
    """Checkpoints of three training steps by kind of attention; with their optimizers. Not to be written to."""
    folder = tmp_path_factory.mktemp("checkpoints")
    paths = {kind: folder / f"{kind}_s0.pt" for kind in ("dot", "svda")}
    for kind, path in paths.items():
        config = ViTConfig(depth=2, dim=24, heads=2, attention=kind)
        train(config, TrainConfig(epochs=1, batch_size=100, probe_images=16), path, data_root=fashion)
    return paths


@pytest.fixture
def bare_machine(monkeypatch, tmp_path_factory):
    """No data set anywhere, an empty home, and a network that fails."""

    def refuse(url, *_, **__):
        raise urllib.error.URLError("no\nnetwork")

    monkeypatch.delenv("SVDA_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    for name, spec in DATASETS.items():
        monkeypatch.setitem(DATASETS, name, dataclasses.replace(spec, usual_folders=()))
    monkeypatch.setattr("torchvision.datasets.utils.download_url", refuse)


# --- the command line -----------------------------------------------------------------------------------------------


@pytest.fixture
def without_figures(monkeypatch):
    """Reports without their figures, which take most of the time."""
    monkeypatch.setattr("svda_analysis.figures.registry.pictures", lambda *_, **__: [])


@pytest.fixture(scope="session")
def others(tmp_path_factory):
    """Untrained checkpoints that take colour images, and grey ones of 32 x 32; and files that are no checkpoints."""
    folder = tmp_path_factory.mktemp("others")
    small = {"depth": 1, "dim": 8, "heads": 2}
    for name, fields in {"rgb": {"in_channels": 3}, "large": {"image_size": 32}, "whole": {}}.items():
        config = ViTConfig(**small, **fields)
        data = {"name": "fashion_mnist", "classes": []}
        save(Checkpoint(config=config, model=ViT(config).state_dict(), epoch=0, data=data), folder / f"{name}.pt")
    data = (folder / "whole.pt").read_bytes()
    (folder / "half.pt").write_bytes(data[: len(data) // 2])
    (folder / "empty.pt").touch()
    (folder / "text.pt").write_text("these are no weights\n")
    (folder / "folder.pt").mkdir()
    (folder / "photographs" / "cats").mkdir(parents=True)
    (folder / "photographs" / "cats" / "notes.txt").write_text("no image")
    (folder / "colours" / "cats").mkdir(parents=True)
    Image.new("RGB", (40, 30), "red").save(folder / "colours" / "cats" / "1.png")
    return folder


@pytest.fixture
def pictures(tmp_path):
    """A grey, a colour and a transparent picture of three sizes, in a folder."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, mode, size in (("a", "L", (28, 28)), ("b", "RGB", (56, 40)), ("c", "RGBA", (30, 90))):
        channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
        Image.fromarray(rng.integers(0, 255, (size[1], size[0], *channels), dtype=np.uint8), mode).save(
            folder / f"{name}.png"
        )
    return folder


# --- studies ----------------------------------------------------------------------------------------------------------


def draw_few(patch: pytest.MonkeyPatch) -> None:
    """Reports with the figures that are drawn fast: the others take most of the time."""
    from svda_analysis.figures import registry

    every, few = registry.pictures, ("accuracy_structure", "sigma_over_epochs", "maps_over_epochs", "epochs_by_layer")
    patch.setattr(registry, "pictures", lambda *a, **k: [one for one in every(*a, **k) if one.name.startswith(few)])


@pytest.fixture
def few_figures(monkeypatch):
    draw_few(monkeypatch)


@pytest.fixture
def manifest(tmp_path) -> Path:
    """The manifest of a tiny study."""
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


class WholeStudy(NamedTuple):
    """A tiny study that was trained, measured and written by the command; ``said`` is what it printed."""

    manifest: Path
    checkpoints: Path
    out: Path
    said: str


@pytest.fixture(scope="session")
def whole_study(tmp_path_factory, fashion) -> WholeStudy:
    """Of four runs, with few figures. Not to be written to."""
    folder = tmp_path_factory.mktemp("study")
    path, said = folder / "tiny.toml", io.StringIO()
    path.write_text(TINY)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.delenv("SVDA_DATA", raising=False)
        patch.setenv("HOME", str(folder))
        draw_few(patch)
        run_paper(path, folder / "out", folder / "ck", fashion)
    return WholeStudy(path, folder / "ck", folder / "out", said.getvalue())
