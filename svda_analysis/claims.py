"""The tables of a study: accuracy and cost, indicators, the claims with their verdicts, variants. No torch here.

The claims are those of the abstract of arXiv 2602.10994. Each has one measure and one rule, fixed in :data:`CLAIMS` and
below before any number is seen; a verdict follows from the numbers by that rule alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from svda_analysis.compare import Equivalence, compare, summarise, tost
from svda_analysis.formatting import interval, number, p_value, signed
from svda_analysis.sections.tables import comparison_tables

SUPPORTED, NOT_SUPPORTED, NOT_TESTED = "supported", "not supported", "not tested here"
NOT_AT_HAND = "not run here: data not at hand"
MOST_PARAMETERS = 0.0004  # "less than 0.04 % more parameters"


class Size(NamedTuple):
    """What a model costs, read off its configuration; ``macs`` are multiplications with an addition, one image."""

    attention: str
    parameters: int
    macs: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetResult:
    """All runs on one data set. ``table`` holds their final numbers and ``history`` those of each epoch, both with
    ``results.TABLE_COLUMNS`` and empty where ``missing`` says why nothing was run; ``sizes`` go by model."""

    name: str
    title: str
    table: pd.DataFrame
    history: pd.DataFrame
    sizes: dict[str, Size]
    missing: str = ""

    def models(self, attention: str) -> list[str]:
        return [name for name, size in self.sizes.items() if size.attention == attention]

    @property
    def trained(self) -> list[str]:
        present = set(self.table["model"])
        return [name for name in self.sizes if name in present]

    @property
    def baseline(self) -> str | None:
        return next((name for name in self.models("dot") if name in self.trained), None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table to write: ``numbers`` for csv, ``text`` for reading, ``note`` says how it was made."""

    name: str
    title: str
    note: str
    numbers: pd.DataFrame
    text: pd.DataFrame


# --- comparing two models of one data set ---------------------------------------------------------------------------


def compare_pair(result: DatasetResult, model: str, baseline: str) -> pd.DataFrame:
    """:func:`~svda_analysis.compare.compare` of two models of a data set alone; empty where one was not run."""
    rows = result.table[result.table["model"].isin([model, baseline])]
    if len(set(rows["model"])) < 2:
        return pd.DataFrame(columns=["indicator", "source", "layer"])
    return compare(rows, baseline)


def _whole(comparison: pd.DataFrame, indicator: str, source: str) -> Any | None:
    """The whole-model row of one indicator, as a named tuple."""
    at = (comparison["indicator"] == indicator) & (comparison["source"] == source) & comparison["layer"].isna()
    return next(comparison[at].itertuples(), None)


def equivalence(result: DatasetResult, model: str, baseline: str, margin: float) -> Equivalence | None:
    """:func:`~svda_analysis.compare.tost` of test accuracy, paired by seed; ``margin`` in points. One pair: None."""
    rows = result.table[result.table["indicator"] == "accuracy"].dropna(subset="seed")
    ours, theirs = (rows[rows["model"] == name].set_index("seed")["mean"] for name in (model, baseline))
    difference = (ours - theirs).dropna()
    return tost(difference, margin / 100) if len(difference) > 1 else None


# --- T1: accuracy, and what it costs --------------------------------------------------------------------------------


def accuracy_table(results: Sequence[DatasetResult], margin: float) -> Table:
    """T1: test accuracy of every model, its difference from the baseline, and the test of equivalence."""
    rows = [row for result in results for row in _accuracy_rows(result, margin)]
    numbers = pd.DataFrame(rows)
    text = [
        {
            "Data": row["data"],
            "Model": row["model"],
            "Runs": str(row["runs"]),
            "Accuracy (%)": row["missing"] or _mean_and_spread(100 * row["accuracy"], 100 * row["std"], 2),
            "Difference (points) [95% CI]": _points(row["difference"], row["ci_low"], row["ci_high"]),
            "Runs compared": "-" if pd.isna(row["difference"]) else str(row["n_seeds"]),
            "p": p_value(row["p"]),
            f"p (equivalent within {margin:g})": p_value(row["p_equivalent"]),
            "Interval over": row["unit"] or "-",
        }
        for row in rows
    ]
    note = (
        "Mean and standard deviation over training runs of the accuracy over all test images after the last epoch; "
        "difference from the dot-product baseline, paired by seed where seeds are shared. p is of a two-sided t test: "
        "small says that the accuracies differ. p (equivalent) is of two one-sided t tests (TOST) with a margin of "
        f"{margin:g} points: small says that they are the same to within the margin. Where the models do not share all "
        "their seeds, the difference is of fewer runs than the means. One run each: the interval is "
        "over images and speaks of these checkpoints alone, without p."
    )
    return Table(name="t1_accuracy", title="Accuracy", note=note, numbers=numbers, text=pd.DataFrame(text))


