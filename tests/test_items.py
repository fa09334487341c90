"""What items and batches of a user's data may hold."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from svda_analysis.errors import InputError
from svda_analysis.items import Items, class_names, tensors_of, told

IMAGES = torch.rand(3, 1, 4, 4)
NUMBERS = torch.tensor([2, 0, 1])


@pytest.mark.parametrize(
    "batch",
    [
        (IMAGES, NUMBERS),
        [IMAGES, NUMBERS.int(), "more"],
        (IMAGES, [2, 0, 1]),
        (IMAGES, NUMBERS[:, None]),
        {"pixel_values": IMAGES, "labels": NUMBERS},
        {"path": ["a", "b", "c"], "image": IMAGES, "label": NUMBERS},
    ],
)
def test_class_numbers_are_found(batch):
    warnings = []
    images, labels = tensors_of(batch, "x", warnings)
    assert images is IMAGES
    assert (labels.tolist(), labels.dtype, warnings) == ([2, 0, 1], torch.int64, [])


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.eye(3), "torch.float32 (3,)"),
        (torch.rand(3), "torch.float32"),
        (torch.ones(3, dtype=torch.bool), "torch.bool"),
        ([True, False, True], "list of bool"),
        (torch.zeros(3, 4, 4, dtype=torch.long), "torch.int64 (4, 4)"),
        (("a.png", "b.png", "c.png"), "tuple of str"),
        ({"boxes": 1}, "dict"),
    ],
)
def test_what_is_no_class_number_is_left_out_and_said_once(labels, said):
    warnings = []
    assert tensors_of((IMAGES, labels), "x", warnings)[1] is None
    assert tensors_of((IMAGES, labels), "x", warnings)[1] is None
    assert warnings == [f"the labels of x are no class numbers but {said}: they are left out"]
    assert tensors_of([IMAGES], "x", [])[1] is None


@pytest.mark.parametrize("batch", [IMAGES[0], IMAGES.byte(), {"a": IMAGES}, [], None, ["a"]])
def test_what_holds_no_images_is_named(batch):
    with pytest.raises(InputError, match=r"^x must give float images \(B, C, H, W\), got "):
        tensors_of(batch, "x", [])


def test_items_become_images_and_labels():
    items = [
        (IMAGES[0], 1),
        {"image": Image.new("L", (4, 4)), "label": np.int64(2)},
        (IMAGES[1].numpy(), torch.tensor(0)),
    ]
    pairs = Items(items, lambda picture: torch.full((1, 4, 4), float(picture.width)))
    images, labels = Items.batch([pairs[at] for at in range(len(pairs))])
    torch.testing.assert_close(images, torch.stack([IMAGES[0], torch.full((1, 4, 4), 4.0), IMAGES[1]]))
    assert labels == [1, 2, 0]
    assert Items.batch([(IMAGES[0], None), (IMAGES[1], None)])[1] is None
    assert Items.batch([(IMAGES[0], torch.eye(2)), (IMAGES[1], torch.eye(2))])[1].shape == (2, 2, 2)


def test_names_of_classes_as_libraries_bring_them():
    features = {"image": None, "label": SimpleNamespace(names=["cat", "dog"])}
    assert class_names(SimpleNamespace(features=features)) == ("cat", "dog")
    assert class_names(SimpleNamespace(classes=["cat", "dog"])) == ("cat", "dog")
    assert class_names(SimpleNamespace(classes=[0, 1])) == class_names(SimpleNamespace()) == ()


def test_what_a_loader_fails_with_is_one_line():
    def broken():
        yield 1
        raise KeyError("no\nimage")

    batches = told(broken(), "x")
    assert next(batches) == 1
    with pytest.raises(InputError, match=r"^x fails: ") as caught:
        next(batches)
    assert "\n" not in str(caught.value)


class Broken(torch.utils.data.Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        raise KeyError("no image")


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_what_a_worker_fails_with_is_told_without_its_traceback():
    loader = torch.utils.data.DataLoader(Broken(), num_workers=1)
    with pytest.raises(InputError, match=r"^x fails: KeyError: 'no image'$"):
        list(told(loader, "x"))


def test_pixels_that_are_no_floats_are_told_what_is_taken():
    with pytest.raises(InputError, match=r"got torch.uint8 \(3, 1, 4, 4\): bring pixels to what the model takes"):
        tensors_of(IMAGES.byte(), "x", [])
