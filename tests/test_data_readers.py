"""What was read becomes images in memory."""

import numpy as np
import pytest
import torch
from making import pixels

from svda_analysis.data import DATASETS
from svda_analysis.data.readers import check_labels, describe, in_memory, without_place
from svda_analysis.errors import InputError


def test_images_in_memory_are_a_copy_with_all_that_the_catalogue_says():
    spec = DATASETS["cifar10"]
    read, labels = pixels(3, 3, 32, 32)[:, ::-1], np.array([3, 0, 9], dtype=np.uint8)  # not contiguous
    read.setflags(write=False)
    data = in_memory(spec, read, labels, True, "here", "My CIFAR")
    assert (data.name, data.split, data.source) == ("cifar10", "train", "My CIFAR train, 3 images from here")
    assert (data.classes, data.mean, data.std) == (spec.classes, spec.mean, spec.std)
    assert (data.padding, data.flip, data.image_size) == (spec.padding, spec.flip, 32)
    assert data.labels.tolist() == [3, 0, 9]
    assert data.labels.dtype == torch.int64
    np.testing.assert_array_equal(data.images, read)
    data.images[0] = 0
    assert read[0].any()
    assert in_memory(spec, read, labels, False, "there").source == "CIFAR-10 test, 3 images from there"


def test_a_source_is_one_line_with_its_number_readable():
    assert describe("ImageNet", "train", 1281167, "x") == "ImageNet train, 1 281 167 images from x"


def test_the_place_is_taken_off_a_source_whatever_its_title_and_path_hold():
    for title in ("ImageNet", "pictures from a lab"):
        for place in ("x", "from here/3 images from there"):
            kept = f"{title} train, 1 281 167 images"
            assert without_place(describe(title, "train", 1281167, place)) == kept
            assert without_place(kept) == kept
    assert without_place("my own words from home") == "my own words from home"


@pytest.mark.parametrize("labels", [[0, 1], [0, 1, 2, 3], [0, 1, 10], [-1, 0, 1], [[0, 1, 2]]])
def test_labels_of_another_number_or_class_are_refused(labels):
    check_labels(np.array([0, 9, 1]), 3, 10, "file")
    with pytest.raises(InputError, match="file must hold 3 labels from 0 to 9"):
        check_labels(np.array(labels), 3, 10, "file")
