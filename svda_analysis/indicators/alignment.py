"""Do queries and keys point the same way? Of coordinates, and so for models of one kind of attention alone."""

from __future__ import annotations

import torch
from torch import Tensor

from svda_analysis.indicators.blocks import Mean, over_queries
from svda_analysis.indicators.numerics import (
    or_one,
    row_products,
    row_sums,
    scale_to_one,
    shared,
    widen,
)
from svda_analysis.indicators.registry import indicator


def _cosine_share(cosine: Tensor) -> Tensor:
    return ((1 + cosine) / 2).clamp(0, 1)


def _alignments(q: Tensor, k: Tensor, a: Tensor) -> Mean:
    """Of the queries of a block, ``q (B, H, n, D)``."""
    a = widen(a)
    attended = a @ _unit_rows(k)  # (B, H, n, D), the rows of a as they are
    cosine = row_products(_unit_rows(q), attended) / or_one(row_sums(a))
    return over_queries(cosine, a)


@indicator(
    rows=_alignments,
    finish=_cosine_share,
    label="Angular alignment",
    sources=("scores",),
    low=0.0,
    high=1.0,
    higher_means="attended keys point along their queries",
    reference="our definition (the name is from arXiv 2602.10994)",
    question="Do attended keys point along their queries?",
    not_said="anything of another kind of attention: the axes of q and k may change with the scores unchanged",
    varies_with=("basis", "row constants"),
)
def angular_alignment(q: Tensor, k: Tensor, a: Tensor) -> Tensor:
    """``(1 + mean_i sum_j a_ij cos(q_i, k_j)) / 2``, in [0, 1]; 0.5 is orthogonal (our definition).

    A zero query or key counts as orthogonal.

    Rounding in float32: 2e-7.
    """
    return _cosine_share(_alignments(q, k, a).value())


@indicator(
    label="Mean alignment",
    sources=("scores",),
    low=0.0,
    high=1.0,
    higher_means="queries and keys point the same way",
    reference="our definition (angular alignment under uniform attention)",
    question="Do queries and keys point the same way on the whole?",
    not_said="what is attended to; nor anything of another kind of attention",
    varies_with=("basis", "row constants"),
)
def mean_alignment(q: Tensor, k: Tensor) -> Tensor:
    """``(1 + mean_ij cos(q_i, k_j)) / 2``, in [0, 1]; 0.5 is orthogonal (our definition).

    The mean over all pairs is the product of the two mean unit vectors: O(N D), no ``N x N`` matrix.

    Rounding in float32: 2e-7.
    """
    return _cosine_share((_unit_rows(q).mean(-2) * _unit_rows(k).mean(-2)).sum(-1))


@shared
def _unit_rows(x: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(widen(x), dim=-1, keepdim=True)
    if bool(((norms < 1e-15) | (norms > 1e15)).any()):  # whose squares may be 0 or inf
        x = scale_to_one(x)
        norms = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return torch.div(x, or_one(norms)).contiguous()  # once for all products
