"""What differs between models, and whose maps tell more. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from svda_analysis.comparison import one_number_per_run, summarise
from svda_analysis.figures.panels import own_figure, panel_grid, shared_legend
from svda_analysis.figures.rows import axis_label, drawn_styles
from svda_analysis.figures.style import BLACK, GREY, ONE_COLUMN, Models, Names, Style, page_width, theme, verbatim
from svda_analysis.frames import check_columns
from svda_analysis.vocabulary import label, quantity

GAINS = ("deletion_gain", "insertion_gain")  # of a method over a random ranking: these compare models
_NUMBERS = ("baseline_mean", "difference", "ci_low", "ci_high", "p_adjusted")


def plot_comparison(
    comparison: pd.DataFrame,
    *,
    layer: int | None = None,
    models: Models = None,
    ax: Axes | None = None,
) -> Axes:
    """Difference from the baseline in per cent of the baseline, with 95 % intervals: the rows of ``compare``.

    ``layer`` None shows the whole-model rows. A filled marker says that the adjusted p is below 0.05 or, for
    differences over images of single checkpoints, that the interval leaves out 0. A row whose baseline is 0 has no
    relative difference and stays empty.
    """
    check_columns(comparison, ["model", "baseline", "indicator", "source", "layer", *_NUMBERS, "unit"], "comparison")
    at = comparison["layer"].isna() if layer is None else (comparison["layer"] == layer).fillna(False)
    rows = comparison[at].reset_index(drop=True)
    check_columns(rows, [], "comparison, " + ("whole-model rows," if layer is None else f"rows of layer {layer},"))
    names = [axis_label(comparison, rows.loc[[i]]) for i in rows.index]
    rows = rows.assign(name=names)
    styles = drawn_styles(rows, models)
    ax = plt.gca() if ax is None else ax
    place = {name: i for i, name in enumerate(dict.fromkeys(names))}
    for i, (model, style) in enumerate(styles.items()):
        mine = rows[rows["model"] == model]
        y = mine["name"].map(place).to_numpy(float) + (i - (len(styles) - 1) / 2) * min(0.25, 0.7 / len(styles))
        _draw_differences(ax, mine, y, style)
    ax.axvline(0, color=BLACK, lw=0.6, zorder=0)
    ax.set_yticks(list(place.values()), list(place))
    ax.set_ylim(len(place) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(verbatim(f"Difference from {', '.join(rows['baseline'].unique())} (% of its value)"))
    _draw_comparison_legend(ax, styles, set(rows["unit"]))
    return ax


def _draw_differences(ax: Axes, rows: pd.DataFrame, y: np.ndarray, style: Style) -> None:
    base = rows["baseline_mean"].abs()
    value, low, high = (100 * rows[c] / base.where(base > 0) for c in ("difference", "ci_low", "ci_high"))
    excludes_0 = (rows["ci_low"] > 0) | (rows["ci_high"] < 0)
    clear = (rows["p_adjusted"] < 0.05).fillna(False) | ((rows["unit"] == "images") & excludes_0)
    ax.hlines(y, low, high, color=style.color, lw=1.0)
    face = [style.color if c else "white" for c in clear]
    ax.scatter(value, y, s=16, c=face, edgecolors=style.color, marker=style.marker, linewidths=0.9, zorder=3)


def _draw_comparison_legend(ax: Axes, styles: Mapping[str, Style], units: set[str]) -> None:
    def handle(style: Style, face: str, text: str) -> Line2D:
        return Line2D([], [], ls="none", marker=style.marker, color=style.color, mfc=face, label=verbatim(text))

    grey = Style(GREY, "o", "-")
    test = [text for unit, text in (("seeds", "adjusted p < 0.05"), ("images", "interval without 0")) if unit in units]
    handles = [handle(style, style.color, model) for model, style in styles.items()]
    handles += [handle(grey, grey.color, " / ".join(test)), handle(grey, "white", "otherwise")]
    ax.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=3 if len(styles) == 1 else 2)


def comparison_figure(comparison: pd.DataFrame, models: Models = None) -> Figure:
    """:func:`plot_comparison` of the whole models in a figure as high as its rows need."""
    rows = comparison.loc[comparison["layer"].isna(), ["indicator", "source"]].drop_duplicates()
    with theme():
        fig, ax = plt.subplots(figsize=(page_width(), 0.9 + 0.2 * len(rows)))
        plot_comparison(comparison, models=models, ax=ax)
    return fig


# --- faithfulness -----------------------------------------------------------------------------------------------------


def plot_faithfulness(table: pd.DataFrame, *, models: Models = None, fig: Figure | None = None) -> Figure:
    """How much better than a random ranking each method's maps tell what the model decides by, one panel a measure.

    Means of ``deletion_gain`` and ``insertion_gain`` with the intervals of ``comparison.summarise``: over runs, which
    are faint dots, where a model has several, else over images. Above 0 the map tells something.
    """
    check_columns(table, ["model", "seed", "indicator", "source", "mean"])
    rows = table[table["indicator"].isin(GAINS)]
    check_columns(rows, [], f"table, rows of {' and '.join(GAINS)},")
    fig, style = own_figure(fig, page_width(), 2.3)
    with style:
        axes = fig.subplots(1, len(GAINS), sharey=True)
        for ax, indicator in zip(axes, GAINS, strict=True):
            _draw_panel(ax, rows, indicator, models)
            ax.set_title(label(indicator))
        axes[0].set_ylabel("Gain over a random ranking")
        shared_legend(fig, axes[:1])
    return fig


def plot_fillers(table: pd.DataFrame, *, models: Models = None, fig: Figure | None = None) -> Figure:
    """The gains of :func:`plot_faithfulness` under each filler that was measured: one column a filler, deletion above
    insertion. A ranking of methods that changes from column to column is one of the fillers, not of the model."""
    check_columns(table, ["model", "seed", "indicator", "source", "mean"])
    found = [str(name) for name in table["indicator"].unique()]
    fillers = [name.removeprefix(f"{GAINS[0]}_") for name in found if name.startswith(f"{GAINS[0]}_")]
    rows = table[table["indicator"].isin([f"{gain}_{name}" for gain in GAINS for name in fillers])]
    check_columns(rows, [], "table, rows of gains under named fillers,")
    fig, style = own_figure(fig, page_width(), 3.6)
    with style:
        axes = fig.subplots(len(GAINS), len(fillers), sharex=True, sharey=True, squeeze=False)
        for gain, across in zip(GAINS, axes, strict=True):
            for name, ax in zip(fillers, across, strict=True):
                _draw_panel(ax, rows, f"{gain}_{name}", models)
                ax.tick_params(axis="x", rotation=90)
            across[0].set_ylabel(label(gain))
        for name, ax in zip(fillers, axes[0], strict=True):
            ax.set_title(label(f"{GAINS[0]}_{name}").partition(", ")[2])
        shared_legend(fig, axes[0, :1])
    return fig


def other_metrics(table: pd.DataFrame) -> list[str]:
    """The metrics of faithfulness in a table that stand in reports and have no other figure: all but the gains."""
    found = dict.fromkeys(str(name) for name in table["indicator"].unique())
    shown = [name for name in found if quantity(name).quality == "faithful" and quantity(name).headline]
    return [name for name in shown if name not in GAINS and not name.startswith(tuple(f"{gain}_" for gain in GAINS))]


def plot_metrics(table: pd.DataFrame, *, models: Models = None, fig: Figure | None = None) -> Figure:
    """The :func:`other_metrics` of faithfulness, one panel each, on a scale of its own: means and intervals as in
    :func:`plot_faithfulness`."""
    check_columns(table, ["model", "seed", "indicator", "source", "mean"])
    names = other_metrics(table)
    rows = table[table["indicator"].isin(names)]
    check_columns(rows, [], "table, rows of metrics of faithfulness,")
    across = min(3, len(names))
    down = math.ceil(len(names) / across)
    fig, style = own_figure(fig, page_width() if across > 1 else ONE_COLUMN, 1.8 * down + 0.5)
    with style:
        axes = panel_grid(fig, down, across, len(names), sharex=True)
        for ax, name in zip(axes, names, strict=True):
            _draw_panel(ax, rows, name, models)
            ax.set_title(label(name))
            ax.tick_params(axis="x", rotation=90)
        shared_legend(fig, axes[:1])
    return fig


def _draw_panel(ax: Axes, rows: pd.DataFrame, indicator: str, models: Models) -> None:
    """One metric of every method and model: means with their intervals, and the runs."""
    styles, methods = drawn_styles(rows, models), list(rows["source"].unique())
    runs, means = one_number_per_run(rows), summarise(rows)
    for at, (model, look) in enumerate(styles.items()):
        shift = (at - (len(styles) - 1) / 2) * 0.6 / len(styles)
        ours = [f[(f["model"] == model) & (f["indicator"] == indicator)] for f in (runs, means)]
        _draw_gains(ax, ours[0], ours[1].set_index("source"), methods, shift, model, look)
    ax.axhline(0, color=BLACK, lw=0.6, zorder=0)
    ax.set_xticks(range(len(methods)), [name.replace("_", " ") for name in methods])
    ax.set_xlim(-0.5, len(methods) - 0.5)


def _draw_gains(
    ax: Axes, runs: pd.DataFrame, means: pd.DataFrame, methods: Names, shift: float, model: str, look: Style
) -> None:
    for at, method in enumerate(methods):
        if method not in means.index:
            continue
        x, values = at + shift, runs.loc[runs["source"] == method, "mean"]
        mean, low, high = means.loc[method, ["mean", "ci_low", "ci_high"]].to_numpy(float)
        if len(values) > 1:
            ax.plot([x] * len(values), values, ls="none", marker=".", ms=3, color=look.color, alpha=0.4)
        ax.vlines(x, low, high, color=look.color, lw=1.2)
        text = verbatim(model) if at == 0 else "_"
        ax.plot(x, mean, ls="none", marker=look.marker, color=look.color, label=text)
