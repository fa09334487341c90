"""The catalog of data sets needs no torch."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
from making import REPOSITORY

from svda_analysis.data import DATASETS
from svda_analysis.data.catalog import dataset_names, register_dataset
from svda_analysis.errors import InputError

pytestmark = pytest.mark.usefixtures("bare_machine")


def test_imagenet100_is_the_list_in_sorted_order():
    classes = DATASETS["imagenet100"].classes
    assert len(set(classes)) == 100
    assert list(classes) == sorted(classes)
    assert all(len(name) == 9 and name[0] == "n" and name[1:].isdigit() for name in classes)


def test_catalog_imports_no_torch():
    script = "import sys; from svda_analysis.data.catalog import DATASETS; print('torch' in sys.modules, len(DATASETS))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert run.stdout.split() == ["False", "7"]


def test_names_are_as_a_help_text_says_them():
    assert dataset_names() == [
        "fashion_mnist",
        "cifar10",
        "cifar100",
        "imagenet100",
        "sample",
        "imagefolder:DIR",
        "images:DIR",
    ]


@pytest.mark.parametrize("name", ["sample", "a:b", ""])
def test_a_name_that_is_taken_or_no_name_is_refused(name):
    with pytest.raises(InputError, match="must be a new one without a colon"):
        register_dataset(dataclasses.replace(DATASETS["sample"], name=name))
