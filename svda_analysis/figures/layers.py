"""Indicators against layer, and one small panel for each of all indicators. No torch here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from svda_analysis.comparison import summarise
from svda_analysis.figures.panels import integer_ticks, least_span, legend_note, own_figure, panel_grid, shared_legend
from svda_analysis.figures.rows import axis_label, drawn_styles, last_epoch, layered_pairs, of_models, rows_of
from svda_analysis.figures.style import ONE_COLUMN, Models, Names, model_styles, page_width, verbatim


def plot_indicator_by_layer(
    table: pd.DataFrame,
    *,
    indicator: str,
    source: str | None = None,
    models: Models = None,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Mean over heads against layer, one line for each model, with the 95 % intervals of ``comparison.summarise``.

    Several seeds: over the runs. One run: over its images, which speaks of that checkpoint alone, and a light dot for
    each head. The legend says which.
    """
    rows = last_epoch(rows_of(table, indicator, source))
    styles, means = drawn_styles(rows, models), summarise(rows).dropna(subset="layer")
    ax = plt.gca() if ax is None else ax
    step = min(0.12, 0.5 / len(styles))
    for i, (model, style) in enumerate(styles.items()):
        mine, shift = means[means["model"] == model], (i - (len(styles) - 1) / 2) * step
        seeds = int(mine["n_seeds"].max())
        if seeds == 1:
            heads = rows[rows["model"] == model]
            ax.plot(
                heads["layer"].astype(int) + shift,
                heads["mean"],
                ".",
                color=style.color,
                alpha=0.3,
                ms=3.5,
                mew=0,
                zorder=1,
            )
        x, over = mine["layer"].to_numpy(float) + shift, f"{seeds} seeds" if seeds > 1 else "images of 1 run"
        ax.vlines(x, mine["ci_low"], mine["ci_high"], color=style.color, lw=1.0)
        ax.plot(
            x, mine["mean"], color=style.color, marker=style.marker, ls=style.dash, label=verbatim(f"{model} ({over})")
        )
    integer_ticks(ax)
    ax.set_xlim(rows["layer"].min() - 0.4, rows["layer"].max() + 0.4)
    ax.set_ylim(least_span(*ax.get_ylim()))
    ax.set(xlabel="Layer", ylabel=axis_label(table, rows))
    if legend:
        ax.legend(title="95 % interval over")
    return ax


def plot_all_by_layer(
    table: pd.DataFrame, *, skip: Names = (), models: Models = None, fig: Figure | None = None
) -> Figure:
    """Every indicator that has layers (but those in ``skip``), each as :func:`plot_indicator_by_layer`."""
    table = of_models(table, models)
    models = models or list(model_styles(table))
    notes = [legend_note("95 % interval", ls="none", marker="|", ms=8)]
    return small_panels(plot_indicator_by_layer, table, layered_pairs(table, skip), models, fig, notes)


def small_panels(
    plot: Callable[..., Axes],
    table: pd.DataFrame,
    pairs: Sequence[tuple[str, str | None]],
    models: Names,
    fig: Figure | None,
    notes: Sequence[Line2D],
) -> Figure:
    """One small panel for each (indicator, source), its label as its title, and one legend for all."""
    across = min(4, len(pairs))
    down = math.ceil(len(pairs) / across)
    fig, style = own_figure(fig, page_width() if across > 2 else ONE_COLUMN * across, 1.25 * down + 0.6)
    with style:
        axes = panel_grid(fig, down, across, len(pairs))
        for ax, (indicator, source) in zip(axes, pairs, strict=True):
            plot(table, indicator=indicator, source=source, models=models, legend=False, ax=ax)
            fig.supxlabel(ax.get_xlabel(), fontsize=7.5)
            ax.set(title=ax.get_ylabel(), xlabel="", ylabel="")
        shared_legend(fig, axes, *notes)
    return fig
