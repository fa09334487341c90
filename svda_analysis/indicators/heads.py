"""Do the heads of a layer do the same, and does the model need them? In the groups ``field`` and ``ablation``."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from svda_analysis.indicators.blocks import Mean, over_queries
from svda_analysis.indicators.numerics import or_one, row_weights
from svda_analysis.indicators.registry import indicator


def _distances(a: Tensor) -> Mean | None:
    """Of all pairs of heads h and h + step (round the circle), ``(steps, B, H)``."""
    rows, H = row_weights(a), a.shape[1]
    if H < 2:
        return None
    pairs = []
    for step in range(1, H // 2 + 1):
        other = rows.roll(-step, 1)
        divergence = _jensen_shannon(rows, other)  # (B, H, n)
        pairs.append(over_queries(divergence.clamp(0, 1).sqrt(), rows, other))
    return Mean(torch.stack([pair.total for pair in pairs]), torch.stack([pair.count for pair in pairs]))


def _over_others(distances: Tensor) -> Tensor:
    """The mean over the other heads of what :func:`_distances` gives, ``(steps, B, H) -> (B, H)``."""
    H = distances.shape[-1]
    total = distances.new_zeros(distances.shape[1:])
    for step, distance in enumerate(distances, start=1):
        total = total + distance
        if 2 * step != H:
            total = total + distance.roll(step, 1)
    return (total / (H - 1)).clamp(0, 1)


@indicator(
    rows=_distances,
    finish=_over_others,
    group="field",
    label="Distance to other heads",
    sources=("attention",),
    low=0.0,
    high=1.0,
    higher_means="less redundant",
    reference="Jensen-Shannon distance (Endres & Schindelin 2003) between heads, as in Clark et al. 2019, sec. 6",
    question="Do the heads of a layer look at different places?",
    not_said="whether a head is needed: two that look alike may move different values, see ablation_loss",
)
def head_distance(a: Tensor) -> Tensor | None:
    """Mean over the other heads g of ``mean_i sqrt(JS(a_hi, a_gi))``, base 2, in [0, 1]. None for a single head.

    Jensen-Shannon distances (Endres & Schindelin 2003) of the rows of two heads for the same image and query, as Clark
    et al. 2019, sec. 6 compare heads. 0: a head that others repeat.

    Rounding in float32: 3e-7.
    """
    found = _distances(a)
    return None if found is None else _over_others(found.value())


def _jensen_shannon(p: Tensor, q: Tensor) -> Tensor:
    """``sum_j m_j ((1 + t_j) log2(1 + t_j) + (1 - t_j) log2(1 - t_j)) / 2`` over the last dimension, with ``m`` the
    mean of both and ``t = (p - q) / 2m``.

    It is the entropy of the mean minus the mean of the entropies, whose difference would drown in rounding where p and
    q are all but the same, and its root all the more.
    """
    m = (p + q) / 2
    t = (p - q) / 2 / or_one(m)
    both = torch.special.xlog1py(1 + t, t) + torch.special.xlog1py(1 - t, -t)
    return (m * both).sum(-1) / (2 * math.log(2))


@indicator(
    group="ablation",
    label="Loss without the head",
    sources=("test",),
    low=-math.inf,
    high=math.inf,
    higher_means="the head is needed more",
    reference="Michel et al. 2019, sec. 3 (one head masked), as a change of the loss",
    question="What does the model lose without this head?",
    not_said="what it loses without several: heads stand in for each other",
)
def ablation_loss(loss: Tensor, ablated_loss: Tensor) -> Tensor:
    """Cross-entropy with the head's output set to 0, minus that of the whole model, in nats per image; ``(B, H)``.

    ``loss (B,)`` and ``ablated_loss (B, H)`` on labelled images. Michel et al. 2019, sec. 3, who mask one head and
    report the score; nothing is trained again. Takes a forward for every head.

    Rounding in float32: 2e-7.
    """
    return ablated_loss - loss[:, None]
