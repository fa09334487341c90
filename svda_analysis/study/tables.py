"""The tables of a study: accuracy and cost, every indicator, variants beside each other. No torch here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pandas as pd

from svda_analysis.comparison import HOW_ADJUSTED, by_block, summarise
from svda_analysis.document import Table
from svda_analysis.earlier import AXES, UNCENTRED
from svda_analysis.formatting import (
    MISSING,
    estimate,
    file_word,
    fixed,
    mean_and_spread,
    number,
    p_value,
    points,
    thousands,
)
from svda_analysis.frames import BLOCKED_COLUMNS, each_row
from svda_analysis.sections.tables import comparison_tables
from svda_analysis.stats import Equivalence, noninferiority_power, pairs_needed
from svda_analysis.study.result import (
    DatasetResult,
    accuracy_difference,
    compare_pair,
    compare_variants,
    equivalence,
    whole_model_row,
)
from svda_analysis.verdicts import UNIFORM
from svda_analysis.vocabulary import label

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
            "Accuracy (%)": row["missing"] or mean_and_spread(100 * row["accuracy"], 100 * row["std"], 2),
            "Difference (points) [95% CI]": points(row["difference"], row["ci_low"], row["ci_high"]),
            "Runs compared": MISSING if pd.isna(row["difference"]) else str(row["n_seeds"]),
            "p": p_value(row["p"]),
            f"p (equivalent within {margin:g})": p_value(row["p_equivalent"]),
            "Power if equal (%)": fixed(100 * row["power"], 0),
            "Runs for 80 % if equal": MISSING if pd.isna(row["runs_needed"]) else str(int(row["runs_needed"])),
            "Interval over": row["unit"] or MISSING,
        }
        for row in rows
    ]
    note = (
        "Mean and standard deviation over training runs of the accuracy over all test images after the last epoch; "
        "difference from the dot-product baseline, paired by seed where seeds are shared. p is of a two-sided t test: "
        "small says that the accuracies differ. p (equivalent) is of two one-sided t tests (TOST) with a margin of "
        f"{margin:g} points: small says that they are the same to within the margin. Power: how often so many runs of "
        "the observed spread would show that a model of equal accuracy loses less than the margin (one-sided t test at "
        "5 %, not adjusted), and how many runs would do so in 80 of 100 studies; of few runs the spread itself is a "
        "rough guess, and for a model that is less accurate so many do not suffice. "
        "Where the models do not share all their seeds, the difference is of fewer runs than the means. One run each: "
        "the interval is over images and speaks of these checkpoints alone, without p."
    )
    return Table(name="t1_accuracy", title="Accuracy", note=note, numbers=numbers, text=pd.DataFrame(text))


def _accuracy_rows(result: DatasetResult, margin: float) -> Iterator[dict[str, Any]]:
    numbers = ["accuracy", "std", "difference", "ci_low", "ci_high", "n_seeds", "p", "p_equivalent"]
    numbers += ["power", "runs_needed"]
    empty = dict.fromkeys(numbers, math.nan)
    if not result.trained:
        yield {"data": result.title, "model": MISSING, "runs": 0, **empty, "unit": "", "missing": result.missing}
        return
    summary = summarise(result.table[result.table["indicator"] == "accuracy"]).set_index("model")
    for model in result.trained:
        own: Any = summary.loc[model]
        row = {"data": result.title, "model": model, **empty, "unit": "", "missing": ""}
        row |= {"runs": int(own["n_seeds"]), "accuracy": own["mean"], "std": own["std"]}
        if result.baseline not in (None, model):
            found = accuracy_difference(result, model, str(result.baseline))
            same = equivalence(result, model, str(result.baseline), margin)
            row |= {**found, **(_of_equivalence(same, margin / 100) if same else {})}
        yield row


def _of_equivalence(found: Equivalence, margin: float) -> dict[str, Any]:
    needed = pairs_needed(found.std, margin)
    power = noninferiority_power(found.std, found.n, margin)
    return {"p_equivalent": found.p, "power": power, "runs_needed": math.nan if needed is None else needed}


def cost_table(results: Sequence[DatasetResult]) -> Table:
    """T1, second part: parameters, MACs, seconds and memory an epoch."""
    rows = [row for result in results for row in _cost_rows(result)]
    text = [
        {
            "Data": row["data"],
            "Model": row["model"],
            label("parameters"): thousands(row["parameters"]),
            "More than baseline (%)": fixed(100 * row["more"], 3, sign=True),
            f"{label('macs')} (million)": fixed(row["macs"] / 1e6, 2),
            label("epoch_seconds"): mean_and_spread(row["seconds"], row["seconds_std"], 1),
            f"{label('peak_memory_mb')} (MB)": mean_and_spread(row["memory"], row["memory_std"], 0),
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
    baselines = result.in_role("baseline")
    own = result.sizes[baselines[0]] if baselines else None
    for model, size in result.sizes.items():
        more = size.parameters / own.parameters - 1 if own and model not in baselines else math.nan
        about = {"data": result.title, "model": model, "parameters": size.parameters, "macs": size.macs, "more": more}
        times = ("seconds", "seconds_std", "memory", "memory_std")
        yield {**about, **{name: getattr(size, name) for name in times}}


# --- T2: every indicator --------------------------------------------------------------------------------------------


def indicator_tables(result: DatasetResult, margin: float) -> list[Table]:
    """T2: every indicator of each model beside the baseline; and of SVDA beside the control. ``margin`` of accuracy."""
    pairs = [(model, result.baseline) for model in result.trained if result.baseline and model != result.baseline]
    pairs += [(studied, control) for studied in result.in_role("studied") for control in result.in_role("control")]
    return [
        _indicator_table(result, model, baseline, margin)
        for model, baseline in pairs
        if baseline and {model, baseline} <= set(result.trained)
    ]


def _indicator_table(result: DatasetResult, model: str, baseline: str, margin: float) -> Table:
    comparison = compare_pair(result, model, baseline, margin=margin)
    text = comparison_tables(comparison)[model, baseline]
    return Table(
        name=f"t2_{file_word(result.name)}_{file_word(model)}_{file_word(baseline)}",
        title=f"{result.title}: {model} against {baseline}",
        note=f"Means over layers and heads. {HOW_ADJUSTED} That is over more questions than the claims ask, so p is "
        "larger here than there, where it decides. The effect is the difference in units of its own spread over seeds "
        "where runs are paired by seed, else of the spread within the models (Hedges' correction, from three pairs "
        "on). Sigma belongs to SVDA alone, so it stands beside nothing.",
        numbers=comparison,
        text=pd.concat([text, _alone(result, model, baseline, text)], ignore_index=True),
    )


def _alone(result: DatasetResult, model: str, baseline: str, shared: pd.DataFrame) -> pd.DataFrame:
    """What ``model`` has and ``baseline`` has not, such as sigma's spectrum, as rows of the text ``shared``."""
    means = summarise(result.table[result.table["model"].isin([model, baseline])])
    whole = means[means["layer"].isna()]
    theirs = set(whole[whole["model"] == baseline][["indicator", "source"]].itertuples(index=False, name=None))
    rows = [
        {
            **dict.fromkeys(shared.columns, MISSING),
            "Source": row.source,
            "Indicator": label(row.indicator),
            model: number(row.mean),
            "Runs": str(row.n_seeds),
        }
        for row in each_row(whole[whole["model"] == model])
        if (row.indicator, row.source) not in theirs
    ]
    return pd.DataFrame(rows, columns=shared.columns)


