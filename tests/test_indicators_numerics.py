"""The pieces that indicators share."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from svda_analysis import indicators as ind
from svda_analysis.indicators.blocks import over_queries
from svda_analysis.indicators.numerics import (
    entropy_of,
    hoyer_of,
    largest_entropy,
    row_weights,
    scale_to_one,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_of_equal_weights_leaves_no_bound_and_no_tie(dtype):
    for n in range(1, 301):
        row = torch.full((1, 1, 1, n), 1 / n, dtype=dtype)
        assert 0 <= ind.spectral_entropy(row).item() <= 1
        assert 1 <= ind.effective_rank(row).item() <= n
        assert 0 <= ind.spectral_sparsity(row).item() <= 1
        assert 0 <= ind.attention_entropy(row).item() <= 1
        assert 0 <= ind.attention_sparsity(row).item() <= 1
        assert ind.mass_90(row).item() * n == pytest.approx(-(-9 * n // 10), rel=1e-6)


def test_entropy_and_sparseness_are_those_of_the_definitions():
    weights = torch.tensor([[0.5, 1.0, 0.0, 2.5], [3.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]], dtype=torch.float64)
    want = [-sum(p * math.log(p) for p in row / row.sum() if p > 0) for row in weights.numpy()]
    np.testing.assert_allclose(entropy_of(weights), want, atol=1e-12)
    ratio = [(2 - row.sum() / np.linalg.norm(row)) / (2 - 1) for row in weights.numpy()]
    np.testing.assert_allclose(hoyer_of(weights), ratio, atol=1e-12)
    assert largest_entropy(weights) == pytest.approx(math.log(4))


def test_queries_without_keys_are_left_out_of_a_mean_over_queries():
    a = torch.tensor([[[[0.5, 0.5], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]])
    assert over_queries(torch.tensor([[[3.0, 7.0], [3.0, 7.0]]]), a).value().tolist() == [[3, 0]]
    torch.testing.assert_close(row_weights(4 * a), a)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_rows_scaled_to_one_have_their_largest_there(scale):
    x = torch.tensor([[1.0, -2.0], [0.0, 0.0]])
    torch.testing.assert_close(scale_to_one(scale * x), torch.tensor([[0.5, -1.0], [0.0, 0.0]]))
