"""Image files and the folders they lie in: :func:`open_image`, and what a folder of class folders holds."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from svda_analysis.errors import InputError, check_file, check_name, reading

if TYPE_CHECKING:
    from PIL import Image

_FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "PPM": (".ppm", ".pgm"),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "JPEG2000": (".jp2", ".j2k"),
}
IMAGE_SUFFIXES = tuple(suffix for suffixes in _FORMATS.values() for suffix in suffixes)
_NO_PICTURES = (".txt", ".json", ".csv", ".tsv", ".xml", ".yaml", ".yml", ".md", ".html", ".db", ".ini", ".log", ".py")
_OF_SYSTEMS = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__")
_MOST_PIXELS = 2**26


def open_image(path: str | os.PathLike[str] | Image.Image) -> Image.Image:
    """The image in a file, or an image of PIL, as 8-bit RGB, upright as its EXIF orientation says: as viewers show it.

    Only the formats of :data:`IMAGE_SUFFIXES` are opened, whatever a file is called: what others would start (an EPS is
    drawn by Ghostscript) is not. :class:`InputError` names a file that is broken, is too large or has deeper pixels.
    """
    from PIL import Image, ImageOps

    if not isinstance(path, Image.Image):
        check_file(path, "an image")
    with reading(f"{path} is not a readable image"), _as_image(path) as image:
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


def _as_image(path: str | os.PathLike[str] | Image.Image) -> contextlib.AbstractContextManager[Image.Image]:
    from PIL import Image

    if isinstance(path, Image.Image):
        return contextlib.nullcontext(path)
    Image.init()
    return Image.open(path, formats=[name for name in _FORMATS if name in Image.OPEN])


def _without_palette(image: Image.Image) -> Image.Image:
    return image.convert("RGBA") if image.mode == "P" and "transparency" in image.info else image


def class_folders(folder: Path) -> list[str]:
    """Names of the folders in ``folder``, sorted; as numbers where all are numbers, so that 2 is class 2 and not 10."""
    if not folder.is_dir():
        return []
    inside = (entry.name for entry in os.scandir(folder) if entry.is_dir())
    names = sorted(name for name in inside if not name.startswith(".") and name not in _OF_SYSTEMS)
    for name in names:
        check_name(name, f"the name of a class in {folder}")
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else names


def images_under(folder: str | os.PathLike[str]) -> Iterator[str]:
    """Image files under a folder, sorted; hidden ones and links to folders are left out."""
    return (path for path in _files_under(folder) if path.lower().endswith(IMAGE_SUFFIXES))


def left_out(folder: Path, classes: Iterable[str] | None = None) -> str | None:
    """A line on files under a folder that may be pictures and are not read: those of other formats and, where
    ``classes`` are the folders that count, images elsewhere. None where there are none."""
    inside = [folder] if classes is None else [folder / name for name in classes if (folder / name).is_dir()]
    suffixes = (Path(path).suffix.lower() for place in inside for path in _files_under(place))
    others = Counter(one for one in suffixes if one and one not in (*IMAGE_SUFFIXES, *_NO_PICTURES))
    told = [f"{count} {suffix}" for suffix, count in sorted(others.items())]
    if classes is not None:
        beside = sum(1 for _ in images_under(folder)) - sum(1 for place in inside for _ in images_under(place))
        told += [f"{beside} images outside its class folders"] * (beside > 0)
    return f"left out of {folder}, as no images that are read: {', '.join(told)}" if told else None


def _files_under(folder: str | os.PathLike[str]) -> Iterator[str]:
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith(".") or entry.name in _OF_SYSTEMS:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _files_under(entry.path)
        elif entry.is_file() or entry.is_symlink():
            yield entry.path


def list_images(folder: Path, classes: Iterable[str]) -> tuple[list[str], np.ndarray]:
    """Paths, and the number of each one's class; a class without a folder has no images."""
    found = [(path, label) for label, name in enumerate(classes) for path in _class_images(folder / name)]
    if not found:
        raise InputError(f"no images in {folder} (expected {folder}/<class>/*.jpg, *.png or the like)")
    return [path for path, _ in found], np.array([label for _, label in found])


def _class_images(folder: Path) -> Iterator[str]:
    return images_under(folder) if folder.is_dir() else iter(())
