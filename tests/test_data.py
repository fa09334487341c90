"""Data sets: readers on files in the exact original formats, search order, every error, augmentation, the sample."""

from __future__ import annotations

import dataclasses
import gzip
import importlib.util
import io
import os
import pickle
import struct
import tarfile
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from svda_analysis.data import DATASETS, FolderImages, MemoryImages, crop_and_flip, load_dataset, open_image
from svda_analysis.errors import InputError

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared" / "data"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch, tmp_path_factory):
    """No data set anywhere, an empty home, and a network that fails."""

    def refuse(url, *_, **__):
        raise urllib.error.URLError("no\nnetwork")

    monkeypatch.delenv("SVDA_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    for name, spec in DATASETS.items():
        monkeypatch.setitem(DATASETS, name, dataclasses.replace(spec, usual_folders=()))
    monkeypatch.setattr("torchvision.datasets.utils.download_url", refuse)


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# --- writers of the original formats --------------------------------------------------------------------------------


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


# --- FashionMNIST ---------------------------------------------------------------------------------------------------


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


def test_search_order_is_root_environment_package_cache(tmp_path, monkeypatch):
    places = [tmp_path / "root", tmp_path / "environment", tmp_path / "package", Path("~/.cache/svda_analysis")]
    for count, place in enumerate(places, 10):
        write_fashion(place.expanduser(), count)
    monkeypatch.setenv("SVDA_DATA", str(places[1]))
    spec = dataclasses.replace(DATASETS["fashion_mnist"], usual_folders=(str(places[2]),))
    monkeypatch.setitem(DATASETS, "fashion_mnist", spec)
    for count, place in enumerate(places, 10):
        data = load_dataset("fashion_mnist", root=places[0])
        assert len(data) == count
        assert str(place.expanduser()) in data.source
        for file in place.expanduser().iterdir():
            file.unlink()
    with pytest.raises(InputError, match="download of FashionMNIST failed"):
        load_dataset("fashion_mnist", root=places[0])


def _cut(data):
    return data[: len(data) // 2]


BROKEN_IDX = {
    "cut gzip": lambda good: _cut(gzip.compress(good)),
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


# --- not found, download, fallback ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "cifar100"])
def test_failed_download_says_how_to_get_the_data(name):
    with pytest.raises(InputError) as caught:
        load_dataset(name)
    message = str(caught.value)
    assert "no network" in message
    assert DATASETS[name].how_to_get in message
    assert "\n" not in message


@pytest.mark.parametrize("error", [RuntimeError("File not found or corrupted."), OSError("disk full")])
def test_other_download_failures_are_input_errors_too(monkeypatch, tmp_path, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("torchvision.datasets.utils.download_url", fail)
    with pytest.raises(InputError, match=str(error)):
        load_dataset("cifar10", root=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10", "cifar100"])
def test_download_lands_in_root_and_is_read_from_there(monkeypatch, tmp_path, name):
    source = tmp_path / "server"
    if name == "fashion_mnist":
        write_fashion(source)
        write_fashion(source, part="train")
    else:
        files, _ = cifar10_files() if name == "cifar10" else cifar100_files()
        write_archive(source / f"{name.replace('cifar', 'cifar-')}-python.tar.gz", files)
    fetched = []

    def copy(url, root, filename, md5):
        assert len(md5) == 32
        fetched.append(url)
        (Path(root) / filename).write_bytes((source / filename).read_bytes())

    monkeypatch.setattr("torchvision.datasets.utils.download_url", copy)
    first, second = (load_dataset(name, root=tmp_path / "root", train=True) for _ in range(2))
    assert first.source == second.source
    assert str(tmp_path / "root") in first.source
    assert len(fetched) == (4 if name == "fashion_mnist" else 1)  # the second time it is there


def test_download_can_be_forbidden(monkeypatch):
    monkeypatch.setattr("torchvision.datasets.utils.download_url", lambda *_, **__: pytest.fail("it tried"))
    with pytest.raises(InputError, match="FashionMNIST was not found; apt-get install dataset-fashion-mnist"):
        load_dataset("fashion_mnist", allow_download=False)
    with pytest.raises(InputError, match="ImageNet-100 was not found; pass --data-root DIR"):
        load_dataset("imagenet100")


def test_sample_takes_the_place_of_missing_fashion_mnist_with_a_warning(monkeypatch, tmp_path):
    monkeypatch.setattr("torchvision.datasets.utils.download_url", lambda *_, **__: pytest.fail("it tried"))
    data = load_dataset("fashion_mnist", sample_fallback=True)
    assert data.is_sample
    assert data.name == "sample"
    assert "bundled sample" in data.warning
    assert DATASETS["fashion_mnist"].how_to_get in data.warning
    write_fashion(tmp_path)
    assert not load_dataset("fashion_mnist", root=tmp_path, sample_fallback=True).is_sample
    with pytest.raises(InputError, match="CIFAR-10 was not found"):
        load_dataset("cifar10", sample_fallback=True, allow_download=False)


@pytest.mark.parametrize(
    ("name", "hint"), [("FashionMNIST", "fashion_mnist"), ("cifar-10", "cifar10"), ("imagenet", "imagenet100")]
)
def test_unknown_name_lists_the_names_and_the_nearest(name, hint):
    with pytest.raises(InputError, match=f"did you mean {hint}\\?") as caught:
        load_dataset(name)
    assert all(each in str(caught.value) for each in DATASETS)


@pytest.mark.parametrize("name", ["", "zzz", "cifar10:/data"])
def test_other_unknown_names_are_refused(name):
    with pytest.raises(InputError, match="the data set must be one of fashion_mnist, cifar10"):
        load_dataset(name)


def test_size_of_the_model_must_be_the_size_of_the_images():
    with pytest.raises(InputError, match=r"cifar10 images are 32 x 32, the model takes 28 x 28"):
        load_dataset("cifar10", image_size=28)
    assert load_dataset("sample", image_size=28).image_size == 28
    with pytest.raises(InputError, match="image_size must be at least 1, got 0"):
        load_dataset("imagefolder:.", image_size=0)


# --- CIFAR ----------------------------------------------------------------------------------------------------------


def test_our_python_2_pickles_are_what_pickle_reads():
    files, arrays = cifar10_files()
    batch = pickle.loads(files["cifar-10-batches-py/test_batch"], encoding="latin1")
    np.testing.assert_array_equal(batch["data"].reshape(-1, 3, 32, 32), arrays["test_batch"][0])
    assert batch["labels"] == arrays["test_batch"][1]


@pytest.mark.parametrize("form", ["archive", "folder", "archive in its folder", "batches themselves", "archive itself"])
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_read_from_each_form(tmp_path, name, form):
    files, arrays = cifar10_files() if name == "cifar10" else cifar100_files()
    inner, archive = next(iter(files)).split("/")[0], f"{name.replace('cifar', 'cifar-')}-python.tar.gz"
    place = tmp_path / name / archive if form == "archive in its folder" else tmp_path / archive
    if "archive" in form:
        write_archive(place, files)
    else:
        write_files(tmp_path, files)
    root = {"batches themselves": tmp_path / inner, "archive itself": place}.get(form, tmp_path)
    for train in (True, False):
        data = load_dataset(name, root=root, train=train)
        parts = [part for part in arrays if ("test" not in part) == train]
        np.testing.assert_array_equal(data.images, np.concatenate([arrays[part][0] for part in parts]))
        assert data.labels.tolist() == [label for part in parts for label in arrays[part][1]]
        place_read = place if "archive" in form else tmp_path / inner
        assert data.source.endswith(f", {len(data)} images from {place_read}")
    assert len(data.classes) == int(name.removeprefix("cifar"))


def test_cifar_arrays_in_column_order_and_from_python_3_are_read(tmp_path):
    images = pixels(4, 3072)
    batches = {
        "fortran": py2_pickle({"labels": [0, 1, 2, 3], "data": np.asfortranarray(images)}),
        "python 3": pickle.dumps({b"labels": [0, 1, 2, 3], b"data": images}, protocol=4),
    }
    for name, data in batches.items():
        write_files(tmp_path / name, {"test_batch": data})
        np.testing.assert_array_equal(
            load_dataset("cifar10", root=tmp_path / name).images, images.reshape(-1, 3, 32, 32)
        )


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("packed", [True, False])
def test_malicious_pickle_is_refused_and_not_executed(tmp_path, packed):
    marker = tmp_path / "executed"
    attack = pickle.dumps({"labels": [0], "data": Attack(marker)}, protocol=2)
    files = {"cifar-10-batches-py/test_batch": attack}
    if packed:
        write_archive(tmp_path / "cifar-10-python.tar.gz", files)
    else:
        write_files(tmp_path, files)
    with pytest.raises(InputError, match=r"test_batch is not an original CIFAR batch: it asks for \w+\.mkdir"):
        load_dataset("cifar10", root=tmp_path)
    assert not marker.exists()
    pickle.loads(attack)  # and it would have worked
    assert marker.exists()


@pytest.mark.parametrize(
    "call", [b"cnumpy\nload\n", b"cbuiltins\neval\n", b"c_codecs\nencode\n", b"cnumpy\nfromfile\n"]
)
def test_everything_but_array_reconstruction_is_refused(tmp_path, call):
    write_files(tmp_path, {"test_batch": b"\x80\x02" + call + b"."})
    with pytest.raises(InputError, match="which is refused"):
        load_dataset("cifar10", root=tmp_path)


GOOD_BATCH = {"labels": [1, 2], "data": pixels(2, 3072)}
BROKEN_BATCH = {
    "empty": b"",
    "cut": _cut(py2_pickle(GOOD_BATCH)),
    "text": b"hello",
    "no dictionary": py2_pickle([1, 2]),
    "no labels": py2_pickle({"data": pixels(2, 3072)}),
    "no pixels": py2_pickle({"labels": [1, 2]}),
    "pixels that are numbers": py2_pickle({"labels": [1, 2], "data": 3}),
    "too few labels": py2_pickle({"labels": [1], "data": pixels(2, 3072)}),
    "label too high": py2_pickle({"labels": [1, 10], "data": pixels(2, 3072)}),
    "label below 0": py2_pickle({"labels": [1, -1], "data": pixels(2, 3072)}),
    "labels in rows": py2_pickle({"labels": [[1], [2]], "data": pixels(2, 3072)}),
    "no images": py2_pickle({"labels": [], "data": pixels(0, 3072)}),
    "wrong image size": py2_pickle({"labels": [1, 2], "data": pixels(2, 784)}),
    "other numbers": pickle.dumps({"labels": [1, 2], "data": np.zeros((2, 3072), np.float32)}, protocol=4),
}


@pytest.mark.parametrize("breakage", BROKEN_BATCH)
def test_broken_cifar_batch_is_named(tmp_path, breakage):
    write_files(tmp_path, {"test_batch": BROKEN_BATCH[breakage]})
    with pytest.raises(InputError) as caught:
        load_dataset("cifar10", root=tmp_path)
    assert str(tmp_path / "test_batch") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_cifar_batches_are_named(tmp_path):
    files, _ = cifar10_files()
    del files["cifar-10-batches-py/data_batch_3"]
    write_files(tmp_path / "folder", files)
    with pytest.raises(InputError, match=r"data_batch_3 is missing"):
        load_dataset("cifar10", root=tmp_path / "folder", train=True)
    write_archive(tmp_path / "archive" / "cifar-10-python.tar.gz", files)
    with pytest.raises(InputError, match=r"cifar-10-python.tar.gz lacks cifar-10-batches-py/data_batch_3"):
        load_dataset("cifar10", root=tmp_path / "archive", train=True)


@pytest.mark.parametrize("data", [b"", b"no archive", None])
def test_broken_cifar_archive_is_named(tmp_path, data):
    path = tmp_path / "cifar-10-python.tar.gz"
    write_archive(path, cifar10_files()[0])
    path.write_bytes(_cut(path.read_bytes()) if data is None else data)
    with pytest.raises(InputError, match=r"cifar-10-python.tar.gz (is not a whole tar.gz archive|lacks)"):
        load_dataset("cifar10", root=tmp_path, train=True)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.floats(0, 1, exclude_max=True), byte=st.integers(0, 255), header=st.booleans())
def test_damage_gives_data_or_an_input_error_and_nothing_else(tmp_path, position, byte, header):
    batch = bytearray(py2_pickle(GOOD_BATCH))
    batch[int(position * (220 if header else len(batch)))] = byte
    write_files(tmp_path, {"test_batch": bytes(batch)})
    try:
        data = load_dataset("cifar10", root=tmp_path)
    except InputError as error:
        assert "\n" not in str(error)  # noqa: PT017  (either outcome is right)
    else:
        assert data.images.shape == (2, 3, 32, 32)


def write_cifar_images(root, each=2, suffix="png", size=(32, 32)):
    for number, name in enumerate(DATASETS["cifar10"].classes):
        for i in range(each):
            write_image(root / name / f"{i:04d}.{suffix}", size, seed=10 * number + i)


def test_cifar10_as_image_files_is_loaded_into_memory(tmp_path):
    write_cifar_images(tmp_path / "test")
    data = load_dataset("cifar10", root=tmp_path)
    assert isinstance(data, MemoryImages)
    assert data.source == f"CIFAR-10 test, 20 images from {tmp_path / 'test'}"
    assert data.labels.tolist() == sorted([*range(10)] * 2)
    np.testing.assert_array_equal(data.raw([3])[0], pixels(32, 32, 3, seed=11))
    write_cifar_images(tmp_path / "train", suffix="jpg")
    assert "CIFAR-10 (JPEG re-encoding) train, 20 images" in load_dataset("cifar10", root=tmp_path, train=True).source


def test_cifar10_as_image_files_of_another_size_or_with_classes_missing_is_refused(tmp_path):
    write_cifar_images(tmp_path / "a" / "test", size=(28, 32))
    with pytest.raises(InputError, match=r"0000.png must be 32 x 32, got 28 x 32"):
        load_dataset("cifar10", root=tmp_path / "a")
    write_image(tmp_path / "b" / "test" / "cat" / "0.png", (32, 32))
    with pytest.raises(InputError, match="test lacks the classes airplane, automobile"):
        load_dataset("cifar10", root=tmp_path / "b")


def test_real_cifar10_jpegs(tmp_path):
    archive = SHARED / "cifar10-jpeg.tar.gz"
    if not archive.exists():
        pytest.skip(f"needs {archive.name} in {archive.parent}")
    wanted = {f"test/{name}/{i:04d}.jpg" for name in DATASETS["cifar10"].classes for i in range(100)}
    with tarfile.open(archive, "r|gz") as members:  # test/ comes first
        while wanted:
            member = members.next()
            if member.name in wanted:
                write_files(tmp_path, {member.name: members.extractfile(member).read()})
                wanted.remove(member.name)
    data = load_dataset("cifar10", root=tmp_path)
    assert torch.bincount(data.labels).tolist() == [100] * 10
    values = data.images.double() / 255
    assert values.mean((0, 2, 3)).tolist() == pytest.approx(data.mean, abs=0.02)  # its training images' statistics
    assert values.std((0, 2, 3)).tolist() == pytest.approx(data.std, abs=0.02)


# --- the sample -----------------------------------------------------------------------------------------------------


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


# --- batches from memory --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample():
    return load_dataset("sample")


def test_batches_keep_order_and_the_ragged_last_one(sample):
    indices = torch.tensor([5, 3, 3, 900, 0, 7, 1])
    read = list(sample.batches(3, indices=indices))
    assert [len(images) for images, _ in read] == [3, 3, 1]
    images, labels = (torch.cat(parts) for parts in zip(*read, strict=True))
    assert (images.dtype, labels.dtype, images.shape) == (torch.float32, torch.int64, (7, 1, 28, 28))
    expected = (sample.images[indices].double() / 255 - sample.mean[0]) / sample.std[0]
    torch.testing.assert_close(images.double(), expected, atol=1e-6, rtol=1e-6)
    assert torch.equal(labels, sample.labels[indices])
    one, label = sample[900]
    assert torch.equal(one, images[3])
    assert label == labels[3]


def test_batches_without_indices_are_everything_in_file_order(sample):
    read = list(sample.batches(64))
    assert [len(labels) for _, labels in read] == [64] * 15 + [40]
    assert torch.equal(torch.cat([labels for _, labels in read]), sample.labels)
    assert list(sample.batches(4, indices=torch.tensor([], dtype=torch.int64))) == []


def test_reading_never_changes_the_stored_images(sample):
    before = sample.images.clone()
    for images, _ in sample.batches(100, augment=True):
        images.zero_()
    sample.raw([0])[:] = 0
    assert torch.equal(sample.images, before)


def test_three_channels_are_normalised_each_with_its_own(tmp_path):
    write_files(tmp_path, cifar10_files()[0])
    data = load_dataset("cifar10", root=tmp_path)
    images, _ = next(data.batches(4))
    for channel in range(3):
        expected = (data.images[:, channel].double() / 255 - data.mean[channel]) / data.std[channel]
        torch.testing.assert_close(images[:, channel].double(), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize(("channels", "padding", "flip"), [(1, 2, True), (3, 1, False), (2, 0, True)])
def test_each_augmented_image_is_one_crop_of_its_padded_self(channels, padding, flip):
    images = torch.from_numpy(pixels(400, channels, 6, 6))
    out = crop_and_flip(images, padding, flip, torch.Generator().manual_seed(0)).numpy()
    padded = np.pad(images.numpy(), [(0, 0), (0, 0), (padding, padding), (padding, padding)])
    found = set()
    for image, original in zip(out, padded, strict=True):
        matches = {
            (top, left, step)
            for top in range(2 * padding + 1)
            for left in range(2 * padding + 1)
            for step in ((1, -1) if flip else (1,))
            if np.array_equal(image, original[:, top : top + 6, left : left + 6][:, :, ::step])
        }
        assert len(matches) == 1
        found |= matches
    assert len(found) == (2 * padding + 1) ** 2 * (1 + flip)  # every crop comes up


def test_augmentation_is_drawn_from_the_generator_alone(sample):
    def read(seed):
        generator = torch.Generator().manual_seed(seed)
        pairs = sample.batches(64, indices=torch.arange(150), augment=True, generator=generator)
        return torch.cat([images for images, _ in pairs])

    state = torch.get_rng_state()
    first = read(1)
    torch.rand(5)
    assert torch.equal(first, read(1))
    assert not torch.equal(first, read(2))
    torch.set_rng_state(state)
    read(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_augmentation_goes_on_from_a_generators_state(sample):
    generator = torch.Generator().manual_seed(3)
    whole = list(sample.batches(50, indices=torch.arange(200), augment=True, generator=generator))
    generator.manual_seed(3)
    list(sample.batches(50, indices=torch.arange(100), augment=True, generator=generator))
    rest = list(sample.batches(50, indices=torch.arange(100, 200), augment=True, generator=generator))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole[2:], rest, strict=True))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"batch_size": 1, "workers": -1}, "workers must be at least 0, got -1"),
        ({"batch_size": 1, "indices": torch.tensor([0, 1000])}, "from 0 to 999, got 0 to 1000"),
        ({"batch_size": 1, "indices": torch.tensor([-1])}, "from 0 to 999, got -1 to -1"),
        ({"batch_size": 1, "indices": torch.tensor([0.5])}, r"got torch.float32 of shape \(1,\)"),
        ({"batch_size": 1, "indices": torch.ones(1000, dtype=torch.bool)}, "got torch.bool"),
        ({"batch_size": 1, "indices": torch.tensor(3)}, r"got torch.int64 of shape \(\)"),
    ],
)
def test_wrong_arguments_are_refused_at_once(sample, arguments, message):
    with pytest.raises(InputError, match=message):
        sample.batches(**arguments)


