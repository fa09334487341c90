"""What heads look at, beside the images: example maps and matched heads. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from svda_analysis.errors import InputError
from svda_analysis.figures.panels import map_bar, own_figure, show_map, show_picture, spread
from svda_analysis.figures.style import GREY, HEAT, ONE_COLUMN, beside, page_width, verbatim
from svda_analysis.formatting import shorten
from svda_analysis.frames import check_columns, each_row
from svda_analysis.results import Examples

_LARGE = 100  # pixels of an image's side, from which maps are drawn over it
_MOST_ROWS, _MOST_LAYERS = 6, 5


def plot_attention_maps(
    examples: Mapping[str, Examples], *, images: Sequence[int] | None = None, fig: Figure | None = None
) -> Figure:
    """Where each model looks, layer by layer: rows are models under each image, columns are layers and their mean.

    ``examples`` by model name, all of the same images; ``images`` are indices into them (default: as many of the first
    as make six rows). A map is the attention that the class token pays to the patches (without a class token: that
    all patches pay on average), mean over heads, on one scale for each image and layer. Of more than five layers five
    are drawn, the first and the last among them. Over images of 100 pixels and more a map is laid transparently.
    """
    images = _chosen_images(examples, images)
    layers = spread(range(max(e.maps.shape[1] for e in examples.values())), _MOST_LAYERS)
    across, down = len(layers) + 2, len(images) * len(examples)
    side = min(0.85, page_width() / (across + 0.6))
    room = max(4, int(side / 0.058))  # characters of small type beside a map
    fig, style = own_figure(fig, min(page_width(), max(ONE_COLUMN, side * (across + 0.6))), side * down + 0.9)
    with style:
        grid = fig.add_gridspec(down, across)
        for block, index in enumerate(images):
            top = block * len(examples)
            _show_example(fig.add_subplot(grid[top : top + len(examples), 0]), _first_of(examples), index, room)
            maps = {model: _maps_by_layer(shown, index) for model, shown in examples.items()}
            for column, layer in enumerate([*layers, -1], start=1):
                largest = max(float(own[layer].max()) for own in maps.values() if layer < len(own) - 1)
                for row, (model, own) in enumerate(maps.items(), start=top):
                    if layer >= len(own) - 1:
                        continue
                    ax = fig.add_subplot(grid[row, column])
                    drawn = show_map(ax, own[layer], largest=largest, under=_large(examples[model].images[index]))
                    if row == 0:
                        ax.set_title("mean" if layer < 0 else f"Layer {layer}")
                    if column == 1:
                        text = f"{shorten(model, room)}\n{_prediction(examples[model], index, room)}"
                        ax.set_ylabel(verbatim(text), fontsize=6.5)
        by_class = {shown.layout.has_class_token for shown in examples.values()}
        who = " or ".join(sorted("class token" if one else "average token" for one in by_class))
        map_bar(
            fig,
            drawn,
            f"Attention of the {who} to the patches, mean over heads;\nof the largest in its image and layer",
        )
    return fig


def _first_of(examples: Mapping[str, Examples]) -> Examples:
    return next(iter(examples.values()))


def _large(picture: np.ndarray) -> np.ndarray | None:
    """The image, where it is large enough for a map to lie over it."""
    return picture if min(picture.shape[:2]) >= _LARGE else None


def _chosen_images(examples: Mapping[str, Examples], images: Sequence[int] | None) -> Sequence[int]:
    if not examples:
        raise InputError("examples must hold at least one model, got none")
    first = next(iter(examples.values()))
    for model, other in examples.items():
        if not np.array_equal(first.labels, other.labels):
            raise InputError(f"examples must be of the same images in the same order, got other labels for {model}")
    count = len(first.images)
    images = range(min(count, max(1, _MOST_ROWS // len(examples)))) if images is None else images
    if not len(images) or not all(0 <= i < count for i in images):
        raise InputError(f"images must be indices in [0, {count}), got {list(images)}")
    return images


def _maps_by_layer(shown: Examples, index: int) -> np.ndarray:
    """Attention to the patches ``(layers + 1, rows, columns)``, frames side by side, mean over heads; the last map is
    the layers' mean."""
    maps = shown.maps[index].astype(np.float32).mean(axis=1)  # (layers, N, N)
    paid = shown.layout.class_row(maps)  # (layers, patches)
    return shown.layout.drawn(np.concatenate([paid, paid.mean(axis=0, keepdims=True)]))


def _show_example(ax: Axes, shown: Examples, index: int, room: int) -> None:
    show_picture(ax, shown.images[index])
    ax.set_title(verbatim(_class_name(shown, shown.labels[index], room)), fontsize=6.5)


