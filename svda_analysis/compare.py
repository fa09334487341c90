"""Paired statistics over models and training runs: what differs, by how much, and how sure one can be. No torch here.

The training run is the unit of replication. Heads and images of one run are not independent runs, so a run first
becomes one number per (indicator, source, layer): the mean over its heads, and for the whole model the mean of those
over its layers. Only then are runs compared. Numbers of different source (sigma, scores, attention) never meet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import special, stats

from svda_analysis.errors import InputError
from svda_analysis.results import FAITHFULNESS, TABLE_COLUMNS, check_columns, make_frame

COMPARISON_COLUMNS = {
    "model": "string",
    "baseline": "string",
    "indicator": "string",
    "source": "string",
    "layer": "Int64",  # NA: the whole model
    "baseline_mean": "float64",  # over the runs that were compared
    "model_mean": "float64",
    "difference": "float64",  # model - baseline
    "ci_low": "float64",  # 95 % interval of the difference
    "ci_high": "float64",
    "p": "float64",  # two-sided
    "p_adjusted": "float64",  # Holm
    "effect": "float64",  # standardised difference, small-sample corrected
    "n_seeds": "Int64",  # pairs; without pairs the runs of the model that has fewer
    "unit": "string",  # what the interval is over: seeds, or images (these two checkpoints alone)
}
SUMMARY_COLUMNS = {
    "model": "string",
    "indicator": "string",
    "source": "string",
    "layer": "Int64",  # NA: the whole model
    "mean": "float64",  # over runs
    "std": "float64",  # over runs, n - 1 in the denominator; NaN for one run
    "ci_low": "float64",  # 95 % interval of the mean
    "ci_high": "float64",
    "n_seeds": "Int64",
    "unit": "string",  # what the interval is over: seeds, or images (this checkpoint alone)
}
_QUANTITY = ["indicator", "source"]
_CELL = [*_QUANTITY, "layer"]
_RUN = ["model", "seed"]
_ROUNDING = 1e-12  # a spread below this share of the values is rounding, not variation


@np.errstate(invalid="ignore", over="ignore")  # a diverged run may hold inf: it gives NaN, not a warning
def compare(table: pd.DataFrame, baseline: str | None = None) -> pd.DataFrame:
    """Compare every model in ``table`` (``results.TABLE_COLUMNS``) with ``baseline``; rows of ``COMPARISON_COLUMNS``.

    ``baseline`` defaults to the only model with dot-product attention, else to the first model in the table. Of each
    run only its last epoch counts. One row per model, (indicator, source) that both models have, and layer (NA last:
    the whole model). The test depends on the runs that the two models have:

    - two or more seeds in common: difference paired by seed, Student's t with n - 1 degrees of freedom;
    - else two or more runs each: Welch's t with Satterthwaite's degrees of freedom. Runs of unknown seed never pair;
    - else one run each (or one seed in common): unit ``images``, an interval for these two checkpoints alone and no
      p. The standard errors over images add in squares, as if the images were independent; that of a mean over heads
      and layers is the mean of theirs, as if these moved together (conservative: they saw the same images); t with
      the smaller number of images - 1. Numbers read off the weights have no interval;
    - else (one run against several, no seed in common) no interval and no p.

    ``effect`` is Hedges' g with the exact correction J (Hedges 1981, J. Educ. Stat. 6:107). Paired: ``J(n-1) mean(d) /
    sd(d)``, standardised by the differences (Gibbons, Hedeker & Davis 1993, J. Educ. Stat. 18:271; Lakens 2013, d_z),
    NaN for two pairs, where J does not exist. Unpaired: ``J(n+m-2) (mean difference) / pooled sd``.

    Runs that differ by exactly the same amount (to rounding) show no spread to test against: interval, p and effect
    are NaN, never p = 0. A mean that is NaN in one head makes its run and so the row NaN: nothing is dropped silently.

    ``p_adjusted`` is Holm's over three families for each model: its whole-model rows (indicators x sources), those of
    them that measure faithfulness, and its per-layer rows (indicators x sources x layers).

    Raises :class:`InputError` for missing columns, an unknown baseline, fewer than two models, doubled rows, or an
    (indicator, source) measured on several data sets.
    """
    runs, names = _runs(table), [str(name) for name in table["model"].unique()]
    if len(names) < 2:
        raise InputError(f"table must hold at least two models to compare, got {names[0]} alone")
    baseline = _default_baseline(table) if baseline is None else baseline
    if baseline not in names:
        raise InputError(f"baseline must be one of {', '.join(names)}, got {baseline!r}")
    rows = []
    for name in (name for name in names if name != baseline):
        for cell, pair in runs[runs["model"].isin([baseline, name])].groupby(_CELL, dropna=False):
            theirs, ours = pair[pair["model"] == baseline], pair[pair["model"] == name]
            if len(theirs) and len(ours):
                key = {"model": name, "baseline": baseline, **dict(zip(_CELL, cell, strict=True))}
                rows.append({**key, **_difference(theirs, ours)})
    frame = make_frame(rows, COMPARISON_COLUMNS)
    for _, family in frame.groupby(["model", frame["layer"].isna(), frame["indicator"].isin(FAITHFULNESS)]):
        frame.loc[family.index, "p_adjusted"] = holm(family["p"])
    return frame


@np.errstate(invalid="ignore", over="ignore")
def summarise(table: pd.DataFrame) -> pd.DataFrame:
    """Mean over runs with its 95 % interval, per model, (indicator, source) and layer; rows of ``SUMMARY_COLUMNS``.

    Runs, layers and epochs as in :func:`compare`. Two or more runs: Student's t over runs. One run: the interval over
    its images, unit ``images``, which speaks of that checkpoint alone. No spread: no interval (NaN).
    """
    all_runs, rows = _runs(table), []
    for name in table["model"].unique():
        for cell, runs in all_runs[all_runs["model"] == name].groupby(_CELL, dropna=False):
            x, n = runs["mean"].to_numpy(), len(runs)
            std = x.std(ddof=1) if n > 1 else math.nan
            se, df = (std / math.sqrt(n), n - 1) if n > 1 else (runs["se"].iloc[0], runs["n"].iloc[0] - 1)
            low, high, _ = _t_interval(x.mean(), se, df, scale=np.abs(x).max())
            key = {"model": name, **dict(zip(_CELL, cell, strict=True))}
            numbers = {"mean": x.mean(), "std": std, "ci_low": low, "ci_high": high}
            rows.append({**key, **numbers, "n_seeds": n, "unit": _unit(n)})
    return make_frame(rows, SUMMARY_COLUMNS)


def holm(p: Sequence[float] | np.ndarray | pd.Series) -> np.ndarray:
    """Holm's step-down adjustment of ``p (n,)`` (Holm 1979, Scand. J. Stat. 6:65); NaN stay NaN and do not count.

    The k-th smallest of m becomes ``max over j <= k of min(1, (m - j + 1) p_(j))``. Returns float64 ``(n,)``.
    """
    p = np.asarray(p, dtype=float)
    if p.ndim != 1 or (p < 0).any() or (p > 1).any():
        raise InputError(f"p must be one row of numbers in [0, 1] or NaN, got {p}")
    adjusted, known = np.full(len(p), math.nan), np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known])]
    adjusted[order] = np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)).clip(max=1)
    return adjusted


class Equivalence(NamedTuple):
    """The result of :func:`tost`; NaN where the differences show no spread to test against."""

    mean: float
    ci_low: float  # 90 % interval of the mean: p < 0.05 says that it lies within the margin
    ci_high: float
    p_lower: float  # against a mean of -margin or less: small says not worse
    p_upper: float  # against a mean of +margin or more: small says not better
    p: float  # the larger of the two: small says equivalent
    n: int


def tost(differences: Sequence[float] | np.ndarray | pd.Series, margin: float) -> Equivalence:
    """Is the mean of paired ``differences (n,)`` within ``(-margin, margin)``? Two one-sided t tests, each at n - 1
    degrees of freedom; equivalence is shown where both reject (Schuirmann 1987, J. Pharmacokinet. Biopharm. 15:657).

    ``margin`` has the unit of the differences. Fewer than two, a NaN among them, or no spread beyond rounding: NaN.
    """
    d = np.asarray(differences, dtype=float)
    if d.ndim != 1 or not len(d):
        raise InputError(f"differences must be one row of numbers, got shape {d.shape}")
    if not 0 < margin < math.inf:
        raise InputError(f"margin must be above 0, got {margin}")
    n, mean = len(d), float(d.mean())
    se = float(d.std(ddof=1)) / math.sqrt(n) if n > 1 else math.nan
    if not (_ROUNDING * max(np.abs(d).max(), margin) < se < math.inf):
        return Equivalence(mean, math.nan, math.nan, math.nan, math.nan, math.nan, n)
    half = float(stats.t.ppf(0.95, n - 1)) * se
    p_lower, p_upper = (float(stats.t.sf((margin + side * mean) / se, n - 1)) for side in (1, -1))
    return Equivalence(mean, mean - half, mean + half, p_lower, p_upper, max(p_lower, p_upper), n)


# --- from a table to one number per run -----------------------------------------------------------------------------


def _runs(table: pd.DataFrame) -> pd.DataFrame:
    """model, seed, indicator, source, layer (NA: whole model), mean, se (over images), n (images): a row per run."""
    check_columns(table, TABLE_COLUMNS)
    try:
        table = table[list(TABLE_COLUMNS)].astype(TABLE_COLUMNS)
    except (TypeError, ValueError) as error:
        raise InputError(f"table must hold the dtypes of results.TABLE_COLUMNS: {error}") from error
    if table["model"].isna().any():
        raise InputError("table must name the model in every row, got NA")
    epoch = table["epoch"].fillna(-1)
    table = table[epoch == epoch.groupby([table[key] for key in _RUN], dropna=False).transform("max")]
    _check_one(table, [*_RUN, *_CELL, "head"])
    datasets = table[[*_QUANTITY, "dataset"]].dropna(subset="dataset").drop_duplicates()
    _check_one(datasets, _QUANTITY, "dataset")
    n = table["n"].astype("float64")
    table = table.assign(n=n, se=table["std"] / np.sqrt(n))
    layers = _mean_over(table, [*_RUN, *_CELL])
    whole = _mean_over(layers.dropna(subset="layer"), [*_RUN, *_QUANTITY])
    runs = pd.concat([layers, whole.assign(layer=pd.array([pd.NA] * len(whole), dtype="Int64"))], ignore_index=True)
    _check_one(runs, [*_RUN, *_CELL])
    return runs.sort_values(_RUN, ignore_index=True)


def _mean_over(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Means of ``mean`` and ``se`` within ``keys``, NaN where one is NaN, and the smallest ``n``."""
    groups = frame.groupby(keys, dropna=False)
    values = groups[["mean", "se"]]
    means = values.mean().where(values.count().eq(groups.size(), axis=0))
    return means.assign(n=groups["n"].min()).reset_index()


