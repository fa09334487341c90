"""The options of an analysis are checked when they are made."""

import math
import re

import pytest

from svda_analysis.errors import InputError
from svda_analysis.options import BATCH_SIZE, Options, bytes_of


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("2GB", 2 * 10**9), ("500 mb", 5 * 10**8), ("1.5GiB", 3 * 2**29), (3 * 10**6, 3 * 10**6), ("2000000", 2 * 10**6)],
)
def test_memory_is_bytes_or_says_its_unit(given, wanted):
    assert bytes_of(given) == Options(memory=given).memory == Options(memory=given).most_bytes == wanted


@pytest.mark.parametrize("given", ["2 apples", "-1GB", "", "1kB", 0, "GB", "1e9", "9" * 400, "9e9GB", 2**63])
def test_memory_that_is_none_is_refused(given):
    said = "memory must be at least 1MB and below 2^63 bytes, as in 2GB or 500MB, got"
    with pytest.raises(InputError, match=re.escape(said)):
        Options(memory=given)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": 2.5}, "images must be a whole number or None, got 2.5"),
        ({"batch_size": 1.5}, "batch_size must be a whole number or None, got 1.5"),
        ({"costly_images": True}, "costly_images must be a whole number or None, got True"),
        ({"precision": "high"}, "precision must be a number or None, got 'high'"),
        ({"examples": "4"}, "examples must be a whole number, got '4'"),
        ({"seed": None}, "seed must be a whole number, got None"),
        ({"noise": math.inf}, "noise must be a finite number of at least 0, got inf"),
    ],
)
def test_options_of_another_kind_are_named(change, said):
    with pytest.raises(InputError, match=said):
        Options(**change)


def test_so_many_images_go_through_at_once_as_fit():
    large, small = 3 * 1024 * 1024 * 4, 28 * 28 * 4
    assert Options().images_at_once(large) == BATCH_SIZE
    assert Options(memory="2GB").images_at_once(small) == BATCH_SIZE
    assert Options(memory="2GB").images_at_once(large) == 1
    assert 1 < Options(memory="16GB").images_at_once(large) < BATCH_SIZE
    assert Options(memory="2GB", batch_size=7).images_at_once(large) == 7


def test_examples_are_drawn_where_their_maps_fit():
    assert Options(examples=3).fitting_examples(10**12) == 3
    assert Options(examples=3, memory="1GB").fitting_examples(10**8) == 2
    assert Options(examples=3, memory="1GB").fitting_examples(10**10) == 0
