"""How the heads of all runs spread, layer by layer. No torch here."""

from __future__ import annotations

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
    import seaborn as sns  # takes a while to import, and only this figure needs it

    frame = rows.assign(layer=rows["layer"].astype(int), model=rows["model"].astype(str))
    what = {"data": frame, "x": "layer", "y": "mean", "hue": "model", "hue_order": list(styles), "ax": ax}
    colors = {model: style.color for model, style in styles.items()}
    sns.stripplot(**what, palette=colors, dodge=True, jitter=False, size=3, alpha=0.4, legend=False)
    apart = 0.8 * (1 - 1 / len(styles))  # as far as the columns of dots stand
    bar = {"marker": "_", "linestyle": "none", "markersize": 9, "markeredgewidth": 1.5}
    sns.pointplot(**what, palette=colors, dodge=apart or False, estimator="median", errorbar=None, **bar)
    if (own := ax.get_legend()) is not None:
        own.remove()
