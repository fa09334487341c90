"""How a model wants its images."""

from __future__ import annotations

import math

import pytest

from svda_analysis.data import Preprocessing
from svda_analysis.errors import InputError


@pytest.mark.parametrize(
    ("known", "words"),
    [
        ({}, "as the data set gives them"),
        ({"image_size": 224}, "224 x 224, normalised as the data set is"),
        (
            {"image_size": 8, "resize": 9, "mean": (0.5,), "std": (1.0,)},
            "8 x 8 from a shorter side of 9 (bilinear), mean 0.5, std 1.0",
        ),
    ],
)
def test_preprocessing_says_what_is_known(known, words):
    assert str(Preprocessing(**known)) == words


def test_a_normalisation_is_both_numbers_or_none():
    assert Preprocessing(mean=(0.5,), std=(0.25,)).normalisation == ((0.5,), (0.25,))
    assert Preprocessing(image_size=8).normalisation is None


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        ((0.5,), None, "as many numbers each, got 1 and 0"),
        ((0.5,), (0.5, 0.5), "as many numbers each, got 1 and 2"),
        ((0.5,), (0.0,), "std above 0"),
        ((math.nan,), (0.5,), "must be finite"),
        ((0.5,), (math.inf,), "must be finite"),
    ],
)
def test_what_cannot_be_divided_by_is_refused(mean, std, said):
    with pytest.raises(InputError, match=said):
        Preprocessing(mean=mean, std=std)
