"""Indicators against slow float64 references written from the definitions, plus what holds for all of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from indicator_cases import (
    CASES,
    MAP_NAMES,
    OURS,
    REFERENCES,
    any_weight,
    as_tensors,
    close,
    compute,
    example,
    few,
    maps,
    reference,
)

from svda_analysis import indicators as ind


def test_every_indicator_has_a_reference():
    assert set(REFERENCES) == set(OURS)


@pytest.mark.parametrize(("name", "source"), CASES)
def test_matches_reference(name, source):
    got = compute(name, source)
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got.numpy(), reference(name, source), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "source"), CASES)
def test_float32_stays_near_the_reference(name, source):
    got = compute(name, source, torch.float32)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), reference(name, source), rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", sorted(OURS))
def test_half_precision_is_computed_in_float32(name, dtype):
    entry, half = ind.INDICATORS[name], as_tensors(example(), dtype)
    half["spectrum"] = half["sigma"].abs()
    wide = {key: x.float() if isinstance(x, torch.Tensor) else x for key, x in half.items()}
    got, want = (entry.function(**{key: data[key] for key in entry.needs}) for data in (half, wide))
    assert got.dtype == torch.float32
    assert torch.equal(got, want)


@few
@given(maps(), st.data())
def test_map_indicators_stay_in_bounds(a, data):
    n = a.shape[-1]
    q, k = torch.as_tensor(data.draw(hnp.arrays(np.float32, (2, 1, 1, n, 2), elements=any_weight)))
    columns = data.draw(st.sampled_from([c for c in range(1, n + 1) if n % c == 0]))
    prefix = data.draw(st.sampled_from([0, n - columns]))
    grid = ((n - prefix) // columns, columns)
    a_noisy = a[..., torch.randperm(n, generator=torch.Generator().manual_seed(n)), :]
    offered = {"a": a, "a_noisy": a_noisy, "q": q, "k": k, "grid": grid, "prefix": prefix, "suffix": 0, "frames": 1}
    for name, entry in OURS.items():
        if entry.needs != ("spectrum",):
            low, high = entry.bounds(entry.sources[0], D=2, N=n, grid=grid)
            got = entry.function(**{key: offered[key] for key in entry.needs})
            assert got.shape == (1, 1), name
            assert low <= got.item() <= high, name


@few
@given(maps(np.float64), st.randoms(use_true_random=False))
def test_map_indicators_ignore_the_order_of_keys(a, random):
    order = list(range(a.shape[-1]))
    random.shuffle(order)
    for name in MAP_NAMES:
        function = ind.INDICATORS[name].function
        assert function(a[..., order]).item() == pytest.approx(function(a).item(), rel=1e-9, abs=1e-9), name


@pytest.mark.parametrize("head_dim", [1, 4])
def test_one_token(head_dim):
    a, q = torch.ones(2, 3, 1, 1), torch.full((2, 3, 1, head_dim), 2.0)
    values = {"attention_entropy": 0, "selectivity_index": 1, "living_maps": 1, "attention_sparsity": 1, "mass_90": 1}
    assert set(values) == set(MAP_NAMES)
    assert all(close(getattr(ind, name)(a), value, 0) for name, value in values.items())
    assert all(close(getattr(ind, name)(0.9 * a), value) for name, value in values.items())
    assert close(ind.attention_rank(ind.attention_spectrum(a)), 1, 0)
    assert close(ind.attention_distance(a, (1, 1), 0), 0, 0)
    assert close(ind.perturbation_robustness(a, a), 1, 0)
    assert close(ind.angular_alignment(q, q, a), 1)
    assert ind.score_spectrum(q, q, 0.5).shape == (2, 3, 1)
    assert close(ind.score_spectrum(q, q, 0.5), 0, 0)  # nothing to choose between


@pytest.mark.parametrize("name", MAP_NAMES)
def test_nan_is_not_turned_into_a_number(name):
    a = torch.full((1, 2, 4, 4), 0.25)
    a[0, 1, 2, 3] = math.nan
    assert ind.INDICATORS[name].function(a).isnan().tolist() == [[False, True]]
