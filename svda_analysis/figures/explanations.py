"""What spoke for a class, over its image: one block an image, one row a model, one column a method. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.gridspec import GridSpec

from svda_analysis.errors import InputError
from svda_analysis.figures.panels import bare, own_figure, show_picture
from svda_analysis.figures.style import HEAT, page_width, verbatim

_BRIGHTEST = 99  # percentile of a map's magnitude that is drawn at full strength
_ACROSS = 4  # methods beside each other; more go on below
_SIGNED = "RdBu_r"


class Explained(Protocol):
    """What is drawn: of each of the ``names`` the pictures ``(n, H, W, C) uint8`` as that model sees them, the maps of
    each of the ``labels``, ``(n, H, W)`` or None, and a caption for each image."""

    @property
    def names(self) -> Sequence[str]: ...
    @property
    def labels(self) -> Sequence[str]: ...
    @property
    def signed(self) -> Sequence[str]: ...
    def pictures_of(self, name: str) -> np.ndarray: ...
    def map_of(self, name: str, label: str) -> np.ndarray | None: ...
    def captions_of(self, name: str) -> Sequence[str]: ...
    def picture_names(self) -> Sequence[str]: ...


def plot_explanations(shown: Explained, *, fig: Figure | None = None) -> Figure:
    """Attributions over their images, which are grey under them: a block for each image, in it a row for each model.

    Each map is drawn relative to its 99th percentile (of its magnitude, where it has both signs), the more transparent
    the less there is: red speaks for the class, blue against; of maps without a sign bright is much. A model that
    cannot have a method has an empty place. Of more than four methods the rest stand in rows below.
    """
    if not shown.labels:
        raise InputError("maps must hold at least one method, got none")
    groups = [list(shown.labels[at : at + _ACROSS]) for at in range(0, len(shown.labels), _ACROSS)]
    across, models = max(map(len, groups)) + 1, list(shown.names)
    pictures = shown.pictures_of(models[0])
    images, per_image = len(pictures), len(models) * len(groups)
    side = min(1.35, page_width() / (across + 0.35))
    fig, style = own_figure(fig, side * (across + 0.35), (side + 0.2) * per_image * images + 0.5)
    with style:
        heights = [*[side] * per_image * images, 0.07]
        grid = fig.add_gridspec(per_image * images + 1, across, height_ratios=heights)
        for index in range(images):
            top = index * per_image
            ax = fig.add_subplot(grid[top, 0])
            show_picture(ax, pictures[index])
            ax.set_title(verbatim(shown.picture_names()[index]), fontsize=6.5)
            for at, (labels, model) in enumerate((group, name) for group in groups for name in models):
                for column, label in enumerate(labels, start=1):
                    ax = fig.add_subplot(grid[top + at, column])
                    _draw_cell(ax, shown, model, label, index)
                    if column == 1:
                        ax.set_ylabel(verbatim(shown.captions_of(model)[index]), fontsize=6.5)
                    if model == models[0]:
                        ax.set_title(verbatim(label), fontsize=6.5)
        _bars(fig, grid, sorted({label in shown.signed for label in shown.labels}))
    return fig


def _draw_cell(ax: Axes, shown: Explained, model: str, label: str, index: int) -> None:
    found = shown.map_of(model, label)
    if found is None:
        ax.text(0.5, 0.5, "not of\nthis model", ha="center", va="center", fontsize=6, transform=ax.transAxes)
        bare(ax)
    else:
        _show_over(ax, shown.pictures_of(model)[index], found[index], signed=label in shown.signed)


def relative_map(values: np.ndarray) -> np.ndarray:
    """A map ``(H, W)`` over the 99th percentile of its magnitude, cut at -1 and 1; one of zeros stays so."""
    strongest = float(np.percentile(np.abs(values), _BRIGHTEST)) or float(np.abs(values).max())
    return np.clip(values / max(strongest, 1e-30), -1, 1)


def _show_over(ax: Axes, picture: np.ndarray, values: np.ndarray, *, signed: bool) -> None:
    """A map over its image in grey, the more transparent the less there is."""
    ax.imshow(picture.mean(-1), cmap="gray", vmin=0, vmax=255)
    relative = relative_map(values)
    look: dict[str, Any] = {"cmap": _SIGNED if signed else HEAT, "vmin": -1 if signed else 0, "vmax": 1}
    ax.imshow(relative, alpha=0.1 + 0.75 * np.abs(relative), **look)
    bare(ax)


def _bars(fig: Figure, grid: GridSpec, signed: Sequence[bool]) -> None:
    """A colour bar for each kind of map that is drawn, side by side in the last row of the grid."""
    kinds: Mapping[bool, tuple[str, list[float], list[str], str]] = {
        False: (HEAT, [0, 1], ["none", "much"], "relative to the map's 99th percentile"),
        True: (_SIGNED, [-1, 1], ["against", "for the class"], "relative to the map's 99th percentile"),
    }
    columns = np.array_split(np.arange(1, grid.ncols), len(signed))
    for kind, places in zip(signed, columns, strict=True):
        if not len(places):
            continue
        cmap, ends, words, text = kinds[kind]
        ax = fig.add_subplot(grid[-1, places[0] : places[-1] + 1])
        bar = fig.colorbar(
            ScalarMappable(Normalize(ends[0], ends[1]), cmap), cax=ax, orientation="horizontal", ticks=ends
        )
        bar.ax.set_xticklabels(words)
        bar.ax.get_xticklabels()[0].set_horizontalalignment("left")
        bar.ax.get_xticklabels()[-1].set_horizontalalignment("right")
        bar.set_label(text, fontsize=6)
        bar.outline.set_visible(False)
