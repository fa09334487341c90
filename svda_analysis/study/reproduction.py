"""What the source's public code printed, beside what its recipe gives here: every number, and epoch by epoch. No torch.

The numbers are those of the three seeds of the source's public code (``reference/``; arXiv 2602.10994 has the method).
A number is *reproduced* where the 95 % interval of the difference between its mean and ours (Welch's t, over training
runs on both sides) holds 0, *not reproduced* where it does not; runs that are shorter, or single, decide nothing (our
definition), nor do runs with anything changed in the recipe. Shown for data sets with a model of the source's recipe,
where a history holds its indicators; ours is the first such model with SVDA, or with the baseline's attention.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from svda_analysis.data.catalog import DATASETS
from svda_analysis.document import Table
from svda_analysis.formatting import MISSING, capital, estimate, mean_and_spread, points, spoken
from svda_analysis.frames import each_row
from svda_analysis.source_numbers import EPOCHS, SEEDS, SOURCE_MEASURES, by_epoch, source_epochs, source_results
from svda_analysis.stats import welch_from_moments
from svda_analysis.study.recipes import first_of_changed, recipes_of
from svda_analysis.study.result import DatasetResult

_ACCURACIES = {"best_accuracy": "max", "final_accuracy": "last"}  # over the epochs of a run
_PROTOCOL = {  # after the last epoch, by the source's own measures of faithfulness: our quantity, and of what
    f"{kind}_{ranked}_0.3": (f"source_{kind}_30", source)
    for kind in ("deletion", "insertion")
    for ranked, source in (("top", "cls_attention"), ("random", "random"))
}
_LATE = "not in this study: svda train --base SPEC --late-blocks 2 --recipe source"


def reproduced_data(results: Sequence[DatasetResult]) -> list[DatasetResult]:
    """The data sets that a model was run on by the source's recipe, with its indicators in a history."""
    logged = [measure.indicator for measure in SOURCE_MEASURES.values()]
    of_ours = [one for one in results if one.history["indicator"].isin(logged).any()]
    return [one for one in of_ours if any(model_of_ours(one, theirs) for theirs in ("baseline", "svda"))]


def model_of_ours(result: DatasetResult, theirs: str) -> tuple[str, dict[str, Any]] | None:
    """The model that stands beside the source's ``baseline`` or ``svda``: the first trained by its recipe with least
    changed in that, and what is changed."""
    names = result.in_role("baseline") if theirs == "baseline" else result.models("svda")
    by, trained = recipes_of(result), result.trained
    found = [(name, by[name].changed) for name in names if name in trained and name in by and by[name].name == "source"]
    return min(found, key=lambda one: len(one[1]), default=None)


def reproduction_table(results: Sequence[DatasetResult]) -> Table:
    """A row for each number of the source: its mean, ours, the difference, and what became of it."""
    known = {one.name: one for one in results}
    rows = [_reproduced_row(theirs, known.get(str(theirs.dataset))) for theirs in each_row(source_results())]
    numbers = pd.DataFrame(rows)
    text = [
        {
            "Data": _title(row["dataset"]),
            "Model": row["model"],
            "Number": spoken(row["measure"]),
            f"The source ({SEEDS} runs)": _written(row["measure"], row["source_mean"], row["source_std"]),
            "Ours": _written(row["measure"], row["mean"], row["std"]),
            "Runs": str(row["runs"] or MISSING),
            "Difference [95% CI]": _their_difference(row),
            "What became of it": row["said"],
        }
        for row in rows
    ]
    note = (
        "Means and standard deviations over training runs. Best accuracy is the highest of any epoch on the test "
        "images, and so is chosen on them; final accuracy is that of the last epoch. Our indicators are those of the "
        "probe images after the last epoch; deletion and insertion: of the predicted class's probability, by the last "
        "layer's class token or at random. Reproduced: the 95 % interval of the difference (Welch's t over runs) "
        "holds 0; with three runs on each side it is wide, and an absence of difference is weak evidence."
    )
    return Table(name="t4_source", title="The source's numbers and ours", note=note, numbers=numbers, text=_frame(text))


