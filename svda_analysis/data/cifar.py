"""CIFAR: pickled batches, as a folder or in the archive, read without running what they say; or image files."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from svda_analysis.data.catalog import DatasetSpec
from svda_analysis.data.downloads import fetch
from svda_analysis.data.files import class_folders, list_images, open_image
from svda_analysis.data.images import ImageData, usable_cores
from svda_analysis.data.readers import check_labels, in_memory
from svda_analysis.errors import InputError, one_line

_LARGEST_BATCH = 2**28  # bytes, unpacked; the original files have at most 155 million


class _Inert:
    """Stands in for numpy's array and dtype, so that nothing in a pickle is ever called."""

    state: Any = None

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        self.state = state


class _BatchUnpickler(pickle.Unpickler):
    """Reads plain containers and numpy arrays (as :class:`_Inert`); refuses any other class or function."""

    allowed = {  # noqa: RUF012  (a constant)
        (module, name)
        for module in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("ndarray", "dtype", "_reconstruct")
    }

    def find_class(self, module: str, name: str) -> type[_Inert]:
        if (module, name) not in self.allowed:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which is refused")
        return _Inert


def _array_bytes(pickled: _Inert) -> np.ndarray:
    """The uint8 array that ``numpy.ndarray.__reduce__`` wrote."""
    _, shape, dtype, fortran, data = pickled.state
    if dtype.arguments[0] not in (b"u1", "u1"):
        raise ValueError("its data are not bytes")
    return np.frombuffer(data, np.uint8).reshape(shape, order="F" if fortran else "C")


def _read_batch(data: bytes, label_key: str, classes: int, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Pixels ``(n, 3, 32, 32) uint8`` and labels ``(n,)`` of one pickled batch, the original Python 2 pickle."""
    try:
        batch = _BatchUnpickler(io.BytesIO(data), encoding="bytes").load()
        fields = {key.decode() if isinstance(key, bytes) else key: value for key, value in batch.items()}
        pixels, labels = _array_bytes(fields["data"]).reshape(-1, 3, 32, 32), np.asarray(fields[label_key], np.int64)
    except Exception as error:  # a broken pickle can fail in any way
        raise InputError(f"{where} is not an original CIFAR batch: {one_line(error)}") from None
    if not len(pixels):
        raise InputError(f"{where} holds no images")
    check_labels(labels, len(pixels), classes, where)
    return pixels, labels


def find_cifar(spec: DatasetSpec, folder: Path, train: bool, size: int) -> ImageData | None:
    """The original batches, unpacked or in their archive, or class folders of images of that size."""
    number = len(spec.classes or ())
    inner, archive = ("cifar-10-batches-py", "cifar-10") if number == 10 else ("cifar-100-python", "cifar-100")
    parts = ["train" if train else "test"]
    if number == 10:
        parts = [f"data_batch_{i}" for i in range(1, 6)] if train else ["test_batch"]
    for place in (folder, folder / spec.name):
        found = _unpacked(place / inner, parts) or _unpacked(place, parts)
        if found is None and (path := _first_file(place, place / f"{archive}-python.tar.gz")):
            found = _from_archive(path, inner, parts)
        if found:
            label_key = "labels" if number == 10 else "fine_labels"
            read = [_read_batch(data, label_key, number, where) for where, data in found.items()]
            pixels, labels = (np.concatenate(arrays) for arrays in zip(*read, strict=True))
            return in_memory(spec, pixels, labels, train, os.path.commonpath(os.path.dirname(where) for where in found))
        if data := _cifar_from_images(spec, place / ("train" if train else "test"), train):
            return data
    return None


def _first_file(*paths: Path) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def _unpacked(folder: Path, parts: Sequence[str]) -> dict[str, bytes] | None:
    paths = [folder / part for part in parts]
    if not any(path.is_file() for path in paths):
        return None
    for path in paths:
        if not path.is_file():
            raise InputError(f"{path} is missing")
    return {str(path): path.read_bytes() for path in paths}


def _from_archive(path: Path, inner: str, parts: Sequence[str]) -> dict[str, bytes]:
    wanted = {f"{inner}/{part}": b"" for part in parts}
    left = set(wanted)
    try:
        with tarfile.open(path, "r:gz") as archive:
            while left and (member := archive.next()):
                if (
                    (name := member.name.removeprefix("./")) in left
                    and member.isfile()
                    and member.size < _LARGEST_BATCH
                ):
                    wanted[name] = archive.extractfile(member).read()  # type: ignore[union-attr]  # it is a file
                    left.remove(name)
    except Exception as error:  # a broken archive can fail in any way
        raise InputError(f"{path} is not a whole tar.gz archive: {one_line(error)}") from None
    if left:
        raise InputError(f"{path} lacks {', '.join(sorted(left))}")
    return {f"{path}/{Path(name).name}": data for name, data in wanted.items()}


def _cifar_from_images(spec: DatasetSpec, folder: Path, train: bool) -> ImageData | None:
    present = set(class_folders(folder)) & set(spec.classes or ())
    if not present:
        return None
    if missing := sorted(set(spec.classes or ()) - present):
        raise InputError(f"{folder} lacks the classes {', '.join(missing)}")
    paths, labels = list_images(folder, spec.classes or ())
    pixels = np.empty((len(paths), spec.image_size, spec.image_size, 3), np.uint8)

    def read(i: int) -> None:
        image = open_image(paths[i])
        if image.size != (spec.image_size, spec.image_size):
            raise InputError(
                f"{paths[i]} must be {spec.image_size} x {spec.image_size}, got {image.width} x {image.height}"
            )
        pixels[i] = np.asarray(image)

    with ThreadPoolExecutor(min(usable_cores(), 8)) as pool:
        for _ in pool.map(read, range(len(paths)), chunksize=1):
            pass
    jpeg = any(path.lower().endswith((".jpg", ".jpeg")) for path in paths)
    title = f"{spec.title} (JPEG re-encoding)" if jpeg else spec.title
    return in_memory(spec, pixels.transpose(0, 3, 1, 2), labels, train, folder, title)


def download_cifar10(folder: Path) -> None:
    from torchvision.datasets import CIFAR10

    fetch(folder, [(CIFAR10.url, CIFAR10.filename, CIFAR10.tgz_md5)])


def download_cifar100(folder: Path) -> None:
    from torchvision.datasets import CIFAR100

    fetch(folder, [(CIFAR100.url, CIFAR100.filename, CIFAR100.tgz_md5)])
