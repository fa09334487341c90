"""Paired statistics over models and training runs: what differs, by how much, and how sure one can be. No torch here.

The training run is the unit of replication. Heads and images of one run are not independent runs, so a run first
becomes one number per (indicator, source, layer): the mean over its heads, and for the whole model the mean of those
over its layers. Only then are runs compared. Numbers of different source (sigma, scores, attention) never meet.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from svda_analysis.errors import InputError
from svda_analysis.frames import (
    BLOCKED_COLUMNS,
    COMPARISON_COLUMNS,
    SUMMARY_COLUMNS,
    TABLE_COLUMNS,
    check_columns,
    each_row,
    make_frame,
)
from svda_analysis.kinds import baseline_among
from svda_analysis.stats import (
    NO_INTERVAL,
    ConfidenceInterval,
    Contrast,
    blocked_contrast,
    difference_test,
    holm,
    interval_over,
    mean_interval,
    paired_test,
    proportion_interval,
    tost,
    welch_test,
)
from svda_analysis.verdicts import UNIFORM, judge
from svda_analysis.vocabulary import ALIVE_FROM, Quantity, known_bounds, quantity

HOW_ADJUSTED = (
    "p is adjusted by Holm's method over the rows of a model, those of faithfulness, of its checks and of living maps "
    "each apart; selectivity and entropy of attention, each one minus the other, count once."
)
_QUANTITY = ["indicator", "source"]
_CELL = [*_QUANTITY, "layer"]
_RUN = ["model", "seed"]


@np.errstate(invalid="ignore", over="ignore")  # a diverged run may hold inf: it gives NaN, not a warning
def compare(
    table: pd.DataFrame, baseline: str | None = None, *, margins: Mapping[str, float] | None = None
) -> pd.DataFrame:
    """Compare every model in ``table`` (``frames.TABLE_COLUMNS``) with ``baseline``; rows of ``COMPARISON_COLUMNS``.

    ``baseline`` defaults to the only model with dot-product attention, else to the first model in the table. Of each
    run only its last epoch counts. One row per model, (indicator, source) that both models have, and layer (NA last:
    the whole model). The test depends on the runs that the two models have:

    - two or more seeds in common: difference paired by seed (:func:`~svda_analysis.stats.paired_test`);
    - else two or more runs each: :func:`~svda_analysis.stats.welch_test`. Runs of unknown seed never pair;
    - else one run each (or one seed in common): unit ``images``, an interval for these two checkpoints alone and no
      p. The standard errors over images add in squares, as if the images were independent; that of a mean over heads
      and layers is the mean of theirs, as if these moved together (conservative: they saw the same images); t with
      the smaller number of images - 1. Numbers read off the weights have no interval;
    - else (one run against several, no seed in common) no interval and no p.

    ``effect`` is Hedges' g, of paired runs standardised by the differences. Runs that differ by exactly the same amount
    (to rounding), or by no more than float32 rounds, show nothing to test: interval, p and effect are NaN. A mean that
    is NaN in one head makes its run and so the row NaN: nothing is dropped silently.

    A quantity that changes although the model's function stays (``varies_with`` of the vocabulary) is left out where
    the two models have different kinds of attention.

    ``p_adjusted`` is Holm's over the families of each model: the whole-model rows of each family of the vocabulary
    (indicators x sources), and likewise its per-layer rows (indicators x sources x layers). A quantity that restates
    another counts once. ``p_equivalent`` is that of :func:`~svda_analysis.stats.tost` within the quantity's margin
    (that of the vocabulary where ``margins`` has none of its name), and ``verdict`` follows from both by the rule of
    ``verdicts.py``.

    Raises :class:`InputError` for missing columns, an unknown baseline, fewer than two models, doubled rows, or an
    (indicator, source) measured on several data sets.
    """
    runs, names = one_number_per_run(table), [str(name) for name in table["model"].unique()]
    if len(names) < 2:
        raise InputError(f"table must hold at least two models to compare, got {names[0]} alone")
    baseline = default_baseline(table) if baseline is None else baseline
    if baseline not in names:
        raise InputError(f"baseline must be one of {', '.join(names)}, got {baseline!r}")
    kinds = {name: set(rows["attention"].dropna()) for name, rows in table.groupby("model")}
    rows: list[dict[str, Any]] = []
    for name in (name for name in names if name != baseline):
        alike = kinds[name] == kinds[baseline]
        for cell, pair in runs[runs["model"].isin([baseline, name])].groupby(_CELL, dropna=False):
            theirs, ours = pair[pair["model"] == baseline], pair[pair["model"] == name]
            if len(theirs) and len(ours) and (alike or quantity(str(cell[0])).compares_kinds):
                key = {"model": name, "baseline": baseline, **dict(zip(_CELL, cell, strict=True))}
                rows.append({**key, **_difference(theirs, ours, (margins or {}).get(str(cell[0])))})
    frame = _adjusted(make_frame(rows, COMPARISON_COLUMNS))
    alive = {(row.model, _layer_key(row.layer)): bool(row.alive) for row in each_row(living(table))}
    frame["verdict"] = pd.array([_verdict(row, alive) for row in each_row(frame)], dtype="string")
    return frame


def judged_rows(comparison: pd.DataFrame, quality: str = "") -> list[tuple[Any, Quantity]]:
    """The whole-model rows of :func:`compare` that have a verdict, each with its quantity: all, or those of one
    ``quality``. What restates another row is left out."""
    rows = comparison[comparison["layer"].isna() & comparison["verdict"].notna()]
    found = [(row, quantity(str(row.indicator))) for row in each_row(rows)]
    names = {one.name for _, one in found}
    return [(row, one) for row, one in found if one.restates not in names and quality in ("", one.quality)]


def _adjusted(frame: pd.DataFrame) -> pd.DataFrame:
    """With Holm's p over each family; what restates another quantity has that one's, and counts in no family."""
    known = frame["indicator"].map(lambda name: quantity(str(name)))
    first = [one.restates or one.name for one in known]
    again = pd.Series(first, frame.index).ne(frame["indicator"]) & pd.Series(first, frame.index).isin(
        frame["indicator"]
    )
    families = [one.family_of(str(source)) for one, source in zip(known, frame["source"], strict=True)]
    for _, family in frame[~again].groupby(["model", frame["layer"].isna(), pd.Series(families, frame.index)]):
        frame.loc[family.index, "p_adjusted"] = holm(family["p"])
    keys = [(name, *_run_and_place(row)) for name, row in zip(first, each_row(frame), strict=True)]
    found = {key: p for key, p, double in zip(keys, frame["p_adjusted"], again, strict=True) if not double}
    return frame.assign(p_adjusted=[found.get(key, math.nan) for key in keys])


def _run_and_place(row: Any) -> tuple[str, str, int]:
    return row.model, row.source, _layer_key(row.layer)


def _layer_key(layer: Any) -> int:
    """The layer, -1 for the whole model, which a key can hold."""
    return -1 if pd.isna(layer) else int(layer)


def _verdict(row: Any, alive: dict[tuple[str, int], bool]) -> str | None:
    about = quantity(row.indicator)
    lives = all(alive.get((name, _layer_key(row.layer)), True) for name in (row.model, row.baseline))
    if not lives and about.needs_living:
        return UNIFORM
    if not (sign := about.sign(row.source)):
        return None
    numbers = {"unit": row.unit, "runs": row.n_seeds, "p_equivalent": row.p_equivalent}
    return judge(row.difference, row.p_adjusted, sign, **numbers).word


@np.errstate(invalid="ignore", over="ignore")
def summarise(
    table: pd.DataFrame, *, epochs: Literal["last", "each"] = "last", runs: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Mean over runs with its 95 % interval, per model, (indicator, source) and layer; rows of ``SUMMARY_COLUMNS``.

    Runs and layers as in :func:`compare`; of each run its last epoch, or ``"each"`` epoch for itself. Two or more runs:
    Student's t over runs. One run: the interval over its images, unit ``images``, which speaks of that checkpoint
    alone. No interval leaves what the quantity can be (``stats.py``). No spread: no interval (NaN). ``runs``: the
    table's :func:`one_number_per_run` of these ``epochs``, where it is known.
    """
    runs = one_number_per_run(table, epochs=epochs) if runs is None else runs
    rows, keys = [], [*(["epoch"] if epochs == "each" else []), *_CELL]
    for name in table["model"].unique():
        for cell, found in _cells(runs[runs["model"] == name], keys):
            x, n = found.mean, len(found.mean)
            low, high = _mean_of_runs(str(cell["indicator"]), found)
            key = {"model": name, **cell, "epoch": np.fmax.reduce(found.epoch)}
            numbers = {"mean": x.mean(), "std": x.std(ddof=1) if n > 1 else math.nan, "ci_low": low, "ci_high": high}
            rows.append({**key, **numbers, "n_seeds": n, "unit": _unit(n)})
    return make_frame(rows, SUMMARY_COLUMNS)


