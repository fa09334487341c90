"""What each indicator's docstring states of float32 holds, also near 0; in full: ``python tests/rounding.py``."""

import math

import pytest
import torch
from rounding import INDICATORS, SIZES, page, stated, worst_errors

from svda_analysis.indicators import head_distance
from svda_analysis.indicators.numerics import row_weights


@pytest.fixture(scope="module")
def found():
    return worst_errors(SIZES[:3])


def test_every_indicator_is_off_by_no_more_than_it_states(found):
    assert set(found["indicator"]) == set(INDICATORS)
    found["stated"] = found["indicator"].map(stated)
    assert not found[found["error"] > found["stated"]].to_dict("records")
    assert page(found).count("\n| ") == len(found) + 1


def test_what_is_stated_is_near_what_is_found(found):
    """A bound that nothing comes near says nothing; a threshold is met by few."""
    for row in found.itertuples():
        assert stated(row.indicator) < max(100 * row.error, 1e-6) or row.indicator == "mass_90"


def test_a_docstring_without_an_error_is_told(monkeypatch):
    monkeypatch.setattr(INDICATORS["mass_90"].function, "__doc__", "Nothing.")
    with pytest.raises(SystemExit, match="mass_90 states no error"):
        stated("mass_90")


def test_heads_that_are_all_but_alike_keep_their_distance():
    """To second order ``JS = sum_j (p_j - q_j)^2 / (8 m_j log 2)``; as a difference of entropies it is lost."""
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 1, 5, 5, generator=random, dtype=torch.float64)
    near = logits + 1e-5 * torch.randn(1, 1, 5, 5, generator=random, dtype=torch.float64)
    a = torch.cat([logits, near], 1).softmax(-1)
    p, q = row_weights(a)[0]
    wanted = ((p - q).square() / (p + q)).sum(-1).div(4 * math.log(2)).sqrt().mean()
    assert torch.allclose(head_distance(a), wanted.expand(1, 2), rtol=1e-6)
    assert torch.allclose(head_distance(a.float()).double(), wanted.expand(1, 2), atol=3e-8)
