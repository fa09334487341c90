"""What structure costs: accuracy against the rank of the scores along each dial of a study. No torch here.

Two dials are compared where both reach a rank: the accuracy of a setting of the first minus that of the second at the
same rank of the scores, on the straight line between its two settings nearest to it on either side (our definition). It
is a contrast of the linear model of model and training seed (:func:`~svda_analysis.comparison.contrast_blocked`), whose
weights are taken as known: that the ranks are means of a few runs themselves, of each model its own, is not counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from svda_analysis.comparison import by_block, contrast_blocked, one_number_per_run, summarise
from svda_analysis.document import Table
from svda_analysis.formatting import file_word, mean_and_spread, p_value, points
from svda_analysis.frames import FRONTIER_COLUMNS, each_row, make_frame
from svda_analysis.stats import holm
from svda_analysis.study.dials import Dial
from svda_analysis.study.findings import ACCURACY, RANK, side
from svda_analysis.study.result import DatasetResult, whole_model_row
from svda_analysis.study.tables import left_out_as_uniform, runs_compared

_OF_SIGMA = ("effective_rank", "sigma")


def frontier_runs(result: DatasetResult, dials: Sequence[Dial]) -> pd.DataFrame:
    """Rank of the scores and accuracy of every run on a dial, as rows of ``frames.FRONTIER_COLUMNS``."""
    of_runs = {"rank": _whole_by_run(result.table, *RANK), "accuracy": _whole_by_run(result.table, *ACCURACY)}
    kinds = result.table.drop_duplicates("model").set_index("model")["attention"]
    rows = [
        {
            **{"dial": dial.title, "setting": setting, "model": model, "attention": kinds[model], "seed": seed},
            **{name: numbers.get((model, seed), math.nan) for name, numbers in of_runs.items()},
        }
        for dial in dials
        for model, setting in zip(dial.models, dial.settings, strict=True)
        for seed in sorted(seed for name, seed in of_runs["rank"] if name == model)
    ]
    return make_frame(rows, FRONTIER_COLUMNS)


def _whole_by_run(table: pd.DataFrame, indicator: str, source: str) -> dict[tuple[str, int], float]:
    runs = one_number_per_run(table[(table["indicator"] == indicator) & (table["source"] == source)])
    whole = runs[runs["layer"].isna() & runs["seed"].notna()]
    return {(str(row.model), int(row.seed)): float(row.mean) for row in each_row(whole)}


def frontier_table(result: DatasetResult, dials: Sequence[Dial]) -> Table:
    """A row for each setting of each dial: the ranks of sigma and scores that it reaches, and its accuracy beside that
    of the dial's loosest setting."""
    rows = [row for dial in dials for row in _dial_rows(result, dial)]
    numbers = pd.DataFrame(rows)
    text = [
        {
            "Dial": row["dial"] if not row["place"] else "",
            "Setting": row["setting"],
            "Model": row["model"],
            "Runs": str(row["runs"]),
            "Rank of sigma": mean_and_spread(row["rank_sigma"], row["rank_sigma_std"], 1),
            "Rank of scores": mean_and_spread(row["rank_scores"], row["rank_scores_std"], 2),
            "Accuracy (%)": mean_and_spread(100 * row["accuracy"], 100 * row["accuracy_std"], 2),
            "From the loosest (points) [95% CI]": points(row["difference"], row["ci_low"], row["ci_high"]),
        }
        for row in rows
    ]
    note = (
        "Mean and standard deviation over training runs. Each dial is turned by one field alone, from its loosest "
        "setting to its tightest. A target is a share of each head's directions: the penalty acts on what the entropy "
        "of sigma's shape has above that of so many equal directions. Differences by the linear model of model and "
        "training seed, its error pooled over all models; the intervals are not adjusted for their number."
        + left_out_as_uniform(result)
    )
    name = f"frontier_{file_word(result.name)}"
    title = f"{result.title}: what each way to structure reaches, and what it costs"
    return Table(name=name, title=title, note=note, numbers=numbers, text=pd.DataFrame(text))


def _dial_rows(result: DatasetResult, dial: Dial) -> list[dict[str, Any]]:
    rows = []
    for place, (model, setting) in enumerate(zip(dial.models, dial.settings, strict=True)):
        summary = summarise(result.table[result.table["model"] == model])
        row: dict[str, Any] = {"dial": dial.title, "place": place, "setting": setting, "model": model}
        for name, key in (("rank_sigma", _OF_SIGMA), ("rank_scores", RANK), ("accuracy", ACCURACY)):
            found = whole_model_row(summary, *key)
            row |= {name: found.mean if found else math.nan, f"{name}_std": found.std if found else math.nan}
            row["runs"] = found.n_seeds if found else row.get("runs", 0)
        weights = {model: 1.0, dial.models[0]: -1.0}
        rows.append(row | _in_accuracy(result, weights if place else {}))
    return rows


def _in_accuracy(result: DatasetResult, weights: Mapping[str, float]) -> dict[str, float]:
    """A weighted sum of the living models' accuracies; all NaN without weights, or where no shared seeds tell it."""
    if not weights or len(by_block(result.living, *ACCURACY)) < 2:
        return dict.fromkeys(("difference", "ci_low", "ci_high", "p"), math.nan)
    found = contrast_blocked(result.living, *ACCURACY, weights)
    return {"difference": found.difference, "ci_low": found.interval.low, "ci_high": found.interval.high, "p": found.p}


