"""Indicators against layer, and one small panel for each of all indicators. No torch here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from svda_analysis.comparison import summarise
from svda_analysis.figures.panels import integer_ticks, least_span, legend_note, own_figure, panel_grid, shared_legend
from svda_analysis.figures.rows import (
    axis_label,
    drawn_styles,
    last_epoch,
    layered_pairs,
    of_models,
    present_pairs,
    rows_of,
)
from svda_analysis.figures.style import (
    GREY,
    ONE_COLUMN,
    Models,
    Names,
    Style,
    beside,
    model_styles,
    page_width,
    verbatim,
)
from svda_analysis.formatting import number, shorten


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


OVERVIEW_PAIRS = (("effective_rank", "scores"), ("selectivity_index", "attention"))


def plot_overview(table: pd.DataFrame, *, models: Models = None, fig: Figure | None = None) -> Figure:
    """The rank of the scores and the selectivity of attention by layer, as :func:`plot_indicator_by_layer`, and beside
    them the test accuracy of each model with its interval; what was not measured is left out."""
    pairs = present_pairs(table, OVERVIEW_PAIRS)
    known = table[(table["indicator"] == "accuracy") & (table["source"] == "test")]
    styles = drawn_styles(table, models)
    count, wide = len(pairs) + bool(len(known)), page_width() > 5
    fig, style = own_figure(fig, page_width(), 2.0 if wide else 1.55 * count + 0.4)
    with style:
        ratios = [1.3] * len(pairs) + [1.0] * bool(len(known)) if wide else None
        axes = fig.subplots(1 if wide else count, count if wide else 1, squeeze=False, width_ratios=ratios).ravel()
        for ax, (indicator, source) in zip(axes, pairs, strict=False):
            plot_indicator_by_layer(table, indicator=indicator, source=source, models=models, legend=False, ax=ax)
            ax.set(title=ax.get_ylabel(), ylabel="")
        if len(known):
            _draw_accuracies(axes[-1], last_epoch(known), styles)
        shared_legend(fig, axes[: len(pairs)], *_notes_on(table))
    return fig


def _draw_accuracies(ax: Axes, rows: pd.DataFrame, styles: Mapping[str, Style]) -> None:
    """A row for each model: its mean and interval, its runs as faint dots."""
    means = summarise(rows).set_index("model")
    for at, (model, style) in enumerate(styles.items()):
        if model not in means.index:
            continue
        mean, low, high = 100 * means.loc[model, ["mean", "ci_low", "ci_high"]].to_numpy(float)
        runs = 100 * rows.loc[rows["model"] == model, "mean"].astype(float)
        if len(runs) > 1:
            ax.plot(runs, [at] * len(runs), ".", color=style.color, alpha=0.4, ms=4, mew=0)
        ax.hlines(at, low, high, color=style.color, lw=1.0)
        ax.plot(mean, at, marker=style.marker, color=style.color, ls="none")
    ax.set_yticks(range(len(styles)), [verbatim(shorten(model, 14)) for model in styles])
    ax.set_ylim(len(styles) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.set(title="Test accuracy (%)", xlabel="mean and 95 % interval")


def _notes_on(table: pd.DataFrame) -> list[Line2D]:
    """What the legend says beside the models."""
    notes = [legend_note("95 % interval", ls="none", marker="|", ms=8)]
    runs = table[["model", "seed"]].drop_duplicates()["model"].value_counts()
    return notes + ([legend_note("a head of a single run", ls="none", marker=".", ms=4)] if (runs == 1).any() else [])


def plot_all_by_layer(
    table: pd.DataFrame, *, skip: Names = (), models: Models = None, fig: Figure | None = None
) -> Figure:
    """Every indicator that has layers (but those in ``skip``), each as :func:`plot_indicator_by_layer`: those of
    several spectra first, a row each, with a column for each of these."""
    table = of_models(table, models)
    models = models or list(model_styles(table))
    return small_panels(
        plot_indicator_by_layer, table, by_spectrum(layered_pairs(table, skip)), models, fig, _notes_on(table)
    )


def by_spectrum(pairs: Sequence[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
    """The pairs in an order in which rows of three are indicators and columns spectra: sigma, scores, attention. The
    rank of attention is called by a name of its own."""
    kin = {"attention_rank": "effective_rank"}
    rows: dict[str, list[tuple[str, str | None]]] = {}
    for pair in pairs:
        rows.setdefault(kin.get(pair[0], pair[0]), []).append(pair)
    place = {"sigma": 0, "attention": 2}  # between them what the scores are called
    full = [row for row in rows.values() if len(row) == 3 and place.keys() <= {source for _, source in row}]
    first = [pair for row in full for pair in sorted(row, key=lambda pair: place.get(str(pair[1]), 1))]
    return [*first, *(pair for pair in pairs if pair not in first)]


def small_panels(
    plot: Callable[..., Axes],
    table: pd.DataFrame,
    pairs: Sequence[tuple[str, str | None]],
    models: Names,
    fig: Figure | None,
    notes: Sequence[Line2D],
) -> Figure:
    """One small panel for each (indicator, source), its label as its title, and one legend for all. A panel in which
    nothing varies says at which value."""
    across = min(beside(3), len(pairs)) if page_width() > 5 else min(2, len(pairs))
    down = math.ceil(len(pairs) / across)
    fig, style = own_figure(fig, page_width() if across > 1 else min(ONE_COLUMN, page_width()), 1.25 * down + 0.6)
    with style:
        axes = panel_grid(fig, down, across, len(pairs))
        for ax, (indicator, source) in zip(axes, pairs, strict=True):
            plot(table, indicator=indicator, source=source, models=models, legend=False, ax=ax)
            fig.supxlabel(ax.get_xlabel(), fontsize=7.5)
            title = ax.get_ylabel() if page_width() > 5 else ax.get_ylabel().replace(" (", "\n(")
            ax.set(title=title, xlabel="", ylabel="")
            _say_constant(ax)
        shared_legend(fig, axes, *notes)
    return fig


def _say_constant(ax: Axes) -> None:
    """Name the value where neither what is drawn nor its intervals vary."""
    drawn = [np.asarray(line.get_ydata(), float) for line in ax.lines]
    intervals = (lines for lines in ax.collections if isinstance(lines, LineCollection))
    drawn += [np.reshape(ends, (-1, 2))[:, 1] for lines in intervals for ends in lines.get_segments()]
    values = np.concatenate(drawn) if drawn else np.empty(0)
    values = values[np.isfinite(values)]
    if len(values) and np.ptp(values) <= 1e-6 * max(1e-30, float(np.abs(values).max())):
        text = f"constant at {number(float(values[0]))}"
        ax.text(0.5, 0.8, text, transform=ax.transAxes, ha="center", color=GREY, fontsize=7)