# --- folders --------------------------------------------------------------------------------------------------------


def test_folder_is_read_in_sorted_order(tmp_path):
    write_folder(tmp_path)
    write_image(tmp_path / "ant" / "deeper" / "x.PNG")
    write_image(tmp_path / "ant" / ".hidden.jpg")
    write_image(tmp_path / ".trash" / "x.jpg")
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    data = load_dataset(f"imagefolder:{tmp_path}")
    assert isinstance(data, FolderImages)
    names = [os.path.relpath(path, tmp_path) for path in data.paths]
    assert names[:4] == ["ant/0.jpg", "ant/1.jpg", "ant/2.jpg", "ant/deeper/x.PNG"]
    assert data.labels.tolist() == [0] * 4 + [1] * 3 + [2] * 3
    assert data.classes == ("ant", "bee", "cow")
    assert (data.split, data.image_size, data.channels) == ("all", 224, 3)
    assert data.source == f"image folder all, 10 images from {tmp_path}"
    assert load_dataset(data.name).source == data.source
    assert load_dataset("imagefolder", root=tmp_path).source == data.source


def test_folder_images_are_resized_and_cropped_for_testing(tmp_path):
    write_folder(tmp_path)
    data = load_dataset(f"imagefolder:{tmp_path}", image_size=28)
    for index, path in enumerate(data.paths):
        image = Image.open(path)
        short = min(image.size)
        image = image.resize([int(32 * side / short) for side in image.size], Image.Resampling.BILINEAR)  # 28 * 8 / 7
        left, top = round((image.width - 28) / 2), round((image.height - 28) / 2)
        expected = np.asarray(image.crop((left, top, left + 28, top + 28)))
        np.testing.assert_array_equal(data.raw([index])[0], expected)
        pixel = (expected.transpose(2, 0, 1) / 255 - np.array(data.mean)[:, None, None]) / np.array(data.std)[
            :, None, None
        ]
        np.testing.assert_allclose(data[index][0], pixel, atol=1e-5)
    images, labels = next(data.batches(len(data)))
    assert torch.equal(images, torch.stack([data[i][0] for i in range(len(data))]))
    assert torch.equal(labels, data.labels)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # DataLoader's own, from Python 3.12
