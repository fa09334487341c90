"""The rows of a table that a plot draws, and what they are called. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from svda_analysis.errors import InputError
from svda_analysis.figures.style import Models, Names, Style, model_styles
from svda_analysis.frames import check_columns
from svda_analysis.vocabulary import label, quantity

Pairs = Sequence[tuple[str, str]]
_ONE_ROW = ["model", "seed", "epoch", "layer", "head"]


def choose(what: str, value: object, present: Sequence[Any]) -> Any:
    """``value`` if present; the only one present if ``value`` is None."""
    if value is None and len(present) == 1:
        return present[0]
    if value is None or value not in present:
        raise InputError(f"{what} must be one of {', '.join(map(str, present))}, got {value!r}")
    return value


def rows_of(
    table: pd.DataFrame, indicator: str, source: str | None, *, name: str = "table", per_layer: bool = True
) -> pd.DataFrame:
    """The rows of one indicator from one source, one for each model, seed, epoch, layer and head."""
    check_columns(table, [*_ONE_ROW, "indicator", "source", "mean"], name)
    rows = table.dropna(subset="layer") if per_layer else table
    if rows.empty:
        raise InputError(f"{name} has no rows with a layer")
    indicator = choose("indicator", indicator, list(rows["indicator"].unique()))
    rows = rows[rows["indicator"] == indicator]
    sources = list(rows["source"].dropna().unique())
    if sources:
        rows = rows[rows["source"] == choose(f"source of {indicator}", source, sources)]
    if rows.duplicated(_ONE_ROW).any():
        raise InputError(
            f"{name} must hold one row of {indicator} for each model, seed, epoch, layer and head, got several"
        )
    return rows


def last_epoch(rows: pd.DataFrame) -> pd.DataFrame:
    """Of each run the rows of its last epoch."""
    epoch = rows["epoch"].fillna(-1)
    last = epoch.groupby([rows["model"], rows["seed"]], dropna=False).transform("max")
    return rows[epoch == last]


def of_models(frame: pd.DataFrame, models: Models) -> pd.DataFrame:
    """The rows of ``models`` (None: all)."""
    check_columns(frame, ["model"])
    rows = frame if models is None else frame[frame["model"].isin(models)]
    if rows.empty:
        present = ", ".join(map(str, frame["model"].unique()))
        raise InputError(f"models must hold at least one of {present}, got {', '.join(models or ())}")
    return rows


def drawn_styles(rows: pd.DataFrame, models: Models) -> dict[str, Style]:
    """The styles of those of ``models`` (None: all) that have rows, in drawing order."""
    return model_styles(of_models(rows, models), models)


def layered_pairs(table: pd.DataFrame, skip: Names, name: str = "table") -> list[tuple[str, str | None]]:
    """(indicator, source) of everything measured per layer but for ``skip``, in the table's order; of models of several
    kinds of attention without what does not compare these."""
    check_columns(table, ["model", "layer", "indicator", "source"], name)
    rows = table[table["layer"].notna() & ~table["indicator"].isin(list(skip))]
    check_columns(rows, [], f"{name} without {', '.join(skip)}" if skip else f"{name}, rows with a layer,")
    if "attention" in rows and len(set(rows["attention"].dropna())) > 1:
        comparable = rows["indicator"].map(lambda name: quantity(str(name)).compares_kinds)
        rows = rows[comparable | ~rows["indicator"].isin(_of_several_kinds(rows))]
    kinds = rows[["indicator", "source"]].drop_duplicates()
    order = {name: i for i, name in enumerate(kinds["indicator"].unique())}
    kinds = kinds.sort_values("indicator", key=lambda names: names.map(order), kind="stable")
    return [(i, None if pd.isna(s) else s) for i, s in kinds.itertuples(index=False)]


def _of_several_kinds(rows: pd.DataFrame) -> set[str]:
    """The indicators that models of several kinds of attention have."""
    kinds = rows.groupby("indicator")["attention"].nunique()
    return set(kinds[kinds > 1].index)


def present_pairs(table: pd.DataFrame, wanted: Pairs, name: str = "table") -> list[tuple[str, str]]:
    """Those of the ``wanted`` (indicator, source) that the table has; InputError where it has none."""
    check_columns(table, ["indicator", "source"], name)
    present = set(table[["indicator", "source"]].itertuples(index=False, name=None))
    found = [pair for pair in wanted if pair in present]
    if not found:
        names = ", ".join(dict.fromkeys(indicator for indicator, _ in wanted))
        raise InputError(f"{name} must hold one of {names}, got none")
    return found


def axis_label(table: pd.DataFrame, rows: pd.DataFrame) -> str:
    """What the vocabulary calls the indicator of ``rows``: its source where ``table`` has it from several, its unit."""
    indicator, source = str(rows["indicator"].iloc[0]), rows["source"].iloc[0]
    several = len(table.loc[table["indicator"] == indicator, "source"].dropna().unique()) > 1
    unit = quantity(indicator).unit
    return label(indicator, str(source) if several else None) + (f", {unit}" if unit else "")