def _accuracy_rows(result: DatasetResult, margin: float) -> Iterator[dict[str, Any]]:
    numbers = ["accuracy", "std", "difference", "ci_low", "ci_high", "n_seeds", "p", "p_equivalent"]
    empty = dict.fromkeys(numbers, math.nan)
    if not result.trained:
        yield {"data": result.title, "model": "-", "runs": 0, **empty, "unit": "", "missing": result.missing}
        return
    summary = summarise(result.table[result.table["indicator"] == "accuracy"]).set_index("model")
    for model in result.trained:
        row = {"data": result.title, "model": model, **empty, "unit": "", "missing": ""}
        row |= {"runs": int(summary.loc[model, "n_seeds"]), "accuracy": summary.loc[model, "mean"]}
        row["std"] = summary.loc[model, "std"]
        if result.baseline not in (None, model):
            found = _whole_or_nan(result, model, str(result.baseline))
            same = equivalence(result, model, str(result.baseline), margin)
            row |= {**found, "p_equivalent": same.p if same else math.nan}
        yield row


def _whole_or_nan(result: DatasetResult, model: str, baseline: str) -> dict[str, Any]:
    rows = dataclasses.replace(result, table=result.table[result.table["indicator"] == "accuracy"])
    found = compare_pair(rows, model, baseline).iloc[0]
    return {key: found[key] for key in ("difference", "ci_low", "ci_high", "p", "unit", "n_seeds")}


def cost_table(results: Sequence[DatasetResult]) -> Table:
    """T1, second part: parameters, MACs, seconds and memory an epoch."""
    rows = [row for result in results for row in _cost_rows(result)]
    text = [
        {
            "Data": row["data"],
            "Model": row["model"],
            "Parameters": f"{row['parameters']:,}".replace(",", " "),
            "More than baseline (%)": "-" if pd.isna(row["more"]) else f"{100 * row['more']:+.3f}",
            "MACs (million)": f"{row['macs'] / 1e6:.2f}",
            "Seconds an epoch": _mean_and_spread(row["seconds"], row["seconds_std"], 1),
            "Peak memory (MB)": _mean_and_spread(row["memory"], row["memory_std"], 0),
        }
        for row in rows
    ]
    note = (
        "MACs: matrix products and convolutions of one image by torch's own counter; it leaves out elementwise work, "
        "such as the norms of SVDA's rows. Seconds: median over a run's epochs, with its test images and indicators "
        "left out, then mean and standard deviation over runs, on whatever machine trained them and beside whatever "
        "else ran there. Memory: peak of torch on the GPU while training, likewise; a dash where there was none."
    )
    return Table(name="t1_cost", title="What it costs", note=note, numbers=pd.DataFrame(rows), text=pd.DataFrame(text))


def _cost_rows(result: DatasetResult) -> Iterator[dict[str, Any]]:
    own = next((result.sizes[name] for name in result.models("dot")), None)
    for model, size in result.sizes.items():
        history = result.history[result.history["model"] == model]
        row = {"data": result.title, "model": model, "parameters": size.parameters, "macs": size.macs}
        row["more"] = size.parameters / own.parameters - 1 if own and size.attention != "dot" else math.nan
        seconds = _by_run(history, "epoch_seconds", "median")
        row |= {"seconds": seconds.mean(), "seconds_std": seconds.std()}
        memory = _by_run(history, "peak_memory_mb", "max")
        yield {**row, "memory": memory.mean(), "memory_std": memory.std()}


