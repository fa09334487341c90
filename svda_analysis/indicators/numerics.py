"""Entropy, sparseness and rows as weights, in one precision: the pieces that several indicators share."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def wide_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def double(x: Tensor) -> Tensor:
    return (x.cpu() if x.device.type == "mps" else x).double()  # which has no float64


def widen(x: Tensor) -> Tensor:
    """``x`` in float32 at least: half precision becomes float32, float64 stays."""
    return x.to(wide_dtype(x))


def or_one(total: Tensor) -> Tensor:
    """A divisor: ``total``, or 1 where it is 0."""
    return torch.where(total == 0, 1, total)


def mean_over_queries(values: Tensor, *maps: Tensor) -> Tensor:
    """Mean of ``values (B, H, N)`` over the queries whose rows are not all zero in any of ``maps (B, H, N, N)``."""
    attends = torch.stack([a.sum(-1) != 0 for a in maps]).all(0)  # (B, H, N); true of NaN, which is carried over
    return torch.where(attends, values, 0).sum(-1) / or_one(attends.sum(-1))


def of_patches(x: Tensor, prefix: int, suffix: int) -> Tensor:
    """``(..., N, C) -> (..., P, C)``: without the tokens before and behind the patches."""
    return x.narrow(-2, prefix, x.shape[-2] - prefix - suffix)


def scale_to_one(x: Tensor) -> Tensor:
    """``x`` over its largest magnitude along the last dimension (zeros stay): neither sums nor squares can overflow."""
    x = widen(x)
    return x / or_one(x.abs().amax(-1, keepdim=True))


def row_weights(a: Tensor) -> Tensor:
    """Rows of ``a`` with sum 1; a zero row stays zero."""
    a = widen(a)
    return a / or_one(a.sum(-1, keepdim=True))


def entropy_of(weights: Tensor) -> Tensor:
    """Entropy in nats of ``p = w / sum(w)`` over the last dimension, as ``sum(-w log w) / sum(w) + log sum(w)``.

    Near 0, where one weight has it all, the two terms all but cancel: float32 is then off by 1e-7 in all, which is 1 %
    of an entropy of 1e-5. Give float64 where that matters.
    """
    total = or_one(weights.sum(-1))
    return torch.special.entr(weights).sum(-1) / total + total.log()


def spectrum_entropy(spectrum: Tensor) -> Tensor:
    """:func:`entropy_of` of a spectrum, computed in float64, which costs nothing beside what made it."""
    return entropy_of(scale_to_one(double(spectrum))).to(spectrum.device, wide_dtype(spectrum))


def largest_entropy(x: Tensor) -> float:
    """The largest entropy over the last dimension; 1 for a single entry, whose entropy is 0 anyway."""
    return math.log(x.shape[-1]) or 1.0


def hoyer_of(weights: Tensor) -> Tensor:
    """``(sqrt n - ratio) / (sqrt n - 1)`` in the form that is exactly 1 where one weight has it all."""
    root, norm = math.sqrt(weights.shape[-1]), torch.linalg.vector_norm(weights, dim=-1)
    ratio = torch.where(norm == 0, 1, weights.sum(-1) / norm)
    return 1 - (ratio - 1) / (root - 1) if root > 1 else ratio