@np.errstate(invalid="ignore", over="ignore")
def compare_blocked(table: pd.DataFrame, indicator: str, source: str, baseline: str) -> pd.DataFrame:
    """Every model's mean of one quantity over the whole model against ``baseline``'s, with training seeds as blocks.

    The linear model ``model + seed`` of :func:`~svda_analysis.stats.blocked_contrast`, whose error is pooled over all
    models, so that it sees more than pairs of models do where there are many. A model with fewer seeds keeps those that
    it has; a seed that one model alone has is left out. Rows of ``frames.BLOCKED_COLUMNS``: means at the
    average of all seeds, ``n_seeds`` the runs of the model that has fewer, ``p_adjusted`` Holm's over the models; NaN
    where no shared seeds lead from a model to the baseline. Empty where fewer than two seeds, or one model, are shared.
    Raises :class:`InputError` as :func:`compare` does, and for models of several kinds of attention where the quantity
    does not compare these.
    """
    values, span = _by_block(table, indicator, source)
    if baseline not in values:
        raise InputError(f"baseline must be one of {', '.join(map(str, values))}, got {baseline!r}")
    rows = []
    if min(values.shape) > 1:
        runs, mean = values.count(), {m: _contrast(values, span, {m: 1.0}).difference for m in map(str, values)}
        for model in (name for name in table["model"].unique() if name in values and name != baseline):
            found = _contrast(values, span, {model: 1.0, baseline: -1.0})
            about = {"model": model, "baseline": baseline, "indicator": indicator, "source": source, "unit": "seeds"}
            means = {"baseline_mean": mean[baseline], "model_mean": mean[model], "difference": found.difference}
            ends = {"ci_low": found.interval.low, "ci_high": found.interval.high, "p": found.p}
            rows.append({**about, **means, **ends, "n_seeds": min(runs[model], runs[baseline])})
    frame = make_frame(rows, BLOCKED_COLUMNS)
    return frame.assign(p_adjusted=holm(frame["p"]))


