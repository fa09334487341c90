"""The scores' operator in its own basis, against explicit matrices and by what it must not see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm

from svda_analysis.score_operator import centred_keys, operator_basis, row_moments, symmetric_root

B, H, N, D = 3, 2, 6, 4


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def sizes(q, k, sigma=None):
    return operator_basis(symmetric_root(row_moments(q, k)), sigma).size


@pytest.mark.parametrize("with_sigma", [False, True])
def test_sizes_are_the_singular_values_of_roots_by_scipy(with_sigma):
    q, k, sigma = draw(B, H, N, D), draw(B, H, N, D, seed=1) + 3, draw(H, D, seed=2) if with_sigma else None
    got = sizes(q, k, sigma)
    for h in range(H):
        rows = q[:, h].reshape(-1, D).numpy()
        keys = (k[:, h] - k[:, h].mean(1, keepdim=True)).reshape(-1, D).numpy()
        c_q, c_k = (x.T @ x / (B * N) for x in (rows, keys))
        middle = np.eye(D) if sigma is None else np.diag(sigma[h].numpy())
        want = np.linalg.svd(sqrtm(c_q) @ middle @ sqrtm(c_k), compute_uv=False)
        np.testing.assert_allclose(got[h], want, rtol=1e-8)


def test_the_energies_sum_to_the_energy_of_independent_pairs():
    q, k = draw(B, H, N, D), draw(B, H, N, D, seed=1)
    keys = centred_keys(k)
    for h in range(H):
        every = torch.einsum("nd,md->nm", q[:, h].reshape(-1, D), keys[:, h].reshape(-1, D))
        assert sizes(q, k)[h].square().sum().item() == pytest.approx(every.square().mean().item(), rel=1e-9)


def test_axes_and_what_all_keys_share_do_not_count():
    q, k, mixing = draw(B, H, N, D), draw(B, H, N, D, seed=1), draw(H, D, D, seed=2)
    other = sizes(q @ mixing, k @ mixing.inverse().mT + draw(B, H, 1, D, seed=3))
    torch.testing.assert_close(other, sizes(q, k), rtol=1e-8, atol=1e-10)


def test_the_basis_rebuilds_the_operator():
    roots = symmetric_root(row_moments(draw(B, H, N, D), draw(B, H, N, D, seed=1)))
    left, size, right = operator_basis(roots)
    torch.testing.assert_close(left * size[:, None] @ right.mT, roots[0] @ roots[1])
    assert (size.diff(dim=-1) <= 0).all()
