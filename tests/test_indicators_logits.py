"""Spread of the logits and what the softmax does not see, against explicit formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from field_cases import N, by_head, layer, tensors

from svda_analysis import indicators as ind
from svda_analysis.indicators import INDICATORS


def test_spread_and_largest_logit_are_those_of_the_scores_about_their_row_means():
    *_, scores, a = layer()
    centred = scores - scores.mean(-1, keepdims=True)
    spread = by_head(lambda s: np.mean([s[i].std() for i in range(N)]), centred)
    np.testing.assert_allclose(ind.logit_spread(torch.as_tensor(a)), spread, rtol=1e-9)
    np.testing.assert_allclose(ind.largest_logit(torch.as_tensor(a)), by_head(np.max, centred), rtol=1e-9)


def test_uniform_attention_has_no_spread_and_masked_keys_are_left_out():
    uniform = torch.full((1, 1, 4, 4), 0.25)
    assert ind.logit_spread(uniform).item() == ind.largest_logit(uniform).item() == 0
    masked = torch.tensor([[[[0.8, 0.2, 0.0], [0.8, 0.2, 0.0], [0.0, 0.0, 0.0]]]])
    half = math.log(4) / 2  # log 0.8 and log 0.2 about their mean
    assert ind.logit_spread(masked).item() == pytest.approx(half)  # the last query attends to nothing
    assert ind.largest_logit(masked).item() == pytest.approx(half)


def test_invisible_energy_is_the_part_of_the_scores_that_rows_share():
    q, k, sigma, scores, _ = layer()
    want = by_head(lambda s: sum(N * row.mean() ** 2 for row in s) / (s**2).sum(), scores)
    np.testing.assert_allclose(ind.invisible_energy(*tensors(q, k, sigma)), want, rtol=1e-9)
    same = np.broadcast_to(k[:, :, :1], k.shape).copy()
    assert np.allclose(ind.invisible_energy(*tensors(q, same, sigma)), 1)
    assert np.allclose(ind.invisible_energy(*tensors(q, k - k.mean(2, keepdims=True), sigma)), 0, atol=1e-12)
    assert np.all(ind.invisible_energy(*tensors(q, 0 * k, sigma)).numpy() == 0)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_invisible_energy_has_no_scale(scale):
    q, k, sigma = (x.float() for x in tensors(*layer()[:3]))
    torch.testing.assert_close(ind.invisible_energy(q * scale, k * scale, sigma), ind.invisible_energy(q, k, sigma))


@pytest.mark.parametrize("name", ["logit_spread", "largest_logit"])
def test_nan_stays(name):
    a = torch.full((1, 2, 4, 4), 0.25)
    a[0, 1, 2, 3] = math.nan
    assert INDICATORS[name].function(a).isnan().tolist() == [[False, True]]