def _class_name(shown: Examples, label: int, room: int) -> str:
    name = shown.classes[label] if 0 <= label < len(shown.classes) else str(label)
    return "" if label < 0 else shorten(name.split(",")[0].replace("_", " "), room)


def _prediction(shown: Examples, index: int, room: int) -> str:
    label, prediction = shown.labels[index], shown.predictions[index]
    mark = "" if label < 0 else " ✓" if label == prediction else " ✗"
    return _class_name(shown, prediction, room - len(mark)) + mark


# --- matched heads ----------------------------------------------------------------------------------------------------


def plot_matched_heads(
    heads: pd.DataFrame,
    a: Examples,
    b: Examples,
    *,
    measure: str = "js",
    image: int = 0,
    fig: Figure | None = None,
) -> Figure:
    """What matched heads of two models look at in one image: a row for each pair of layers, two maps for each match.

    ``heads`` is the frame of that name from :func:`svda_analysis.compare_maps` for one pair of runs; ``a, b`` their
    examples, of the same images. The left map of each two belongs to ``a``; over them stand the heads' numbers,
    under them their mean similarity over all images that were compared. At most four layers, spread over the depth, and
    the four most alike heads of each. A map is the attention that the class token pays to the patches, scaled to its
    maximum.
    """
    check_columns(heads, ("layer_a", "layer_b", "head_a", "head_b", "measure", "images", "similarity"), "heads")
    rows = heads[(heads["measure"] == measure) & (heads["images"] == "same")].dropna(subset=["head_a", "head_b"])
    check_columns(rows, ("similarity",), f"heads of {measure} on the same images")
    layers = sorted(rows["layer_a"].unique())
    layers = [layers[i] for i in np.unique(np.linspace(0, len(layers) - 1, 4).round().astype(int))]
    across = min(beside(4), int(rows.groupby("layer_a").size().max()))
    names = [str(heads[key].iloc[0]) if key in heads else which for key, which in (("model", "a"), ("baseline", "b"))]
    side = min(1.6, page_width() / (across + 0.75))  # of a pair
    fig, style = own_figure(fig, side * (across + 0.75), (side / 2 + 0.35) * len(layers) + 0.5)
    with style:
        grid = fig.add_gridspec(len(layers), 2 + across, width_ratios=[0.6, 0.1, *[1] * across])
        _show_example(fig.add_subplot(grid[:, 0]), a, image, 12)
        for row, layer in enumerate(layers):
            _write_upwards(fig.add_subplot(grid[row, 1]), f"Layer {layer}")
            best = rows[rows["layer_a"] == layer].sort_values("similarity", ascending=False)[:across]
            for column, pair in enumerate(each_row(best), start=2):
                ours = _map_of_head(a, image, pair.layer_a, pair.head_a)
                theirs = _map_of_head(b, image, pair.layer_b, pair.head_b)
                ax = fig.add_subplot(grid[row, column])
                drawn = _show_pair(ax, ours, theirs)
                heads_of = zip(names, (pair.head_a, pair.head_b), strict=True)
                ax.set_title(verbatim(" | ".join(f"{shorten(name, 9)} {head}" for name, head in heads_of)), fontsize=6)
                ax.set_xlabel(f"similarity {pair.similarity:.2f}", fontsize=6, labelpad=1)
        map_bar(fig, drawn, "Attention to the patches, of the largest in each map")
    return fig


def _show_pair(ax: Axes, ours: np.ndarray, theirs: np.ndarray) -> AxesImage:
    """Two maps side by side in one box, each relative to its own largest value."""
    drawn = show_map(ax, ours)
    right = ours.shape[1] + 0.08 * ours.shape[1]
    edges = (right - 0.5, right + ours.shape[1] - 0.5, ours.shape[0] - 0.5, -0.5)
    ax.imshow(theirs / max(float(theirs.max()), 1e-30), cmap=HEAT, vmin=0, vmax=1, extent=edges)
    ax.set(xlim=(-0.8, right + ours.shape[1] - 0.2), ylim=(ours.shape[0] - 0.2, -0.8))
    ax.spines[:].set_visible(True)
    ax.spines[:].set_color(GREY)
    return drawn


def _write_upwards(ax: Axes, text: str) -> None:
    """Axes that hold nothing but a line of text, upwards."""
    ax.text(0.5, 0.5, text, rotation=90, ha="center", va="center", fontsize=6.5)
    ax.set_axis_off()


def _map_of_head(shown: Examples, image: int, layer: int, head: int) -> np.ndarray:
    """Attention of the class token (without one: of all tokens on average) to the patches, ``(rows, columns)``."""
    a = shown.maps[image, layer, head].astype(np.float32)  # (N, N)
    return shown.layout.drawn(shown.layout.class_row(a))