def _check_one(frame: pd.DataFrame, keys: list[str], what: str = "number") -> None:
    double = frame[frame.duplicated(keys)]
    if len(double):
        found = ", ".join(f"{key} {double[key].iloc[0]}" for key in keys)
        raise InputError(f"table must hold one {what} per {', '.join(keys)}, got several for {found}")


def _default_baseline(table: pd.DataFrame) -> str:
    dot = table.loc[table["attention"] == "dot", "model"].unique()
    return str(dot[0] if len(dot) == 1 else table["model"].iloc[0])


# --- the statistics -------------------------------------------------------------------------------------------------


def _unit(n_seeds: int) -> str:
    return "seeds" if n_seeds > 1 else "images"


def _difference(theirs: pd.DataFrame, ours: pd.DataFrame) -> dict[str, Any]:
    """The row of one cell from the runs of the baseline and of the model; see :func:`compare` for the rules."""
    common = np.intersect1d(theirs["seed"].dropna(), ours["seed"].dropna())
    paired = len(common) > 1
    if paired or (len(common) == 1 and min(len(theirs), len(ours)) == 1):
        theirs, ours = (side[side["seed"].isin(common)] for side in (theirs, ours))  # both in the order of their seeds
    x, y, n_seeds = theirs["mean"].to_numpy(), ours["mean"].to_numpy(), min(len(theirs), len(ours))
    unit = _unit(max(len(x), len(y)))
    if paired:
        se, df, effect = _paired(x, y)
    elif n_seeds > 1:
        se, df, effect = _welch(x, y)
    elif unit == "images":
        se = math.hypot(theirs["se"].iloc[0], ours["se"].iloc[0])
        df, effect = min(theirs["n"].iloc[0], ours["n"].iloc[0]) - 1, math.nan
    else:
        se, df, effect = math.nan, math.nan, math.nan
    difference = y.mean() - x.mean()
    low, high, p = _t_interval(difference, se, df, scale=max(np.abs(x).max(), np.abs(y).max()))
    return {
        "baseline_mean": x.mean(),
        "model_mean": y.mean(),
        "difference": difference,
        "ci_low": low,
        "ci_high": high,
        "p": p if unit == "seeds" else math.nan,
        "effect": effect if not math.isnan(low) else math.nan,
        "n_seeds": n_seeds,
        "unit": unit,
    }


