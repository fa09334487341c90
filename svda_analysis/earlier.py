"""Numbers that earlier versions measured, under the names and with the intervals that they have now. No torch here.

Before 0.2 intervals were Student's on the plain scale. Before 0.3 spectra of scores were of uncentred keys, and
directions were counted along the axes of q and k: those are other quantities, and have sources of their own here.
"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from svda_analysis.frames import each_row
from svda_analysis.stats import mean_interval, proportion_interval
from svda_analysis.vocabulary import known_bounds, quantity

UNCENTRED, AXES = "uncentred scores", "axes"
_LAST_CHANGE = 3  # since 0.3 quantities have kept their definitions
_SPECTRAL = ("spectral_entropy", "effective_rank", "spectral_sparsity")


def as_measured_now(frame: pd.DataFrame, version: str) -> pd.DataFrame:
    """A frame of tables, spectra or verifications (``frames.py``) as this version has it, of numbers
    that ``version`` of this package measured."""
    if _before(version, 2) and {"ci_low", "std"} <= set(frame):
        frame = _with_intervals(frame)
    return _renamed(frame) if _before(version, 3) else frame


def is_measured_alike(version: str, now: str) -> bool:
    """Whether what ``version`` measured has the names and definitions that it has in ``now``, the version that runs:
    nothing here changes it, and it is no later one, of which nothing is known."""
    return _release(version) <= _release(now) and bool(_release(version)) and not _before(version, _LAST_CHANGE)


def _release(version: str) -> list[int]:
    return [int(part) for part in version.split(".")[:2] if part.isdecimal()]


def _before(version: str, minor: int) -> bool:
    """Whether a version is known to be one before ``0.minor``."""
    parts = _release(version)
    return bool(parts) and parts < [0, minor]


def _renamed(frame: pd.DataFrame) -> pd.DataFrame:
    sources = frame["source"]
    uncentred = sources == "scores"
    if name := next((column for column in ("indicator", "quantity") if column in frame), None):
        uncentred &= frame[name].isin(_SPECTRAL)
        axes = (sources == "data") & frame[name].str.startswith("directions_")
        sources = sources.mask(axes, AXES)
    return frame.assign(source=sources.mask(uncentred, UNCENTRED).astype(frame["source"].dtype))


def _with_intervals(frame: pd.DataFrame) -> pd.DataFrame:
    ends = [_ends(row) for row in each_row(frame)]
    return frame.assign(ci_low=[low for low, _ in ends], ci_high=[high for _, high in ends])


def _ends(row: Any) -> tuple[float, float]:
    if pd.isna(row.ci_low) or pd.isna(row.n) or not row.n > 1:
        return row.ci_low, row.ci_high
    if quantity(row.indicator).is_share:
        return proportion_interval(row.mean, int(row.n))
    known = known_bounds(row.indicator)
    low, high = (there if pd.isna(here) else here for here, there in zip((row.low, row.high), known, strict=True))
    return mean_interval(row.mean, row.std / math.sqrt(row.n), row.n - 1, low=low, high=high)
