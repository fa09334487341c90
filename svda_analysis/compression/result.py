"""What compressing a run gave, and several runs as one."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from svda_analysis.stats import paired_test

if TYPE_CHECKING:
    from svda_analysis.checkpoint import Checkpoint

RATIOS = ("parameters", "macs", "bytes", "seconds_1", "seconds_32")  # whose change is after / before
_ACCURACIES = ("accuracy", "before_finetuning", "finetuning")  # whose change lies in [-1, 1]


@dataclasses.dataclass(frozen=True)
class Compression:
    """What :func:`compress_and_verify` returns.

    ``checkpoint`` is the smaller one, ``verification`` has ``frames.VERIFICATION_COLUMNS``, ``norms`` has
    ``NORM_COLUMNS`` (empty where no norm stands in the way), ``curve`` has ``SWEEP_COLUMNS`` (empty where no sweep was
    asked for), ``meta`` says what was done on what.
    """

    checkpoint: Checkpoint
    verification: pd.DataFrame
    norms: pd.DataFrame
    curve: pd.DataFrame
    meta: dict[str, Any]


def over_runs(frames: Sequence[pd.DataFrame], keys: Sequence[str]) -> pd.DataFrame:
    """Frames of several runs as one of the same columns: means, rows being matched by ``keys``.

    The interval of each change (``change`` with ``ci_low, ci_high``; ``X_change`` with ``X_low, X_high``) is Student's
    t over runs, ``n`` their number, ``p`` that of the paired t-test; ratios are averaged as logarithms. A single frame
    is returned as it is, with its intervals over images.
    """
    if len(frames) == 1:
        return frames[0]
    together = pd.concat(frames, ignore_index=True)
    pooled = []
    for _, rows in together.groupby(list(keys), sort=False, dropna=False):
        row: dict[str, Any] = {name: rows[name].iloc[0] for name in keys}
        others = [str(name) for name in together if name not in keys]
        row |= {name: rows[name].mean() for name in others if rows[name].notna().all()}
        for low in (str(name) for name in together if str(name).endswith("low")):
            start = low.removesuffix("low")
            change, high = ("change" if start == "ci_" else f"{start}change"), f"{start}high"
            row |= dict(zip((change, low, high, "p"), _change_over_runs(rows, change), strict=True))
        if "p" not in together:
            row.pop("p", None)
        pooled.append({**row, "n": len(rows)})
    return pd.DataFrame(pooled, columns=list(together)).astype(together.dtypes.to_dict())


def _change_over_runs(rows: pd.DataFrame, change: str) -> tuple[float, float, float, float]:
    """Mean, 95 % interval and p against no change."""
    quantity = rows["quantity"].iloc[0] if "quantity" in rows else "accuracy"
    values, is_ratio = rows[change].to_numpy(float), quantity in RATIOS
    values = np.log(values) if is_ratio else values
    found = paired_test(np.zeros(len(values)), values, span=1.0 if quantity in _ACCURACIES else math.inf)
    ends = (found.difference, *found.interval)
    middle, low, high = (math.exp(x) for x in ends) if is_ratio else ends
    return middle, low, high, found.p
