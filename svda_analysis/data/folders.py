"""Folders of image files: any folder of class folders, and ImageNet-100 out of ImageNet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from svda_analysis.data.catalog import DatasetSpec
from svda_analysis.data.files import class_folders, images_under, left_out, list_images
from svda_analysis.data.images import FolderImages, ImageData
from svda_analysis.data.preprocessing import ImageSize
from svda_analysis.data.readers import describe
from svda_analysis.errors import DataNotFoundError, InputError

_SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "holdout"),
    "val": ("val", "valid", "validation", "eval", "dev"),
}
_SAYS_NOTHING = {"set", "data", "dataset", "images", "imgs", "image", "img", "seg", "split", "folder", "classes"}


def find_imagefolder(spec: DatasetSpec, folder: Path, train: bool, size: ImageSize) -> ImageData:
    """``DIR/<class>/*``; or, where ``DIR/train``, ``test`` or ``val`` hold class folders, the one asked for.

    The parts may have other usual names (``Training``, ``valid``). A folder of images alone is one without labels.
    """
    if not folder.is_dir():
        raise DataNotFoundError(f"{folder} is not a folder")
    folder = folder_of_splits(folder)
    splits = _splits(folder)
    wanted = [split for split in splits if (split == "train") == train]
    if splits and not wanted:
        named = ", ".join(place.name for place in splits.values())
        flat = [
            folder / name for name in class_folders(folder) if _part_of(name) and folder / name not in splits.values()
        ]
        way = f" of class folders (images without labels: images:{flat[0]})" if flat else ""
        raise InputError(f"{folder} has {named}, but no {'train' if train else 'test or val'} folder{way}")
    place, split = (splits[wanted[0]], wanted[0]) if splits else (folder, "all")
    numbering = next(iter(splits.values()), folder)  # train's, for all
    classes = class_folders(numbering)
    if not classes and any(images_under(folder)):
        return find_images(spec, folder, train, size)
    if strangers := sorted(set(class_folders(place)) - set(classes)):
        raise InputError(f"{place} has classes that {numbering} lacks: {', '.join(strangers[:5])}")
    return _from_folder(spec, place, classes, split, size, name=f"imagefolder:{folder}")


def _splits(folder: Path) -> dict[str, Path]:
    """The folders of parts that hold class folders, by the part's usual name, train first."""
    own = [folder / name for name in class_folders(folder)]
    parts = {split: [place for place in own if _part_of(place.name) == split] for split in _SPLITS}
    found = {split: next(filter(class_folders, places), None) for split, places in parts.items()}
    return {split: place for split, place in found.items() if place is not None}


def _part_of(name: str) -> str | None:
    """Which part of a data set a folder's name says that it is: ``Training``, ``test_set``, ``val-images``, ``test1``;
    None: none, or it says more."""
    words = re.findall(r"[^\W\d_]+", re.sub(r"(?<=[a-z])(?=set\b)", "_", name.lower()))
    found = [split for split, names in _SPLITS.items() if set(names) & set(words)]
    rest = set(words) - _SAYS_NOTHING - {one for names in _SPLITS.values() for one in names}
    return found[0] if len(found) == 1 and not rest else None


def folder_of_splits(folder: Path) -> Path:
    """The folder, or the only one in it where that holds the parts of a data set."""
    inside = class_folders(folder)
    return folder / inside[0] if len(inside) == 1 and _splits(folder / inside[0]) else folder


def find_images(spec: DatasetSpec, place: Path, train: bool, size: ImageSize) -> ImageData:
    """One image file, or all under a folder, without labels."""
    if not place.exists():
        raise DataNotFoundError(f"no such file or folder: {place}")
    paths = list(images_under(place)) if place.is_dir() else [str(place)]
    if not paths:
        raise InputError(f"no images in {place}; {spec.how_to_get}")
    labels = np.full(len(paths), -1)
    data = _of_files(spec, paths, labels, (), "all", size, name=f"{spec.name}:{place}", place=place)
    data.warning = left_out(place) if place.is_dir() else None
    return data


def find_imagenet100(spec: DatasetSpec, folder: Path, train: bool, size: ImageSize) -> ImageData | None:
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
    spec: DatasetSpec,
    folder: Path,
    classes: Sequence[str],
    split: str,
    size: ImageSize,
    *,
    name: str = "",
    note: str = "",
) -> FolderImages:
    paths, labels = list_images(folder, classes)
    data = _of_files(spec, paths, labels, classes, split, size, name=name, place=folder, note=note)
    if name:  # of ImageNet's folders the rest is another data set
        data.warning = left_out(folder, classes) or _too_high(folder, classes)
    return data


def _too_high(folder: Path, classes: Sequence[str]) -> str | None:
    """A line on a folder whose class folders all hold folders of the same names: the classes may be these."""
    names = [class_folders(folder / name) for name in classes]
    if len(names) < 2 or not names[0] or any(one != names[0] for one in names):
        return None
    shown, inside = (", ".join(some[:3]) for some in (classes, names[0]))
    return f"the classes of {folder} are {shown}, and each holds {inside}: is it one folder too high?"


def _of_files(
    spec: DatasetSpec,
    paths: Sequence[str],
    labels: np.ndarray,
    classes: Sequence[str],
    split: str,
    size: ImageSize,
    *,
    name: str = "",
    place: Path,
    note: str = "",
) -> FolderImages:
    return FolderImages(
        name=name or spec.name,
        split=split,
        source=describe(spec.title, split, len(paths), place) + note,
        classes=tuple(classes),
        mean=spec.mean,
        std=spec.std,
        channels=spec.channels,
        image_size=size,
        labels=torch.from_numpy(labels),
        flip=spec.flip,
        paths=paths,
    )
