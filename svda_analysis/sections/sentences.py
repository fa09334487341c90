"""What the numbers say, in sentences: accuracy, and which model has more of a quality. No torch here."""

from __future__ import annotations

from typing import Any

import pandas as pd

from svda_analysis.comparison import summarise
from svda_analysis.formatting import interval, number, percent, signed
from svda_analysis.frames import each_row
from svda_analysis.vocabulary import label, quantity


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


def statements(comparison: pd.DataFrame, quality: str = "structured") -> list[str]:
    """One sentence for each whole-model row whose quantity points to more or less of ``quality``: which model has more
    of it, and how sure that is. In the order of the rows; of ``faithful`` maps by method."""
    rows = comparison[comparison["layer"].isna()]
    if quality == "faithful":
        rows = rows.sort_values("source", kind="stable")
    found = ((row, quantity(str(row.indicator))) for row in each_row(rows))
    known = ((row, about.sign(str(row.source))) for row, about in found if about.quality == quality)
    return [_statement(row, sign, quality) for row, sign in known if sign]


def _statement(row: Any, direction: int, quality: str) -> str:
    unit = f"over {row.n_seeds} training runs" if row.unit == "seeds" else "over images, these two checkpoints only"
    numbers = (
        f"{number(row.model_mean)} against {number(row.baseline_mean)}, difference {signed(row.difference)} "
        f"{interval(row.ci_low, row.ci_high)} {unit}"
    )
    name = label(row.indicator, row.source)
    if pd.isna(row.ci_low) or row.ci_low <= 0 <= row.ci_high:
        return f"{name}: no difference shown between {row.model} and {row.baseline} ({numbers})."
    more = row.model if row.difference * direction > 0 else row.baseline
    return f"{name}: {more} is more {quality} ({row.model} {numbers})."
