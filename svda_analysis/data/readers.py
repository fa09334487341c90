"""What the readers of several formats share: what they read becomes images in memory."""

from __future__ import annotations

import re

import numpy as np
import torch

from svda_analysis.data.catalog import DatasetSpec
from svda_analysis.data.images import MemoryImages
from svda_analysis.errors import InputError


def describe(title: str, split: str, count: int, place: object) -> str:
    """What was read from where, in one line."""
    number = f"{count:,}".replace(",", " ")
    return f"{title} {split}, {number} images from {place}"


def without_place(described: str) -> str:
    """A line of :func:`describe` as far as the place where the images lay; any other as it is."""
    found = re.match(r".*?, [\d ]+ images(?= from )", described)
    return found[0] if found else described


def in_memory(
    spec: DatasetSpec, pixels: np.ndarray, labels: np.ndarray, train: bool, place: object, title: str = ""
) -> MemoryImages:
    """Pixels ``(n, C, H, W) uint8`` and labels ``(n,)`` as the data of ``spec``."""
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
    """Raise :class:`InputError` unless there are ``count`` labels of so many classes."""
    if labels.shape != (count,) or not 0 <= labels.min() <= labels.max() < classes:
        raise InputError(f"{where} must hold {count} labels from 0 to {classes - 1}")
