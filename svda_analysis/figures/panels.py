"""What panels share: their figure, ticks, limits, legends, pictures and colour bars. No torch here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.cm import ScalarMappable
from matplotlib.collections import QuadMesh
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from svda_analysis.figures.style import BLACK, GREY, HEAT, theme

_CELL_TYPE = 5.5  # points, of the number of a cell


def own_figure(fig: Figure | None, width: float, height: float) -> tuple[Figure, AbstractContextManager[None]]:
    """``fig`` in the style in force, or a new figure in the paper style."""
    if fig is not None:
        return fig, nullcontext()
    with theme():
        return plt.figure(figsize=(width, height)), theme()


def panel_grid(fig: Figure, down: int, across: int, count: int, **options: Any) -> np.ndarray:
    """``count`` Axes in rows of ``across``; those that are left over are not shown."""
    axes = fig.subplots(down, across, squeeze=False, **options).ravel()
    for at in range(count, len(axes)):
        axes[at].set_visible(False)
        if at >= across:  # with shared x its numbers would go with it
            axes[at - across].tick_params(labelbottom=True)
    return np.asarray(axes[:count])


def integer_ticks(ax: Axes) -> None:
    """Whole numbers along x, for layers and epochs."""
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def least_span(low: float, high: float) -> tuple[float, float]:
    """Limits at least 1 % of the values apart, so that rounding does not look like structure."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return 0.0, 1.0
    lack = 0.01 * max(abs(low), abs(high)) - (high - low)
    return (low - lack / 2, high + lack / 2) if lack > 0 else (low, high)


def spread(found: Sequence[Any], most: int) -> list[Any]:
    """At most ``most`` of what was found, evenly from the first to the last."""
    return [found[i] for i in np.unique(np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int))]


# --- legends ----------------------------------------------------------------------------------------------------------


def runs_text(seeds: int, most: int = 0) -> str:
    """How many runs a mean is over; of several means at least and at ``most``."""
    if most > seeds:
        return f"{seeds} to {most} seeds"
    return f"{seeds} seeds" if seeds > 1 else "1 run"


def shared_legend(fig: Figure, axes: Iterable[Axes], *notes: Line2D) -> None:
    """One legend over all panels: what they draw, then the ``notes``."""
    handles = {str(note.get_label()): note for note in notes}
    fullest_last = sorted(axes, key=lambda ax: len(ax.get_legend_handles_labels()[0]))
    for ax in fullest_last:  # whose order is that of all models
        handles = dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True)) | handles
    fitting = int(16 * fig.get_figwidth() / (max(map(len, handles)) + 6))  # of the longest label, at this type size
    ncols = min(len(handles), 5, max(1, fitting))
    fig.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=ncols)


def legend_note(label: str, **look: Any) -> Line2D:
    """A grey entry of a legend that speaks of no model."""
    return Line2D([], [], color=GREY, label=label, **look)


# --- pictures and maps ------------------------------------------------------------------------------------------------


def bare(ax: Axes) -> None:
    """No ticks and no frame: what is drawn speaks for itself."""
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def show_picture(ax: Axes, picture: np.ndarray) -> None:
    """An image ``(H, W, C) uint8`` with one or three channels as it is."""
    ax.imshow(picture[..., 0] if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=255)
    bare(ax)


def show_map(
    ax: Axes, values: np.ndarray, *, largest: float | None = None, under: np.ndarray | None = None
) -> AxesImage:
    """A map ``(rows, columns)`` relative to ``largest`` (default: its own largest value); over the image ``under``,
    in grey, the more transparent the less there is."""
    relative = values / max(float(values.max()) if largest is None else largest, 1e-30)
    look: dict[str, Any] = {"cmap": HEAT, "vmin": 0, "vmax": 1}
    if under is not None:
        edges = (-0.5, values.shape[1] - 0.5, values.shape[0] - 0.5, -0.5)
        ax.imshow(under.mean(-1), cmap="gray", vmin=0, vmax=255, extent=edges)
        look["alpha"] = 0.15 + 0.7 * np.clip(relative, 0, 1)
    drawn = ax.imshow(relative, **look)
    bare(ax)
    return drawn


def map_bar(fig: Figure, drawn: AxesImage, text: str) -> None:
    """The colour bar under a figure of maps that are each relative to their own largest value."""
    solid = ScalarMappable(drawn.norm, drawn.cmap)  # where maps are transparent the bar is not
    bar = fig.colorbar(
        solid, ax=fig.axes, location="bottom", ticks=[0, 1], shrink=0.3, aspect=30, pad=0.02, panchor=False
    )
    bar.set_label(text)
    bar.outline.set_visible(False)


def heat_cells(
    ax: Axes, cells: pd.DataFrame, *, vmin: float | None, vmax: float | None, numbers: bool = False
) -> QuadMesh:
    """A heat map of numbered rows, the first on top, and columns; what is missing is left white. ``numbers``: each cell
    says its own, where all have room for it."""
    line: dict[str, Any] = {"edgecolors": "face", "linewidths": 0.1}  # no seams between the cells of a pdf
    if cells.size <= 60:
        line = {"edgecolors": "white", "linewidths": 0.3}
    values = np.ma.masked_invalid(cells.to_numpy(float))
    mesh = ax.pcolormesh(values, cmap=HEAT, vmin=vmin, vmax=vmax, **line)
    ax.set_xticks(np.arange(cells.shape[1]) + 0.5, [str(name) for name in cells.columns])
    ax.set_yticks(np.arange(cells.shape[0]) + 0.5, [str(name) for name in cells.index])
    ax.set_ylim(cells.shape[0], 0)
    ax.set(xlabel="" if cells.columns.name is None else cells.columns.name, ylabel="")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0, rotation=0)
    plt.setp(ax.get_yticklabels(), va="center")
    for axis in (ax.xaxis, ax.yaxis):
        thin_ticks(axis, 12)
    if numbers:
        _number_cells(ax, values, mesh)
    return mesh


def _number_cells(ax: Axes, values: np.ma.MaskedArray, mesh: QuadMesh) -> None:
    """The number of each cell, dark on bright and bright on dark; none where one is too wide for its cell."""
    most = max((abs(float(x)) for x in values.compressed()), default=0.0)
    most = most or 1.0
    digits = min(max((2 if most >= 1 else 1) - math.floor(math.log10(most)), 0), 4)  # two that tell cells apart
    every = np.ndenumerate(np.ma.filled(values, np.nan))
    told = {at: f"{value:.{digits}f}" for at, value in every if np.isfinite(value)}
    room = 72 * ax.bbox.width / ax.figure.dpi / values.shape[1]  # points
    longest = max(map(len, told.values()), default=0) - 0.5  # digits: a point is half of one
    if longest * 0.64 * _CELL_TYPE + 1 > room:  # a digit is so wide, and a gap
        return
    for (row, column), text in told.items():
        red, green, blue, _ = mesh.to_rgba(values[row, column])
        color = BLACK if 0.3 * red + 0.59 * green + 0.11 * blue > 0.45 else "white"
        ax.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=color, fontsize=_CELL_TYPE)


def thin_ticks(axis: Axis, most: int) -> None:
    """Leave at most so many of an axis's ticks and their labels, evenly from the first on."""
    places, labels = list(axis.get_ticklocs()), [text.get_text() for text in axis.get_ticklabels()]
    step = max(1, -(-len(places) // most))
    axis.set_ticks(places[::step], labels[::step])