def _reproduced_row(theirs: Any, result: DatasetResult | None) -> dict[str, Any]:
    about = {"dataset": theirs.dataset, "model": theirs.model, "measure": theirs.measure}
    about |= {"source_mean": theirs.mean, "source_std": theirs.std}
    empty = {
        "mean": math.nan,
        "std": math.nan,
        "runs": 0,
        "difference": math.nan,
        "ci_low": math.nan,
        "ci_high": math.nan,
    }
    if theirs.dataset == "late_block":
        return {**about, **empty, "said": _LATE}
    if result is None or not result.trained:
        return {**about, **empty, "said": "not run here: not in the manifest" if result is None else result.missing}
    if (found_model := model_of_ours(result, theirs.model)) is None:
        return {**about, **empty, "said": f"no run of the {theirs.model} by the source's recipe"}
    model, changed = found_model
    values, epochs = _numbers_of_runs(result, model, theirs.measure)
    if values.empty:
        return {**about, **empty, "said": f"not measured: {_what_it_needs(theirs.measure)}"}
    ours = {"mean": values.mean(), "std": values.std(ddof=1) if len(values) > 1 else math.nan, "runs": len(values)}
    found = welch_from_moments((theirs.mean, theirs.std, SEEDS), (ours["mean"], ours["std"], len(values)))
    ends = {"difference": found.difference, "ci_low": found.interval.low, "ci_high": found.interval.high}
    return {**about, **ours, **ends, "said": _said(changed, epochs, len(values), found.interval)}


def _what_it_needs(measure: str) -> str:
    """What a run that lacks a number would have to have measured."""
    if measure in _PROTOCOL:
        return "faithfulness by the metrics source"
    if measure in _ACCURACIES:
        return "accuracy after each epoch on as many test images as after the last (monitor_images)"
    return "the source's indicators after each epoch (monitor_indicators)"


def _said(changed: Mapping[str, Any], epochs: int, runs: int, interval: tuple[float, float]) -> str:
    if changed:
        return f"not decided: {first_of_changed(changed)} in place of the source's"
    if epochs < EPOCHS:
        return f"not decided: {epochs} of {EPOCHS} epochs were run"
    if runs < 2 or math.isnan(interval[0]):
        return "not decided: one run has no interval"
    return "reproduced" if interval[0] <= 0 <= interval[1] else "not reproduced"


def _numbers_of_runs(result: DatasetResult, model: str, measure: str) -> tuple[pd.Series[float], int]:
    """One number for each run of a model of ours that has it, and the epochs of the shortest of them."""
    history = result.history[result.history["model"] == model]
    epochs = history.groupby("seed", dropna=False)["epoch"].max().min()
    if measure in _PROTOCOL:
        indicator, source = _PROTOCOL[measure]
        of_model = result.table[result.table["model"] == model]
        rows = of_model[(of_model["indicator"] == indicator) & (of_model["source"] == source)]
        values = rows.set_index("seed")["mean"]
    elif measure in _ACCURACIES:
        rows = history[(history["indicator"] == "accuracy") & (history["source"] == "test")].sort_values("epoch")
        if measure == "best_accuracy":  # of epochs that were measured on the same images as the last
            rows = rows[rows.groupby("seed", dropna=False)["n"].transform("nunique") <= 1]
        values = rows.groupby("seed", dropna=False)["mean"].agg(_ACCURACIES[measure])
    else:
        known = by_epoch(history, SOURCE_MEASURES[measure]).ffill()
        values = known.iloc[-1] if len(known) else pd.Series(dtype=float)
    return values.dropna(), 0 if pd.isna(epochs) else int(epochs)


def _written(measure: str, mean: float, std: float) -> str:
    if math.isnan(mean):
        return MISSING
    if measure in SOURCE_MEASURES:
        form = SOURCE_MEASURES[measure].written
        return f"{mean:{form}}" if math.isnan(std) else f"{mean:{form}} ± {std:{form}}"
    return mean_and_spread(100 * mean, 100 * std, 2) + " %"


def _title(dataset: str) -> str:
    return DATASETS[dataset].title if dataset in DATASETS else spoken(dataset)


def _their_difference(row: dict[str, Any]) -> str:
    if math.isnan(row["difference"]):
        return MISSING
    ends = row["difference"], row["ci_low"], row["ci_high"]
    return estimate(*ends) if row["measure"] in SOURCE_MEASURES else f"{points(*ends)} points"


