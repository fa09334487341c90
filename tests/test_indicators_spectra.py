"""Spectra and what is read off one: explicit matrices, scale and order, exact values."""

from __future__ import annotations

import decimal
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from indicator_cases import (
    SPECTRUM_NAMES,
    B,
    H,
    any_spectrum,
    as_tensors,
    close,
    effective_rank,
    example,
    few,
    numpy_spectrum,
    plain_spectrum,
    torch_spectrum,
)

from svda_analysis import indicators as ind
from svda_analysis.indicators import numerics, spectra


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_spectra_are_float32(dtype):
    half = as_tensors(example(), dtype)
    wide = {key: x.float() if isinstance(x, torch.Tensor) else x for key, x in half.items()}
    for source in ind.SOURCES:
        got = torch_spectrum(half, source)
        assert got.dtype == torch.float32
        assert torch.equal(got, torch_spectrum(wide, source))


@few
@given(any_spectrum)
def test_spectral_indicators_stay_in_bounds(values):
    spectrum = torch.as_tensor(values)
    for name in SPECTRUM_NAMES:
        entry = ind.INDICATORS[name]
        low, high = entry.bounds(entry.sources[0], D=len(values), N=len(values))
        assert low <= entry.function(spectrum).item() <= high, name


@few
@given(plain_spectrum, st.floats(-30, 30), st.randoms(use_true_random=False))
def test_spectral_indicators_ignore_scale_and_order(values, exponent, random):
    values = np.where(values < 1e-9, 0, values)  # subnormal products would lose digits in the input itself
    shuffled = list(values)
    random.shuffle(shuffled)
    for name in SPECTRUM_NAMES:
        function = ind.INDICATORS[name].function
        want = function(torch.as_tensor(values)).item()
        assert function(torch.as_tensor(values * 10**exponent)).item() == pytest.approx(want, rel=1e-9, abs=1e-9)
        assert function(torch.tensor(shuffled, dtype=torch.float64)).item() == pytest.approx(want, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1.0, 1e30, 3e38])
def test_flat_and_single_spectra_at_any_scale(scale):
    flat, single = torch.full((3, 8), scale), torch.zeros(3, 8)
    single[:, 5] = scale
    assert close(ind.spectral_entropy(flat), 1)
    assert close(ind.effective_rank(flat), 8, 1e-5)
    assert close(ind.spectral_sparsity(flat), 0)
    assert close(ind.spectral_entropy(single), 0, 0)
    assert close(ind.effective_rank(single), 1, 0)
    assert close(ind.attention_rank(single), 1, 0)
    assert close(ind.spectral_sparsity(single), 1, 0)


@pytest.mark.parametrize("length", [1, 2, 8])
def test_an_all_zero_spectrum_is_a_single_direction(length):
    spectrum = torch.zeros(2, 3, length)
    assert close(ind.spectral_entropy(spectrum), 0, 0)
    assert close(ind.effective_rank(spectrum), 1, 0)
    assert close(ind.attention_rank(spectrum), 1, 0)
    assert close(ind.spectral_sparsity(spectrum), 1, 0)


def test_one_direction():
    spectrum = torch.tensor([[3.0], [1e30], [1e-30]])
    assert close(ind.spectral_entropy(spectrum), 0, 0)
    assert close(ind.effective_rank(spectrum), 1, 0)
    assert close(ind.spectral_sparsity(spectrum), 1, 0)


def test_no_n_by_n_matrix_where_none_is_needed():
    q = torch.ones(1, 1, 300_000, 2)  # N x N would take 360 GB
    assert close(ind.mean_alignment(q, q), 1)
    k = q.clone()
    k[..., ::2, 0] = -1
    assert ind.score_spectrum(q, k, 1.0)[0, 0].tolist() == pytest.approx([300_000, 0], abs=1e-3)


@pytest.mark.parametrize("with_sigma", [False, True])
@pytest.mark.parametrize(("n", "d"), [(3, 8), (8, 3), (5, 5), (1, 4), (4, 1)])
def test_score_spectrum_is_that_of_the_explicit_matrix(n, d, with_sigma):
    rng = np.random.default_rng(n)
    q, k = rng.normal(size=(2, B, H, n, d))
    sigma = rng.normal(size=(H, d))
    matrix = np.einsum("bhid,hd,bhjd->bhij", q, sigma if with_sigma else np.ones((H, d)), k) * 0.3
    length = max(min(n - 1, d), 1)
    want = np.linalg.svd(matrix - matrix.mean(-1, keepdims=True), compute_uv=False)[..., :length]
    got = ind.score_spectrum(*map(torch.as_tensor, (q, k)), 0.3, torch.as_tensor(sigma) if with_sigma else None)
    assert got.shape == (B, H, length)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-9, atol=1e-12)