def _paired(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Standard error, degrees of freedom and effect of the differences ``y - x (n,)``, n >= 2."""
    d = y - x
    std, df = d.std(ddof=1), len(d) - 1
    return std / math.sqrt(len(d)), df, _hedges(df) * d.mean() / std if std else math.nan


def _welch(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """The same for two groups of runs of at least two each (Welch 1947)."""
    n, m = len(x), len(y)
    a, b = x.var(ddof=1), y.var(ddof=1)
    squared = a / n + b / m
    if not squared > 0:
        return math.nan, math.nan, math.nan
    share = a / n / squared
    df = 1 / (share**2 / (n - 1) + (1 - share) ** 2 / (m - 1))
    pooled = math.sqrt(((n - 1) * a + (m - 1) * b) / (n + m - 2))
    return math.sqrt(squared), df, _hedges(n + m - 2) * (y.mean() - x.mean()) / pooled


def _hedges(df: float) -> float:
    """``J = Gamma(df/2) / (sqrt(df/2) Gamma((df-1)/2))`` (Hedges 1981); it does not exist for one degree of freedom."""
    if df < 2:
        return math.nan
    return math.exp(special.gammaln(df / 2) - special.gammaln((df - 1) / 2)) / math.sqrt(df / 2)


def _t_interval(mean: float, se: float, df: float, scale: float) -> tuple[float, float, float]:
    """95 % interval and two-sided p of ``mean``; NaN where there is no spread beyond rounding at ``scale``."""
    if not (_ROUNDING * scale < se < math.inf):
        return math.nan, math.nan, math.nan
    half = float(stats.t.ppf(0.975, df)) * se
    return mean - half, mean + half, 2 * float(stats.t.sf(abs(mean) / se, df))
