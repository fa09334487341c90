"""Folders of image files: any folder of class folders, and ImageNet-100 out of ImageNet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from svda_analysis.data.catalog import DatasetSpec
from svda_analysis.data.files import class_folders, list_images
from svda_analysis.data.images import FolderImages, ImageData
from svda_analysis.data.readers import describe
from svda_analysis.errors import DataNotFoundError, InputError


def find_imagefolder(spec: DatasetSpec, folder: Path, train: bool, size: int) -> ImageData:
    """``DIR/<class>/*``; or, where ``DIR/train``, ``test`` or ``val`` hold class folders, the one asked for."""
    if not folder.is_dir():
        raise DataNotFoundError(f"{folder} is not a folder")
    splits = [split for split in ("train", "test", "val") if class_folders(folder / split)]
    wanted = [split for split in splits if (split == "train") == train]
    if splits and not wanted:
        raise InputError(f"{folder} has {', '.join(splits)}, but no {'train' if train else 'test or val'} folder")
    place, split = (folder / wanted[0], wanted[0]) if splits else (folder, "all")
    classes = class_folders(folder / splits[0]) if splits else class_folders(folder)  # train's numbering, for all
    if strangers := sorted(set(class_folders(place)) - set(classes)):
        raise InputError(f"{place} has classes that {folder / splits[0]} lacks: {', '.join(strangers[:5])}")
    return _from_folder(spec, place, classes, split, size, name=f"imagefolder:{folder}")


def find_imagenet100(spec: DatasetSpec, folder: Path, train: bool, size: int) -> ImageData | None:
    """The class folders of ImageNet-100 among those of ImageNet; for training all of them must be there."""
    classes, split = spec.classes or (), "train" if train else "val"
    for place in (folder / split, folder / spec.name / split, folder / "imagenet" / split):
        present = set(class_folders(place)) & set(classes)
        if not present:
            continue
        missing = sorted(set(classes) - present)
        if train and missing:
            raise InputError(f"{place} lacks {len(missing)} of the 100 classes: {', '.join(missing[:5])} ...")
        note = f" ({len(present)} of the 100 classes are there)" if missing else ""
        return _from_folder(spec, place, classes, split, size, note=note)
    return None


def _from_folder(
    spec: DatasetSpec, folder: Path, classes: Sequence[str], split: str, size: int, *, name: str = "", note: str = ""
) -> FolderImages:
    paths, labels = list_images(folder, classes)
    return FolderImages(
        name=name or spec.name,
        split=split,
        source=describe(spec.title, split, len(paths), folder) + note,
        classes=tuple(classes),
        mean=spec.mean,
        std=spec.std,
        channels=spec.channels,
        image_size=size,
        labels=torch.from_numpy(labels),
        flip=spec.flip,
        paths=paths,
    )
