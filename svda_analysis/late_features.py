"""What the first of a model's last blocks reads of images: computed once, on disk."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from svda_analysis.data import FolderImages, ImageData
from svda_analysis.errors import InputError
from svda_analysis.weight_files import tensor_digest
from svda_analysis.writing import all_or_none

_AT_ONCE = 64  # images through the frozen part
_MOST_OF_DISK = 0.9  # of what is free, that features may take
Parts = Mapping[str, tuple[ImageData, Tensor]]  # by name: images, and the indices of those that are wanted


class Features:
    """What the first late block reads of images, with their labels: ``rows[i] (N, C) float32``."""

    def __init__(self, rows: np.ndarray, labels: Tensor) -> None:
        self.rows, self.labels = rows, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(self.rows[chosen.numpy()]), self.labels[chosen]


def features_key(parts: Parts, read: Callable[[Tensor], Tensor]) -> str:
    """A name for all that features depend on: what is ``read`` of some images of each class, which says what the model
    is and how it gets them, and which images are wanted; of files their sizes and dates, of what lies in memory all."""
    digest = hashlib.sha256()
    for name, (images, chosen) in parts.items():
        shown = next(iter(images.batches(_AT_ONCE, indices=images.examples(16))))[0]
        found = {"read": read(shown), "shown": shown, "labels": images.labels, "chosen": chosen}
        if isinstance(images, FolderImages):
            digest.update("\n".join(map(_told_of, images.paths)).encode())
        else:
            found["pixels"] = torch.from_numpy(images.raw(chosen))
        digest.update(f"{name} {tensor_digest(found)}".encode())
    return digest.hexdigest()[:24]


def _told_of(file: Any) -> str:
    """Which file it is, as far as that shows without reading it; of a picture of PIL its pixels."""
    if not isinstance(file, str | os.PathLike):
        return hashlib.sha256(file.tobytes()).hexdigest()
    about = os.stat(file)
    return f"{file} {about.st_size} {about.st_mtime_ns}"


def features_of(
    parts: Parts,
    read: Callable[[Tensor], Tensor],
    folder: Path,
    key: str | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Features]:
    """``read(images (B, C, H, W)) -> (B, N, C) float32`` of every image of ``parts``.

    They lie in ``folder``: under ``key``, where they are taken from another time, or (None) in a file without a name
    that goes with the process. ``progress`` is told how many images were read. Raises :class:`InputError` where the
    folder has no room for them.
    """
    total = sum(len(chosen) for _, chosen in parts.values())
    images, chosen = next(iter(parts.values()))
    one = read(next(iter(images.batches(1, indices=chosen[:1])))[0])
    shape = (total, *one.shape[1:])
    size = one.numel() * one.element_size()
    if key is None:
        _check_room(total, size, folder)
        with tempfile.TemporaryFile(dir=folder) as nameless:
            _write(nameless, parts, read, progress)
            rows = np.memmap(nameless, np.float32, "r", shape=shape)
    else:
        kept = folder / f"{key}.features"
        if not kept.is_file() or kept.stat().st_size != total * size:  # else another may be reading it
            with all_or_none([kept], "features") as (stage,):
                _check_room(total, size, folder)
                with stage.open("wb") as file:
                    _write(file, parts, read, progress)
        rows = np.memmap(kept, np.float32, "r", shape=shape)
    ends = np.cumsum([len(chosen) for _, chosen in parts.values()])
    return {
        name: Features(rows[end - len(chosen) : end], images.labels[chosen])
        for end, (name, (images, chosen)) in zip(ends, parts.items(), strict=True)
    }


def _write(
    file: IO[bytes],
    parts: Parts,
    read: Callable[[Tensor], Tensor],
    progress: Callable[[str, int, int], None] | None,
) -> None:
    total, done = sum(len(chosen) for _, chosen in parts.values()), 0
    for images, _ in (batch for part, at in parts.values() for batch in part.batches(_AT_ONCE, indices=at)):
        file.write(read(images).numpy().tobytes())
        done += len(images)
        if progress:
            progress("through the frozen blocks", done, total)
    file.flush()


def _check_room(images: int, size: int, folder: Path) -> None:
    needed, free = images * size, shutil.disk_usage(folder).free
    if needed > _MOST_OF_DISK * free:
        room = f"{needed / 1e9:.1f} GB on disk, and {free / 1e9:.1f} GB are free in {folder}"
        raise InputError(f"features of {images:,} images take {room}: take fewer with train_images")