def contrast_blocked(table: pd.DataFrame, indicator: str, source: str, weights: Mapping[str, float]) -> Contrast:
    """The sum of the models' means of one quantity of the whole model, each times its weight in ``weights`` (others:
    0), by the linear model of :func:`compare_blocked`, its error pooled over all models in ``table``; NaN where shared
    seeds do not tell it.

    Raises :class:`InputError` for no weights, a model that is not there, or fewer than two shared seeds.
    """
    values, span = _by_block(table, indicator, source)
    if not weights or not set(weights) <= set(values):
        known = ", ".join(map(str, values))
        raise InputError(f"weights must be of one or more of {known}, got {', '.join(weights) or 'none'}")
    if min(values.shape) < 2:
        raise InputError(f"table must hold two seeds that several of its models have, got {len(values)}")
    return _contrast(values, span, weights)


def by_block(table: pd.DataFrame, indicator: str, source: str) -> pd.DataFrame:
    """A quantity of the whole model by seed (rows, those that several models have) and model (columns); NaN where a
    model has no such run."""
    return _by_block(table, indicator, source)[0]


def _by_block(table: pd.DataFrame, indicator: str, source: str) -> tuple[pd.DataFrame, float]:
    """:func:`by_block`, and how far the quantity can change."""
    rows = table[(table["indicator"] == indicator) & (table["source"] == source)]
    if not quantity(indicator).compares_kinds and len(rows["attention"].dropna().unique()) > 1:
        raise InputError(f"{indicator} must be of one kind of attention, got {', '.join(rows['attention'].unique())}")
    runs = one_number_per_run(rows)
    whole = runs[runs["layer"].isna() & runs["seed"].notna()]
    values = whole.set_index(["seed", "model"])["mean"].unstack("model")  # noqa: PD010 (one number a cell)
    return values[values.count(axis=1) > 1], float((whole["high"] - whole["low"]).max())


