"""FashionMNIST: its idx files, and the sample of it that comes with the package."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from svda_analysis.data.catalog import BUNDLED, DatasetSpec
from svda_analysis.data.downloads import fetch
from svda_analysis.data.images import ImageData, MemoryImages
from svda_analysis.data.preprocessing import ImageSize
from svda_analysis.data.readers import check_labels, in_memory
from svda_analysis.errors import InputError, one_line

_LARGEST_IDX = 2**26  # bytes, unpacked; the original files have at most 47 million


def find_fashion_mnist(spec: DatasetSpec, folder: Path, train: bool, size: ImageSize) -> ImageData | None:
    """The original idx files, packed or not, in the folder or where torchvision and others put them below it."""
    part = "train" if train else "t10k"
    for place in (folder, folder / spec.name, folder / "fashion-mnist", folder / "FashionMNIST" / "raw"):
        images, labels = _either(place / f"{part}-images-idx3-ubyte"), _either(place / f"{part}-labels-idx1-ubyte")
        if images is None and labels is None:
            continue
        if images is None or labels is None:
            missing = f"{part}-images-idx3-ubyte" if images is None else f"{part}-labels-idx1-ubyte"
            raise InputError(f"{place / missing}.gz is missing beside {(images or labels).name}")  # type: ignore[union-attr]
        pixels, targets = _read_idx(images, 3), _read_idx(labels, 1)
        if not len(pixels) or pixels.shape[1:] != (28, 28):
            raise InputError(f"{images} must hold images of 28 x 28, got {' x '.join(map(str, pixels.shape))}")
        check_labels(targets, len(pixels), 10, labels)
        return in_memory(spec, pixels[:, None], targets, train, place)
    return None


def _either(path: Path) -> Path | None:
    packed = path.with_name(path.name + ".gz")
    return packed if packed.is_file() else path if path.is_file() else None


def _read_idx(path: Path, dims: int) -> np.ndarray:
    """Read the bytes of an idx file (LeCun's MNIST format: magic 0 0 8 dims, big-endian sizes, the data)."""
    with path.open("rb") as raw:
        try:
            data = (gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw).read(_LARGEST_IDX)
        except (OSError, EOFError, zlib.error) as error:
            raise InputError(f"{path} is not a whole gzip file: {one_line(error)}") from None
    start = 4 + 4 * dims
    if len(data) < start or data[:4] != bytes([0, 0, 8, dims]):
        raise InputError(f"{path} is not an idx file of bytes in {dims} dimensions")
    shape = np.frombuffer(data, ">u4", dims, 4).tolist()
    if len(data) - start != math.prod(shape):
        raise InputError(f"{path} should hold {math.prod(shape)} bytes of data, got {len(data) - start}")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def find_sample(spec: DatasetSpec, folder: Path, train: bool, size: ImageSize) -> MemoryImages:
    """The first 200 training and 100 test images of each class, in file order; the folder is not looked at."""
    split = "train" if train else "test"
    with (BUNDLED / "fashion_mnist.npz").open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        data = in_memory(spec, arrays[f"{split}_images"][:, None], arrays[f"{split}_labels"], train, "the package")
    data.is_sample = True
    return data


def download_fashion_mnist(folder: Path) -> None:
    from torchvision.datasets import FashionMNIST

    files = [(FashionMNIST.mirrors[0] + file, file, md5) for file, md5 in FashionMNIST.resources]
    fetch(folder / "FashionMNIST" / "raw", files)
