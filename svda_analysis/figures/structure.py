"""Accuracy against the structure of attention, over the runs of a study. No torch here."""

from __future__ import annotations

import math
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svda_analysis.comparison import one_number_per_run, summarise
from svda_analysis.figures.panels import own_figure, runs_text
from svda_analysis.figures.rows import axis_label, drawn_styles, last_epoch, present_pairs, rows_of
from svda_analysis.figures.style import Models, page_width, verbatim
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
    if legend:
        ax.legend()
    return ax


def _whole_models(numbers: pd.DataFrame) -> pd.DataFrame:
    return numbers[numbers["layer"].isna()]


def _of_runs(rows: pd.DataFrame, runs: pd.DataFrame) -> pd.DataFrame:
    """The rows of those runs alone."""
    return rows.merge(runs[_BY_RUN], on=_BY_RUN)


def plot_structure(table: pd.DataFrame, *, models: Models = None, fig: Figure | None = None) -> Figure:
    """:func:`plot_accuracy_structure` against selectivity, the sparsity of attention and the rank of the scores."""
    kinds, styles = present_pairs(table, STRUCTURE_PAIRS), drawn_styles(table, models)
    fig, style = own_figure(fig, page_width(), 2.1 + 0.15 * math.ceil(len(styles) / 4))
    with style:
        axes = fig.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
        for ax, (indicator, source) in zip(axes, kinds, strict=True):
            plot_accuracy_structure(table, indicator=indicator, source=source, models=list(styles), legend=False, ax=ax)
            ax.label_outer()
            ax.tick_params(labelbottom=True)
        handles, names = axes[0].get_legend_handles_labels()
        fig.legend(handles, names, loc="outside upper center", ncols=min(4, len(names)))
    return fig