def test_folder_augmentation_is_the_same_with_any_number_of_workers(tmp_path):
    data = load_dataset(f"imagefolder:{write_folder(tmp_path)}", image_size=24)
    indices = torch.tensor([4, 4, 0, 8, 1, 2, 3])

    def read(workers, seed=0):
        generator = torch.Generator().manual_seed(seed)
        return list(data.batches(3, indices=indices, augment=True, generator=generator, workers=workers))

    state = torch.get_rng_state()
    alone, with_two = read(0), read(2)
    assert torch.equal(torch.get_rng_state(), state)
    assert [len(labels) for _, labels in alone] == [3, 3, 1]
    for (images, labels), (others, other_labels) in zip(alone, with_two, strict=True):
        assert torch.equal(images, others)
        assert torch.equal(labels, other_labels)
    assert torch.equal(torch.cat([labels for _, labels in alone]), data.labels[indices])
    assert not torch.equal(alone[0][0][0], alone[0][0][1])  # an image that comes twice is cropped twice
    assert not torch.equal(alone[0][0], read(0, seed=1)[0][0])


def test_folder_with_splits(tmp_path):
    write_folder(tmp_path / "train")
    write_folder(tmp_path / "val", classes=("bee", "cow"), each=2)  # ant is missing: the numbers stay train's
    data = load_dataset(f"imagefolder:{tmp_path}")
    assert (data.split, data.classes, data.labels.tolist()) == ("val", ("ant", "bee", "cow"), [1, 1, 2, 2])
    assert load_dataset(f"imagefolder:{tmp_path}", train=True).split == "train"
    write_folder(tmp_path / "test", each=1)
    assert load_dataset(f"imagefolder:{tmp_path}").split == "test"
    write_folder(tmp_path / "test", classes=("dog",))
    with pytest.raises(InputError, match=r"test has classes that .*train lacks: dog"):
        load_dataset(f"imagefolder:{tmp_path}")


