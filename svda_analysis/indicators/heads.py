"""Do the heads of a layer do the same, and does the model need them? In the groups ``field`` and ``ablation``."""

from __future__ import annotations

import math

from torch import Tensor

from svda_analysis.indicators.numerics import entropy_of, mean_over_queries, row_weights
from svda_analysis.indicators.registry import indicator


@indicator(
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
    """
    rows, H = row_weights(a), a.shape[1]
    if H < 2:
        return None
    entropies, total = entropy_of(rows), rows.new_zeros(rows.shape[:2])
    for step in range(1, H // 2 + 1):  # all pairs that are `step` apart, round the circle
        other = rows.roll(-step, 1)
        mixed = entropy_of((rows + other) / 2) - (entropies + entropies.roll(-step, 1)) / 2
        distance = mean_over_queries((mixed / math.log(2)).clamp(0, 1).sqrt(), rows, other)  # (B, H): h and h + step
        total = total + distance
        if 2 * step != H:
            total = total + distance.roll(step, 1)
    return (total / (H - 1)).clamp(0, 1)


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
    """
    return ablated_loss - loss[:, None]
