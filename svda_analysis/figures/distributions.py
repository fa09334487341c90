"""How the heads of all runs spread, layer by layer. No torch here."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svda_analysis.figures.panels import own_figure
from svda_analysis.figures.rows import axis_label, drawn_styles, last_epoch, present_pairs, rows_of
from svda_analysis.figures.structure import STRUCTURE_PAIRS
from svda_analysis.figures.style import Models, Style, page_width, verbatim


def plot_distributions(table: pd.DataFrame, *, models: Models = None, fig: Figure | None = None) -> Figure:
    """Every head of every run by layer: selectivity, the sparsity of attention and the rank of the scores, one panel
    each, one column of dots for each model, with a bar at their median."""
    kinds, styles = present_pairs(table, STRUCTURE_PAIRS), drawn_styles(table, models)
    fig, style = own_figure(fig, page_width(), 1.45 * len(kinds) + 0.5)
    with style:
        axes = fig.subplots(len(kinds), 1, squeeze=False, sharex=True)[:, 0]
        for ax, (indicator, source) in zip(axes, kinds, strict=True):
            rows = last_epoch(rows_of(table, indicator, source))
            _draw_heads(ax, rows[rows["model"].isin(list(styles))], styles)
            ax.set(xlabel="", ylabel=axis_label(table, rows))
        axes[-1].set_xlabel("Layer")
        handles, names = axes[0].get_legend_handles_labels()
        fig.legend(handles, list(map(verbatim, names)), loc="outside upper center", ncols=min(5, len(names)))
    return fig


def _draw_heads(ax: Axes, rows: pd.DataFrame, styles: dict[str, Style]) -> None:
    layers, width = rows["layer"].astype(int), 0.8 / len(styles)
    for i, (model, style) in enumerate(styles.items()):
        mine, shift = rows["model"] == model, (i - (len(styles) - 1) / 2) * width
        heads = rows.loc[mine, "mean"].astype(float)
        ax.scatter(layers[mine] + shift, heads, s=9, color=style.color, alpha=0.4, linewidths=0)
        medians = heads.groupby(layers).median()
        bar: dict[str, Any] = {"ls": "none", "marker": "_", "ms": 9, "mew": 1.5}
        ax.plot(medians.index + shift, medians, color=style.color, label=model, **bar)
    ax.set_xticks(sorted(set(layers)))
    ax.set_xlim(layers.min() - 0.5, layers.max() + 0.5)