def test_folder_errors(tmp_path):
    with pytest.raises(InputError, match="imagefolder needs a folder: imagefolder:DIR"):
        load_dataset("imagefolder")
    with pytest.raises(InputError, match="nowhere is not a folder"):
        load_dataset(f"imagefolder:{tmp_path}/nowhere")
    (tmp_path / "empty" / "class").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "empty"):
        with pytest.raises(InputError, match=rf"no images in {folder} \(expected {folder}/<class>/\*.jpg"):
            load_dataset(f"imagefolder:{folder}")
    write_folder(tmp_path / "half" / "train")
    with pytest.raises(InputError, match="half has train, but no test or val folder"):
        load_dataset(f"imagefolder:{tmp_path / 'half'}")


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "CMYK", "LA", "YCbCr"])
def test_images_of_every_8_bit_mode_become_rgb(tmp_path, mode):
    suffix = {"CMYK": "tif", "YCbCr": "tif"}.get(mode, "png")
    write_image(tmp_path / f"x.{suffix}", mode=mode)
    image = open_image(tmp_path / f"x.{suffix}")
    assert (image.mode, image.size) == ("RGB", (40, 30))
    with Image.open(tmp_path / f"x.{suffix}") as original:
        assert original.mode == mode
        np.testing.assert_array_equal(image, original.convert("RGB"))


