"""Numbers and names as text: one way of writing each, the same everywhere."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from svda_analysis import formatting as text


@pytest.mark.parametrize(
    ("x", "written"),
    [
        (0.0, "0.000"),
        (-1.1e-16, "0.000"),
        (0.00049, "5e-04"),
        (-0.00049, "-5e-04"),
        (0.0005, "0.001"),
        (9.9994, "9.999"),
        (10.146, "10.15"),
        (-100.0, "-100.0"),
        (math.inf, "inf"),
        (math.nan, "-"),
        (pd.NA, "-"),
    ],
)
def test_a_number_keeps_what_matters(x, written):
    assert text.number(x) == written


def test_a_sign_is_shown_but_for_nothing():
    assert [text.signed(x) for x in (0.5, 1.1e-16, 0.0, -0.5, math.nan)] == ["+0.500", "0.000", "0.000", "-0.500", "-"]


def test_fixed_digits_and_percentages():
    assert [text.fixed(x, 1, sign=True) for x in (-0.04, 2.25, math.nan)] == ["-0.0", "+2.2", "-"]
    assert text.fixed(3.14159, 2) == "3.14"
    assert [text.percent(x) for x in (0.9051, math.nan)] == ["90.5%", "-"]
    assert (text.percent(0.27, 0), text.percent(-0.1234, sign=True)) == ("27%", "-12.3%")


@pytest.mark.parametrize(
    ("x", "written"), [(0.012345, "0.0123"), (999.4, "999"), (1000, "1,000"), (-12345.6, "-12,346"), (math.nan, "-")]
)
def test_short_numbers(x, written):
    assert text.short_number(x) == written


def test_counts():
    assert text.thousands(455446) == "455 446"
    assert [text.counted(n, "run") for n in (1, 2)] == ["1 run", "2 runs"]


@pytest.mark.parametrize(("p", "written"), [(0.0009, "<0.001"), (0.001, "0.001"), (1.0, "1.000"), (math.nan, "-")])
def test_p_values(p, written):
    assert text.p_value(p) == written


def test_intervals():
    assert text.interval(-0.1, 20.0) == "[-0.100, 20.00]"
    assert text.interval(0.8846, 0.92, percent=True) == "[88.46%, 92.00%]"
    assert text.interval(1.0, 12.3456, digits=3) == "[1.000, 12.346]"
    assert text.interval(math.nan, math.nan) == "[no interval]"
    assert text.interval(0.1, math.nan, missing="-") == "-"


def test_estimates():
    assert text.estimate(0.067, 0.025, 0.108) == "+0.067 [0.025, 0.108]"
    assert text.points(-0.0073, -0.0397, 0.025) == "-0.73 [-3.97, +2.50]"
    assert text.points(-0.0073, math.nan, math.nan) == "-0.73 [no interval]"
    assert text.points(-0.0073, math.nan, math.nan, missing="") == "-0.73"
    assert text.points(math.nan, math.nan, math.nan) == "-"
    assert text.mean_and_spread(90.466, 0.8, 2) == "90.47 ± 0.80"
    assert text.mean_and_spread(90.466, math.nan, 2) == "90.47"
    assert text.mean_and_spread(math.nan, 1.0, 2) == "-"


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("fashion_mnist", "fashion_mnist"),
        ("imagefolder:/data/my set/", "my-set"),
        ("a/b c", "a-b-c"),
        ("../..", "-----"),
        ("", "data"),
        ("imagefolder:/", "imagefolder-"),
    ],
)
def test_a_name_becomes_part_of_a_files_name(name, written):
    assert text.file_word(name) == written


@given(st.text())
def test_no_name_leaves_its_folder(name):
    assert not set(text.file_word(name)) & set('/\\.: "<>|*?\n\0')


def test_words():
    assert text.dash(None) == "-"
    assert text.dash(0) == "0"
    assert text.spoken("accuracy_structure") == "Accuracy structure"


def test_names_of_files_are_safe_and_no_two_alike():
    given = ["maps_b/svda", "maps_b-svda", "Maps_B:svda", "../x", "", "é" * 200, "a\nb\0", "中", "maps"]
    found = text.file_names(given)
    assert found[:5] == ["maps_b-svda", "maps_b-svda-2", "Maps_B-svda-3", "---x", "unnamed"]
    assert found[6:] == ["a-b-", "中", "maps"]
    assert len(found[5].encode()) <= 150
    assert all(c.isalnum() or c in "-_" for name in found for c in name)
    assert len({name.casefold() for name in found}) == len(given)


def test_names_are_shortened_to_their_room():
    assert text.shorten("abcdef", 6) == "abcdef"
    assert text.shorten("abc def", 5) == "abc…"
