"""CIFAR's batches in the exact original formats."""

from __future__ import annotations

import os
import pickle
import tarfile

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from making import (
    SHARED,
    cifar10_files,
    cifar100_files,
    cut,
    pixels,
    py2_pickle,
    write_archive,
    write_files,
    write_image,
)

from svda_analysis.data import DATASETS, MemoryImages, load_dataset
from svda_analysis.errors import InputError

pytestmark = pytest.mark.usefixtures("bare_machine")


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
    "cut": cut(py2_pickle(GOOD_BATCH)),
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
    path.write_bytes(cut(path.read_bytes()) if data is None else data)
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
