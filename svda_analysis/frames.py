"""The schema of every frame, and what makes and checks one. No torch here.

There is one schema for measured numbers, :data:`TABLE_COLUMNS`: ``Analysis.table``, the history of a checkpoint and
what every plot and comparison reads. The others hold what has another shape: spectra, differences, matched heads,
costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pandas as pd

from svda_analysis.errors import InputError

TABLE_COLUMNS = {
    "model": "string",  # the name that runs of one recipe share: (model, seed) is one checkpoint
    "attention": "string",  # dot, svda or cosine
    "seed": "Int64",  # training seed; NA where unknown
    "dataset": "string",
    "epoch": "Int64",  # epochs trained
    "layer": "Int64",  # from 0; NA for a number about the whole model (accuracy, loss)
    "head": "Int64",  # from 0; NA likewise
    "indicator": "string",  # the quantity's name (vocabulary.py)
    # what the number speaks of: sigma, scores, attention, tokens, weights (qk, ov); or train, test
    "source": "string",
    "mean": "float64",  # over images
    "std": "float64",  # over images, n - 1 in the denominator; NaN for one number
    "ci_low": "float64",  # 95 % interval of the mean over images
    "ci_high": "float64",
    "n": "Int64",  # images; 1 for a number read off the weights
    "low": "float64",  # what the number can be at least and at most
    "high": "float64",
}
SPECTRA_COLUMNS = {
    "model": "string",
    "attention": "string",
    "seed": "Int64",
    "epoch": "Int64",
    "layer": "Int64",
    "head": "Int64",
    "source": "string",
    "rank": "Int64",  # from 1, the largest singular value
    "value": "float64",  # mean over images
}
_ESTIMATE = {  # one number per model, quantity and layer, over its runs
    "mean": "float64",  # over runs
    "std": "float64",  # over runs, n - 1 in the denominator; NaN for one run
    "ci_low": "float64",  # 95 % interval of the mean
    "ci_high": "float64",
    "n_seeds": "Int64",
    "unit": "string",  # what the interval is over: seeds, or images (this checkpoint alone)
}
SUMMARY_COLUMNS = {
    "model": "string",
    "epoch": "Int64",  # of its runs, the latest
    "indicator": "string",
    "source": "string",
    "layer": "Int64",  # NA: the whole model
    **_ESTIMATE,
}
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
    "p_equivalent": "float64",  # two one-sided tests within the quantity's margin, of runs paired by seed
    "verdict": "string",  # on "the model has more of the quality" (verdicts.py); NA: the quantity has no direction
    "effect": "float64",  # standardised difference, small-sample corrected
    "n_seeds": "Int64",  # pairs; without pairs the runs of the model that has fewer
    "unit": "string",  # what the interval is over: seeds, or images (these two checkpoints alone)
}
_OF_PAIRS = ("effect", "p_equivalent", "verdict")
BLOCKED_COLUMNS = {key: kind for key, kind in COMPARISON_COLUMNS.items() if key not in _OF_PAIRS}

# --- heads of two models, matched (matching.py) -----------------------------------------------------------------------

_PAIR = {"layer_a": "Int64", "layer_b": "Int64", "measure": "string"}
_INTERVAL = {"ci_low": "float64", "ci_high": "float64", "n": "Int64"}  # 95 %, over the n images of the second half
_MEANS = ("identity", "matched", "chance")  # heads in the order they have, matched, mean of all random assignments
_GAINS = tuple(f"gain_over_{other}{end}" for other in ("identity", "chance") for end in ("", "_low", "_high"))
LAYER_COLUMNS = {**_PAIR, "mean": "float64", "std": "float64", **_INTERVAL}
HEAD_COLUMNS = {
    **_PAIR,
    "head_a": "Int64",  # NA: no partner for head_b
    "head_b": "Int64",  # NA: no partner for head_a
    "stable": "boolean",  # the second half of the images chooses the same partner
    "similarity": "float64",
    **_INTERVAL,
}
MATCH_COLUMNS = {**_PAIR, **dict.fromkeys([*_MEANS, *_GAINS], "float64"), "n": "Int64"}
_WHO = {"images": "string", "model": "string", "baseline": "string", "seed": "Int64", "baseline_seed": "Int64"}
MAP_COLUMNS = {  # the frames that compare_run_maps returns, by name
    "layers": {**LAYER_COLUMNS, **_WHO},
    "heads": {**HEAD_COLUMNS, **_WHO},
    "matching": {**MATCH_COLUMNS, **_WHO},
    "similarity": {"layer_a": "Int64", "layer_b": "Int64", "similarity": "float64", "measure": "string", **_WHO},
}

FRONTIER_COLUMNS = {  # a run on a dial of a study, from the loosest setting of each to its tightest
    "dial": "string",  # in words
    "setting": "string",
    "model": "string",
    "attention": "string",
    "seed": "Int64",
    "rank": "float64",  # effective rank of the scores, whole model
    "accuracy": "float64",  # on the test images
}

# --- what a compression changed (compression/) ------------------------------------------------------------------------

VERIFICATION_COLUMNS = {
    "quantity": "string",  # accuracy, agreement, map_divergence, parameters ..., an indicator, a gain by fine-tuning
    "source": "string",  # of an indicator
    "before": "float64",
    "after": "float64",
    "change": "float64",  # after - before; a ratio for what is timed and counted
    "ci_low": "float64",  # 95 % interval of the change
    "ci_high": "float64",
    "p": "float64",
    "n": "Int64",
}
NORM_COLUMNS = {
    "kept": "string",  # what keeps the norm of unit rows: norm rows, the constant, both, neither, or all rows (masked)
    "rows_removed": "float64",
    "change": "float64",  # accuracy, after minus before, with its 95 % interval over images
    "ci_low": "float64",
    "ci_high": "float64",
    "n": "Int64",
}
SWEEP_COLUMNS = {
    "criterion": "string",
    "energy": "float64",  # the share of each head's energy that was to stay; or
    "budget": "float64",  # the share of all rows, by one threshold for the whole model
    "directions_removed": "float64",  # share of all score directions
    "rows_removed": "float64",  # share of the rows of W_q and W_k that are gone, norm rows counted as there
    "parameters_change": "float64",  # share of the whole model's
    "macs_change": "float64",
    "masked_change": "float64",  # accuracy, after minus before: scores alone shortened, norm whole
    "masked_low": "float64",  # 95 % interval over images
    "masked_high": "float64",
    "removed_change": "float64",  # accuracy with the rows gone
    "removed_low": "float64",
    "removed_high": "float64",
    "n": "Int64",
}
BUDGET_COLUMNS = {
    "criterion": "string",  # that ranked the directions
    "budget": "float64",  # the share of all rows that may stay
    "rows_removed": "float64",
    "whole": "float64",  # accuracy of the whole model
    **{
        f"{when}{end}": "float64"  # accuracy at that size; after minus before, with its 95 % interval over images
        for when in ("removed", "finetuned")  # without fine-tuning, and with
        for end in ("", "_change", "_low", "_high")
    },
    "n": "Int64",
}


def seeds_of_pairs(maps: pd.DataFrame) -> pd.Series:
    """For each row of a frame of :data:`MAP_COLUMNS`: "same" where both runs have one seed, "other" where they have
    two, "" where that is not known.

    Runs of one seed share initial weights and the order of data, so their heads sit at the same place for that alone.
    """
    known = maps["seed"].notna() & maps["baseline_seed"].notna()
    same = (maps["seed"] == maps["baseline_seed"]).fillna(False)
    return pd.Series("other", index=maps.index).mask(same, "same").where(known, "")


def make_frame(rows: Iterable[dict[str, Any]], columns: dict[str, str]) -> pd.DataFrame:
    """A frame with exactly ``columns`` and their dtypes; what a row leaves out is missing."""
    return pd.DataFrame(list(rows), columns=list(columns)).astype(columns)


def each_row(frame: pd.DataFrame) -> Iterator[Any]:
    """The rows as named tuples, their cells untyped."""
    return iter(frame.itertuples())


def check_columns(frame: pd.DataFrame, needed: Iterable[str], name: str = "table") -> None:
    """Raise :class:`InputError` unless ``frame`` holds every column in ``needed`` and at least one row."""
    missing = [column for column in needed if column not in frame.columns]
    if missing:
        raise InputError(f"{name} lacks the columns {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}")
    if frame.empty:
        raise InputError(f"{name} has no rows")
