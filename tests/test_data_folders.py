"""Folders of image files, and ImageNet-100."""

from __future__ import annotations

import os
import tarfile

import pytest
import torch
from making import SHARED, cut, write_folder, write_image

from svda_analysis.data import DATASETS, FolderImages, load_dataset
from svda_analysis.errors import InputError

pytestmark = pytest.mark.usefixtures("bare_machine")


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


def test_folders_that_are_all_numbers_are_in_the_order_of_numbers(tmp_path):
    names = [str(number) for number in range(12)]
    for name in names:
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "a.png")
    assert load_dataset(f"imagefolder:{tmp_path}", image_size=8).classes == tuple(names)
    (tmp_path / "others").mkdir()
    assert load_dataset(f"imagefolder:{tmp_path}", image_size=8).classes == (*sorted(names), "others")


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


@pytest.mark.parametrize(
    ("train", "test", "split"),
    [
        ("Training", "Testing", "test"),
        ("train", "valid", "val"),
        ("training_set", "test_set", "test"),
        ("trainset", "valset", "val"),
        ("train_images", "val_images", "val"),
        ("seg_train", "seg_test", "test"),
        ("TRAIN", "test1", "test"),
        ("images/train", "images/dev", "val"),
    ],
)
def test_parts_of_a_data_set_have_many_names(tmp_path, train, test, split):
    for part in (train, test):
        write_folder(tmp_path / part, classes=("ant", "bee"), each=1)
    data = load_dataset(f"imagefolder:{tmp_path}", image_size=8)
    assert (data.classes, data.split, len(data), data.warning) == (("ant", "bee"), split, 2, None)
    assert load_dataset(data.name, image_size=8, train=True).split == "train"


def test_a_part_without_class_folders_is_named_with_the_way_to_it(tmp_path):
    write_folder(tmp_path / "train")
    (tmp_path / "test").mkdir()
    write_image(tmp_path / "test" / "0.png")
    with pytest.raises(InputError, match=rf"no test or val folder of class folders \(.*images:{tmp_path}/test\)"):
        load_dataset(f"imagefolder:{tmp_path}")


def test_folders_that_may_be_one_too_high_are_told(tmp_path):
    for fold in ("fold1", "fold2"):
        write_folder(tmp_path / fold, classes=("ant", "bee"), each=1)
    data = load_dataset(f"imagefolder:{tmp_path}", image_size=8)
    assert data.classes == ("fold1", "fold2")
    assert data.warning.endswith("are fold1, fold2, and each holds ant, bee: is it one folder too high?")


def test_what_systems_leave_behind_is_no_class(tmp_path):
    write_folder(tmp_path, classes=("ant", "bee"), each=1)
    for name in ("__MACOSX", "@eaDir", ".cache"):
        (tmp_path / name).mkdir()
        write_image(tmp_path / name / "0.png")
    data = load_dataset(f"imagefolder:{tmp_path}", image_size=8)
    assert (data.classes, len(data), data.warning) == (("ant", "bee"), 2, None)


def test_a_flat_folder_and_a_single_file_are_images_without_labels(tmp_path):
    for name in ("b.png", "a.JPG", "deeper/c.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_image(tmp_path / name)
    for name in ("d.heic", "e.dng", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    data = load_dataset(f"images:{tmp_path}", image_size=8)
    assert [os.path.relpath(path, tmp_path) for path in data.paths] == ["a.JPG", "b.png", "deeper/c.webp"]
    assert (data.classes, data.labels.tolist()) == ((), [-1, -1, -1])
    assert data.warning == f"left out of {tmp_path}, as no images that are read: 1 .dng, 1 .heic"
    alone = load_dataset(f"images:{tmp_path / 'b.png'}", image_size=8)
    assert (len(alone), alone.warning, alone[0][0].shape) == (1, None, (3, 8, 8))
    (tmp_path / "none").mkdir()
    for name, line in (("none", "no images in .*none; images:DIR or images:FILE, with no labels"), ("x", "no such")):
        with pytest.raises(InputError, match=line):
            load_dataset(f"images:{tmp_path / name}")


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


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("breakage", ["cut", "text", "empty", "dangling link"])
def test_broken_image_is_named_in_one_line(tmp_path, breakage, workers):
    write_folder(tmp_path, classes=("ant",), each=2)
    path = tmp_path / "ant" / "1.jpg"
    contents = {"cut": cut(path.read_bytes()), "text": b"no image", "empty": b""}
    path.unlink()
    if breakage in contents:
        path.write_bytes(contents[breakage])
    else:
        path.symlink_to(tmp_path / "gone.jpg")
    data = load_dataset(f"imagefolder:{tmp_path}", image_size=16)
    with pytest.raises(InputError) as caught:
        list(data.batches(1, workers=workers))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


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