def _by_run(history: pd.DataFrame, indicator: str, how: str) -> pd.Series:
    rows = history[history["indicator"] == indicator]
    return rows.groupby("seed", dropna=False)["mean"].agg(how).astype(float)


# --- T2: every indicator --------------------------------------------------------------------------------------------


def indicator_tables(result: DatasetResult, labels: Mapping[str, str]) -> list[Table]:
    """T2: every indicator of each model beside the baseline; and of SVDA beside the cosine control."""
    pairs = [(model, result.baseline) for model in result.trained if result.baseline and model != result.baseline]
    pairs += [(svda, cosine) for svda in result.models("svda") for cosine in result.models("cosine")]
    return [
        _indicator_table(result, model, baseline, labels)
        for model, baseline in pairs
        if baseline and {model, baseline} <= set(result.trained)
    ]


def _indicator_table(result: DatasetResult, model: str, baseline: str, labels: Mapping[str, str]) -> Table:
    comparison = compare_pair(result, model, baseline)
    text = comparison_tables(comparison, labels)[model, baseline]
    return Table(
        name=f"t2_{word(result.name)}_{word(model)}_{word(baseline)}",
        title=f"{result.title}: {model} against {baseline}",
        note="Means over layers and heads. p is adjusted by Holm's method over all rows; the effect is the difference "
        "in units of its own spread over seeds where runs are paired by seed, else of the spread within the models "
        "(Hedges' correction, from three pairs on). Sigma belongs to SVDA alone, so it stands beside nothing.",
        numbers=comparison,
        text=pd.concat([text, _alone(result, model, baseline, labels, text)], ignore_index=True),
    )


def _alone(
    result: DatasetResult, model: str, baseline: str, labels: Mapping[str, str], shared: pd.DataFrame
) -> pd.DataFrame:
    """What ``model`` has and ``baseline`` has not, such as sigma's spectrum, as rows of the text ``shared``."""
    means = summarise(result.table[result.table["model"].isin([model, baseline])])
    whole = means[means["layer"].isna()]
    theirs = set(whole[whole["model"] == baseline][["indicator", "source"]].itertuples(index=False, name=None))
    rows = [
        {
            **dict.fromkeys(shared.columns, "-"),
            "Source": row.source,
            "Indicator": labels.get(row.indicator, row.indicator),
            model: number(row.mean),
            "Runs": str(row.n_seeds),
        }
        for row in whole[whole["model"] == model].itertuples()
        if (row.indicator, row.source) not in theirs
    ]
    return pd.DataFrame(rows, columns=shared.columns)


# --- T3: the claims -------------------------------------------------------------------------------------------------


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


def claims_table(results: Sequence[DatasetResult], labels: Mapping[str, str], margin: float) -> Table:
    """T3: one row for each claim, data set and SVDA model, with its number and verdict."""
    every = [(result, model) for result in results for model in result.models("svda")]
    text = pd.DataFrame([row for result, model in every for row in _claims(result, model, labels, margin)])
    return Table(name="t3_claims", title="The claims", note=CLAIMS_NOTE.replace("\n", " "), numbers=text, text=text)


def _claims(result: DatasetResult, model: str, labels: Mapping[str, str], margin: float) -> Iterator[dict[str, str]]:
    """The rows of one SVDA model on one data set."""
    about = {"Data": result.title, "Model": model}
    baseline, control = result.baseline, next((m for m in result.models("cosine") if m in result.trained), None)
    for claim in CLAIMS:
        yield {**about, **_structure(result, claim, claim.text, model, baseline, labels)}
    yield {**about, **_accuracy(result, model, baseline, margin)}
    yield {**about, **_monitored(result, model)}
    yield {**about, **_parameters(result, model)}
    for claim in (*CLAIMS, Claim("more accurate", "accuracy", "test", +1)):
        text = f"Sigma, beyond normalisation: {claim.text}"
        yield {**about, **_structure(result, claim, text, model, control, labels, "the cosine control")}