# --- two dials at one rank --------------------------------------------------------------------------------------------


def at_equal_rank(result: DatasetResult, first: Dial, second: Dial) -> dict[str, dict[str, float]]:
    """For each setting of ``first`` whose rank of the scores ``second`` reaches too, by model: the weights of the
    contrast between their accuracies at that rank."""
    ranks = by_block(result.living, *RANK).mean()
    reached = {
        model: weights for model in first.models if (weights := _weights_at(ranks.get(model, math.nan), ranks, second))
    }
    return {
        model: {name: float(name == model) - weights.get(name, 0.0) for name in (model, *weights)}
        for model, weights in reached.items()
    }


def _weights_at(rank: float, ranks: pd.Series[float], dial: Dial) -> dict[str, float]:
    """How the two settings of a dial that are nearest to ``rank`` on either side add up to it; empty outside of it."""
    known = ranks.reindex(list(dial.models)).dropna().sort_values()
    if known.empty or not known.iloc[0] <= rank <= known.iloc[-1]:
        return {}
    above = max(1, int(np.searchsorted(known.to_numpy(), rank)))
    (low, high), names = known.iloc[above - 1 : above + 1], known.index[above - 1 : above + 1]
    share = (rank - low) / (high - low) if high > low else 0.0
    return {str(names[0]): float(1 - share), str(names[1]): float(share)}


def equal_rank_table(result: DatasetResult, dials: Sequence[Dial]) -> Table:
    """The settings of the first dial beside each other dial at the same rank of the scores."""
    rows = []
    for second in dials[1:]:
        for model, weights in at_equal_rank(result, dials[0], second).items():
            setting = dials[0].settings[dials[0].models.index(model)]
            rank = by_block(result.living, *RANK)[model].mean()
            about = {"setting": setting, "model": model, "rank_scores": rank, "beside": second.title}
            rows.append({**about, **_in_accuracy(result, weights)})
    numbers = pd.DataFrame(rows)
    text = pd.DataFrame()
    if rows:
        numbers = numbers.assign(p_adjusted=holm(numbers["p"]))
        text = pd.DataFrame(
            {
                "Model": row.model,
                "Setting": row.setting,
                "Rank of scores": f"{row.rank_scores:.2f}",
                "Beside": row.beside,
                "Accuracy (points) [95% CI]": points(row.difference, row.ci_low, row.ci_high),
                "p (Holm)": p_value(row.p_adjusted),
            }
            for row in each_row(numbers)
        )
    note = (
        f"The accuracy with {dials[0].title} minus that of the other way at the same rank of the scores, on the "
        "straight line between its two nearest settings (our definition); a setting whose rank the other does not "
        "reach has no row. The linear model of model and training seed; the ranks are taken as known."
        + runs_compared(result)
    )
    name, title = f"equal_rank_{file_word(result.name)}", f"{result.title}: accuracy at the same rank of the scores"
    return Table(name=name, title=title, note=note, numbers=numbers, text=text)


# --- in words ---------------------------------------------------------------------------------------------------------


def what_structure_costs(result: DatasetResult, dials: Sequence[Dial]) -> list[str]:
    """Which ranks the first dial reaches, and whether it is a better way there than each other: the mean difference of
    accuracy over its settings whose rank the other reaches, p adjusted over these answers."""
    if not dials:
        return []
    lines = [_reached(result, dials[0])]
    if by_block(result.living, *RANK).empty:
        return lines
    pairs = [(second, at_equal_rank(result, dials[0], second)) for second in dials[1:]]
    means = [_in_accuracy(result, _average_of(found)) for _, found in pairs]
    for (second, found), mean, p in zip(pairs, means, holm([mean["p"] for mean in means]), strict=True):
        if not found:
            lines.append(f"No rank of scores is reached both by {dials[0].title} and by {second.title}.")
        elif not math.isnan(mean["difference"]):
            said = f"{points(mean['difference'], mean['ci_low'], mean['ci_high'])} points, p {p_value(p)}"
            lines.append(
                f"At the same rank of scores, {dials[0].title} beside {second.title}: accuracy "
                f"{side(mean['difference'], p)} ({said}; mean over {', '.join(found)})."
            )
    return lines


def _reached(result: DatasetResult, dial: Dial) -> str:
    """The ranks that the settings of a dial have."""
    rows, said = _dial_rows(result, dial), []
    for name, what in (("rank_sigma", "rank of sigma"), ("rank_scores", "rank of scores")):
        if not any(math.isnan(row[name]) for row in rows):
            said.append(f"{what} {', '.join(f'{row[name]:.1f}' for row in rows)}")
    return f"{dial.opening}, at {', '.join(dial.settings)}: {'; '.join(said)}."


def _average_of(contrasts: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """The mean of several weighted sums as one."""
    names = dict.fromkeys(name for weights in contrasts.values() for name in weights)
    return {name: sum(w.get(name, 0.0) for w in contrasts.values()) / len(contrasts) for name in names}
