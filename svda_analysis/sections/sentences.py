"""What the numbers say, in sentences: accuracy, and which model has more of a quality. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from svda_analysis.comparison import judged_rows, summarise
from svda_analysis.formatting import counted, interval, number, p_value, percent, signed
from svda_analysis.frames import each_row
from svda_analysis.verdicts import EQUIVALENT, INCONCLUSIVE, OPPOSED, SUPPORTED, UNIFORM
from svda_analysis.vocabulary import label


def accuracy_lines(table: pd.DataFrame) -> list[str]:
    """Test accuracy of every model with its interval, one line each; empty where labels were not known."""
    known = table[(table["indicator"] == "accuracy") & (table["source"] == "test")]
    if known.empty:
        return []
    lines = []
    for row in each_row(summarise(known)):
        unit = f"{row.n_seeds} training runs" if row.n_seeds > 1 else "images of one run"
        lines.append(
            f"{row.model}: {percent(row.mean, 2)} {interval(row.ci_low, row.ci_high, percent=True)} over {unit}"
        )
    return lines


_OVER_CHANCE = ("deletion_gain", "insertion_gain")
MOST_LINES = 10  # verdicts that a reader takes in


def first_lines(lines: Sequence[str]) -> tuple[str, ...]:
    """At most :data:`MOST_LINES` lines, the last of which says how many more there would be."""
    if len(lines) <= MOST_LINES:
        return tuple(lines)
    return (*lines[: MOST_LINES - 1], f"{len(lines) - MOST_LINES + 1} more: see the comparison over the whole model.")


def statements(comparison: pd.DataFrame, quality: str = "structured") -> list[str]:
    """One sentence for each whole-model row whose quantity points to more or less of ``quality``: its verdict
    (``verdicts.py``), in words. In the order of the rows; of ``faithful`` maps by method."""
    if quality == "faithful":
        comparison = comparison.sort_values("source", kind="stable")
    return [_statement(row, quality) for row, _ in judged_rows(comparison, quality)]


def _statement(row: Any, quality: str) -> str:
    said = {
        SUPPORTED: f"{row.model} is more {quality}",
        OPPOSED: f"{row.baseline} is more {quality}",
        EQUIVALENT: f"{row.model} and {row.baseline} are equivalent",
        UNIFORM: f"{UNIFORM}, in which it says nothing",
        INCONCLUSIVE: INCONCLUSIVE,
    }[row.verdict]
    numbers = f"{number(row.model_mean)} against {number(row.baseline_mean)} of {row.baseline}"
    difference = f"{signed(row.difference)} {interval(row.ci_low, row.ci_high)}"
    return f"{label(row.indicator, row.source)}: {said} ({row.model} {numbers}, difference {difference} {_how(row)})."


def _how(row: Any) -> str:
    """What the verdict rests on: runs and p, or that there are none."""
    if row.unit != "seeds":
        return "over images of these two checkpoints; one training run each decides nothing"
    p = "" if pd.isna(row.p_adjusted) else f", p {p_value(row.p_adjusted)} after Holm"
    same = f", p {p_value(row.p_equivalent)} for equivalence" if row.verdict == EQUIVALENT else ""
    return f"over {counted(row.n_seeds, 'training run')}{p}{same}"


def gain_lines(table: pd.DataFrame) -> list[str]:
    """Of each model and method how much better its map ranks patches than chance, a line each; empty where that was not
    measured."""
    rows = (
        summarise(table[table["indicator"].isin(_OVER_CHANCE)])
        if table["indicator"].isin(_OVER_CHANCE).any()
        else table[:0]
    )
    several = len(set(rows["model"])) > 1
    lines = []
    for (model, method), mine in rows.groupby(["model", "source"], sort=False):
        said = []
        for row in each_row(mine):
            word = (
                "better than chance"
                if row.ci_low > 0
                else "worse than chance"
                if row.ci_high < 0
                else "not told from chance"
            )
            said.append(
                f"{label(row.indicator).lower()} {signed(row.mean)} {interval(row.ci_low, row.ci_high)}, {word}"
            )
        lines.append(f"{f'{model}, ' if several else ''}{str(method).replace('_', ' ')}: {'; '.join(said)}.")
    return lines


def matching_lines(matching: pd.DataFrame) -> list[str]:
    """How alike the heads of each pair of models are on the same image, matched and by chance, a line each."""
    rows = matching[(matching["measure"] == "js") & (matching["images"] == "same")]
    lines = []
    for (model, baseline), mine in rows.groupby(["model", "baseline"], sort=False):
        who = f"{model} and {baseline}" if model != baseline else f"{model} of two seeds"
        lines.append(
            f"Heads of {who}: similarity {number(mine['matched'].mean())} matched, {number(mine['chance'].mean())} by "
            f"chance, {number(mine['identity'].mean())} in the order they have (mean over layers)."
        )
    return lines
