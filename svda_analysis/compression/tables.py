"""What compressions changed, as tables of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from svda_analysis.compression.result import ACCURACIES, RATIOS, Compression, over_runs
from svda_analysis.formatting import fixed, interval, number, p_value, percent, points, short_number, signed
from svda_analysis.frames import each_row
from svda_analysis.vocabulary import label

_VERIFIED = {
    "accuracy": "Accuracy",
    "agreement": "Predictions that agree",
    "map_divergence": "Map divergence (Jensen-Shannon)",
    "parameters": "Parameters",
    "macs": "Multiply-accumulates",
    "bytes": "Bytes of the weights",
    "seconds_1": "Seconds for one image",
    "seconds_32": "Seconds for 32 images",
    "before_finetuning": "Accuracy, without fine-tuning",
    "finetuning": "Accuracy, compressed, by fine-tuning",
}


def verification_table(runs: Sequence[Compression], *, indicators: bool = True) -> pd.DataFrame:
    """What compressing the runs of one model changed, as text: shares as percentages, what is counted or timed as a
    ratio. One run has intervals over images (over rounds, where it is timed), several have them over runs; indicators
    are left out without ``indicators``."""
    rows = each_row(over_runs([run.verification for run in runs], ["quantity", "source"]))
    shown = (row for row in rows if indicators or row.quantity in _VERIFIED)
    return pd.DataFrame([_verified_cells(row, single=len(runs) == 1) for row in shown])


def _verified_cells(row: Any, *, single: bool) -> dict[str, str]:
    is_accuracy = row.quantity in ACCURACIES
    is_share, scale = is_accuracy or row.quantity == "agreement", 100 if is_accuracy else 1
    plain = short_number if row.quantity in _VERIFIED else number
    before, after = (percent(x, 2) if is_share else plain(x) for x in (row.before, row.after))
    if row.quantity in RATIOS:
        change = f"x {row.change:.3f}"
    else:
        change = f"{fixed(100 * row.change, 2, sign=True)} points" if is_accuracy else signed(row.change)
    digits = 3 if row.quantity in _VERIFIED else None
    cells = {
        "Quantity": _VERIFIED.get(row.quantity) or label(row.quantity, row.source),
        "Before": before,
        "After": after,
        "Change": "-" if pd.isna(row.change) else change,
        "95 % interval": interval(scale * row.ci_low, scale * row.ci_high, digits=digits, missing="-"),
        "p": p_value(row.p),
    }
    if single:
        cells["Images"] = "-" if pd.isna(row.n) or row.quantity.startswith("seconds") else str(row.n)
    return cells


def norms_table(runs: Sequence[Compression]) -> pd.DataFrame:
    """The same directions removed with each means of keeping the norm of unit rows, as text."""
    pooled = over_runs([run.norms for run in runs], ["kept"])
    return pd.DataFrame(
        [
            {
                "What keeps the norm": row.kept,
                "Rows removed": percent(row.rows_removed),
                "Accuracy (points)": points(row.change, row.ci_low, row.ci_high, missing=""),
            }
            for row in each_row(pooled)
        ]
    )


def compression_table(curve: pd.DataFrame) -> pd.DataFrame:
    """A sweep, of budgets or of energies, as text: masked and removed in separate columns."""
    return pd.DataFrame(
        [
            {
                **(
                    {"Criterion": row.criterion, "Energy": f"{row.energy:g}"}
                    if pd.isna(row.budget)
                    else {"Budget": f"{row.budget:.0%}"}
                ),
                "Directions removed": f"{row.directions_removed:.1%}",
                "Accuracy, masked (points)": points(row.masked_change, row.masked_low, row.masked_high, missing=""),
                "Rows removed": f"{row.rows_removed:.1%}",
                "Parameters": f"{row.parameters_change:+.1%}",
                "MACs": f"{row.macs_change:+.1%}",
                "Accuracy, removed (points)": points(row.removed_change, row.removed_low, row.removed_high, missing=""),
            }
            for row in each_row(curve)
        ]
    )
