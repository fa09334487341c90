"""What heads and methods look at, beside the images: example maps, matched heads, explanations. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svda_analysis.errors import InputError
from svda_analysis.figures.panels import bare, map_bar, own_figure, shortened, show_map, show_picture
from svda_analysis.figures.style import HEAT, ONE_COLUMN, page_width, verbatim
from svda_analysis.frames import check_columns, each_row
from svda_analysis.results import Examples


def plot_attention_maps(
    examples: Mapping[str, Examples], *, images: Sequence[int] | None = None, fig: Figure | None = None
) -> Figure:
    """Where each model looks, layer by layer: rows are models under each image, columns are layers and their mean.

    ``examples`` by model name, all of the same images; ``images`` are indices into them (default: as many of the first
    as make eight rows). A map is the attention that the class token pays to the patches (without a class token: that
    all patches pay on average), mean over heads, scaled to its own largest value.
    """
    images = _chosen_images(examples, images)
    depth = max(e.maps.shape[1] for e in examples.values())
    across, down = depth + 2, len(images) * len(examples)
    side = min(0.85, page_width() / (across + 0.6))
    room = int(side / 0.058)  # characters of small type beside a map
    fig, style = own_figure(fig, max(ONE_COLUMN, side * (across + 0.6)), side * down + 0.8)
    with style:
        grid = fig.add_gridspec(down, across)
        for block, index in enumerate(images):
            top = block * len(examples)
            first = next(iter(examples.values()))
            _show_example(fig.add_subplot(grid[top : top + len(examples), 0]), first, index, room)
            for row, (model, shown) in enumerate(examples.items(), start=top):
                maps = _maps_by_layer(shown, index)
                last = [across - 1]
                for column, values in zip([*range(1, len(maps)), *last], maps, strict=True):
                    ax = fig.add_subplot(grid[row, column])
                    drawn = show_map(ax, values)
                    if row == 0:
                        ax.set_title("mean" if column == across - 1 else f"layer {column - 1}")
                    if column == 1:
                        ax.set_ylabel(
                            verbatim(f"{shortened(model, room)}\n{_prediction(shown, index, room)}"), fontsize=6.5
                        )
        who = " or ".join(sorted({"class token" if e.prefix else "average token" for e in examples.values()}))
        text = f"Attention of the {who} to the patches, mean over heads;\neach map relative to its own maximum"
        map_bar(fig, drawn, text)
    return fig


def _chosen_images(examples: Mapping[str, Examples], images: Sequence[int] | None) -> Sequence[int]:
    if not examples:
        raise InputError("examples must hold at least one model, got none")
    first = next(iter(examples.values()))
    for model, other in examples.items():
        if not np.array_equal(first.labels, other.labels):
            raise InputError(f"examples must be of the same images in the same order, got other labels for {model}")
    count = len(first.images)
    images = range(min(count, max(1, 8 // len(examples)))) if images is None else images
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
    return "" if label < 0 else shortened(name.split(",")[0].replace("_", " "), room)


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
    examples, of the same images. The left map of each two belongs to ``a``; over them stand the heads' numbers and
    their mean similarity over all images that were compared. At most four layers, spread over the depth, and the six
    most alike heads of each. A map is the attention that the class token pays to the patches, scaled to its maximum.
    """
    check_columns(heads, ("layer_a", "layer_b", "head_a", "head_b", "measure", "images", "similarity"), "heads")
    rows = heads[(heads["measure"] == measure) & (heads["images"] == "same")].dropna(subset=["head_a", "head_b"])
    check_columns(rows, ("similarity",), f"heads of {measure} on the same images")
    layers = sorted(rows["layer_a"].unique())
    layers = [layers[i] for i in np.unique(np.linspace(0, len(layers) - 1, 4).round().astype(int))]
    across = min(6, int(rows.groupby("layer_a").size().max()))
    names = [str(heads[key].iloc[0]) if key in heads else which for key, which in (("model", "a"), ("baseline", "b"))]
    side = min(0.75, page_width() / (2.3 * across + 1.7))
    fig, style = own_figure(fig, side * (2.3 * across + 1.7), (side + 0.3) * len(layers) + 0.1)
    with style:
        grid = fig.add_gridspec(len(layers), 2 + 3 * across, width_ratios=[1.3, 0.2, *[1, 1, 0.1] * across])
        _show_example(fig.add_subplot(grid[:, 0]), a, image, 12)
        for row, layer in enumerate(layers):
            _write_upwards(fig.add_subplot(grid[row, 1]), f"layer {layer}")
            best = rows[rows["layer_a"] == layer].sort_values("similarity", ascending=False)[:across]
            for column, pair in enumerate(each_row(best)):
                sides = ((a, pair.layer_a, pair.head_a), (b, pair.layer_b, pair.head_b))
                for at, (shown, its_layer, head) in enumerate(sides):
                    ax = fig.add_subplot(grid[row, 2 + 3 * column + at])
                    show_map(ax, _map_of_head(shown, image, its_layer, head))
                    ax.set_title(verbatim(f"{shortened(names[at], 10)} h{head}"), fontsize=6)
                ax.set_xlabel(f"alike {pair.similarity:.2f}", fontsize=6, labelpad=1, x=-0.05)
    return fig