def _contrast(values: pd.DataFrame, span: float, weights: Mapping[str, float]) -> Contrast:
    return blocked_contrast(values.to_numpy(), [weights.get(str(name), 0.0) for name in values], span=span)


def living(table: pd.DataFrame) -> pd.DataFrame:
    """Whether the maps of each model are alive: a row for each model and layer (NA: the whole model) with its mean
    ``selectivity`` over runs and ``alive``, at least :data:`~svda_analysis.vocabulary.ALIVE_FROM` (our definition).

    Where they are not, attention is all but uniform, and what ``needs_living`` in the vocabulary (ranks, robustness)
    says nothing of structure. Empty where ``selectivity_index`` was not measured.
    """
    known = table[(table["indicator"] == "selectivity_index") & (table["source"] == "attention")]
    columns = {"model": "string", "layer": "Int64", "selectivity": "float64", "alive": "boolean"}
    if known.empty:
        return make_frame([], columns)
    found = summarise(known).rename(columns={"mean": "selectivity"})
    return found.assign(alive=found["selectivity"] >= ALIVE_FROM)[list(columns)].astype(columns)


# --- from a table to one number per run -----------------------------------------------------------------------------


def one_number_per_run(table: pd.DataFrame, *, epochs: Literal["last", "each"] = "last") -> pd.DataFrame:
    """model, seed, epoch, indicator, source, layer (NA: whole model), mean, se (over images), n (images), low, high: a
    row per run, of its last epoch or of each."""
    table = _checked_table(table)
    if epochs == "last":
        epoch = table["epoch"].fillna(-1)
        table = table[epoch == epoch.groupby([table[key] for key in _RUN], dropna=False).transform("max")]
    run = [*_RUN, "epoch"]
    _check_one(table, [*run, *_CELL, "head"])
    if len(table["dataset"].dropna().unique()) > 1:
        datasets = table[[*_QUANTITY, "dataset"]].dropna(subset="dataset").drop_duplicates()
        _check_one(datasets, _QUANTITY, "dataset")
    n = table["n"].astype("float64")
    table = table.assign(n=n, se=table["std"] / np.sqrt(n))
    layers = _mean_over(table, [*run, *_CELL])
    whole = _mean_over(layers.dropna(subset="layer"), [*run, *_QUANTITY])
    runs = pd.concat([layers, whole.assign(layer=pd.array([pd.NA] * len(whole), dtype="Int64"))], ignore_index=True)
    _check_one(runs, [*run, *_CELL])
    return runs.sort_values(_RUN, ignore_index=True)


