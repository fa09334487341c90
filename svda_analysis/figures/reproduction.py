"""What the source's public code logged, beside what its recipe gives here. No torch here."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svda_analysis.errors import InputError
from svda_analysis.figures.panels import integer_ticks, own_figure, panel_grid, shared_legend
from svda_analysis.figures.style import TWO_COLUMNS, model_styles, verbatim
from svda_analysis.formatting import spoken
from svda_analysis.source_numbers import SOURCE_MEASURES, by_epoch, source_epochs


def plot_source_epoch(history: pd.DataFrame, *, measure: str, ax: Axes | None = None) -> Axes:
    """One of the source's six indicators against epoch: its log of FashionMNIST, and each of our runs (the mean over
    layers and heads). Of its log the epochs up to twice as many as ours are drawn."""
    if measure not in SOURCE_MEASURES:
        raise InputError(f"measure must be one of {', '.join(SOURCE_MEASURES)}, got {measure!r}")
    ax, ours, styles = (
        plt.gca() if ax is None else ax,
        by_epoch(history, SOURCE_MEASURES[measure]),
        model_styles(history),
    )
    log = source_epochs()
    log = log[log["epoch"] <= 2 * ours.index.max()]
    for column, model in zip(ours.columns, ours.columns.get_level_values("model"), strict=True):
        run, style, label = ours[column].dropna(), styles[model], verbatim(f"{model}, our runs")
        ax.plot(run.index.to_numpy(int), run, color=style.color, lw=1.1, alpha=0.8, label=label, marker=".", ms=3)
    ax.plot(log["epoch"], log[measure], color="black", ls="--", lw=1.0, marker=".", ms=4, label="the source's log")
    integer_ticks(ax)
    ax.set(xlabel="Epoch", ylabel=spoken(measure))
    return ax


def plot_source_epochs(history: pd.DataFrame, *, fig: Figure | None = None) -> Figure:
    """All six, each as :func:`plot_source_epoch`."""
    fig, style = own_figure(fig, TWO_COLUMNS, 3.6)
    with style:
        axes = panel_grid(fig, 2, 3, len(SOURCE_MEASURES))
        for ax, measure in zip(axes, SOURCE_MEASURES, strict=True):
            plot_source_epoch(history, measure=measure, ax=ax)
        shared_legend(fig, axes)
    return fig
