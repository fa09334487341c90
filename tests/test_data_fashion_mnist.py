"""FashionMNIST's files in the exact original format, and the sample."""

from __future__ import annotations

import gzip
import importlib.util
import os

import numpy as np
import pytest
import torch
from making import DEBIAN, REPOSITORY, cut, idx_bytes, pixels, write_fashion

from svda_analysis.data import DATASETS, load_dataset
from svda_analysis.errors import InputError

pytestmark = pytest.mark.usefixtures("bare_machine")


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("inner", ["", "fashion_mnist", "fashion-mnist", "FashionMNIST/raw"])
def test_fashion_mnist_is_read_from_each_layout(tmp_path, inner, packed):
    images, labels = write_fashion(tmp_path / inner, packed=packed)
    data = load_dataset("fashion_mnist", root=tmp_path)
    assert data.source == f"FashionMNIST test, 20 images from {tmp_path / inner}"
    assert (data.name, data.split, data.channels, data.image_size, len(data)) == ("fashion_mnist", "test", 1, 28, 20)
    assert data.labels.dtype == torch.int64
    np.testing.assert_array_equal(data.labels, labels)
    np.testing.assert_array_equal(data.raw(range(20))[..., 0], images)
    assert not data.is_sample
    assert data.warning is None


def test_train_and_test_are_different_files(tmp_path):
    write_fashion(tmp_path, 10)
    write_fashion(tmp_path, 30, part="train")
    assert [len(load_dataset("fashion_mnist", root=tmp_path, train=train)) for train in (False, True)] == [10, 30]
    assert load_dataset("fashion_mnist", root=tmp_path, train=True).split == "train"


BROKEN_IDX = {
    "cut gzip": lambda good: cut(gzip.compress(good)),
    "not gzip": lambda good: good,
    "empty": lambda good: b"",
    "damaged gzip": lambda good: gzip.compress(good)[:-6] + b"\0\0\0\0\0\0",
    "empty inside": lambda good: gzip.compress(b""),
    "wrong magic": lambda good: gzip.compress(b"\0\0\x0d\x03" + good[4:]),
    "too little data": lambda good: gzip.compress(good[:-1]),
    "too much data": lambda good: gzip.compress(good + b"\0"),
    "no images": lambda good: gzip.compress(good[:4] + b"\0\0\0\0" + good[8:16]),
    "a bomb of a header": lambda good: gzip.compress(good[:4] + b"\xff" * 12),
}


@pytest.mark.parametrize("breakage", BROKEN_IDX)
def test_broken_idx_file_is_named_and_never_replaced(tmp_path, breakage):
    images, _ = write_fashion(tmp_path)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(BROKEN_IDX[breakage](idx_bytes(images)))
    with pytest.raises(InputError) as caught:
        load_dataset("fashion_mnist", root=tmp_path, sample_fallback=True)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("labels", [np.arange(19), np.full(20, 10)])
def test_wrong_labels_are_refused(tmp_path, labels):
    write_fashion(tmp_path)
    path = tmp_path / "t10k-labels-idx1-ubyte.gz"
    path.write_bytes(gzip.compress(idx_bytes(labels.astype(np.uint8))))
    with pytest.raises(InputError, match=r"labels-idx1-ubyte.gz must hold 20 labels from 0 to 9"):
        load_dataset("fashion_mnist", root=tmp_path)


def test_wrong_image_size_in_the_file_is_refused(tmp_path):
    write_fashion(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx_bytes(pixels(20, 32, 32))))
    with pytest.raises(InputError, match="must hold images of 28 x 28, got 20 x 32 x 32"):
        load_dataset("fashion_mnist", root=tmp_path)


@pytest.mark.parametrize("missing", ["images-idx3", "labels-idx1"])
def test_half_a_data_set_is_refused(tmp_path, missing):
    write_fashion(tmp_path)
    (tmp_path / f"t10k-{missing}-ubyte.gz").unlink()
    with pytest.raises(InputError, match=rf"t10k-{missing}-ubyte.gz is missing beside"):
        load_dataset("fashion_mnist", root=tmp_path)


def test_statistics_are_those_of_the_training_images(monkeypatch):
    if not DEBIAN.is_dir():
        pytest.skip("needs the Debian package dataset-fashion-mnist")
    data = load_dataset("fashion_mnist", root=DEBIAN, train=True)
    assert data.source == f"FashionMNIST train, 60 000 images from {DEBIAN}"
    shares = np.bincount(data.images.numpy().ravel(), minlength=256) / data.images.numel()
    mean = shares @ np.arange(256) / 255
    assert data.mean == (round(mean, 4),)
    assert data.std == (round(np.sqrt(shares @ (np.arange(256) / 255 - mean) ** 2), 4),)


@pytest.mark.parametrize(("train", "each"), [(True, 200), (False, 100)])
def test_sample_is_balanced_and_says_what_it_is(train, each):
    data = load_dataset("sample", train=train)
    assert torch.bincount(data.labels).tolist() == [each] * 10
    assert data.images.shape == (10 * each, 1, 28, 28)
    assert data.is_sample
    assert data.warning is None
    count = "2 000" if train else "1 000"
    assert data.source == f"FashionMNIST sample {'train' if train else 'test'}, {count} images from the package"
    assert (data.classes, data.mean) == (DATASETS["fashion_mnist"].classes, DATASETS["fashion_mnist"].mean)


def test_sample_is_small_and_carries_its_licence():
    sample = REPOSITORY / "svda_analysis" / "sample"
    assert sum(path.stat().st_size for path in sample.iterdir()) < 1.6e6
    notice = (sample / "LICENSE-fashion-mnist").read_text(encoding="utf-8")
    assert "MIT License" in notice
    assert "Zalando SE" in notice


def test_make_sample_makes_the_sample_from_the_original_files(tmp_path, monkeypatch):
    if not DEBIAN.is_dir():
        pytest.skip("needs the Debian package dataset-fashion-mnist")
    monkeypatch.setenv("SVDA_DATA", str(DEBIAN))
    spec = importlib.util.spec_from_file_location("make_sample", REPOSITORY / "benchmarks" / "make_sample.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    arrays = module.sample_arrays()
    with np.load(module.OUT) as shipped:
        assert set(shipped) == set(arrays)
        for name, array in arrays.items():
            np.testing.assert_array_equal(shipped[name], array)
    full, sample = (load_dataset(name) for name in ("fashion_mnist", "sample"))
    for label in range(10):
        first = full.images[full.labels == label][:100]
        assert torch.equal(sample.images[sample.labels == label], first)
    for name in ("a.npz", "b.npz"):
        module.write_npz(tmp_path / name, arrays)
        os.utime(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
