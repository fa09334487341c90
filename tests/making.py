"""Writers of the original formats, and where real data lie."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]


SHARED = REPOSITORY.parent / "shared" / "data"


DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def idx_bytes(array):
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_fashion(folder, count=20, part="t10k", packed=True):
    """The idx pair that FashionMNIST comes as; returns what it holds."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = pixels(count, 28, 28), (np.arange(count) % 10).astype(np.uint8)
    for kind, array in (("images-idx3", images), ("labels-idx1", labels)):
        data = idx_bytes(array)
        path = folder / f"{part}-{kind}-ubyte{'.gz' if packed else ''}"
        path.write_bytes(gzip.compress(data) if packed else data)
    return images, labels


def py2_pickle(value):
    """What Python 2's cPickle (protocol 2) and the numpy of 2009 wrote, opcode by opcode, for CIFAR's batches."""
    return b"\x80\x02" + _py2(value) + b"."


def _py2(value):
    if isinstance(value, dict):
        return b"}(" + b"".join(_py2(key) + _py2(item) for key, item in value.items()) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_py2, value)) + b"e"
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b"T" + struct.pack("<I", len(value)) + value
    fortran = not value.flags.c_contiguous
    dtype = b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    start = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    shape = b"(" + b"".join(_py2(size) for size in value.shape) + b"t"
    data = _py2(value.tobytes(order="F" if fortran else "C"))
    return start + b"(K\x01" + shape + dtype + (b"\x88" if fortran else b"\x89") + data + b"tb"


def cifar10_files(count=4):
    """Names and contents of CIFAR-10's batches, ``count`` images each, and the arrays of each."""
    files, arrays = {}, {}
    for seed, part in enumerate(["data_batch_1", *[f"data_batch_{i}" for i in range(2, 6)], "test_batch"]):
        images, labels = pixels(count, 3072, seed=seed), [(seed + i) % 10 for i in range(count)]
        batch = {"batch_label": part, "labels": labels, "data": images, "filenames": ["a.png"] * count}
        files[f"cifar-10-batches-py/{part}"] = py2_pickle(batch)
        arrays[part] = images.reshape(-1, 3, 32, 32), labels
    return files, arrays


def cifar100_files(count=5):
    files, arrays = {}, {}
    for seed, part in enumerate(["train", "test"]):
        images, labels = pixels(count, 3072, seed=seed), [95 + i for i in range(count)]
        batch = {
            "filenames": ["a.png"] * count,
            "batch_label": part,
            "fine_labels": labels,
            "coarse_labels": [1] * count,
            "data": images,
        }
        files[f"cifar-100-python/{part}"] = py2_pickle(batch)
        arrays[part] = images.reshape(-1, 3, 32, 32), labels
    return files, arrays


def write_archive(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def write_files(root, files):
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def write_image(path, size=(40, 30), mode="RGB", seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    array = pixels(size[1], size[0], 3, seed=seed)
    Image.fromarray(array).convert(mode).save(path, **options)
    return array


def write_folder(root, classes=("ant", "bee", "cow"), each=3):
    for number, name in enumerate(classes):
        for i in range(each):
            write_image(root / name / f"{i}.jpg", (40 + 7 * i, 50 - 5 * number), seed=10 * number + i)
    return root


def cut(data):
    return data[: len(data) // 2]
