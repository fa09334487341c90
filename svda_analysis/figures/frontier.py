"""Accuracy against the rank of the scores along the dials of a study. No torch here."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svda_analysis.figures.panels import own_figure, shared_legend
from svda_analysis.figures.style import BLACK, page_width, styles_of, verbatim
from svda_analysis.frames import FRONTIER_COLUMNS, check_columns, each_row


def plot_frontier(runs: pd.DataFrame, *, legend: bool = True, ax: Axes | None = None) -> Axes:
    """Test accuracy (%) against the effective rank of the scores (``runs``: ``frames.FRONTIER_COLUMNS``): a line for
    each dial through the means of its settings, each with its setting, or with its model's name where several dials
    share it; faint dots are runs, less what the runs of their seed have in common. Runs without either number are left
    out."""
    check_columns(runs, list(FRONTIER_COLUMNS), "runs")
    known = runs.dropna(subset=["rank", "accuracy"])
    check_columns(known, [], "runs with both rank and accuracy")
    own = known.assign(accuracy=100 * known["accuracy"])
    each = own.drop_duplicates(["model", "seed"])
    for column in ("rank", "accuracy"):  # of seeds as blocks
        shared = each.groupby("seed")[column].mean() - each[column].mean()
        own[f"{column}_own"] = own[column] - own["seed"].map(shared)
    ax = plt.gca() if ax is None else ax
    kinds = {str(row.dial): str(row.attention) for row in each_row(own.drop_duplicates("dial"))}
    for dial, style in styles_of(list(kinds), kinds).items():
        rows = own[own["dial"] == dial]
        means = rows.groupby("model", sort=False).agg({"setting": "first", "rank": "mean", "accuracy": "mean"})
        look: dict[str, Any] = {"color": style.color, "marker": style.marker}
        if len(rows["seed"].unique()) > 1:
            ax.plot(rows["rank_own"], rows["accuracy_own"], ls="none", alpha=0.35, ms=2.5, mew=0, **look)
        ax.plot(means["rank"], means["accuracy"], ls=style.dash, label=verbatim(dial), **look)
        for model, setting, x, y in means.itertuples():
            several = len(own.loc[own["model"] == model, "dial"].unique()) > 1
            text, color = (verbatim(model), BLACK) if several else (setting, style.color)
            ax.annotate(text, (x, y), (-3, 3), textcoords="offset points", color=color, fontsize=6, ha="right")
    ax.set(xlabel="Effective rank (scores)", ylabel="Test accuracy (%)")
    if legend:
        ax.legend()
    return ax


def plot_frontiers(runs: pd.DataFrame, *, fig: Figure | None = None) -> Figure:
    """:func:`plot_frontier` as a figure of its own."""
    fig, style = own_figure(fig, min(page_width(), 5.0), 3.0)
    with style:
        ax = fig.subplots()
        plot_frontier(runs, legend=False, ax=ax)
        shared_legend(fig, [ax])
    return fig