def test_palette_with_transparency_becomes_rgb_without_a_warning(tmp_path):
    image = Image.fromarray(pixels(8, 8)).convert("P")
    image.save(tmp_path / "x.png", transparency=bytes(range(256)))
    assert open_image(tmp_path / "x.png").mode == "RGB"


@pytest.mark.parametrize(("dtype", "mode"), [(np.uint16, "I;16"), (np.int32, "I"), (np.float32, "F")])
def test_deep_images_are_refused(tmp_path, dtype, mode):
    path = tmp_path / "deep" / "a" / "x.tif"
    path.parent.mkdir(parents=True)
    Image.fromarray(np.arange(64, dtype=dtype).reshape(8, 8) * 100).save(path)
    with pytest.raises(InputError, match=f"x.tif must have 8 bits a channel, got mode {mode}"):
        open_image(path)


def test_a_very_narrow_image_is_refused(tmp_path):
    write_image(tmp_path / "x.png", (5000, 2))
    with pytest.raises(InputError, match=r"x.png is too narrow: 5000 x 2"):
        open_image(tmp_path / "x.png")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("breakage", ["cut", "text", "empty", "dangling link"])
def test_broken_image_is_named_in_one_line(tmp_path, breakage, workers):
    write_folder(tmp_path, classes=("ant",), each=2)
    path = tmp_path / "ant" / "1.jpg"
    contents = {"cut": _cut(path.read_bytes()), "text": b"no image", "empty": b""}
    path.unlink()
    if breakage in contents:
        path.write_bytes(contents[breakage])
    else:
        path.symlink_to(tmp_path / "gone.jpg")
    data = load_dataset(f"imagefolder:{tmp_path}", image_size=16)
    with pytest.raises(InputError) as caught:
        list(data.batches(1, workers=workers))
    assert str(caught.value).startswith(f"{path} is not a readable image: ")
    assert "\n" not in str(caught.value)


