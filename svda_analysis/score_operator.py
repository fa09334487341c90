"""The scores of a head as an operator in the basis that the data give it, in which directions can be counted.

Up to what all keys share, which the softmax drops, the scores are ``q diag(sigma) (k - mean k)^T``. The axes of q and k
mean nothing by themselves: ``q M, k M^-T`` give the same scores for any invertible M. What does not depend on them are
the singular values of ``C_q^(1/2) diag(sigma) C_k^(1/2)``, where ``C_q`` holds the second moments of the queries and
``C_k`` those of the keys about each image's mean key: their squares are the energies, in mean squared logits, of the
directions of the best substitutes of low rank (our derivation, from Eckart & Young 1936).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class OperatorBasis(NamedTuple):
    """``C_q^(1/2) diag(sigma) C_k^(1/2) = left diag(size) right^T``: ``left, right (..., D, D)``, ``size (..., D)``
    descending."""

    left: Tensor
    size: Tensor
    right: Tensor


def centred_keys(k: Tensor) -> Tensor:
    """``k (..., N, D)`` about the mean of its tokens: what all keys share adds the same to a whole row of scores."""
    return k - k.mean(-2, keepdim=True)


def row_moments(q: Tensor, k: Tensor) -> Tensor:
    """``C_q`` and ``C_k`` as ``(2, H, D, D)`` of ``q, k (B, H, N, D)``, float64: means over images and tokens, keys
    about each image's mean key."""
    B, _, N, _ = q.shape
    rows = torch.stack([q.double(), centred_keys(k.double())])  # (2, B, H, N, D)
    return (rows.mT @ rows).sum(1) / (B * N)


def symmetric_root(moments: Tensor) -> Tensor:
    """``C^(1/2)`` of symmetric ``C (..., D, D)`` without negative eigenvalues; rounding below 0 counts as 0."""
    values, vectors = torch.linalg.eigh(moments)
    return (vectors * values.clamp_min(0).sqrt()[..., None, :]) @ vectors.mT


def operator_basis(roots: Tensor, sigma: Tensor | None = None) -> OperatorBasis:
    """The singular value decomposition of the operator whose ``C_q^(1/2), C_k^(1/2)`` are ``roots (2, H, D, D)``;
    ``sigma (H, D)``, None for the identity."""
    weighted = roots[1] if sigma is None else sigma[..., None] * roots[1]
    left, size, right = torch.linalg.svd(roots[0] @ weighted)
    return OperatorBasis(left, size, right.mT)
