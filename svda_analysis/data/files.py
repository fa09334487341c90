"""What the readers of several data sets share."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from svda_analysis.data.catalog import DatasetSpec
from svda_analysis.data.images import MemoryImages
from svda_analysis.errors import InputError


def describe(title: str, split: str, count: int, place: object) -> str:
    number = f"{count:,}".replace(",", " ")
    return f"{title} {split}, {number} images from {place}"


def in_memory(
    spec: DatasetSpec, pixels: np.ndarray, labels: np.ndarray, train: bool, place: object, title: str = ""
) -> MemoryImages:
    split = "train" if train else "test"
    return MemoryImages(
        name=spec.name,
        split=split,
        source=describe(title or spec.title, split, len(labels), place),
        classes=spec.classes or (),
        mean=spec.mean,
        std=spec.std,
        channels=spec.channels,
        image_size=spec.image_size,
        labels=torch.from_numpy(labels.astype(np.int64)),
        padding=spec.padding,
        flip=spec.flip,
        images=torch.from_numpy(np.array(pixels, order="C")),  # a copy that may be written to
    )


def check_labels(labels: np.ndarray, count: int, classes: int, where: object) -> None:
    if labels.shape != (count,) or not 0 <= labels.min() <= labels.max() < classes:
        raise InputError(f"{where} must hold {count} labels from 0 to {classes - 1}")


def fetch(folder: Path, files: Sequence[tuple[str, str, str]]) -> None:
    """Fetch ``(url, file name, md5)`` into a folder; they appear there once all are whole."""
    from torchvision.datasets import utils

    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as unfinished:
        names = [filename for _, filename, _ in files]
        for url, filename, md5 in files:
            utils.download_url(url, unfinished, filename, md5)
        for filename in names:
            os.replace(Path(unfinished) / filename, folder / filename)