def _row(claim: str, measure: str, found: str, verdict: str, why: str) -> dict[str, str]:
    return {"Claim": claim, "Measure": measure, "Number": found, "Verdict": verdict, "Why": why}


def _structure(
    result: DatasetResult,
    claim: Claim,
    text: str,
    model: str,
    baseline: str | None,
    labels: Mapping[str, str],
    against: str = "the baseline",
) -> dict[str, str]:
    label = labels.get(claim.indicator, claim.indicator.capitalize())
    measure = f"{label} ({claim.source}), {'higher' if claim.direction > 0 else 'lower'} than {baseline or against}"
    if why := _untrained(result, model, baseline, against):
        return _row(text, measure, "-", NOT_TESTED, why)
    row = _whole(compare_pair(result, model, str(baseline)), claim.indicator, claim.source)
    if row is None:
        return _row(text, measure, "-", NOT_TESTED, "not measured")
    shown: Callable[..., str] = _points if claim.indicator == "accuracy" else _signed
    found = shown(row.difference, row.ci_low, row.ci_high) + (" points" if claim.indicator == "accuracy" else "")
    return _row(text, measure, found, *verdict(row.ci_low, row.ci_high, claim.direction, row.unit, row.n_seeds))


def verdict(low: float, high: float, direction: int, unit: str, runs: int) -> tuple[str, str]:
    """The verdict on a difference from its 95 % interval, and why; ``direction`` +1 claims a rise, -1 a fall.

    ``unit`` and ``runs`` are those of :func:`~svda_analysis.compare.compare`: one run tests nothing.
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


def _accuracy(result: DatasetResult, model: str, baseline: str | None, margin: float) -> dict[str, str]:
    measure = f"Test accuracy, at most {margin:g} points below {baseline or 'the baseline'}"
    if why := _untrained(result, model, baseline):
        return _row(_ACCURACY, measure, "-", NOT_TESTED, why)
    row, same = _whole_or_nan(result, model, str(baseline)), equivalence(result, model, str(baseline), margin)
    found = f"{_points(row['difference'], row['ci_low'], row['ci_high'])} points"
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
    return _row(_ACCURACY, measure, found, said, why)


def _monitored(result: DatasetResult, model: str) -> dict[str, str]:
    measure = "Indicators with a number at every epoch of every run"
    rows = result.history[(result.history["model"] == model) & result.history["layer"].notna()]
    if rows.empty:
        return _row(_MONITORED, measure, "-", NOT_TESTED, result.missing or "no history")
    runs = result.history[result.history["model"] == model].groupby("seed", dropna=False)["epoch"].max()
    keys = ["indicator", "source"]
    known = rows.groupby([*keys, "seed", "epoch"], dropna=False)["mean"].agg(lambda x: x.notna().all())
    seen = known.groupby(keys).sum()
    everywhere = int((seen == runs.sum()).sum())
    found = f"{everywhere} of {len(seen)} over {runs.sum()} epochs of {len(runs)} run{'s' if len(runs) > 1 else ''}"
    whole = everywhere == len(seen)
    return _row(_MONITORED, measure, found, SUPPORTED if whole else NOT_SUPPORTED, "counted")


def _parameters(result: DatasetResult, model: str) -> dict[str, str]:
    measure = "Parameters more than the baseline's"
    dots = result.models("dot")
    if not dots:
        return _row(_PARAMETERS, measure, "-", NOT_TESTED, "nothing to compare with")
    ours, theirs = result.sizes[model].parameters, result.sizes[dots[0]].parameters
    more = ours / theirs - 1
    why = "counted; the share falls as models widen" if more >= MOST_PARAMETERS else "counted"
    return _row(
        _PARAMETERS, measure, f"{100 * more:+.3f} %", SUPPORTED if more < MOST_PARAMETERS else NOT_SUPPORTED, why
    )


# --- a study of variants --------------------------------------------------------------------------------------------

STUDIED = {
    ("selectivity_index", "attention"): "Selectivity",
    ("effective_rank", "sigma"): "Rank of sigma",
    ("effective_rank", "scores"): "Rank of scores",
    ("directions_90", "sigma"): "Directions, by sigma",
    ("directions_90", "data"): "Directions, by data",
}


def study_table(result: DatasetResult, base: str, changed: Mapping[str, str]) -> Table:
    """One row for each variant: accuracy and structure; ``changed`` says what differs from the model ``base``."""
    rows = []
    for model in result.sizes:
        row: dict[str, Any] = {"data": result.title, "model": model, "changed": changed.get(model, ""), "runs": 0}
        row["missing"] = "" if model in result.trained else result.missing or "no finished run"
        if model in result.trained:
            row |= _studied(result, model, base)
        rows.append(row)
    numbers = pd.DataFrame(rows)
    text = pd.DataFrame([_study_text(row, base) for row in rows])
    note = (
        f"Mean and standard deviation over training runs; differences of accuracy are from {base}, paired by seed. "
        "Ranks are effective ranks. Directions: the share of a head's directions that hold 90 % of the energy of the "
        "scores, by sigma alone (sigma_i^2) and as the data weigh them (sigma_i^2 E[q_i^2] E[k_i^2]); without a sigma, "
        "by data alone. Intervals are not adjusted for the number of variants."
    )
    return Table(name=f"study_{word(result.name)}", title=result.title, note=note, numbers=numbers, text=text)


def _studied(result: DatasetResult, model: str, base: str) -> dict[str, Any]:
    summary = summarise(result.table[result.table["model"] == model])
    row: dict[str, Any] = {}
    for indicator, source in [("accuracy", "test"), *STUDIED]:
        found = _whole(summary, indicator, source)
        name = "accuracy" if indicator == "accuracy" else f"{indicator}_{source}"
        row |= {name: found.mean if found else math.nan, f"{name}_std": found.std if found else math.nan}
        row["runs"] = found.n_seeds if indicator == "accuracy" and found else row.get("runs", 0)
    if model != base and base in result.trained:
        row |= _whole_or_nan(result, model, base)
    return row


def _study_text(row: Mapping[str, Any], base: str) -> dict[str, str]:
    """A row of the study as text; what was not run is a dash."""
    accuracy = _mean_and_spread(100 * row.get("accuracy", math.nan), 100 * row.get("accuracy_std", math.nan), 2)
    difference = [row.get(key, math.nan) for key in ("difference", "ci_low", "ci_high")]
    structure = {}
    for (indicator, source), label in STUDIED.items():
        values = [row.get(f"{indicator}_{source}{end}", math.nan) for end in ("", "_std")]
        if indicator == "directions_90":
            structure[f"{label} (%)"] = _mean_and_spread(100 * values[0], 100 * values[1], 0)
        else:
            structure[label] = _mean_and_spread(values[0], values[1], 3 if indicator == "selectivity_index" else 1)
    return {
        "Model": row["model"],
        "Changed": row["changed"] or "-",
        "Runs": str(row["runs"]),
        "Accuracy (%)": row["missing"] or accuracy,
        f"From {base} (points) [95% CI]": _points(*difference),
        **structure,
    }


# --- text -----------------------------------------------------------------------------------------------------------


def _mean_and_spread(mean: float, std: float, digits: int) -> str:
    if pd.isna(mean):
        return "-"
    return f"{mean:.{digits}f}" if pd.isna(std) else f"{mean:.{digits}f} ± {std:.{digits}f}"


def _points(difference: float, low: float, high: float) -> str:
    if pd.isna(difference):
        return "-"
    ends = "[no interval]" if pd.isna(low) else f"[{100 * low:+.2f}, {100 * high:+.2f}]"
    return f"{100 * difference:+.2f} {ends}"


def _signed(difference: float, low: float, high: float) -> str:
    return f"{signed(difference)} {interval(low, high)}"


def word(name: str) -> str:
    """A name as part of a file's; of a folder its last part alone."""
    last = name.rstrip("/").rpartition("/")[2] if ":" in name else name
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in last) or "data"
