"""Heads by layers as heat maps. No torch here."""

from __future__ import annotations

import math
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svda_analysis.figures.panels import heat_cells, least_span, own_figure, shortened, thin_ticks
from svda_analysis.figures.rows import axis_label, choose, drawn_styles, last_epoch, layered_pairs, of_models, rows_of
from svda_analysis.figures.style import ONE_COLUMN, Models, Names, model_styles, page_width, verbatim


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
    mesh = heat_cells(ax, cells, vmin=vmin, vmax=vmax)
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
    axes: Any, table: pd.DataFrame, indicator: str, source: str | None, names: Names, seed: int | None = None
) -> None:
    """A heat map of each model of ``names``, and on the last Axes the colour bar that they share."""
    rows = last_epoch(rows_of(table, indicator, source))
    shown = rows[rows["model"].isin(list(drawn_styles(rows, names)))]
    what: dict[str, Any] = {"indicator": indicator, "source": source, "seed": seed}
    vmin, vmax = least_span(shown["mean"].min(), shown["mean"].max())
    scale: dict[str, Any] = {"vmin": vmin, "vmax": vmax, "cbar": False}
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


def plot_all_heatmaps(
    table: pd.DataFrame, *, skip: Names = (), models: Models = None, fig: Figure | None = None
) -> Figure:
    """Every indicator that has layers (but those in ``skip``): heads (rows) by layers (columns) of each model.

    As :func:`plot_indicator_heatmaps`: one colour scale for each indicator, one run of each model (its lowest seed).
    """
    table = of_models(table, models)
    pairs, names = layered_pairs(table, skip), list(model_styles(table, models))
    across = min(4, max(1, 6 // len(names)))
    down, width = math.ceil(len(pairs) / across), len(names) + 1
    fig, style = own_figure(fig, page_width(), 1.0 * down + 0.3)
    with style:
        ratios = [*[1] * len(names), 0.07] * across
        grid = fig.subplots(down, across * width, squeeze=False, width_ratios=ratios)
        blocks = grid.reshape(down * across, width)
        for axes, (indicator, source) in zip(blocks, pairs, strict=False):
            _draw_heat_row(axes, table, indicator, source, names)
            for ax, model in zip(axes, names, strict=False):
                ax.set(xlabel="", ylabel="", title=verbatim(shortened(model, 18)) if ax.get_title() else "")
                for axis in (ax.xaxis, ax.yaxis):
                    thin_ticks(axis, 4)
            axes[0].set_title(axis_label(table, rows_of(table, indicator, source)) + "\n", loc="left")
        for ax in blocks[len(pairs) :].ravel():
            ax.set_visible(False)
        fig.suptitle(verbatim(_runs_shown(table, names)), fontsize=7, x=0.99, ha="right")
        fig.supxlabel("Layer", fontsize=7.5)
        fig.supylabel("Head", fontsize=7.5)
    return fig


def _runs_shown(table: pd.DataFrame, names: Names) -> str:
    lowest = table.groupby("model")["seed"].min().reindex(list(names)).dropna()
    if lowest.empty:
        return ""
    if len(set(lowest)) == 1:
        return f"one run of each model: seed {lowest.iloc[0]}"
    return "one run of each model: " + ", ".join(f"{model} seed {seed}" for model, seed in lowest.items())
