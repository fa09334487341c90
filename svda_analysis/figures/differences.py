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
from svda_analysis.figures.style import (
    BLACK,
    GREY,
    ONE_COLUMN,
    Models,
    Names,
    Style,
    beside,
    page_width,
    theme,
    verbatim,
)
from svda_analysis.formatting import number
from svda_analysis.frames import check_columns, each_row
from svda_analysis.vocabulary import label, quantity

GAINS = ("deletion_gain", "insertion_gain")  # of a method over a random ranking: these compare models
_NIL = 0.005  # of a probability
_GROUPS = ("test", "train", "sigma", "scores", "attention")  # as rows are grouped
_NUMBERS = ("baseline_mean", "difference", "ci_low", "ci_high", "p_adjusted")


def plot_comparison(
    comparison: pd.DataFrame,
    *,
    layer: int | None = None,
    models: Models = None,
    ax: Axes | None = None,
) -> Axes:
    """Standardised differences from the baseline with 95 % intervals, and at the right both means: rows of ``compare``.

    By source, the largest first. A difference and its interval are divided by what makes the difference the ``effect``
    (Hedges' g); where there is none (one run each) by the standard error over images. ``layer`` None shows the
    whole-model rows. A filled marker says that the adjusted p is below 0.05; of single checkpoints none is.
    """
    needed = ["model", "baseline", "indicator", "source", "layer", *_NUMBERS, "model_mean", "effect", "unit"]
    check_columns(comparison, needed, "comparison")
    at = comparison["layer"].isna() if layer is None else (comparison["layer"] == layer).fillna(False)
    rows = comparison[at].reset_index(drop=True)
    check_columns(rows, [], "comparison, " + ("whole-model rows," if layer is None else f"rows of layer {layer},"))
    rows = _in_reading_order(_standardised(rows).assign(name=[axis_label(rows, rows.loc[[i]]) for i in rows.index]))
    styles = drawn_styles(rows, models)
    ax = plt.gca() if ax is None else ax
    place = {name: i for i, name in enumerate(dict.fromkeys(rows["name"]))}
    for i, (model, style) in enumerate(styles.items()):
        mine = rows[rows["model"] == model]
        y = mine["name"].map(place).to_numpy(float) + (i - (len(styles) - 1) / 2) * 0.8 / len(styles)
        _draw_differences(ax, mine, y, style)
        _write_means(ax, mine, y, style.color if len(styles) > 1 else BLACK)
    ax.axvline(0, color=BLACK, lw=0.6, zorder=0)
    ax.set_yticks(list(place.values()), list(place))
    ax.set_ylim(len(place) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    over = "spread over runs" if (rows["unit"] == "seeds").any() else "standard error over images"
    ax.set_xlabel(verbatim(f"Difference from {', '.join(rows['baseline'].unique())} / its {over}"))
    _draw_comparison_legend(ax, styles, set(rows["unit"]))
    return ax


def _standardised(rows: pd.DataFrame) -> pd.DataFrame:
    """With ``value``, ``low`` and ``high`` in units of the spread."""
    half = (rows["ci_high"] - rows["ci_low"]) / 2
    spread = (rows["difference"] / rows["effect"]).where(rows["effect"].abs() > 0).fillna(half / 1.96).astype(float)
    spread = spread.where(spread > 0)
    return rows.assign(value=rows["difference"] / spread, low=rows["ci_low"] / spread, high=rows["ci_high"] / spread)


def _in_reading_order(rows: pd.DataFrame) -> pd.DataFrame:
    """Grouped by source, in each group the largest effect of any model first."""
    largest = rows["value"].abs().groupby(rows["name"]).transform("max").fillna(0)
    order = {source: at for at, source in enumerate([*_GROUPS, *sorted(set(rows["source"]) - set(_GROUPS))])}
    keyed = rows.assign(_at=rows["source"].map(order), _size=-largest)
    return keyed.sort_values(["_at", "_size", "name"], kind="stable").drop(columns=["_at", "_size"])


def _draw_differences(ax: Axes, rows: pd.DataFrame, y: np.ndarray, style: Style) -> None:
    ax.hlines(y, rows["low"].to_numpy(float), rows["high"].to_numpy(float), color=style.color, lw=1.0)
    clear = (rows["p_adjusted"] < 0.05).fillna(False)
    face = [style.color if c else "white" for c in clear]
    x = rows["value"].to_numpy(float)
    ax.scatter(x, y, s=16, c=face, edgecolors=style.color, marker=style.marker, linewidths=0.9, zorder=3)


def _write_means(ax: Axes, rows: pd.DataFrame, y: np.ndarray, color: str) -> None:
    """Both means at the right edge, ``5.74 → 2.24``, the baseline's first."""
    for at, row in zip(y, each_row(rows), strict=True):
        text = f"{number(row.baseline_mean)} \u2192 {number(row.model_mean)}".replace("-", "\u2212")
        ax.annotate(
            text,
            (1.01, at),
            xycoords=("axes fraction", "data"),
            va="center",
            color=color,
            fontsize=6,
            annotation_clip=False,
        )


def _draw_comparison_legend(ax: Axes, styles: Mapping[str, Style], units: set[str]) -> None:
    def handle(style: Style, face: str, text: str) -> Line2D:
        return Line2D([], [], ls="none", marker=style.marker, color=style.color, mfc=face, label=verbatim(text))

    grey = Style(GREY, "o", "-")
    handles = [handle(style, style.color, model) for model, style in styles.items()]
    handles += [handle(grey, grey.color, "adjusted p < 0.05")] if "seeds" in units else []
    handles += [handle(grey, "white", "otherwise" if "seeds" in units else "one run each: no p")]
    ax.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=3 if page_width() > 5 else 2)


def comparison_figure(comparison: pd.DataFrame, models: Models = None) -> Figure:
    """:func:`plot_comparison` of the whole models in a figure as high as its rows need."""
    whole = comparison[comparison["layer"].isna()]
    rows, several = whole[["indicator", "source"]].drop_duplicates(), whole["model"].nunique()
    with theme():
        fig, ax = plt.subplots(figsize=(page_width(), 0.9 + (0.1 + 0.1 * several) * len(rows)))
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


def tells_something(table: pd.DataFrame) -> bool:
    """Whether some map ranks patches better or worse than chance by more than 0.005: else there is nothing to see."""
    rows = table[table["indicator"].isin(GAINS)]
    return bool((rows["mean"].abs() > _NIL).any())


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
    across = min(beside(3), len(names))
    down = math.ceil(len(names) / across)
    fig, style = own_figure(fig, page_width() if across > 1 else ONE_COLUMN, 1.8 * down + 0.5)
    with style:
        axes = panel_grid(fig, down, across, len(names), sharex=True)
        for ax, name in zip(axes, names, strict=True):
            _draw_panel(ax, rows, name, models)
            ax.set_title(label(name))
            if across > 2:
                ax.tick_params(axis="x", rotation=90)
        shared_legend(fig, axes[:1])
    return fig


def _draw_panel(ax: Axes, rows: pd.DataFrame, indicator: str, models: Models) -> None:
    """One metric of every method and model: means with their intervals, and the runs."""
    styles, methods = drawn_styles(rows, models), list(rows["source"].unique())
    runs = one_number_per_run(rows)
    means = summarise(rows, runs=runs)
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