# --- a study of variants --------------------------------------------------------------------------------------------

STUDIED = {
    ("selectivity_index", "attention"): "Selectivity",
    ("effective_rank", "sigma"): "Rank of sigma",
    ("effective_rank", "scores"): "Rank of scores",
    ("effective_rank", UNCENTRED): "Rank of uncentred scores",
    ("directions_90", "sigma"): "Directions, by sigma",
    ("directions_90", "data"): "Directions, by data",
    ("directions_90", AXES): "Directions, by axes",
}


BLOCKED = {
    key: STUDIED[key]
    for key in (("selectivity_index", "attention"), ("effective_rank", "scores"), ("effective_rank", UNCENTRED))
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
    text = pd.DataFrame([_study_text(row, base, _studied_in(result)) for row in rows])
    note = (
        f"Mean and standard deviation over training runs; differences of accuracy are from {base}, paired by seed. "
        "Ranks are effective ranks. Directions: the share of a head's directions that hold 90 % of the energy of the "
        "scores, by sigma alone (sigma_i^2) and as the data weigh them, in the basis of the scores' own operator "
        "(squared singular values of C_q^(1/2) diag(sigma) C_k^(1/2), keys centred); without a sigma, by data alone. "
        "Intervals are not adjusted for the number of variants."
    )
    note += _of_pairs(rows)
    if ("effective_rank", UNCENTRED) in _studied_in(result):
        note += (
            " Runs that were measured before 0.3 have their spectra from uncentred keys, of which the softmax drops a "
            "part, and directions along the axes of q and k (sigma_i^2 E[q_i^2] E[k_i^2]), which mean little without "
            "a sigma."
        )
    return Table(name=f"study_{file_word(result.name)}", title=result.title, note=note, numbers=numbers, text=text)


def _of_pairs(rows: Sequence[Mapping[str, Any]]) -> str:
    """What a note says of differences that rest on fewer runs than the means beside them, or on images."""
    fewer = [f"{row['n_seeds']} of {row['model']}" for row in rows if row.get("n_seeds", math.inf) < row["runs"]]
    alone = [row["model"] for row in rows if row.get("unit") == "images"]
    said = f" Of fewer runs than the means are the differences of {', '.join(fewer)}." if fewer else ""
    if alone:
        said += f" The intervals of {', '.join(alone)} are over images: they speak of one pair of checkpoints alone."
    return said


def _studied_in(result: DatasetResult) -> dict[tuple[str, str], str]:
    """Those of :data:`STUDIED` that a result has."""
    present = set(result.table[["indicator", "source"]].itertuples(index=False, name=None))
    return {key: name for key, name in STUDIED.items() if key in present}


def _studied(result: DatasetResult, model: str, base: str) -> dict[str, Any]:
    summary = summarise(result.table[result.table["model"] == model])
    row: dict[str, Any] = {}
    for indicator, source in [("accuracy", "test"), *_studied_in(result)]:
        found = whole_model_row(summary, indicator, source)
        name = "accuracy" if indicator == "accuracy" else f"{indicator}_{source}"
        row |= {name: found.mean if found else math.nan, f"{name}_std": found.std if found else math.nan}
        row["runs"] = found.n_seeds if indicator == "accuracy" and found else row.get("runs", 0)
    if model != base and base in result.trained:
        row |= accuracy_difference(result, model, base)
    return row


def _study_text(row: Mapping[str, Any], base: str, studied: Mapping[tuple[str, str], str]) -> dict[str, str]:
    """A row of the study as text; what was not run is a dash."""
    accuracy = mean_and_spread(100 * row.get("accuracy", math.nan), 100 * row.get("accuracy_std", math.nan), 2)
    difference = [row.get(key, math.nan) for key in ("difference", "ci_low", "ci_high")]
    structure = {}
    for (indicator, source), name in studied.items():
        values = [row.get(f"{indicator}_{source}{end}", math.nan) for end in ("", "_std")]
        if indicator == "directions_90":
            structure[f"{name} (%)"] = mean_and_spread(100 * values[0], 100 * values[1], 0)
        else:
            structure[name] = mean_and_spread(values[0], values[1], 3 if indicator == "selectivity_index" else 1)
    return {
        "Model": row["model"],
        "Changed": row["changed"] or MISSING,
        "Runs": str(row["runs"]),
        "Accuracy (%)": row["missing"] or accuracy,
        f"From {base} (points) [95% CI]": points(*difference),
        **structure,
    }


def blocked_table(result: DatasetResult, against: str) -> Table:
    """Every variant that is alive against the model ``against``, with the training seeds as blocks: accuracy and
    structure."""
    table, every = result.living, [("accuracy", "test"), *BLOCKED]
    parts = [compare_variants(result, *key, against) for key in every if _has(table, *key, against)]
    numbers = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(BLOCKED_COLUMNS))
    text = pd.DataFrame([_blocked_text(model, rows) for model, rows in numbers.groupby("model", sort=False)])
    note = (
        f"Differences from {against}, with 95 % intervals and p in brackets: the linear model of variant and training "
        "seed, seeds being blocks (runs of one seed share initial weights and the order of the data), its error pooled "
        "over all variants. p is adjusted by Holm's method over the variants of a column; intervals are not adjusted."
    )
    note += runs_compared(result) + left_out_as_uniform(result)
    name = f"blocked_{file_word(result.name)}_{file_word(against)}"
    return Table(name=name, title=f"{result.title}: variants against {against}", note=note, numbers=numbers, text=text)


