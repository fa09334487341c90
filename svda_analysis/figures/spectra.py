"""Singular values against rank. No torch here."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from svda_analysis.figures.panels import own_figure, panel_grid, shared_legend, spread
from svda_analysis.figures.rows import choose, drawn_styles, last_epoch
from svda_analysis.figures.style import ONE_COLUMN, Models, Style, beside, page_width, verbatim
from svda_analysis.frames import SPECTRA_COLUMNS, check_columns

_SPECTRUM = {
    "sigma": "entries of |sigma|",
    "scores": "singular values of the scores",
    "attention": "singular values of the attention",
    "qk": "singular values of the weights of q and k",
    "ov": "singular values of the weights of v and the output",
}


def plot_spectra(
    spectra: pd.DataFrame, *, source: str = "scores", models: Models = None, fig: Figure | None = None
) -> Figure:
    """Sorted singular values against rank, one panel for each layer (``frames.SPECTRA_COLUMNS``).

    Each head's values are divided by its largest. Faint lines are heads of single runs, the strong line is the
    median over heads and runs. Of more than four layers four are drawn, the first and the last among them. Log scale
    from one thousandth, or linear where the medians stay above a tenth.
    """
    check_columns(spectra, SPECTRA_COLUMNS, "spectra")
    source = choose("source", source, list(spectra["source"].unique()))
    rows = last_epoch(spectra[spectra["source"] == source])
    styles, layers = drawn_styles(rows, models), spread(sorted(rows["layer"].unique()), 4)
    across = min(len(layers), beside(4))
    down = math.ceil(len(layers) / across)
    fig, style = own_figure(fig, page_width() if across > 1 else min(ONE_COLUMN, page_width()), 1.5 * down + 0.6)
    with style:
        axes = panel_grid(fig, down, across, len(layers), sharex=True, sharey=True)
        for ax, layer in zip(axes, layers, strict=True):
            for model, look in styles.items():
                _draw_spectra(ax, rows[(rows["layer"] == layer) & (rows["model"] == model)], model, look)
            ax.set(title=f"Layer {layer}")
        _set_spectrum_scale(axes[0])
        fig.supxlabel("Rank, " + _SPECTRUM.get(source, source), fontsize=7.5)
        fig.supylabel("Singular value (relative)", fontsize=7.5)
        axes[0].set_xlim(1, rows["rank"].max())
        axes[0].xaxis.set_major_locator(FixedLocator([1, *axes[0].get_xticks()[axes[0].get_xticks() > 1]]))
        shared_legend(fig, axes)
    return fig


def _set_spectrum_scale(ax: Axes) -> None:
    medians = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.lines])
    lowest = np.nanmin(medians)
    if lowest > 0.1:
        ax.set_ylim(0, 1.03)
    else:
        ax.set_yscale("log")
        ax.set_ylim(max(1e-3, 0.7 * lowest), 1.2)


def _draw_spectra(ax: Axes, rows: pd.DataFrame, model: str, style: Style) -> None:
    if rows.empty:
        return
    values = rows.assign(seed=rows["seed"].fillna(-1)).set_index(["rank", "seed", "head"])["value"].astype(float)
    heads = values.unstack(["seed", "head"])  # noqa: PD010  # the index is the pivot's already
    heads = heads / heads.max()
    x = heads.index.to_numpy(float)
    lines = [np.column_stack([x, heads[column]]) for column in heads]
    ax.add_collection(LineCollection(lines, colors=style.color, linewidths=0.4, alpha=0.25))
    ax.plot(x, heads.median(axis=1), color=style.color, ls=style.dash, label=verbatim(model))