def _checked_table(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the dtypes of its columns; limits that it lacks are those that the vocabulary knows."""
    check_columns(table, [column for column in TABLE_COLUMNS if column not in ("low", "high")])
    if table["model"].isna().any():
        raise InputError("table must name the model in every row, got NA")
    for at, column in enumerate(("low", "high")):
        if column not in table or table[column].isna().any():
            known = table["indicator"].map({name: known_bounds(str(name))[at] for name in table["indicator"].unique()})
            table = table.assign(**{column: table.get(column, known).fillna(known)})
    other = {name: kind for name, kind in TABLE_COLUMNS.items() if table[name].dtype != kind}
    try:
        return table[list(TABLE_COLUMNS)].astype(other)
    except (TypeError, ValueError) as error:
        raise InputError(f"table must hold the dtypes of frames.TABLE_COLUMNS: {error}") from error


def _mean_over(frame: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
    """Means of ``mean``, ``se`` and the limits within ``keys``, NaN where one is NaN, and the smallest ``n``."""
    groups = frame.groupby(keys, dropna=False)
    means = groups[["mean", "se", "low", "high"]].mean().assign(n=groups["n"].min())
    for name in (name for name in ("mean", "se") if frame[name].isna().any()):
        means[name] = means[name].where(groups[name].count() == groups.size())
    return means.reset_index()


def _check_one(frame: pd.DataFrame, keys: list[str], what: str = "number") -> None:
    double = frame[frame.duplicated(keys)]
    if len(double):
        shown = [key for key in keys if key != "epoch" or not frame["epoch"].isna().all()]
        found = ", ".join(f"{key} {double[key].iloc[0]}" for key in shown)
        raise InputError(f"table must hold one {what} per {', '.join(keys)}, got several for {found}")


def default_baseline(table: pd.DataFrame) -> str:
    """The only model with a baseline's kind of attention (dot product), else the first of the table."""
    first = table.drop_duplicates("model")
    kinds = {str(row.model): None if pd.isna(row.attention) else str(row.attention) for row in each_row(first)}
    return baseline_among(kinds)


# --- the statistics of one cell --------------------------------------------------------------------------------------


def _unit(n_seeds: int) -> str:
    return "seeds" if n_seeds > 1 else "images"


class _Runs(NamedTuple):
    """The runs of one cell, as columns ``(runs,)`` of :func:`one_number_per_run`, float64."""

    epoch: np.ndarray
    mean: np.ndarray
    se: np.ndarray
    n: np.ndarray
    low: np.ndarray
    high: np.ndarray


def _cells(runs: pd.DataFrame, keys: list[str]) -> Iterator[tuple[dict[str, Any], _Runs]]:
    """The runs of each cell that ``keys`` make, in their order, with what it has of these."""
    number = runs.groupby(keys, dropna=False).ngroup().to_numpy()
    order = np.argsort(number, kind="stable")
    columns = [runs[name].to_numpy(float, na_value=math.nan) for name in _Runs._fields]
    names = list(runs[keys].itertuples(index=False, name=None))
    for at in np.split(order, np.flatnonzero(np.diff(number[order])) + 1):
        yield dict(zip(keys, names[at[0]], strict=True)), _Runs(*(column[at] for column in columns))


def _mean_of_runs(indicator: str, runs: _Runs) -> ConfidenceInterval:
    """The interval of the mean of one cell's runs; of a single run that over its images."""
    low, high = float(np.fmax.reduce(runs.low)), float(np.fmin.reduce(runs.high))
    if len(runs.mean) > 1:
        return interval_over(runs.mean, low=low, high=high)
    mean, se, n = (float(column[0]) for column in (runs.mean, runs.se, runs.n))
    if quantity(indicator).is_share:
        return NO_INTERVAL if math.isnan(se) else proportion_interval(mean, int(n))
    return mean_interval(mean, se, n - 1, low=low, high=high)


def _difference(theirs: pd.DataFrame, ours: pd.DataFrame, margin: float | None) -> dict[str, Any]:
    """The row of one cell from the runs of the baseline and of the model; see :func:`compare` for the rules."""
    about = quantity(str(ours["indicator"].iloc[0]))
    common = np.intersect1d(theirs["seed"].dropna(), ours["seed"].dropna())
    paired = len(common) > 1
    if paired or (len(common) == 1 and min(len(theirs), len(ours)) == 1):
        theirs, ours = (side[side["seed"].isin(common)] for side in (theirs, ours))  # both in the order of their seeds
    x, y, n_seeds = theirs["mean"].to_numpy(), ours["mean"].to_numpy(), min(len(theirs), len(ours))
    unit = _unit(max(len(x), len(y)))
    span = max(float((side["high"] - side["low"]).max()) for side in (theirs, ours))
    margin = about.margin_within(span) if margin is None else margin
    if paired:
        found = paired_test(x, y, span=span)
    elif n_seeds > 1:
        found = welch_test(x, y, span=span)
    elif unit == "images":
        found = _between_checkpoints(theirs, ours, span)._replace(p=math.nan)
    else:
        found = Contrast(y.mean() - x.mean())
    return {
        "baseline_mean": x.mean(),
        "model_mean": y.mean(),
        "difference": found.difference,
        "ci_low": found.interval.low,
        "ci_high": found.interval.high,
        "p": found.p,
        "p_equivalent": _equivalence(x, y, margin) if paired else math.nan,
        "effect": found.effect,
        "n_seeds": n_seeds,
        "unit": unit,
    }


def _equivalence(x: np.ndarray, y: np.ndarray, margin: float) -> float:
    return math.nan if math.isnan(margin) else tost(y - x, margin).p


def _between_checkpoints(theirs: pd.DataFrame, ours: pd.DataFrame, span: float) -> Contrast:
    (x, y), se = (
        (float(side["mean"].iloc[0]) for side in (theirs, ours)),
        math.hypot(theirs["se"].iloc[0], ours["se"].iloc[0]),
    )
    df = min(theirs["n"].iloc[0], ours["n"].iloc[0]) - 1
    return difference_test(y - x, se, df, size=max(abs(x), abs(y)), span=span)
