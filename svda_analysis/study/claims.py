"""The claims of a study, each with its number and verdict. No torch here.

The claims are those of the abstract of arXiv 2602.10994. Each has one measure and one rule, fixed in :data:`CLAIMS` and
below before any number is seen; a verdict follows from the numbers by that rule alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pandas as pd

from svda_analysis.document import Table
from svda_analysis.formatting import MISSING, counted, estimate, fixed, p_value, points
from svda_analysis.study.result import (
    DatasetResult,
    accuracy_difference,
    compare_pair,
    equivalence,
    whole_model_row,
)
from svda_analysis.vocabulary import label

SUPPORTED, NOT_SUPPORTED, NOT_TESTED = "supported", "not supported", "not tested here"
MOST_PARAMETERS = 0.0004  # "less than 0.04 % more parameters"


class Claim(NamedTuple):
    """A claim about structure: the indicator that tests it, like for like, and the direction that was claimed."""

    text: str
    indicator: str
    source: str
    direction: int


CLAIMS = (
    Claim("more interpretable attention", "selectivity_index", "attention", +1),
    Claim("sparser attention", "attention_sparsity", "attention", +1),
    Claim("spectrally structured attention", "effective_rank", "scores", -1),
)
_ACCURACY = "no accuracy is sacrificed"
_MONITORED = "indicators are monitored during training"
_PARAMETERS = "less than 0.04 % more parameters"
CLAIMS_NOTE = """One row for each claim of the abstract of arXiv 2602.10994 and each data set. The rules, fixed before
the numbers: a difference is supported where its 95 % interval over training runs lies on the claimed side of 0
(intervals here are not adjusted for their number; the tables of indicators are). No accuracy is sacrificed where the
interval lies above minus the margin, or the two one-sided tests show equivalence (p below 0.05). One training run each
tests nothing. Not supported means that the numbers do not show it, not that they show the contrary; the last column
says which. Interpretability itself is not measured here: selectivity stands for it, and a selective map is not thereby
a better explanation. The structure of sigma is trained for by a penalty. The rows on Sigma compare SVDA with cosine
attention, which has the normalisation and a temperature but no spectrum: what is left is what Sigma adds."""


def claims_table(results: Sequence[DatasetResult], margin: float) -> Table:
    """T3: one row for each claim, data set and SVDA model, with its number and verdict."""
    every = [(result, model) for result in results for model in result.models("svda")]
    text = pd.DataFrame([row for result, model in every for row in _claim_rows(result, model, margin)])
    return Table(name="t3_claims", title="The claims", note=CLAIMS_NOTE.replace("\n", " "), numbers=text, text=text)


def _claim_rows(result: DatasetResult, model: str, margin: float) -> Iterator[dict[str, str]]:
    """The rows of one SVDA model on one data set."""
    about = {"Data": result.title, "Model": model}
    baseline, control = result.baseline, result.control
    for claim in CLAIMS:
        yield {**about, **_structure_row(result, claim, claim.text, model, baseline)}
    yield {**about, **_accuracy_row(result, model, baseline, margin)}
    yield {**about, **_monitored_row(result, model)}
    yield {**about, **_parameters_row(result, model)}
    for claim in (*CLAIMS, Claim("more accurate", "accuracy", "test", +1)):
        text = f"Sigma, beyond normalisation: {claim.text}"
        yield {**about, **_structure_row(result, claim, text, model, control, "the cosine control")}


def _claim_row(claim: str, measure: str, found: str, verdict: str, why: str) -> dict[str, str]:
    return {"Claim": claim, "Measure": measure, "Number": found, "Verdict": verdict, "Why": why}


def _structure_row(
    result: DatasetResult,
    claim: Claim,
    text: str,
    model: str,
    baseline: str | None,
    against: str = "the baseline",
) -> dict[str, str]:
    direction = "higher" if claim.direction > 0 else "lower"
    measure = f"{label(claim.indicator, claim.source)}, {direction} than {baseline or against}"
    if why := _untrained(result, model, baseline, against):
        return _claim_row(text, measure, MISSING, NOT_TESTED, why)
    row = whole_model_row(compare_pair(result, model, str(baseline)), claim.indicator, claim.source)
    if row is None:
        return _claim_row(text, measure, MISSING, NOT_TESTED, "not measured")
    shown: Callable[..., str] = points if claim.indicator == "accuracy" else estimate
    found = shown(row.difference, row.ci_low, row.ci_high) + (" points" if claim.indicator == "accuracy" else "")
    return _claim_row(text, measure, found, *verdict(row.ci_low, row.ci_high, claim.direction, row.unit, row.n_seeds))


def verdict(low: float, high: float, direction: int, unit: str, runs: int) -> tuple[str, str]:
    """The verdict on a difference from its 95 % interval, and why; ``direction`` +1 claims a rise, -1 a fall.

    ``unit`` and ``runs`` are those of :func:`~svda_analysis.comparison.compare`: one run tests nothing.
    """
    if unit != "seeds" or runs < 2:
        return NOT_TESTED, "one training run each" if unit != "seeds" else "one training run of one of them"
    if math.isnan(low) or math.isnan(high):
        return NOT_TESTED, "no spread over the runs to test against"
    if direction < 0:
        low, high = -high, -low
    if low > 0:
        return SUPPORTED, "interval on the claimed side of 0"
    return NOT_SUPPORTED, "interval on the other side of 0" if high < 0 else "interval includes 0"


def _untrained(result: DatasetResult, model: str, baseline: str | None, against: str = "the baseline") -> str:
    if not result.trained:
        return result.missing
    if model not in result.trained:
        return "no finished run"
    return f"no finished run of {against}" if baseline is None else ""


def _accuracy_row(result: DatasetResult, model: str, baseline: str | None, margin: float) -> dict[str, str]:
    measure = f"Test accuracy, at most {margin:g} points below {baseline or 'the baseline'}"
    if why := _untrained(result, model, baseline):
        return _claim_row(_ACCURACY, measure, MISSING, NOT_TESTED, why)
    row, same = accuracy_difference(result, model, str(baseline)), equivalence(result, model, str(baseline), margin)
    found = f"{points(row['difference'], row['ci_low'], row['ci_high'])} points"
    if same is not None:
        found += f", TOST p {p_value(same.p)}"
    shifted = (row["ci_low"] + margin / 100, row["ci_high"] + margin / 100)
    said, why = verdict(*shifted, +1, row["unit"], row["n_seeds"])
    if said != NOT_TESTED:
        why = "interval above minus the margin" if said == SUPPORTED else "interval reaches below minus the margin"
    if said == NOT_SUPPORTED and same is not None and same.p < 0.05:
        said, why = SUPPORTED, "equivalent within the margin"
    if said != NOT_TESTED and row["ci_high"] < 0:
        why = f"accuracy is lower; {why}"
    return _claim_row(_ACCURACY, measure, found, said, why)


def _monitored_row(result: DatasetResult, model: str) -> dict[str, str]:
    measure = "Indicators with a number at every epoch of every run"
    rows = result.history[(result.history["model"] == model) & result.history["layer"].notna()]
    if rows.empty:
        return _claim_row(_MONITORED, measure, MISSING, NOT_TESTED, result.missing or "no history")
    runs = result.history[result.history["model"] == model].groupby("seed", dropna=False)["epoch"].max()
    keys = ["indicator", "source"]
    known = rows.groupby([*keys, "seed", "epoch"], dropna=False)["mean"].agg(lambda x: bool(x.notna().all()))
    seen = known.groupby(keys).sum()
    epochs = int(runs.sum())
    everywhere = sum(count == epochs for count in seen)
    found = f"{everywhere} of {len(seen)} over {epochs} epochs of {counted(len(runs), 'run')}"
    whole = everywhere == len(seen)
    return _claim_row(_MONITORED, measure, found, SUPPORTED if whole else NOT_SUPPORTED, "counted")


def _parameters_row(result: DatasetResult, model: str) -> dict[str, str]:
    measure = "Parameters more than the baseline's"
    baselines = result.in_role("baseline")
    if not baselines:
        return _claim_row(_PARAMETERS, measure, MISSING, NOT_TESTED, "nothing to compare with")
    ours, theirs = result.sizes[model].parameters, result.sizes[baselines[0]].parameters
    more = ours / theirs - 1
    few = more < MOST_PARAMETERS
    why = "counted" if few else "counted; the share falls as models widen"
    found = f"{fixed(100 * more, 3, sign=True)} %"
    return _claim_row(_PARAMETERS, measure, found, SUPPORTED if few else NOT_SUPPORTED, why)
