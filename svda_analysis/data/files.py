"""Image files and the folders they lie in: :func:`open_image`, and what a folder of class folders holds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from svda_analysis.errors import InputError, check_file, check_name, reading

if TYPE_CHECKING:
    from PIL import Image

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif")
_FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
_MOST_PIXELS = 2**26


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """The image in a file as 8-bit RGB, upright as its EXIF orientation says, which is how viewers show it.

    Only the formats of :data:`IMAGE_SUFFIXES` are opened, whatever a file is called: what others would start (an EPS is
    drawn by Ghostscript) is not. :class:`InputError` names a file that is broken, is too large or has deeper pixels.
    """
    from PIL import Image, ImageOps

    check_file(path, "an image")
    with reading(f"{path} is not a readable image"), Image.open(path, formats=_FORMATS) as image:
        if image.width * image.height > _MOST_PIXELS:
            raise InputError(f"{path} must have at most {_MOST_PIXELS:,} pixels, got {image.width} x {image.height}")
        mode = image.mode
        deep = mode in ("I", "F") or mode.startswith("I;")
        rgb = None if deep else ImageOps.exif_transpose(_without_palette(image)).convert("RGB")
    if rgb is None:
        raise InputError(f"{path} must have 8 bits a channel, got mode {mode}")
    if max(rgb.size) > 100 * min(rgb.size):  # resizing the short side would need gigabytes
        raise InputError(f"{path} is too narrow: {rgb.width} x {rgb.height}")
    return rgb


def _without_palette(image: Image.Image) -> Image.Image:
    return image.convert("RGBA") if image.mode == "P" and "transparency" in image.info else image


def class_folders(folder: Path) -> list[str]:
    """Names of the folders in ``folder``, sorted; as numbers where all are numbers, so that 2 is class 2 and not 10."""
    if not folder.is_dir():
        return []
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not entry.name.startswith("."))
    for name in names:
        check_name(name, f"the name of a class in {folder}")
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else names


def _image_files(folder: str) -> Iterator[str]:
    """Image files under a folder, sorted; hidden ones and links to folders are left out."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _image_files(entry.path)
        elif entry.name.lower().endswith(IMAGE_SUFFIXES) and (entry.is_file() or entry.is_symlink()):
            yield entry.path


def list_images(folder: Path, classes: Iterable[str]) -> tuple[list[str], np.ndarray]:
    """Paths, and the number of each one's class; a class without a folder has no images."""
    found = [(path, label) for label, name in enumerate(classes) for path in _class_images(folder / name)]
    if not found:
        raise InputError(f"no images in {folder} (expected {folder}/<class>/*.jpg, *.png or the like)")
    return [path for path, _ in found], np.array([label for _, label in found])


def _class_images(folder: Path) -> Iterator[str]:
    return _image_files(str(folder)) if folder.is_dir() else iter(())
