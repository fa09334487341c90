"""Spectra of sigma, of the scores and of the map, and what is read off one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from svda_analysis.indicators.numerics import (
    double,
    hoyer_of,
    largest_entropy,
    or_one,
    scale_to_one,
    spectrum_entropy,
    wide_dtype,
    widen,
)
from svda_analysis.indicators.registry import indicator
from svda_analysis.score_operator import centred_keys


def sigma_spectrum(sigma: Tensor) -> Tensor:
    """``|sigma|`` in descending order, same shape ``(..., D)``."""
    return widen(sigma).abs().sort(dim=-1, descending=True).values


def score_spectrum(q: Tensor, k: Tensor, scale: float, sigma: Tensor | None = None) -> Tensor:
    """Singular values of ``q diag(sigma) (k - mean k)^T * scale`` in descending order: the spectrum of the scores.

    Keys are centred, since the softmax drops what all of them share: rows of scores that differ by a constant make the
    same map, and have the same spectrum here. ``q, k (B, H, N, D)``, ``sigma (H, D)`` or None for the identity; returns
    ``(B, H, min(N - 1, D))``, at least one value: N centred keys span N - 1 directions. With thin factors ``q = Q_q
    R_q`` and ``k - mean k = Q_k R_k`` they are the singular values of ``R_q diag(sigma) R_k^T``: O(N D^2), and the
    ``N x N`` matrix is never formed. Computed in float64, see :func:`attention_spectrum`.
    """
    N, D = q.shape[-2:]
    r_q, r_k = (_thin_factor(x) for x in (double(q), centred_keys(double(k))))
    if sigma is not None:
        r_q = r_q * double(sigma).unsqueeze(-2)  # (B, H, min(N, D), D)
    values = _singular_values(r_q @ r_k.mT)[..., : max(min(N - 1, D), 1)]
    return (values * abs(scale)).to(q.device, wide_dtype(q))


def attention_spectrum(a: Tensor) -> Tensor:
    """Singular values of each map ``a (B, H, N, N)`` in descending order, ``(B, H, N)``.

    Computed in float64 whatever comes in: a float32 decomposition leaves a floor of about 1e-8 under each of the N
    values, which moves the effective rank of a nearly uniform map by 5e-4 (relative), and costs only a fifth less.
    """
    values = [_singular_values(double(some)) for some in (a if a.ndim > 3 else a[None])]
    found = torch.stack(values).view(a.shape[:-1]) if values else a.new_zeros(a.shape[:-1])
    return found.to(a.device, wide_dtype(a))


def _thin_factor(x: Tensor) -> Tensor:
    """``R`` with ``R^T R = x^T x`` for float64 ``x (..., N, D)``, upper triangular; ``(..., min(N, D), D)``.

    By Cholesky of the ``D x D`` moments, which is three times as fast as QR. It squares the condition number: a
    singular value that is a share t of the largest is off by ``1e-16 / t^2`` of itself, so that QR does what has less
    than 1e-3 on its diagonal.
    """
    factor, failed = torch.linalg.cholesky_ex(x.mT @ x, upper=True)
    ends = factor.diagonal(dim1=-2, dim2=-1).abs().aminmax(dim=-1)
    if bool(((failed != 0) | ~(ends.min > 1e-3 * ends.max)).any()):
        return torch.linalg.qr(x, mode="r").R
    return factor


def _singular_values(x: Tensor) -> Tensor:
    """Of the last two dimensions, in descending order, one batch ``(...)`` of matrices after the other; NaN for a
    matrix with an entry that is no number, where LAPACK would stop."""
    if x.ndim > 3:
        return torch.stack([_singular_values(some) for some in x]) if len(x) else x.new_zeros(x.shape[:-1])
    if bool(x.sum().isfinite()):
        return _sound_values(x)
    sound = x.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    return torch.where(sound.squeeze(-1), _sound_values(torch.where(sound, x, 0)), math.nan)


def _sound_values(x: Tensor) -> Tensor:
    """Singular values of square float64 ``x (..., N, N)``: roots of the eigenvalues of ``x^T x``, in two thirds of the
    time, where these are exact enough; else by a decomposition of x itself.

    The eigenvalues are off by some 4e-16 of the largest, a root by that over twice itself, at most by its root. What
    the entropy of the values then is off by, at most and to first order, must be below 2e-7, of the entropy itself
    where that is below 1.
    """
    values = torch.linalg.eigvalsh(x.mT @ x).clamp_min(0).sqrt().flip(-1)
    largest = values[..., :1]
    off = torch.minimum(4e-16 * largest.square() / (2 * values), 2e-8 * largest).nan_to_num(0)
    total = or_one(values.sum(-1, keepdim=True))
    logarithms = (values / total).clamp_min(1e-16).log()
    entropy = -(values / total * logarithms).sum(-1)
    inexact = (off / total * logarithms).sum(-1).neg() > 2e-7 * entropy.clamp_max(1)
    if bool(inexact.any()):
        values[inexact] = torch.linalg.svdvals(x[inexact])
    return values


# --- indicators of a spectrum ---------------------------------------------------------------------------------------


@indicator(
    label="Spectral entropy",
    sources=("sigma", "scores", "attention"),
    low=0.0,
    high=1.0,
    higher_means="flatter spectrum",
    reference="our definition (Shannon entropy over its maximum; the name is from arXiv 2602.10994)",
    question="How evenly is the weight spread over a head's directions?",
    not_said="which directions they are, or what they do to the answer",
)
def spectral_entropy(spectrum: Tensor) -> Tensor:
    """``-sum p log p / log R`` with ``p = s / sum(s)``, in [0, 1] (our definition).

    Computed in float64: off by 1e-6 of itself from 1e-5 on, and by less than 1e-14 in all below.
    Rounding in float32: 2e-7.
    """
    return (spectrum_entropy(spectrum) / largest_entropy(spectrum)).clamp(0, 1)


@indicator(
    label="Effective rank",
    sources=("sigma", "scores"),
    low=1.0,
    high="D",
    higher_means="more directions in use",
    reference="Roy & Vetterli 2007, definition of the effective rank",
    direction={"scores": -1},
    question="How many directions of the scores does a head use?",
    not_said="whether the map is selective: scores near zero may have a low rank too",
    needs_living=True,
)
def effective_rank(spectrum: Tensor) -> Tensor:
    """``exp(-sum p log p)`` with ``p = s / sum(s)``, in [1, R] (Roy & Vetterli 2007).

    The entropy is computed in float64.
    Rounding in float32: 3e-7.
    """
    return spectrum_entropy(spectrum).exp().clamp(1, spectrum.shape[-1])


@indicator(
    label="Spectral sparsity",
    sources=("sigma", "scores", "attention"),
    low=0.0,
    high=1.0,
    higher_means="fewer dominant directions",
    reference="Hoyer 2004, sparseness, applied to the spectrum",
    question="Do a few directions dominate?",
    not_said="how many may be removed without harm: compress and measure that",
)
def spectral_sparsity(spectrum: Tensor) -> Tensor:
    """``(sqrt R - ||s||_1 / ||s||_2) / (sqrt R - 1)``, in [0, 1] (Hoyer 2004, sparseness).

    Computed in float64: off by 1e-6 of itself from 1e-8 on, and by less than 1e-13 in all below.
    Rounding in float32: 2e-7.
    """
    sparsity = hoyer_of(scale_to_one(double(spectrum))).clamp(0, 1)
    return sparsity.to(spectrum.device, wide_dtype(spectrum))


@indicator(
    label="Attention rank",
    sources=("attention",),
    low=1.0,
    high="N",
    higher_means="more distinct rows of attention",
    reference="Roy & Vetterli 2007, effective rank, applied to the attention map",
    question="How many kinds of rows does a map have?",
    not_said="what the rows look at; a uniform map has rank 1 and sees nothing",
    needs_living=True,
)
def attention_rank(spectrum: Tensor) -> Tensor:
    """:func:`effective_rank` of the map from its singular values, in [1, N] (Roy & Vetterli 2007).

    Rounding in float32: 5e-7.
    """
    return effective_rank(spectrum)