def test_spectra_descend_and_match_numpy():
    data = example()
    tensors = as_tensors(data)
    for source in ind.SOURCES:
        got, want = torch_spectrum(tensors, source), -np.sort(-numpy_spectrum(data, source), axis=-1)
        assert (got.diff(dim=-1) <= 0).all()
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-9, atol=1e-12)


def test_effective_rank_of_nearly_uniform_float32_maps_is_precise():
    generator = torch.Generator().manual_seed(0)
    for temperature in (1e-3, 1e-2, 0.1):
        a = torch.softmax(temperature * torch.randn(1, 1, 100, 100, generator=generator), -1)
        want = effective_rank(np.linalg.svd(a[0, 0].double().numpy(), compute_uv=False))
        assert ind.attention_rank(ind.attention_spectrum(a)).item() == pytest.approx(want, rel=1e-6)


# --- numbers near 0 ---------------------------------------------------------------------------------------------------


def exact_spectrum(values):
    """Entropy in nats and Hoyer's sparseness of ``values`` by sums of 50 digits."""
    with decimal.localcontext(prec=50):
        weights = [decimal.Decimal(value) for value in values if value]
        total, size = sum(weights), decimal.Decimal(len(values)).sqrt()
        entropy = -sum(w / total * (w / total).ln() for w in weights)
        sparsity = (size - total / sum(w * w for w in weights).sqrt()) / (size - 1)
        return float(entropy), float(sparsity)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("small", [0.3, 1e-3, 1e-5, 6e-8, 1e-12])
def test_a_spectrum_of_all_but_one_direction_keeps_its_digits(small, dtype):
    """Down to entropies of 1e-12, and with halves below their normal range (6e-8), at any scale of the spectrum."""
    spectrum = torch.tensor([1.0, *[small] * 3, 0.0], dtype=dtype)
    entropy, sparsity = exact_spectrum([float(x) for x in spectrum])
    for scale in (1.0, 2.0**-14, 2.0**10):
        scaled = (spectrum.float() * scale)[None]
        within = {"rtol": 1e-6, "atol": 1e-14, "check_dtype": False}
        wanted = {
            "spectral_entropy": entropy / math.log(5),
            "effective_rank": math.exp(entropy),
            "spectral_sparsity": sparsity,
        }
        for name, value in wanted.items():
            got = getattr(ind, name)(scaled)[0].double()
            torch.testing.assert_close(got, torch.tensor(value, dtype=torch.float64), **within)


@pytest.mark.parametrize("apart", [0.1, 1e-2, 1e-4])
def test_a_spectrum_that_is_nearly_flat_keeps_the_digits_of_its_sparsity(apart):
    spectrum = 1 + apart * torch.linspace(-1, 1, 16)
    wanted = torch.tensor(exact_spectrum(spectrum.tolist())[1], dtype=torch.float64)
    torch.testing.assert_close(ind.spectral_sparsity(spectrum).double(), wanted, rtol=1e-6, atol=1e-13)


@pytest.mark.parametrize("smallest", [1.0, 1e-2, 1e-5, 1e-9, 0.0])
def test_the_factor_has_the_singular_values_of_its_matrix(smallest):
    """Also where the moments are too badly conditioned for Cholesky, and of fewer tokens than directions."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.logspace(0, -1, 8, dtype=torch.float64) * torch.tensor([1.0] * 7 + [smallest], dtype=torch.float64)
    mix = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64)).Q
    for tokens in (50, 5):
        x = torch.randn(2, 3, tokens, 8, generator=generator, dtype=torch.float64) * sizes @ mix
        found = torch.linalg.svdvals(spectra._thin_factor(x))
        expected = torch.linalg.svdvals(x)
        torch.testing.assert_close(found[..., : expected.shape[-1]], expected, rtol=1e-8, atol=1e-14)


def test_one_result_is_shared_by_those_who_ask_for_it_and_none_outlives_its_time():
    calls = []

    @numerics.shared
    def summed(x):
        calls.append(1)
        return x.sum()

    x = torch.ones(3)
    with numerics.sharing():
        assert summed(x) is summed(x)
        assert summed(x + 1) == 6
    assert len(calls) == 2
    assert summed(x) is not summed(x)


@pytest.mark.parametrize("columns", [7, 2000])
def test_products_of_rows_are_those_of_float64(columns):
    x, y = torch.randn(2, 4, 5, columns, generator=torch.Generator().manual_seed(0))
    expected = (x.double() * y.double()).sum(-1)
    size = (x.double() * y.double()).abs().sum(-1)
    assert ((numerics.row_products(x, y) - expected).abs() <= 1e-6 * size).all()
