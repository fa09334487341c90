"""How one run organised itself, epoch by epoch: its learned diagonals and its maps. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from svda_analysis.errors import InputError
from svda_analysis.figures.panels import map_bar, own_figure, panel_grid, show_map, show_picture, spread
from svda_analysis.figures.style import beside, page_width, verbatim
from svda_analysis.formatting import shorten
from svda_analysis.results import Trace


def plot_sigma_over_epochs(trace: Trace, *, fig: Figure | None = None) -> Figure:
    """The learned diagonals of one run, epoch by epoch: ``|sigma|`` over its largest, sorted, mean over heads.

    One panel a layer, one line an epoch (light to dark).
    """
    if trace.sigma is None:
        raise InputError("trace must be of a model with a sigma (SVDA), got one without")
    size = np.sort(np.abs(trace.sigma), axis=-1)[..., ::-1]
    size = (size / np.maximum(size[..., :1], 1e-30)).mean(2)  # (E, layers, D)
    across = min(beside(4), size.shape[1])
    down = math.ceil(size.shape[1] / across)
    fig, style = own_figure(fig, page_width(), 1.5 * down + 0.5)
    with style:
        axes = panel_grid(fig, down, across, size.shape[1], sharex=True, sharey=True)
        span = mpl.colors.Normalize(trace.epochs.min() - 0.3 * np.ptp(trace.epochs), trace.epochs.max())
        shades = mpl.colormaps["Blues"]
        for layer, ax in enumerate(axes):
            for epoch, values in zip(trace.epochs, size[:, layer], strict=True):
                ax.plot(range(1, len(values) + 1), values, color=shades(span(epoch)), lw=0.8)
            ax.set_title(f"Layer {layer}")
        axes[0].set_ylim(bottom=0)
        fig.supxlabel("Direction, the strongest first", fontsize=7.5)
        fig.supylabel(r"$|\sigma_i|\,/\,\max|\sigma|$", fontsize=7.5)
        bar = fig.colorbar(mpl.cm.ScalarMappable(span, shades), ax=fig.axes, label="Epoch", aspect=25)
        bar.ax.set_ylim(trace.epochs.min() - 0.5, trace.epochs.max())
        bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        bar.outline.set_visible(False)
    return fig


def plot_maps_over_epochs(
    traces: Mapping[str, Trace], images: np.ndarray, *, columns: int = 3, most: int = 2, fig: Figure | None = None
) -> Figure:
    """Where the class token looks in the last layer as training goes on: rows are models, blocks side by side images.

    ``traces`` by model name, of the same ``images (n, H, W, C) uint8``, of which ``most`` are drawn; at most
    ``columns`` of the epochs that all have are drawn, the first and last among them. A map is the mean over heads,
    scaled to its own largest value.
    """
    epochs = _shared_epochs(traces, columns)
    n = min(most, len(images), *(trace.maps.shape[1] for trace in traces.values()))
    across, wide = len(epochs) + 1, page_width() > 5
    beside_each, down = (n, 1) if wide else (1, n)
    side = min(0.85, page_width() / (beside_each * across + 1.0))
    size = side * (beside_each * across + 1.0), (side + 0.02) * len(traces) * down + 0.9
    fig, style = own_figure(fig, *size)
    with style:
        grid = fig.add_gridspec(len(traces) * down, beside_each * across)
        for index in range(n):
            left, top = (index * across, 0) if wide else (0, index * len(traces))
            show_picture(fig.add_subplot(grid[top : top + len(traces), left]), images[index])
            for row, (model, trace) in enumerate(traces.items(), start=top):
                for column, epoch in enumerate(epochs, start=left + 1):
                    values = trace.maps[list(trace.epochs).index(epoch), index, -1].astype(np.float32)
                    ax = fig.add_subplot(grid[row, column])
                    drawn = show_map(ax, values.reshape(math.isqrt(len(values)), -1))
                    if row == 0:
                        ax.set_title(f"Epoch {epoch}")
                    if column == left + 1:
                        ax.set_ylabel(verbatim(shorten(model, 12)), fontsize=6.5)
        text = "Attention of the class token in the last layer,\nmean over heads; each map relative to its maximum"
        map_bar(fig, drawn, text)
    return fig


def _shared_epochs(traces: Mapping[str, Trace], most: int) -> list[int]:
    """At most ``most`` of the epochs that all traces have, spread evenly."""
    shared = sorted(set.intersection(*({int(e) for e in trace.epochs} for trace in traces.values())))
    if not shared:
        raise InputError(f"traces must share an epoch, got none in {', '.join(traces)}")
    return spread(shared, most)
