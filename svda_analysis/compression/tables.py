"""What compressions changed, as tables of text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from svda_analysis.compression.result import ACCURACIES, COMPRESSION, RATIOS, Compression, Compressions, over_runs
from svda_analysis.formatting import (
    fixed,
    interval,
    mean_and_spread,
    number,
    p_value,
    percent,
    points,
    short_number,
    signed,
)
from svda_analysis.frames import each_row
from svda_analysis.stats import Contrast, paired_test
from svda_analysis.vocabulary import label, quantity


def verification_table(runs: Sequence[Compression], *, indicators: bool = True) -> pd.DataFrame:
    """What compressing the runs of one model changed, as text: shares as percentages, what is counted or timed as a
    ratio. One run has intervals over images (over rounds, where it is timed), several have them over runs; indicators
    are left out without ``indicators``."""
    rows = each_row(over_runs([run.verification for run in runs], ["quantity", "source"]))
    shown = (row for row in rows if indicators or _is_of_model(row.quantity))
    return pd.DataFrame([_verified_cells(row, single=len(runs) == 1) for row in shown])


def _is_of_model(name: str) -> bool:
    """Whether a quantity is one of the whole model, and no indicator."""
    return name == "accuracy" or quantity(name).family in ("cost", COMPRESSION)


def _verified_cells(row: Any, *, single: bool) -> dict[str, str]:
    is_accuracy = row.quantity in ACCURACIES
    is_share, scale = is_accuracy or row.quantity == "agreement", 100 if is_accuracy else 1
    plain = short_number if _is_of_model(row.quantity) else number
    before, after = (percent(x, 2) if is_share else plain(x) for x in (row.before, row.after))
    if row.quantity in RATIOS:
        change = f"x {row.change:.3f}"
    else:
        change = f"{fixed(100 * row.change, 2, sign=True)} points" if is_accuracy else signed(row.change)
    digits = 3 if _is_of_model(row.quantity) else None
    cells = {
        "Quantity": label(row.quantity, None if pd.isna(row.source) else row.source),
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


# --- models of equal size ---------------------------------------------------------------------------------------------

_WAYS = {"operator": "operator SVD", "sigma": "weight SVD"}
_WHEN = {"removed": "", "finetuned": ", fine-tuned"}


def at_budgets(found: Compressions) -> pd.DataFrame:
    """What was measured at budgets, rows of each run: ``frames.BUDGET_COLUMNS`` with ``model``, ``attention``, ``seed``
    and ``way``, which is the model, with what ranked its directions where it has several of these."""
    parts = []
    for model, runs in found.by_model.items():
        several = len({name for run in runs for name in run.budgets["criterion"]}) > 1
        for run in runs:
            ways = [f"{model}, {_WAYS[name]}" if several else model for name in run.budgets["criterion"]]
            about = {"model": model, "attention": run.meta["attention"], "seed": run.seed, "way": ways}
            parts.append(run.budgets.assign(**about))
    return pd.concat([part for part in parts if len(part)], ignore_index=True) if any(map(len, parts)) else parts[0]


def budget_table(measured: pd.DataFrame) -> pd.DataFrame:
    """Accuracy at each share of the rows, as text: a row for each way to that size, without fine-tuning and with; means
    and standard deviations over runs. ``measured`` is that of :func:`at_budgets`."""
    lines = []
    for when, said in _when(measured).items():
        for way, rows in measured.groupby("way", sort=False):
            whole = rows.drop_duplicates("seed")["whole"]
            cells = {f"{100 * budget:g}%": _spread_of(at[when]) for budget, at in _by_budget(rows)}
            lines.append(
                {"Accuracy (%), rows kept:": f"{way}{said}", "all": "-" if said else _spread_of(whole), **cells}
            )
    return pd.DataFrame(lines).fillna("-")


def budget_differences(measured: pd.DataFrame) -> pd.DataFrame:
    """How much more accurate SVDA is than plain attention of that size, as text: points with their interval over seeds,
    paired; no row without two seeds in common."""
    lines: dict[str, dict[str, str]] = {}
    for (compared, budget), found in contrasts_at_budgets(measured).items():
        lines.setdefault(compared, {})[f"{100 * budget:g}%"] = points(found.difference, *found.interval)
    return pd.DataFrame([{"Points, rows kept:": compared, **cells} for compared, cells in lines.items()]).fillna("-")


def contrasts_at_budgets(measured: pd.DataFrame) -> dict[tuple[str, float], Contrast]:
    """SVDA minus plain attention in accuracy, by what is compared ("svda - vit, fine-tuned") and budget; paired by
    seed, where both have two seeds in common."""
    ours, theirs = (measured[(measured["attention"] == "svda") == is_svda] for is_svda in (True, False))
    found: dict[tuple[str, float], Contrast] = {}
    for when, said in _when(measured).items():
        for way, mine in ours.groupby("way", sort=False):
            for other, plain in theirs.groupby("way", sort=False):
                at = dict(_by_budget(plain))
                for budget, rows in _by_budget(mine):
                    if budget in at and (contrast := _over_seeds(at[budget], rows, when)):
                        found[f"{way} - {other}{said}", budget] = contrast
    return found


def _by_budget(rows: pd.DataFrame) -> list[tuple[float, pd.DataFrame]]:
    """The rows of each budget, the largest first."""
    return [(budget, rows[rows["budget"] == budget]) for budget in sorted(set(rows["budget"]), reverse=True)]


def _when(measured: pd.DataFrame) -> dict[str, str]:
    return {when: said for when, said in _WHEN.items() if measured[when].notna().any()}


def _spread_of(values: pd.Series) -> str:
    return mean_and_spread(100 * values.mean(), 100 * values.std(ddof=1), 2)


def _over_seeds(theirs: pd.DataFrame, ours: pd.DataFrame, when: str) -> Contrast | None:
    """The difference over the seeds that both have; None for fewer than two."""
    pairs = pd.concat([part.dropna(subset="seed").set_index("seed")[when] for part in (theirs, ours)], axis=1).dropna()
    if len(pairs) < 2:
        return None
    return paired_test(pairs.iloc[:, 0].to_numpy(), pairs.iloc[:, 1].to_numpy(), span=1.0)