def _write_upwards(ax: Axes, text: str) -> None:
    """Axes that hold nothing but a line of text, upwards."""
    ax.text(0.5, 0.5, text, rotation=90, ha="center", va="center", fontsize=6.5)
    ax.set_axis_off()


def _map_of_head(shown: Examples, image: int, layer: int, head: int) -> np.ndarray:
    """Attention of the class token (without one: of all tokens on average) to the patches, ``(rows, columns)``."""
    a = shown.maps[image, layer, head].astype(np.float32)  # (N, N)
    return shown.layout.drawn(shown.layout.class_row(a))


# --- explanations -----------------------------------------------------------------------------------------------------


def plot_explanations(
    pictures: np.ndarray,
    maps: Mapping[str, np.ndarray],
    *,
    signed: Sequence[str] = (),
    captions: Sequence[str] = (),
    fig: Figure | None = None,
) -> Figure:
    """Attributions over their images: one row an image, one column a method.

    ``pictures (n, H, W, C) uint8`` with one or three channels; ``maps`` by method name, each ``(n, H, W)``, scaled to
    its own largest magnitude. Methods in ``signed`` are drawn in two colours about 0 (red speaks for the class, blue
    against), the others from dark to bright. ``captions``: one line for each image.
    """
    if not maps:
        raise InputError("maps must hold at least one method, got none")
    for name, values in maps.items():
        if values.shape != pictures.shape[:3]:
            raise InputError(f"maps of {name} must be {pictures.shape[:3]}, got {values.shape}")
    down, across = len(pictures), len(maps) + 1
    side = min(1.1, page_width() / across)
    fig, style = own_figure(fig, side * across, (side + 0.06) * down + 0.35)
    with style:
        axes = fig.subplots(down, across, squeeze=False)
        for row, picture in enumerate(pictures):
            show_picture(axes[row, 0], picture)
            if len(captions):
                axes[row, 0].set_ylabel(verbatim(captions[row]), fontsize=6)
            for ax, (name, values) in zip(axes[row, 1:], maps.items(), strict=True):
                _show_over(ax, picture, values[row], signed=name in signed)
                if row == 0:
                    ax.set_title(verbatim(name.replace(" ", "\n", 1)), fontsize=6.5)
    return fig


def _show_over(ax: Axes, picture: np.ndarray, values: np.ndarray, *, signed: bool) -> None:
    """A map over its image in grey."""
    ax.imshow(picture.mean(-1), cmap="gray", vmin=0, vmax=255)
    relative = values / max(float(np.abs(values).max()), 1e-30)
    ax.imshow(relative, cmap="RdBu_r" if signed else HEAT, vmin=-1 if signed else 0, vmax=1, alpha=0.65)
    bare(ax)
