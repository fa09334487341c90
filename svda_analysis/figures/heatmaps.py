"""Heads by layers as heat maps. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svda_analysis.figures.panels import heat_cells, least_span, own_figure, thin_ticks
from svda_analysis.figures.rows import axis_label, choose, drawn_styles, last_epoch, layered_pairs, of_models, rows_of
from svda_analysis.figures.style import ONE_COLUMN, Models, Names, beside, model_styles, page_width, verbatim
from svda_analysis.formatting import shorten


def plot_indicator_heatmap(
    table: pd.DataFrame,
    *,
    indicator: str,
    source: str | None = None,
    model: str | None = None,
    seed: int | None = None,
    ax: Axes | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    cbar: bool = True,
    numbers: bool = False,
) -> Axes:
    """Heads (rows) by layers (columns) of one run of one model.

    Head 1 of one run has nothing to do with head 1 of another, so runs are not averaged: with several seeds the map
    shows ``seed``, or the lowest, and the title says so.
    """
    rows = last_epoch(rows_of(table, indicator, source))
    text = axis_label(table, rows)
    model = choose("model", model, list(rows["model"].unique()))
    rows = rows[rows["model"] == model]
    seeds = sorted(rows["seed"].dropna().unique())
    title = str(model)
    if seeds:
        seed = choose("seed", seeds[0] if seed is None else seed, seeds)
        rows = rows[rows["seed"] == seed]
        title += f", seed {seed}" + (f" (1 of {len(seeds)} runs)" if len(seeds) > 1 else "")
    ax = plt.gca() if ax is None else ax
    heads, layers = (range(rows[name].min(), rows[name].max() + 1) for name in ("head", "layer"))
    cells = rows.pivot_table(index="head", columns="layer", values="mean").reindex(index=heads, columns=layers)
    mesh = heat_cells(ax, cells, vmin=vmin, vmax=vmax, numbers=numbers and cells.size <= 60)
    if cbar:
        ax.figure.colorbar(mesh, ax=ax, label=text, pad=0.02).outline.set_visible(False)
    ax.set(title=verbatim(title), xlabel="Layer", ylabel="Head")
    return ax


def plot_indicator_heatmaps(
    table: pd.DataFrame,
    *,
    indicator: str,
    source: str | None = None,
    seed: int | None = None,
    models: Models = None,
    fig: Figure | None = None,
) -> Figure:
    """:func:`plot_indicator_heatmap` of each model, side by side on one colour scale with one colour bar.

    A model of ``models`` without this indicator (no sigma in a baseline) leaves its place empty.
    """
    rows = rows_of(table, indicator, source)
    names = list(models or drawn_styles(rows, None))
    fig, style = own_figure(fig, ONE_COLUMN if len(names) == 1 else page_width(), 1.9)
    with style:
        axes = fig.subplots(1, len(names) + 1, squeeze=False, width_ratios=[1] * len(names) + [0.05])[0]
        _draw_heat_row(axes, table, indicator, source, names, seed)
        axes[-1].set_ylabel(axis_label(table, rows))
    return fig


def _draw_heat_row(
    axes: Any,
    table: pd.DataFrame,
    indicator: str,
    source: str | None,
    names: Names,
    seed: int | None = None,
    *,
    numbers: bool = False,
) -> None:
    """A heat map of each model of ``names``, and on the last Axes the colour bar that they share."""
    rows = last_epoch(rows_of(table, indicator, source))
    shown = rows[rows["model"].isin(list(drawn_styles(rows, names)))]
    what: dict[str, Any] = {"indicator": indicator, "source": source, "seed": seed}
    vmin, vmax = least_span(shown["mean"].min(), shown["mean"].max())
    scale: dict[str, Any] = {"vmin": vmin, "vmax": vmax, "cbar": False, "numbers": numbers}
    present = [model for model in names if model in set(shown["model"])]
    for ax, model in zip(axes, names, strict=False):
        if model in present:
            plot_indicator_heatmap(table, model=model, ax=ax, **what, **scale)
            colors = ax.collections[0]
        else:
            ax.set_axis_off()
        if model != present[0]:
            ax.set_ylabel("")
    bar = axes[-1].figure.colorbar(colors, cax=axes[-1])
    bar.outline.set_visible(False)


HEAT_PAIRS = (
    ("effective_rank", "scores"),
    ("selectivity_index", "attention"),
    ("attention_sparsity", "attention"),
    ("attention_distance", "attention"),
)


def plot_all_heatmaps(
    table: pd.DataFrame,
    *,
    pairs: Sequence[tuple[str, str | None]] | None = None,
    skip: Names = (),
    models: Models = None,
    fig: Figure | None = None,
) -> Figure:
    """Heads (rows) by layers (columns) of each model, a block for each of the ``pairs`` of (indicator, source).

    As :func:`plot_indicator_heatmaps`: one colour scale for each block, one run of each model (its lowest seed), and in
    maps of at most 60 cells the numbers, where they have room. Default: everything that has layers, but those in
    ``skip``. A model that has no such indicator has no place in its block.
    """
    table = of_models(table, models)
    found = layered_pairs(table, skip)
    pairs = found if pairs is None else [pair for pair in pairs if pair in found]
    names = list(model_styles(table, models))
    across = beside(2) if len(names) <= 2 else 1
    down = math.ceil(len(pairs) / across)
    heads = int(table["head"].max()) + 1
    fig, style = own_figure(fig, page_width(), (0.6 + min(0.16 * heads, 1.6)) * down + 0.3)
    with style:
        blocks = fig.subfigures(down, across, squeeze=False).ravel()
        for block, (indicator, source) in zip(blocks, pairs, strict=False):
            rows = rows_of(table, indicator, source)
            shown = [model for model in names if model in set(rows["model"])]
            axes = block.subplots(1, len(shown) + 1, squeeze=False, width_ratios=[*[1] * len(shown), 0.05])[0]
            _draw_heat_row(axes, table, indicator, source, shown, numbers=True)
            for ax, model in zip(axes, shown, strict=False):
                ax.set(xlabel="Layer", ylabel="" if ax is not axes[0] else "Head", title=verbatim(shorten(model, 18)))
                for axis in (ax.xaxis, ax.yaxis):
                    thin_ticks(axis, 6)
            block.suptitle(axis_label(table, rows), fontsize=7.5, x=0.02, ha="left")
        fig.suptitle(verbatim(_runs_shown(table, names)), fontsize=6.5, x=0.99, ha="right")
    return fig


def _runs_shown(table: pd.DataFrame, names: Names) -> str:
    lowest = table.groupby("model")["seed"].min().reindex(list(names)).dropna()
    if lowest.empty:
        return ""
    if len(set(lowest)) == 1:
        return f"one run of each model: seed {lowest.iloc[0]}"
    return "one run of each model: " + ", ".join(f"{model} seed {seed}" for model, seed in lowest.items())