def left_out_as_uniform(result: DatasetResult) -> str:
    """What a note says of the trained models that are not alive; empty where all are."""
    dead = [name for name in result.trained if name not in result.alive]
    return f" {UNIFORM.capitalize()}, in which a rank says nothing, so left out: {', '.join(dead)}." if dead else ""


def runs_compared(result: DatasetResult) -> str:
    """What a note says of how many runs of each living model the linear model of seeds rests on, where that is not all
    of as many; empty where it is."""
    own = result.living.groupby("model")["seed"].nunique()
    runs = by_block(result.living, "accuracy", "test").count().reindex(own.index, fill_value=0)
    usual = 0 if runs.empty else int(runs.mode().iloc[-1])
    if not runs.any() or ((runs == usual) & (own == usual)).all():
        return ""
    other = [f"{runs[name]} of {name}" for name in result.alive if runs[name] != usual]
    return f" Training runs compared: {usual} of each model{', but ' if other else ''}{', '.join(other)}."


def _has(table: pd.DataFrame, indicator: str, source: str, model: str) -> bool:
    rows = table[(table["indicator"] == indicator) & (table["source"] == source)]
    return model in set(rows["model"])


def _blocked_text(model: Any, rows: pd.DataFrame) -> dict[str, str]:
    made = {"Model": str(model)}
    for row in each_row(rows):
        percent = row.indicator == "accuracy"
        shown = (points if percent else estimate)(row.difference, row.ci_low, row.ci_high)
        name = "Accuracy (points)" if percent else BLOCKED[row.indicator, row.source]
        made[f"{name} [95% CI] (p)"] = f"{shown} ({p_value(row.p_adjusted)})"
    return made


def what_changed(fields: Mapping[str, Any]) -> str:
    """What a variant changes, as ``sigma_start one, shape_penalty 0.0``."""
    shown = {key: value for key, value in fields.items() if (key, value) != ("attention", "svda")}
    return ", ".join(f"{key} {value}" for key, value in shown.items())
