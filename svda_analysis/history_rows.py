"""The rows of a training's history that speak of the whole model: loss and accuracy over images, and the like."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.stats import ConfidenceInterval, mean_interval, proportion_interval
from svda_analysis.vocabulary import known_bounds


def sums_of_answers(logits: Tensor, labels: Tensor) -> Tensor:
    """The sums over a batch of its losses (cross-entropy), of their squares and of its hits, and the number of its
    images, ``(4,) float64`` on the CPU, from ``logits (B, classes) float`` and ``labels (B,)``."""
    logits, labels = logits.cpu(), labels.cpu()
    losses = F.cross_entropy(logits, labels, reduction="none").double()
    hits = (logits.argmax(-1) == labels).sum()
    return torch.stack([losses.sum(), losses.square().sum(), hits.double(), torch.tensor(len(labels))])


def loss_and_accuracy(sums: Tensor) -> dict[str, dict[str, float]]:
    """Both with their intervals over images, from the sums of :func:`sums_of_answers` over all of them."""
    loss_sum, loss_squares, hit, n = sums.tolist()
    loss, accuracy = loss_sum / n, hit / n
    spread = math.sqrt(max(loss_squares - loss_sum**2 / n, 0) / max(n - 1, 1))
    hit_spread = math.sqrt(accuracy * (1 - accuracy) * n / max(n - 1, 1))
    return {
        "loss": _estimate(loss, spread, mean_interval(loss, spread / math.sqrt(n), n - 1, low=0)),
        "accuracy": _estimate(accuracy, hit_spread, proportion_interval(accuracy, int(n))),
    }


def rows_of_model(
    identity: Mapping[str, Any], source: str, numbers: Mapping[str, Mapping[str, float]], n: int
) -> pd.DataFrame:
    """A row for each number about the whole model, with what it can be at least and at most; ``identity`` are the
    columns that say whose they are."""
    rows = []
    for name, found in numbers.items():
        low, high = known_bounds(name)
        rows.append({**identity, "indicator": name, "source": source, "n": n, "low": low, "high": high, **found})
    return make_frame(rows, TABLE_COLUMNS)


def _estimate(mean: float, std: float, interval: ConfidenceInterval) -> dict[str, float]:
    return {"mean": mean, "std": std, "ci_low": interval.low, "ci_high": interval.high}