def test_unreadable_file_is_an_input_error(tmp_path, monkeypatch):
    write_fashion(tmp_path)
    path = tmp_path / "t10k-images-idx3-ubyte.gz"

    def deny(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(InputError, match=f"{path} cannot be read: Permission denied"):
        load_dataset("fashion_mnist", root=tmp_path)


# --- ImageNet-100 ---------------------------------------------------------------------------------------------------


def test_imagenet100_is_the_list_in_sorted_order():
    classes = DATASETS["imagenet100"].classes
    assert len(set(classes)) == 100
    assert list(classes) == sorted(classes)
    assert all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for name in classes)


@pytest.mark.parametrize("inner", ["", "imagenet100", "imagenet"])
def test_imagenet100_takes_its_classes_out_of_imagenet(tmp_path, inner):
    classes = DATASETS["imagenet100"].classes
    root = tmp_path / inner
    for name in (classes[2], classes[70], "n00000000"):
        write_image(root / "val" / name / f"{name}_1.JPEG", format="JPEG")
    data = load_dataset("imagenet100", root=tmp_path, image_size=32)
    assert data.labels.tolist() == [2, 70]
    assert data.source == f"ImageNet-100 val, 2 images from {root / 'val'} (2 of the 100 classes are there)"
    assert data.raw([0, 1]).shape == (2, 32, 32, 3)
    write_image(root / "train" / classes[0] / "a.JPEG", format="JPEG")
    with pytest.raises(InputError, match="train lacks 99 of the 100 classes"):
        load_dataset("imagenet100", root=tmp_path, train=True)
    for name in classes:
        write_image(root / "train" / name / "a.JPEG", (4, 4), format="JPEG")
    data = load_dataset("imagenet100", root=tmp_path, train=True)
    assert data.labels.tolist() == list(range(100))
    assert data.source == f"ImageNet-100 train, 100 images from {root / 'train'}"


def test_real_imagenet100_images(tmp_path):
    archive = SHARED / "imagenet100-sample.tar"
    if not archive.exists():
        pytest.skip(f"needs {archive.name} in {archive.parent}")
    with tarfile.open(archive) as members:
        members.extractall(tmp_path, filter="data")
    data = load_dataset("imagenet100", root=tmp_path)
    assert data.labels.tolist() == list(range(100))
    images, labels = next(data.batches(2, indices=torch.tensor([99, 3])))
    assert images.shape == (2, 3, 224, 224)
    assert labels.tolist() == [99, 3]
