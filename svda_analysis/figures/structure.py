"""Accuracy against the structure of attention, over the runs of a study. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svda_analysis.comparison import one_number_per_run, summarise
from svda_analysis.figures.panels import own_figure, panel_grid, runs_text, shared_legend
from svda_analysis.figures.rows import axis_label, drawn_styles, last_epoch, present_pairs, rows_of
from svda_analysis.figures.style import BLACK, GREY, Models, page_width, verbatim
from svda_analysis.frames import check_columns

STRUCTURE_PAIRS = (
    ("selectivity_index", "attention"),
    ("attention_sparsity", "attention"),
    ("effective_rank", "scores"),
)
_BY_RUN = ["model", "seed"]


def plot_accuracy_structure(
    table: pd.DataFrame,
    *,
    indicator: str,
    source: str | None = None,
    models: Models = None,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Test accuracy (%) against an indicator's mean over layers and heads: a faint dot for each run, and each model's
    mean over its runs as a large marker. Runs without either number are left out."""
    rows = last_epoch(rows_of(table, indicator, source))
    known = last_epoch(rows_of(table, "accuracy", "test", per_layer=False))
    axes = {"x": _whole_models(one_number_per_run(rows)), "y": _whole_models(one_number_per_run(known))}
    runs = pd.DataFrame({axis: found.set_index(_BY_RUN)["mean"] for axis, found in axes.items()}).dropna().reset_index()
    check_columns(runs, ["model"], f"table, runs with both accuracy and {indicator},")
    x, y = (_whole_models(summarise(_of_runs(part, runs))).set_index("model")["mean"] for part in (rows, known))
    ax = plt.gca() if ax is None else ax
    for model, style in drawn_styles(table, models).items():
        mine = runs[runs["model"] == model]
        look: dict[str, Any] = {"ls": "none", "marker": style.marker, "color": style.color}
        if len(mine) > 1:
            ax.plot(mine["x"], 100 * mine["y"], alpha=0.4, ms=2.5, mew=0, **look)
        if len(mine):
            ax.plot([x[model]], [100 * y[model]], label=verbatim(f"{model} ({runs_text(len(mine))})"), **look)
    ax.set(xlabel=axis_label(table, rows), ylabel="Test accuracy (%)")
    ax.locator_params(axis="x", nbins=4)  # of what is all but constant each label is long
    if legend:
        ax.legend()
    return ax


def _whole_models(numbers: pd.DataFrame) -> pd.DataFrame:
    return numbers[numbers["layer"].isna()]


def _of_runs(rows: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of those runs alone."""
    return rows.merge(runs[_BY_RUN], on=_BY_RUN)


_MOST_POINTS = 6  # models that a legend tells apart; of more, each has a row


def plot_structure(table: pd.DataFrame, *, models: Models = None, fig: Figure | None = None) -> Figure:
    """:func:`plot_accuracy_structure` against selectivity, the sparsity of attention and the rank of the scores. Of
    more than six models a row for each, the most accurate first, with a panel for each of these numbers."""
    kinds, styles = present_pairs(table, STRUCTURE_PAIRS), drawn_styles(table, models)
    if len(styles) > _MOST_POINTS:
        return _plot_rows(table, kinds, list(styles), fig)
    wide = page_width() > 5
    shape = (1, len(kinds)) if wide else (len(kinds), 1)
    height = 2.1 if wide else 1.7 * len(kinds)
    fig, style = own_figure(fig, page_width(), height + 0.15 * math.ceil(len(styles) / 4))
    with style:
        axes = fig.subplots(*shape, squeeze=False, sharey=True).ravel()
        for ax, (indicator, source) in zip(axes, kinds, strict=True):
            plot_accuracy_structure(table, indicator=indicator, source=source, models=models, legend=False, ax=ax)
            if wide:
                ax.label_outer()
            ax.tick_params(labelbottom=True)
        shared_legend(fig, axes[:1])
    return fig


def _plot_rows(
    table: pd.DataFrame, kinds: Sequence[tuple[str, str]], names: Sequence[str], fig: Figure | None
) -> Figure:
    """A row for each model, a panel for each number: mean with its 95 % interval, runs as faint dots."""
    pairs = [("accuracy", "test"), *kinds]
    each = {pair: table[(table["indicator"] == pair[0]) & (table["source"] == pair[1])] for pair in pairs}
    means = {pair: _whole_models(summarise(last_epoch(rows))).set_index("model") for pair, rows in each.items()}
    accuracy = means["accuracy", "test"]["mean"]
    order = sorted(names, key=lambda name: -float(accuracy.get(name, math.nan)))
    wide = page_width() > 5
    across = len(pairs) if wide else min(2, len(pairs))
    down = math.ceil(len(pairs) / across)
    fig, style = own_figure(fig, page_width(), (0.16 * len(order) + 0.5) * down)
    with style:
        axes = panel_grid(fig, down, across, len(pairs), sharey=True)
        for ax, pair in zip(axes, pairs, strict=True):
            scale = 100 if pair == ("accuracy", "test") else 1
            runs = _whole_models(one_number_per_run(last_epoch(each[pair])))
            for at, model in enumerate(order):
                if model not in means[pair].index:
                    continue
                mean, low, high = scale * means[pair].loc[model, ["mean", "ci_low", "ci_high"]].to_numpy(float)
                own = scale * runs.loc[runs["model"] == model, "mean"].astype(float)
                ax.plot(own, [at] * len(own), ".", color=GREY, alpha=0.5, ms=3, mew=0)
                ax.hlines(at, low, high, color=BLACK, lw=0.8)
                ax.plot(mean, at, "o", color=BLACK, ms=3)
            ax.grid(axis="y", color=GREY, alpha=0.2, lw=0.4)
            ax.set(title="Test accuracy (%)" if scale == 100 else axis_label(table, each[pair]).replace(" (", "\n("))
            ax.tick_params(axis="y", length=0)
        axes[0].set_yticks(range(len(order)), [verbatim(name) for name in order])
        axes[0].set_ylim(len(order) - 0.5, -0.5)
    return fig