# --- epoch by epoch ---------------------------------------------------------------------------------------------------


def epochs_table(result: DatasetResult) -> Table | None:
    """The six indicators at each epoch that both logged, "theirs / ours"; None where either logged none of the data
    set. Ours is the mean over the runs of our SVDA model."""
    model = model_of_ours(result, "svda")
    if result.name != "fashion_mnist" or model is None:
        return None
    history = result.history[result.history["model"] == model[0]]
    by = {name: by_epoch(history, measure) for name, measure in SOURCE_MEASURES.items()}
    found = {name: runs.mean(axis=1) for name, runs in by.items()}
    rows = [
        {"epoch": int(log.epoch), "measure": name, "source": getattr(log, name), "ours": found[name][log.epoch]}
        for log in each_row(source_epochs())
        for name in SOURCE_MEASURES
        if log.epoch in found[name]
    ]
    if not rows:
        return None
    numbers = pd.DataFrame(rows, columns=["epoch", "measure", "source", "ours"])
    text = [
        {"Epoch": str(epoch)}
        | {spoken(row.measure): _pair(row.measure, row.source, row.ours) for row in each_row(group)}
        for epoch, group in numbers.groupby("epoch")
    ]
    runs = max(one.shape[1] for one in by.values())
    note = (
        f"The source's log of seed 42 / the mean of our {runs} run{'s' if runs > 1 else ''}. The source measured "
        "alignment and robustness on one image and selectivity on the last batch, we on the probe images."
    )
    return Table(name=f"t4_epochs_{result.name}", title="Epoch by epoch", note=note, numbers=numbers, text=_frame(text))


def _pair(measure: str, theirs: float, ours: float) -> str:
    form = SOURCE_MEASURES[measure].written
    return f"{theirs:{form}} / {ours:{form}}"


def _frame(rows: list[dict[str, str]]) -> pd.DataFrame:
    return pd.DataFrame(rows).fillna(MISSING)


# --- in words ---------------------------------------------------------------------------------------------------------


def what_became(table: Table, results: Sequence[DatasetResult]) -> Iterator[str]:
    """A line on where our last epoch stands beside the source's log, one for each verdict of a
    :func:`reproduction_table`, and one on what the source's selectivity means."""
    for result in results:
        yield from _beside_the_log(result)
    for said, group in pd.DataFrame(table.numbers).groupby("said", sort=False):
        which = ", ".join(_title(str(name)) for name in group["dataset"].unique())
        yield f"{capital(str(said))}: {len(group)} numbers ({which})."
    for result in results:
        yield from _of_uniform(result)


def _beside_the_log(result: DatasetResult) -> Iterator[str]:
    """Our indicators at the last epoch that both logged, and the source's."""
    table = epochs_table(result)
    if table is None or table.numbers is None:
        return
    last = table.numbers[table.numbers["epoch"] == table.numbers["epoch"].max()]
    pairs = [f"{spoken(row.measure).lower()} {_pair(row.measure, row.ours, row.source)}" for row in each_row(last)]
    yield f"After epoch {last['epoch'].iloc[0]} on {result.title}, ours / the source's log: {', '.join(pairs)}."


def _of_uniform(result: DatasetResult) -> Iterator[str]:
    """How far from uniform attention the source's selectivity is; uniform attention has the highest, 1 - 1/N."""
    mine = [found[0] for theirs in ("baseline", "svda") if (found := model_of_ours(result, theirs))]
    rows = result.history[result.history["model"].isin(mine)]
    rows = rows[rows["indicator"] == SOURCE_MEASURES["selectivity_index"].indicator]
    theirs = source_results().query("dataset == @result.name and measure == 'selectivity_index'")
    if rows.empty or theirs.empty:
        return
    most, mean = float(rows["high"].max()), float(theirs["mean"].iloc[0])
    if most < mean:  # ours has fewer tokens, and another bound
        return
    yield (
        f"The source's selectivity on {result.title}, {mean:.5f}, stands {most - mean:.1e} below {most:.5f}, which "
        "uniform attention has: it runs backwards, and says that the attention is all but uniform."
    )
