"""What is to stay, said once and checked once."""

import dataclasses
import math
import subprocess
import sys

import pytest

from svda_analysis.compression.keep import MIN_LOGIT, Keep
from svda_analysis.errors import InputError


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"energy": 0.0}, r"energy must lie in \(0, 1\], got 0.0"),
        ({"energy": math.nan}, "energy must lie in"),
        ({"budget": 1.01}, "budget must lie in"),
        ({"tolerance": 1.0}, "tolerance must lie between 0 and 1, got 1.0"),
        ({"min_logit": math.inf}, "min_logit must be a number of at least 0, got inf"),
        ({"norm_logit": -1.0}, "norm_logit must be at least 0, got -1.0"),
        ({"criterion": "best"}, "criterion must be one of operator, data, sigma, random, got 'best'"),
        ({"energy": 0.5, "budget": 0.5}, "energy, budget and tolerance exclude each other: give one"),
        ({"tolerance": 0.5, "budget": 0.5}, "exclude each other"),
    ],
)
def test_numbers_out_of_range_are_refused(fields, complaint):
    with pytest.raises(InputError, match=complaint):
        Keep(**fields)


def test_norm_rows_need_a_tenth_of_the_threshold_unless_said():
    assert Keep().norm_threshold == pytest.approx(0.1 * MIN_LOGIT)
    assert Keep(min_logit=0.2).norm_threshold == pytest.approx(0.02)
    assert Keep(min_logit=0.2, energy=0.9).norm_threshold == pytest.approx(0.1 * MIN_LOGIT)
    assert Keep(norm_logit=math.inf).norm_threshold == math.inf
    assert Keep(norm_logit=0).norm_threshold == 0
    assert Keep(budget=0.3).norm_at(0.5) == pytest.approx(0.05)


def test_it_is_frozen_and_given_by_keyword():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Keep().energy = 0.5
    with pytest.raises(TypeError):
        Keep(0.1)


def test_it_needs_no_torch():
    code = "import sys; from svda_analysis.compression.keep import Keep; Keep(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
