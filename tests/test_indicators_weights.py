"""Circuits of the weights against whole matrices, read off any model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from field_cases import D, H, a_model, of, random_weights, some_images, tensors

from svda_analysis import indicators as ind
from svda_analysis.analysis import analyze
from svda_analysis.indicators.weights import ov_eigenvalues_of, ov_spectrum, qk_eigenvalues_of, qk_spectrum


@pytest.fixture
def images():
    return some_images()


def test_spectra_and_eigenvalues_are_those_of_the_whole_circuits():
    w_q, w_k, w_v, w_o, sigma = random_weights()
    t_q, t_k, t_v, t_o, t_sigma = tensors(w_q, w_k, w_v, w_o, sigma)
    for h in range(H):
        qk, ov = w_q[h].T @ np.diag(sigma[h]) @ w_k[h], w_o[h] @ w_v[h]
        cases = (
            (qk, qk_spectrum(t_q, t_k, t_sigma), qk_eigenvalues_of(t_q, t_k, t_sigma)),
            (ov, ov_spectrum(t_o, t_v), ov_eigenvalues_of(t_o, t_v)),
        )
        for circuit, spectrum, eigenvalues in cases:
            s = np.linalg.svd(circuit, compute_uv=False)[:D]
            values = np.linalg.eigvals(circuit)
            largest = values[np.argsort(-abs(values))[:D]]
            np.testing.assert_allclose(spectrum[0, h], s, rtol=1e-9)
            np.testing.assert_allclose(np.sort_complex(eigenvalues[0, h].numpy()), np.sort_complex(largest), rtol=1e-7)
            p = s / s.sum()
            assert ind.mode_rank(spectrum)[0, h].item() == pytest.approx(math.exp(-(p * np.log(p)).sum()))
            assert ind.leading_mode(spectrum)[0, h].item() == pytest.approx(s[0] ** 2 / (s**2).sum())
            variance = np.mean(abs(largest - largest.mean()) ** 2) / np.mean(abs(largest) ** 2)
            assert ind.qk_eigenvalue_variance(eigenvalues)[0, h].item() == pytest.approx(variance)
            copying = largest.sum().real / abs(largest).sum()
            assert ind.ov_copying(eigenvalues)[0, h].item() == pytest.approx(copying)


def test_weights_at_their_ends():
    same, zero = torch.full((1, 1, 4), 2 + 0j), torch.zeros(1, 1, 4, dtype=torch.complex64)
    assert [ind.qk_eigenvalue_variance(x).item() for x in (same, zero)] == [0, 1]
    assert [ind.ov_copying(x).item() for x in (same, -same, zero)] == [1, -1, 0]
    assert ind.leading_mode(torch.zeros(1, 1, 4)).item() == 1


@pytest.mark.parametrize("kind", ["dot", "svda", "cosine"])
def test_weights_are_read_behind_the_norm_and_a_gain_moved_into_them_changes_nothing(kind, images):
    names = ["mode_rank", "leading_mode", "qk_eigenvalue_variance", "ov_copying"]
    model = a_model(kind)
    before = analyze(model, images, indicators=names, examples=0)
    assert not before.warnings
    assert set(before.table["n"]) == {1}
    assert set(before.spectra["source"]) == {"qk", "ov"}
    block = model.blocks[1]
    weight = block.attention.qkv.weight.detach().double().view(3, 2, 12, 24)
    centred = weight - weight.mean(-1, keepdim=True)  # the norm's gain is one
    sigma = torch.ones(2, 12) if block.attention.sigma is None else block.attention.sigma.detach()
    want = ind.mode_rank(qk_spectrum(centred[0], centred[1], sigma))[0]
    np.testing.assert_allclose(of(before.table, "mode_rank", "qk")[1], want, rtol=1e-9)
    gain = torch.rand(24, dtype=torch.float64) + 0.5
    norm = next(module for module in block.modules() if isinstance(module, torch.nn.LayerNorm))
    with torch.no_grad():
        norm.weight *= gain
        norm.bias *= gain
        block.attention.qkv.weight /= gain
    after = analyze(model, images, indicators=names, examples=0)
    np.testing.assert_allclose(after.table["mean"], before.table["mean"], rtol=1e-9)
