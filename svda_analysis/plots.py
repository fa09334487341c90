"""Figures of an analysis: frames in, Axes out. matplotlib, no torch, no files but in :func:`save`.

A single panel is ``plot_*(frame, *, ax=None) -> Axes``: it draws on ``ax`` (the current Axes when ``None``) in the
style in force. A figure of several panels is ``plot_*(frame, *, fig=None) -> Figure``: it fills an empty ``fig``, or
makes its own in the paper style :data:`THEME`. To draw single panels in that style::

    with plots.theme():
        fig, ax = plt.subplots(figsize=(plots.ONE_COLUMN, 2.4))
        plots.plot_indicator_by_layer(result.table, indicator="effective_rank", source="scores", ax=ax)
    plots.save(fig, "reports", "effective_rank")

Arguments that mean the same everywhere: ``source`` may be left out when the indicator has a single one; ``labels`` maps
indicator names to axis labels; ``models`` fixes which models are drawn, their order, colours and markers (default: the
dot-product baseline first, then by name). Layers, heads and epochs are numbered as in the table. Where a table holds
several epochs, figures of the final state take the last one of each run. All raise :class:`InputError` for a missing
column, an unknown name, or more than one row for the same model, seed, epoch, layer and head (several data sets, say).
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_pdf import FigureCanvasPdf
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from PIL import Image
from scipy.special import stdtrit

from svda_analysis.errors import InputError
from svda_analysis.results import FAITHFULNESS, GAINS, SPECTRA_COLUMNS, Examples, Trace, check_columns

ONE_COLUMN, TWO_COLUMNS = 3.4, 7.0  # inches, the widths of a two-column page
BLACK = "#222222"
# Okabe & Ito's colours for every kind of colour vision, without their yellow, which is too pale for lines on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", (0, (4, 1.2)), (0, (1, 1)), (0, (5, 1, 1, 1)))
THEME: dict[Any, Any] = {
    "figure.figsize": (ONE_COLUMN, 2.4),
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "savefig.facecolor": "auto",
    "savefig.bbox": "standard",  # the width on paper is the width asked for
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same figure on every machine
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "figure.titlesize": 8,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "axes.linewidth": 0.6,
    "axes.edgecolor": BLACK,
    "axes.labelcolor": BLACK,
    "text.color": BLACK,
    "xtick.color": BLACK,
    "ytick.color": BLACK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "axes.titlepad": 3,
    "axes.labelpad": 2,
    "axes.prop_cycle": f"cycler('color', {list(COLORS)})",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "pdf.fonttype": 42,  # text stays text in the PDF
    "ps.fonttype": 42,
    "svg.fonttype": "none",
}
HEAT = "viridis"
Names = Sequence[str]
Models = Names | None
Labels = Mapping[str, str] | None


def theme() -> AbstractContextManager[None]:
    """The paper style for the length of a ``with`` block; nothing changes outside it."""
    return mpl.rc_context(THEME)


class Style(NamedTuple):
    color: str
    marker: str
    dash: Any


def model_styles(frame: pd.DataFrame, models: Models = None) -> dict[str, Style]:
    """Colour, marker and dash of each model, in drawing order.

    The first style belongs to the baseline (``attention`` "dot", or the ``baseline`` of a comparison), and is left
    unused where the frame has none, so that SVDA looks the same alone and beside its baseline. With ``models``, the
    place in ``models`` decides, and only these are drawn.
    """
    present = [str(name) for name in frame["model"].unique()]
    if models is not None:
        return {name: _style(i) for i, name in enumerate(models) if name in present}
    if "attention" in frame:
        first = {str(name) for name in frame.loc[frame["attention"] == "dot", "model"].unique()}
    else:
        first = set(frame["baseline"].astype(str)) & set(present) if "baseline" in frame else set()
    order = sorted(present, key=lambda name: (name not in first, name))
    return {name: _style(i + (not first)) for i, name in enumerate(order)}


def _style(i: int) -> Style:
    return Style(COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)])


# --- choosing rows --------------------------------------------------------------------------------------------------


def _choose(what: str, value: object, present: Sequence[Any]) -> Any:
    """``value`` if present; the only one present if ``value`` is None."""
    if value is None and len(present) == 1:
        return present[0]
    if value is None or value not in present:
        raise InputError(f"{what} must be one of {', '.join(map(str, present))}, got {value!r}")
    return value


def _rows(
    table: pd.DataFrame, indicator: str, source: str | None, *, name: str = "table", per_layer: bool = True
) -> pd.DataFrame:
    """The rows of one indicator from one source, one for each model, seed, epoch, layer and head."""
    check_columns(table, ["model", "seed", "epoch", "layer", "head", "indicator", "source", "mean"], name)
    rows = table.dropna(subset="layer") if per_layer else table
    if rows.empty:
        raise InputError(f"{name} has no rows with a layer")
    indicator = _choose("indicator", indicator, list(rows["indicator"].unique()))
    rows = rows[rows["indicator"] == indicator]
    sources = list(rows["source"].dropna().unique())
    if sources:
        rows = rows[rows["source"] == _choose(f"source of {indicator}", source, sources)]
    if rows.duplicated(["model", "seed", "epoch", "layer", "head"]).any():
        raise InputError(
            f"{name} must hold one row of {indicator} for each model, seed, epoch, layer and head, got several"
        )
    return rows


def _last_epoch(rows: pd.DataFrame) -> pd.DataFrame:
    epoch = rows["epoch"].fillna(-1)
    last = epoch.groupby([rows["model"], rows["seed"]], dropna=False).transform("max")
    return rows[epoch == last]


def _of(frame: pd.DataFrame, models: Models) -> pd.DataFrame:
    """The rows of ``models`` (None: all)."""
    check_columns(frame, ["model"])
    rows = frame if models is None else frame[frame["model"].isin(models)]
    if rows.empty:
        present = ", ".join(map(str, frame["model"].unique()))
        raise InputError(f"models must hold at least one of {present}, got {', '.join(models or ())}")
    return rows


def _drawn(rows: pd.DataFrame, models: Models) -> dict[str, Style]:
    return model_styles(_of(rows, models), models)


def _by_seed(rows: pd.DataFrame, key: str) -> pd.DataFrame:
    """Mean over everything but ``key`` and seed: one row for each ``key``, one column for each seed."""
    cells = rows["mean"].groupby([rows[key].astype(int), rows["seed"].fillna(-1)])
    return cells.agg(_strict_mean).unstack()  # noqa: PD010  # the grouping is the pivot's index already


def _strict_mean(values: pd.Series) -> float:
    return float(np.mean(values.to_numpy(float)))  # NaN stays NaN: nothing is dropped silently


def _t_interval(by_seed: pd.DataFrame) -> tuple[pd.Series, pd.Series, pd.Series]:
    """Mean and 95 % Student t interval over the columns; the interval is NaN where there is one value."""
    n, mean = by_seed.shape[1], by_seed.mean(axis=1, skipna=False)
    half = stdtrit(n - 1, 0.975) * by_seed.std(axis=1, skipna=False) / np.sqrt(n)
    return mean, mean - half, mean + half


def _label(indicator: str, labels: Labels) -> str:
    return (labels or {}).get(indicator, indicator.replace("_", " ").capitalize())


def _full_label(table: pd.DataFrame, rows: pd.DataFrame, labels: Labels) -> str:
    """The indicator's label, with the source where the table has it from several."""
    indicator, source = rows["indicator"].iloc[0], rows["source"].iloc[0]
    several = len(table.loc[table["indicator"] == indicator, "source"].dropna().unique()) > 1
    return _label(indicator, labels) + (f" ({source})" if several else "")


def _runs(seeds: int) -> str:
    return f"{seeds} seeds" if seeds > 1 else "1 run"


def _integer_ticks(ax: Axes) -> None:
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _least_span(low: float, high: float) -> tuple[float, float]:
    """Limits at least 1 % of the values apart, so that rounding does not look like structure."""
    if not (np.isfinite(low) and np.isfinite(high)):
        return 0.0, 1.0
    lack = 0.01 * max(abs(low), abs(high)) - (high - low)
    return (low - lack / 2, high + lack / 2) if lack > 0 else (low, high)


def _own(fig: Figure | None, width: float, height: float) -> tuple[Figure, AbstractContextManager[None]]:
    """``fig`` in the style in force, or a new figure in the paper style."""
    if fig is not None:
        return fig, nullcontext()
    with theme():
        return plt.figure(figsize=(width, height)), theme()


# --- indicators: single panels --------------------------------------------------------------------------------------


def plot_indicator_heatmap(
    table: pd.DataFrame,
    *,
    indicator: str,
    source: str | None = None,
    model: str | None = None,
    seed: int | None = None,
    labels: Labels = None,
    ax: Axes | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    cbar: bool = True,
) -> Axes:
    """Heads (rows) by layers (columns) of one run of one model.

    Head 1 of one run has nothing to do with head 1 of another, so runs are not averaged: with several seeds the map
    shows ``seed``, or the lowest, and the title says so.
    """
    rows = _last_epoch(_rows(table, indicator, source))
    label = _full_label(table, rows, labels)
    model = _choose("model", model, list(rows["model"].unique()))
    rows = rows[rows["model"] == model]
    seeds = sorted(rows["seed"].dropna().unique())
    title = str(model)
    if seeds:
        seed = _choose("seed", seeds[0] if seed is None else seed, seeds)
        rows = rows[rows["seed"] == seed]
        title += f", seed {seed}" + (f" (1 of {len(seeds)} runs)" if len(seeds) > 1 else "")
    ax = plt.gca() if ax is None else ax
    mesh = _plot_cells(ax, rows, vmin, vmax)
    if cbar:
        ax.figure.colorbar(mesh, ax=ax, label=label, pad=0.02).outline.set_visible(False)
    ax.set(title=title, xlabel="Layer", ylabel="Head")
    return ax


def _plot_cells(ax: Axes, rows: pd.DataFrame, vmin: float | None, vmax: float | None) -> QuadMesh:
    layer, head = rows["layer"].to_numpy(int), rows["head"].to_numpy(int)
    cells = np.full((head.max() - head.min() + 1, layer.max() - layer.min() + 1), np.nan)
    cells[head - head.min(), layer - layer.min()] = rows["mean"]
    x, y = (np.arange(i.min(), i.max() + 2) - 0.5 for i in (layer, head))  # edges: a cell is centred on its number
    line: dict[str, Any] = {"edgecolors": "face", "linewidth": 0.1}
    if cells.size <= 60:
        line = {"edgecolors": "white", "linewidth": 0.3}
    mesh = ax.pcolormesh(x, y, cells, vmin=vmin, vmax=vmax, cmap=HEAT, **line)
    ax.set_ylim(y[-1], y[0])  # head 0 on top
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return mesh


def plot_indicator_by_layer(
    table: pd.DataFrame,
    *,
    indicator: str,
    source: str | None = None,
    models: Models = None,
    labels: Labels = None,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Mean over heads against layer, one line for each model, with 95 % intervals.

    Several seeds: Student t interval over the seeds' means. One run: the mean of its heads' intervals over images,
    which speaks of that checkpoint alone, and a light dot for each head. The legend says which.
    """
    rows = _last_epoch(_rows(table, indicator, source))
    styles = _drawn(rows, models)
    ax = plt.gca() if ax is None else ax
    step = min(0.12, 0.5 / len(styles))
    for i, (model, style) in enumerate(styles.items()):
        mine = rows[rows["model"] == model]
        by_seed = _by_seed(mine, "layer")
        seeds = by_seed.shape[1]
        mean, low, high = _t_interval(by_seed) if seeds > 1 else _image_interval(mine)
        over = f"{seeds} seeds" if seeds > 1 else "images of 1 run"
        shift = (i - (len(styles) - 1) / 2) * step
        if seeds == 1:
            ax.plot(
                mine["layer"].astype(int) + shift,
                mine["mean"],
                ".",
                color=style.color,
                alpha=0.3,
                ms=3.5,
                mew=0,
                zorder=1,
            )
        x = mean.index.to_numpy() + shift
        ax.vlines(x, low, high, color=style.color, lw=1.0)
        ax.plot(x, mean, color=style.color, marker=style.marker, ls=style.dash, label=f"{model} ({over})")
    _integer_ticks(ax)
    ax.set_xlim(rows["layer"].min() - 0.4, rows["layer"].max() + 0.4)
    ax.set_ylim(_least_span(*ax.get_ylim()))
    ax.set(xlabel="Layer", ylabel=_full_label(table, rows, labels))
    if legend:
        ax.legend(title="95 % interval over")
    return ax


def _image_interval(rows: pd.DataFrame) -> tuple[pd.Series, pd.Series, pd.Series]:
    """Mean over heads of the mean and of the interval's ends: heads see the same images, their errors go together."""
    check_columns(rows, ["ci_low", "ci_high"])
    means = rows.groupby(rows["layer"].astype(int))[["mean", "ci_low", "ci_high"]].mean()
    return means["mean"], means["ci_low"], means["ci_high"]


def plot_indicator_over_epochs(
    history: pd.DataFrame,
    *,
    indicator: str,
    source: str | None = None,
    models: Models = None,
    labels: Labels = None,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Mean over layers and heads against epoch: a thin line for each run, a thick one for the mean over the runs.

    The mean stops where the first run stops: a mean over fewer runs would jump.
    """
    rows = _rows(history, indicator, source, name="history", per_layer=False).dropna(subset="epoch")
    check_columns(rows, ["epoch"], "history")
    styles = _drawn(rows, models)
    ax = plt.gca() if ax is None else ax
    for model, style in styles.items():
        by_seed = _by_seed(rows[rows["model"] == model], "epoch")
        seeds = by_seed.shape[1]
        if seeds > 1:
            ax.plot(by_seed, color=style.color, lw=0.5, alpha=0.5)
        mean = by_seed.dropna().mean(axis=1)
        ax.plot(mean, color=style.color, ls=style.dash, lw=1.4, label=f"{model} ({_runs(seeds)})")
        if len(mean) == 1:
            ax.lines[-1].set_marker(style.marker)
    _integer_ticks(ax)
    ax.set_ylim(_least_span(*ax.get_ylim()))
    ax.set(xlabel="Epoch", ylabel=_full_label(history, rows, labels))
    if legend:
        ax.legend()
    return ax


# --- indicators: figures of several panels --------------------------------------------------------------------------


def plot_indicator_heatmaps(
    table: pd.DataFrame,
    *,
    indicator: str,
    source: str | None = None,
    seed: int | None = None,
    models: Models = None,
    labels: Labels = None,
    fig: Figure | None = None,
) -> Figure:
    """:func:`plot_indicator_heatmap` of each model, side by side on one colour scale with one colour bar.

    A model of ``models`` without this indicator (no sigma in a baseline) leaves its place empty.
    """
    rows = _rows(table, indicator, source)
    names = list(models or _drawn(rows, None))
    fig, style = _own(fig, ONE_COLUMN if len(names) == 1 else TWO_COLUMNS, 1.9)
    with style:
        axes = fig.subplots(1, len(names) + 1, squeeze=False, width_ratios=[1] * len(names) + [0.05])[0]
        _heat_row(axes, table, indicator, source, names, labels, seed)
        axes[-1].set_ylabel(_full_label(table, rows, labels))
    return fig


def _heat_row(
    axes: Any,
    table: pd.DataFrame,
    indicator: str,
    source: str | None,
    names: Names,
    labels: Labels,
    seed: int | None = None,
) -> None:
    """A heat map of each model of ``names``, and on the last Axes the colour bar that they share."""
    rows = _last_epoch(_rows(table, indicator, source))
    shown = rows[rows["model"].isin(list(_drawn(rows, names)))]
    what: dict[str, Any] = {"indicator": indicator, "source": source, "seed": seed, "labels": labels}
    vmin, vmax = _least_span(shown["mean"].min(), shown["mean"].max())
    scale: dict[str, Any] = {"vmin": vmin, "vmax": vmax, "cbar": False}
    present = [model for model in names if model in set(shown["model"])]
    for ax, model in zip(axes, names, strict=False):
        if model in present:
            plot_indicator_heatmap(table, model=model, ax=ax, **what, **scale)
            colors = ax.collections[0]
        else:
            ax.set_axis_off()
        if model != present[0]:
            ax.set_ylabel("")
    bar = axes[-1].figure.colorbar(colors, cax=axes[-1])
    bar.outline.set_visible(False)


def plot_all_heatmaps(
    table: pd.DataFrame, *, skip: Names = (), models: Models = None, labels: Labels = None, fig: Figure | None = None
) -> Figure:
    """Every indicator that has layers (but those in ``skip``): heads (rows) by layers (columns) of each model.

    As :func:`plot_indicator_heatmaps`: one colour scale for each indicator, one run of each model (its lowest seed).
    """
    table = _of(table, models)
    pairs, names = _pairs(table, skip), list(model_styles(table, models))
    across = min(4, max(1, 6 // len(names)))
    down, width = math.ceil(len(pairs) / across), len(names) + 1
    fig, style = _own(fig, TWO_COLUMNS, 1.0 * down + 0.3)
    with style:
        ratios = [*[1] * len(names), 0.07] * across
        grid = fig.subplots(down, across * width, squeeze=False, width_ratios=ratios)
        blocks = grid.reshape(down * across, width)
        for axes, (indicator, source) in zip(blocks, pairs, strict=False):
            _heat_row(axes, table, indicator, source, names, labels)
            for ax, model in zip(axes, names, strict=False):
                ax.set(xlabel="", ylabel="", title=_brief(model, 18) if ax.get_title() else "")
                ax.yaxis.set_major_locator(MaxNLocator(4, integer=True, min_n_ticks=1))
            axes[0].set_title(_full_label(table, _rows(table, indicator, source), labels) + "\n", loc="left")
        for ax in blocks[len(pairs) :].ravel():
            ax.set_visible(False)
        fig.suptitle(_runs_shown(table, names), fontsize=7, x=0.99, ha="right")
        fig.supxlabel("Layer", fontsize=7.5)
        fig.supylabel("Head", fontsize=7.5)
    return fig


def _runs_shown(table: pd.DataFrame, names: Names) -> str:
    lowest = table.groupby("model")["seed"].min().reindex(list(names)).dropna()
    if lowest.empty:
        return ""
    if len(set(lowest)) == 1:
        return f"one run of each model: seed {lowest.iloc[0]}"
    return "one run of each model: " + ", ".join(f"{model} seed {seed}" for model, seed in lowest.items())


def plot_all_by_layer(
    table: pd.DataFrame, *, skip: Names = (), models: Models = None, labels: Labels = None, fig: Figure | None = None
) -> Figure:
    """Every indicator that has layers (but those in ``skip``), each as :func:`plot_indicator_by_layer`."""
    table = _of(table, models)
    models = models or list(model_styles(table))
    notes = [_note("95 % interval", ls="none", marker="|", ms=8)]
    return _grid(plot_indicator_by_layer, table, _pairs(table, skip), models, labels, fig, notes)


def plot_all_over_epochs(
    history: pd.DataFrame, *, skip: Names = (), models: Models = None, labels: Labels = None, fig: Figure | None = None
) -> Figure:
    """Every indicator that has layers (but those in ``skip``), each as :func:`plot_indicator_over_epochs`."""
    history = _of(history, models)
    models = models or list(model_styles(history))
    pairs = _pairs(history, skip, "history")
    several = history[["model", "seed"]].drop_duplicates()["model"].duplicated().any()
    notes = [_note("single runs", lw=0.5)] if several else []
    return _grid(plot_indicator_over_epochs, history, pairs, models, labels, fig, notes)


def _pairs(table: pd.DataFrame, skip: Names, name: str = "table") -> list[tuple[str, str | None]]:
    """(indicator, source) of everything measured per layer, in the table's order."""
    check_columns(table, ["model", "layer", "indicator", "source"], name)
    rows = table[table["layer"].notna() & ~table["indicator"].isin(list(skip))]
    check_columns(rows, [], f"{name} without {', '.join(skip)}" if skip else f"{name}, rows with a layer,")
    kinds = rows[["indicator", "source"]].drop_duplicates()
    order = {name: i for i, name in enumerate(kinds["indicator"].unique())}
    kinds = kinds.sort_values("indicator", key=lambda names: names.map(order), kind="stable")
    return [(i, None if pd.isna(s) else s) for i, s in kinds.itertuples(index=False)]


def _grid(
    plot: Callable[..., Axes],
    table: pd.DataFrame,
    pairs: Sequence[tuple[str, str | None]],
    models: Sequence[str],
    labels: Labels,
    fig: Figure | None,
    notes: Sequence[Line2D],
) -> Figure:
    """One small panel for each (indicator, source), its label as its title, and one legend for all."""
    across = min(4, len(pairs))
    down = math.ceil(len(pairs) / across)
    fig, style = _own(fig, TWO_COLUMNS if across > 2 else ONE_COLUMN * across, 1.25 * down + 0.6)
    with style:
        axes = fig.subplots(down, across, squeeze=False).ravel()
        for ax, (indicator, source) in zip(axes, pairs, strict=False):
            plot(table, indicator=indicator, source=source, models=models, labels=labels, legend=False, ax=ax)
            fig.supxlabel(ax.get_xlabel(), fontsize=7.5)
            ax.set(title=ax.get_ylabel(), xlabel="", ylabel="")
        for ax in axes[len(pairs) :]:
            ax.set_visible(False)
        _shared_legend(fig, axes, *notes)
    return fig


def _shared_legend(fig: Figure, axes: Any, *notes: Line2D) -> None:
    handles = {str(note.get_label()): note for note in notes}
    fullest_last = sorted(axes, key=lambda ax: len(ax.get_legend_handles_labels()[0]))
    for ax in fullest_last:  # whose order is that of all models
        handles = dict(zip(*ax.get_legend_handles_labels()[::-1], strict=True)) | handles
    fitting = int(16 * fig.get_figwidth() / (max(map(len, handles)) + 6))  # of the longest label, at this type size
    ncols = min(len(handles), 5, max(1, fitting))
    fig.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=ncols)


def _note(label: str, **look: Any) -> Line2D:
    return Line2D([], [], color="#777777", label=label, **look)


# --- spectra --------------------------------------------------------------------------------------------------------


def plot_spectra(
    spectra: pd.DataFrame, *, source: str = "scores", models: Models = None, fig: Figure | None = None
) -> Figure:
    """Sorted singular values against rank, one panel for each layer (``results.SPECTRA_COLUMNS``).

    Each head's values are divided by its largest. Faint lines are heads of single runs, the strong line is the
    mean over heads and runs. Log scale from one thousandth, or linear where the mean curves stay above a tenth.
    """
    check_columns(spectra, SPECTRA_COLUMNS, "spectra")
    source = _choose("source", source, list(spectra["source"].unique()))
    rows = _last_epoch(spectra[spectra["source"] == source])
    styles, layers = _drawn(rows, models), sorted(rows["layer"].unique())
    across = min(len(layers), 4 if len(layers) % 4 == 0 else 3)
    down = math.ceil(len(layers) / across)
    fig, style = _own(fig, TWO_COLUMNS if across > 1 else ONE_COLUMN, 1.5 * down + 0.6)
    with style:
        axes = fig.subplots(down, across, squeeze=False, sharex=True, sharey=True).ravel()
        for ax, layer in zip(axes, layers, strict=False):
            for model, look in styles.items():
                _plot_heads(ax, rows[(rows["layer"] == layer) & (rows["model"] == model)], model, look)
            ax.set(title=f"Layer {layer}")
        for ax in axes[len(layers) :]:
            ax.set_visible(False)
        _spectrum_scale(axes[0])
        fig.supxlabel("Rank, " + _SPECTRUM.get(source, source), fontsize=7.5)
        fig.supylabel("Value / largest", fontsize=7.5)
        _shared_legend(fig, axes)
    return fig


_SPECTRUM = {
    "sigma": "entries of |sigma|",
    "scores": "singular values of the scores",
    "attention": "singular values of the attention",
}


def _spectrum_scale(ax: Axes) -> None:
    means = np.concatenate([np.asarray(line.get_ydata(), float) for line in ax.lines])
    lowest = np.nanmin(means)
    if lowest > 0.1:
        ax.set_ylim(0, 1.03)
    else:
        ax.set_yscale("log")
        ax.set_ylim(max(1e-3, 0.7 * lowest), 1.2)


def _plot_heads(ax: Axes, rows: pd.DataFrame, model: str, style: Style) -> None:
    if rows.empty:
        return
    values = rows.assign(seed=rows["seed"].fillna(-1)).set_index(["rank", "seed", "head"])["value"].astype(float)
    heads = values.unstack(["seed", "head"])  # noqa: PD010  # the index is the pivot's already
    heads = heads / heads.max()
    x = heads.index.to_numpy(float)
    lines = [np.column_stack([x, heads[column]]) for column in heads]
    ax.add_collection(LineCollection(lines, colors=style.color, linewidths=0.4, alpha=0.25))
    ax.plot(x, heads.mean(axis=1), color=style.color, ls=style.dash, label=model)


# --- attention maps -------------------------------------------------------------------------------------------------


def plot_attention_maps(
    examples: Mapping[str, Examples], *, images: Sequence[int] | None = None, fig: Figure | None = None
) -> Figure:
    """Where each model looks, layer by layer: rows are models under each image, columns are layers and their mean.

    ``examples`` by model name, all of the same images; ``images`` are indices into them (default: as many of the first
    as make eight rows). A map is the attention that the class token pays to the patches (without a class token: that
    all patches pay on average), mean over heads, scaled to its own largest value.
    """
    images = _example_images(examples, images)
    depth = max(e.maps.shape[1] for e in examples.values())
    across, down = depth + 2, len(images) * len(examples)
    side = min(0.85, TWO_COLUMNS / (across + 0.6))
    room = int(side / 0.058)  # characters of small type beside a map
    fig, style = _own(fig, max(ONE_COLUMN, side * (across + 0.6)), side * down + 0.8)
    with style:
        grid = fig.add_gridspec(down, across)
        for block, index in enumerate(images):
            top = block * len(examples)
            first = next(iter(examples.values()))
            _show_image(fig.add_subplot(grid[top : top + len(examples), 0]), first, index, room)
            for row, (model, shown) in enumerate(examples.items(), start=top):
                maps = _patch_attention(shown, index)
                last = [across - 1]
                for column, values in zip([*range(1, len(maps)), *last], maps, strict=True):
                    ax = fig.add_subplot(grid[row, column])
                    drawn = ax.imshow(values / max(values.max(), 1e-30), cmap=HEAT, vmin=0, vmax=1)
                    _bare(ax)
                    if row == 0:
                        ax.set_title("mean" if column == across - 1 else f"layer {column - 1}")
                    if column == 1:
                        ax.set_ylabel(f"{_brief(model, room)}\n{_prediction(shown, index, room)}", fontsize=6.5)
        bar = fig.colorbar(
            drawn, ax=fig.axes, location="bottom", ticks=[0, 1], shrink=0.3, aspect=30, pad=0.02, panchor=False
        )
        who = " or ".join(sorted({"class token" if e.prefix else "average token" for e in examples.values()}))
        bar.set_label(f"Attention of the {who} to the patches, mean over heads;\neach map relative to its own maximum")
        bar.outline.set_visible(False)
    return fig


def plot_map_similarity(similarity: pd.DataFrame, *, measure: str = "js", fig: Figure | None = None) -> Figure:
    """How alike the maps of two models are, layer by layer: a column for each pair of models, a row for each kind of
    images.

    ``similarity`` is the frame of that name from :func:`svda_analysis.compare_maps`, with columns ``model`` and
    ``baseline``; the mean over pairs of runs is drawn, all panels on one scale.
    """
    needed = ("model", "baseline", "layer_a", "layer_b", "measure", "images", "similarity")
    check_columns(similarity, needed, "similarity")
    rows = similarity[similarity["measure"] == _choose("measure", measure, list(similarity["measure"].unique()))]
    pairs, kinds = (list(rows.groupby(keys, sort=False).groups) for keys in (["model", "baseline"], "images"))
    width, high = min(TWO_COLUMNS, 1.9 * len(pairs) + 0.6), float(rows["similarity"].max())
    fig, style = _own(fig, width, 1.0 * (width - 0.6) / len(pairs) * len(kinds) + 0.2)
    with style:
        axes = fig.subplots(len(kinds), len(pairs), squeeze=False)
        panels = rows.groupby(["images", "model", "baseline"])
        where = [(kind, pair) for kind in kinds for pair in pairs]
        for ax, (kind, (model, baseline)) in zip(axes.flat, where, strict=True):
            cells = panels.get_group((kind, model, baseline)).pivot_table(
                index="layer_a", columns="layer_b", values="similarity"
            )
            drawn = ax.imshow(cells.to_numpy(dtype=float), cmap=HEAT, vmin=0, vmax=high)
            other = baseline if model != baseline else f"{model}, other seed"
            ax.set(xlabel=f"Layer of {other}", ylabel=f"Layer of {model}", title=f"{kind} image")
        for ax in axes.flat:
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.yaxis.set_major_locator(MaxNLocator(integer=True))
        fig.colorbar(drawn, ax=axes, label="1 - Jensen-Shannon distance" if measure == "js" else measure.capitalize())
    return fig


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
    side = min(0.75, TWO_COLUMNS / (2.3 * across + 1.7))
    fig, style = _own(fig, side * (2.3 * across + 1.7), (side + 0.3) * len(layers) + 0.1)
    with style:
        grid = fig.add_gridspec(len(layers), 2 + 3 * across, width_ratios=[1.3, 0.2, *[1, 1, 0.1] * across])
        _show_image(fig.add_subplot(grid[:, 0]), a, image, 12)
        for row, layer in enumerate(layers):
            _write(fig.add_subplot(grid[row, 1]), f"layer {layer}")
            best = rows[rows["layer_a"] == layer].sort_values("similarity", ascending=False)[:across]
            for column, pair in enumerate(best.itertuples()):
                sides = ((a, pair.layer_a, pair.head_a), (b, pair.layer_b, pair.head_b))
                for at, (shown, its_layer, head) in enumerate(sides):
                    ax = fig.add_subplot(grid[row, 2 + 3 * column + at])
                    values = _patches_of_head(shown, image, its_layer, head)
                    ax.imshow(values / max(values.max(), 1e-30), cmap=HEAT, vmin=0, vmax=1)
                    ax.set_title(f"{_brief(names[at], 10)} h{head}", fontsize=6)
                    _bare(ax)
                ax.set_xlabel(f"alike {pair.similarity:.2f}", fontsize=6, labelpad=1, x=-0.05)
    return fig


def _write(ax: Axes, text: str) -> None:
    """Axes that hold nothing but a line of text, upwards."""
    ax.text(0.5, 0.5, text, rotation=90, ha="center", va="center", fontsize=6.5)
    ax.set_axis_off()


def _patches_of_head(shown: Examples, image: int, layer: int, head: int) -> np.ndarray:
    """Attention of the class token (without one: of all tokens on average) to the patches, ``(rows, columns)``."""
    a = shown.maps[image, layer, head].astype(np.float32)  # (N, N)
    return (a[0] if shown.prefix else a.mean(axis=0))[shown.prefix :].reshape(shown.grid)


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
    side = min(1.1, TWO_COLUMNS / across)
    fig, style = _own(fig, side * across, (side + 0.06) * down + 0.35)
    with style:
        axes = fig.subplots(down, across, squeeze=False)
        for row, picture in enumerate(pictures):
            grey = picture.mean(-1)
            axes[row, 0].imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=255)
            if len(captions):
                axes[row, 0].set_ylabel(captions[row], fontsize=6)
            for ax, (name, values) in zip(axes[row, 1:], maps.items(), strict=True):
                ax.imshow(grey, cmap="gray", vmin=0, vmax=255)
                top = max(float(np.abs(values[row]).max()), 1e-30)
                look = {"cmap": "RdBu_r", "vmin": -1} if name in signed else {"cmap": HEAT, "vmin": 0}
                ax.imshow(values[row] / top, vmax=1, alpha=0.65, **look)
                if row == 0:
                    ax.set_title(name.replace(" ", "\n", 1), fontsize=6.5)
        for ax in axes.flat:
            _bare(ax)
    return fig


def _example_images(examples: Mapping[str, Examples], images: Sequence[int] | None) -> Sequence[int]:
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


def _patch_attention(shown: Examples, index: int) -> np.ndarray:
    """Attention to the patches ``(layers + 1, rows, columns)``, mean over heads; the last map is the layers' mean."""
    maps = shown.maps[index].astype(np.float32).mean(axis=1)  # (layers, N, N)
    paid = maps[:, 0, shown.prefix :] if shown.prefix else maps.mean(axis=1)  # (layers, patches)
    return np.concatenate([paid, paid.mean(axis=0, keepdims=True)]).reshape(-1, *shown.grid)


def _show_image(ax: Axes, shown: Examples, index: int, room: int) -> None:
    image = shown.images[index]
    ax.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
    ax.set_title(_class_name(shown, shown.labels[index], room), fontsize=6.5)
    _bare(ax)


def _bare(ax: Axes) -> None:
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _class_name(shown: Examples, label: int, room: int) -> str:
    name = shown.classes[label] if 0 <= label < len(shown.classes) else str(label)
    return "" if label < 0 else _brief(name.split(",")[0].replace("_", " "), room)


def _brief(name: str, room: int) -> str:
    return name if len(name) <= room else name[: room - 1].rstrip() + "…"


def _prediction(shown: Examples, index: int, room: int) -> str:
    label, prediction = shown.labels[index], shown.predictions[index]
    mark = "" if label < 0 else " ✓" if label == prediction else " ✗"
    return _class_name(shown, prediction, room - len(mark)) + mark


# --- training and comparison ----------------------------------------------------------------------------------------


def plot_training_curves(history: pd.DataFrame, *, models: Models = None, fig: Figure | None = None) -> Figure:
    """Loss and test accuracy against epoch: mean over seeds, band = 95 % t interval. Training loss is dashed.

    Rows ``loss`` with source ``train`` or ``test`` and ``accuracy`` with source ``test``; what is absent is left out.
    """
    check_columns(history, ["indicator", "source"], "history")
    present = set(history[["indicator", "source"]].itertuples(index=False, name=None))
    panels = [[c for c in curves if c in present] for curves in _CURVES]
    panels = [curves for curves in panels if curves]
    if not panels:
        raise InputError("history must hold loss (train, test) or accuracy (test), got neither")
    fig, style = _own(fig, ONE_COLUMN * len(panels), 2.3)
    with style:
        axes = fig.subplots(1, len(panels), squeeze=False)[0]
        for ax, curves in zip(axes, panels, strict=True):
            for indicator, source in curves:
                _plot_curves(ax, _rows(history, indicator, source, name="history", per_layer=False), models)
            _integer_ticks(ax)
            sources = " and ".join(source for _, source in curves)
            ax.set(xlabel="Epoch", ylabel=f"{curves[0][0].capitalize()} ({sources})")
        notes = [_note("test", lw=1.3), _note("train", lw=0.9, ls="--")]
        _shared_legend(fig, axes, *(notes if ("loss", "train") in present else []))
    return fig


_CURVES = ((("loss", "train"), ("loss", "test")), (("accuracy", "test"),))


def _plot_curves(ax: Axes, rows: pd.DataFrame, models: Models) -> None:
    train = rows["source"].iloc[0] == "train"
    rows = rows.dropna(subset="epoch")
    for model, style in _drawn(rows, models).items():
        by_seed = _by_seed(rows[rows["model"] == model], "epoch").dropna()
        mean, low, high = _t_interval(by_seed)
        label = None if train else f"{model} ({_runs(by_seed.shape[1])})"
        ax.plot(mean, color=style.color, ls="--" if train else "-", lw=0.9 if train else 1.3, label=label)
        ax.fill_between(mean.index, low, high, color=style.color, alpha=0.15, lw=0)


def plot_comparison(
    comparison: pd.DataFrame,
    *,
    layer: int | None = None,
    models: Models = None,
    labels: Labels = None,
    ax: Axes | None = None,
) -> Axes:
    """Difference from the baseline in per cent of the baseline, with 95 % intervals: the rows of ``compare``.

    ``layer`` None shows the whole-model rows. A filled marker says that the adjusted p is below 0.05 or, for
    differences over images of single checkpoints, that the interval leaves out 0. A row whose baseline is 0 has no
    relative difference and stays empty.
    """
    needed = ["model", "baseline", "indicator", "source", "layer", "baseline_mean", "difference", "ci_low", "ci_high"]
    check_columns(comparison, [*needed, "p_adjusted", "unit"], "comparison")
    at = comparison["layer"].isna() if layer is None else (comparison["layer"] == layer).fillna(False)
    rows = comparison[at].reset_index(drop=True)
    check_columns(rows, [], "comparison, " + ("whole-model rows," if layer is None else f"rows of layer {layer},"))
    names = [_full_label(comparison, rows.loc[[i]], labels) for i in rows.index]
    rows = rows.assign(name=names)
    styles = _drawn(rows, models)
    ax = plt.gca() if ax is None else ax
    place = {name: i for i, name in enumerate(dict.fromkeys(names))}
    for i, (model, style) in enumerate(styles.items()):
        mine = rows[rows["model"] == model]
        y = mine["name"].map(place).to_numpy(float) + (i - (len(styles) - 1) / 2) * min(0.25, 0.7 / len(styles))
        _plot_differences(ax, mine, y, style)
    ax.axvline(0, color=BLACK, lw=0.6, zorder=0)
    ax.set_yticks(list(place.values()), list(place))
    ax.set_ylim(len(place) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.set_xlabel(f"Difference from {', '.join(rows['baseline'].unique())} (% of its value)")
    _comparison_legend(ax, styles, set(rows["unit"]))
    return ax


def _plot_differences(ax: Axes, rows: pd.DataFrame, y: np.ndarray, style: Style) -> None:
    base = rows["baseline_mean"].abs()
    value, low, high = (100 * rows[c] / base.where(base > 0) for c in ("difference", "ci_low", "ci_high"))
    excludes_0 = (rows["ci_low"] > 0) | (rows["ci_high"] < 0)
    clear = (rows["p_adjusted"] < 0.05).fillna(False) | ((rows["unit"] == "images") & excludes_0)
    ax.hlines(y, low, high, color=style.color, lw=1.0)
    face = [style.color if c else "white" for c in clear]
    ax.scatter(value, y, s=16, c=face, edgecolors=style.color, marker=style.marker, linewidths=0.9, zorder=3)


def _comparison_legend(ax: Axes, styles: Mapping[str, Style], units: set[str]) -> None:
    def handle(style: Style, face: str, label: str) -> Line2D:
        return Line2D([], [], ls="none", marker=style.marker, color=style.color, mfc=face, label=label)

    grey = Style("#777777", "o", "-")
    test = [text for unit, text in (("seeds", "adjusted p < 0.05"), ("images", "interval without 0")) if unit in units]
    handles = [handle(style, style.color, model) for model, style in styles.items()]
    handles += [handle(grey, grey.color, " / ".join(test)), handle(grey, "white", "otherwise")]
    ax.legend(handles=handles, loc="lower right", bbox_to_anchor=(1, 1), ncols=3 if len(styles) == 1 else 2)


def plot_faithfulness(
    table: pd.DataFrame, *, models: Models = None, labels: Labels = None, fig: Figure | None = None
) -> Figure:
    """How much better than a random ranking each method's maps tell what the model decides by, one panel a measure.

    Means of ``deletion_gain`` and ``insertion_gain`` with 95 % intervals: over runs (Student's t; the runs are faint
    dots) where a model has several, else over images. Above 0 the map tells something.
    """
    check_columns(table, ["model", "seed", "indicator", "source", "mean", "ci_low", "ci_high"])
    rows = table[table["indicator"].isin(GAINS)]
    check_columns(rows, [], f"table, rows of {' and '.join(GAINS)},")
    styles, methods = _drawn(rows, models), list(rows["source"].unique())
    fig, style = _own(fig, TWO_COLUMNS, 2.3)
    with style:
        axes = fig.subplots(1, len(GAINS), sharey=True)
        for ax, indicator in zip(axes, GAINS, strict=True):
            for at, (model, look) in enumerate(styles.items()):
                shift = (at - (len(styles) - 1) / 2) * 0.6 / len(styles)
                mine = rows[(rows["model"] == model) & (rows["indicator"] == indicator)]
                _plot_gains(ax, mine, methods, shift, model, look)
            ax.axhline(0, color=BLACK, lw=0.6, zorder=0)
            ax.set_xticks(range(len(methods)), [name.replace("_", " ") for name in methods])
            ax.set_xlim(-0.5, len(methods) - 0.5)
            ax.set_title(_label(indicator, labels))
        axes[0].set_ylabel("Gain over a random ranking")
        _shared_legend(fig, axes[:1])
    return fig


def _plot_gains(ax: Axes, rows: pd.DataFrame, methods: Sequence[str], shift: float, model: str, look: Style) -> None:
    for x, method in enumerate(methods):
        runs = rows[rows["source"] == method]
        values = runs["mean"].to_numpy(float)
        if not len(values):
            continue
        low, high = runs["ci_low"].iloc[0], runs["ci_high"].iloc[0]
        if len(values) > 1:
            half = stdtrit(len(values) - 1, 0.975) * values.std(ddof=1) / math.sqrt(len(values))
            low, high = values.mean() - half, values.mean() + half
            ax.plot([x + shift] * len(values), values, ls="none", marker=".", ms=3, color=look.color, alpha=0.4)
        ax.vlines(x + shift, low, high, color=look.color, lw=1.2)
        label = model if x == 0 else "_"
        ax.plot(x + shift, values.mean(), ls="none", marker=look.marker, color=look.color, label=label)


# --- over the runs of a study ---------------------------------------------------------------------------------------


def plot_accuracy_structure(
    table: pd.DataFrame,
    *,
    indicator: str,
    source: str | None = None,
    models: Models = None,
    labels: Labels = None,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Test accuracy (%) against an indicator's mean over layers and heads: a faint dot for each run, and each model's
    mean over its runs as a large marker. Runs without either number are left out."""
    rows = _last_epoch(_rows(table, indicator, source))
    known = _last_epoch(_rows(table, "accuracy", "test", per_layer=False)).set_index(["model", "seed"])["mean"]
    by_layer = rows.groupby(["model", "seed", "layer"], dropna=False)["mean"].agg(_strict_mean)
    structure = by_layer.groupby(["model", "seed"], dropna=False).agg(_strict_mean)
    runs = pd.DataFrame({"x": structure, "y": 100 * known}).dropna().reset_index()
    check_columns(runs, ["model"], f"table, runs with both accuracy and {indicator},")
    ax = plt.gca() if ax is None else ax
    for model, style in _drawn(table, models).items():
        mine = runs[runs["model"] == model]
        if len(mine) > 1:
            ax.plot(mine["x"], mine["y"], ls="none", marker=style.marker, color=style.color, alpha=0.4, ms=2.5, mew=0)
        label = f"{model} ({_runs(len(mine))})"
        ax.plot([mine["x"].mean()], [mine["y"].mean()], ls="none", marker=style.marker, color=style.color, label=label)
    ax.set(xlabel=_full_label(table, rows, labels), ylabel="Test accuracy (%)")
    if legend:
        ax.legend()
    return ax


def plot_structure(
    table: pd.DataFrame, *, models: Models = None, labels: Labels = None, fig: Figure | None = None
) -> Figure:
    """:func:`plot_accuracy_structure` against selectivity, the sparsity of attention and the rank of the scores."""
    present = set(table[["indicator", "source"]].itertuples(index=False, name=None))
    kinds = [kind for kind in _STRUCTURE if kind in present]
    if not kinds:
        raise InputError(f"table must hold one of {', '.join(name for name, _ in _STRUCTURE)}, got none")
    styles = _drawn(table, models)
    fig, style = _own(fig, TWO_COLUMNS, 2.1 + 0.15 * math.ceil(len(styles) / 4))
    with style:
        axes = fig.subplots(1, len(kinds), squeeze=False, sharey=True)[0]
        for ax, (indicator, source) in zip(axes, kinds, strict=True):
            plot_accuracy_structure(
                table, indicator=indicator, source=source, models=list(styles), labels=labels, legend=False, ax=ax
            )
            ax.label_outer()
            ax.tick_params(labelbottom=True)
        handles, names = axes[0].get_legend_handles_labels()
        fig.legend(handles, names, loc="outside upper center", ncols=min(4, len(names)))
    return fig


_STRUCTURE = (("selectivity_index", "attention"), ("attention_sparsity", "attention"), ("effective_rank", "scores"))


def plot_layers_over_epochs(
    history: pd.DataFrame,
    *,
    indicator: str,
    source: str | None = None,
    model: str | None = None,
    labels: Labels = None,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """An indicator of one model against epoch, one line for each layer: mean over heads and runs, and the 95 % t
    interval over runs as a band. Deeper layers are darker."""
    rows = _rows(history, indicator, source, name="history").dropna(subset="epoch")
    rows = rows[rows["model"] == _choose("model", model, list(rows["model"].unique()))]
    ax = plt.gca() if ax is None else ax
    layers = sorted(rows["layer"].unique())
    for i, layer in enumerate(layers):
        by_seed = _by_seed(rows[rows["layer"] == layer], "epoch").dropna()
        mean, low, high = _t_interval(by_seed)
        color = mpl.colormaps[HEAT](0.85 * (1 - i / max(1, len(layers) - 1)))
        ax.plot(mean, color=color, lw=1.1, label=f"layer {layer}", marker="o" if len(mean) == 1 else "")
        ax.fill_between(mean.index, low, high, color=color, alpha=0.15, lw=0)
    _integer_ticks(ax)
    ax.set(xlabel="Epoch", ylabel=_full_label(history, rows, labels), title=str(rows["model"].iloc[0]))
    if legend:
        ax.legend()
    return ax


def plot_epochs_by_layer(
    history: pd.DataFrame, *, models: Models = None, labels: Labels = None, fig: Figure | None = None
) -> Figure:
    """:func:`plot_layers_over_epochs` of selectivity, the rank of the scores and that of sigma (rows, one scale each)
    for each model (columns). A model without a sigma leaves its place empty."""
    present = set(history[["indicator", "source"]].itertuples(index=False, name=None))
    wanted = (("selectivity_index", "attention"), ("effective_rank", "scores"), ("effective_rank", "sigma"))
    kinds, names = [kind for kind in wanted if kind in present], list(_drawn(history, models))
    if not kinds:
        raise InputError(f"history must hold one of {', '.join(name for name, _ in wanted)}, got none")
    fig, style = _own(fig, TWO_COLUMNS, 1.35 * len(kinds) + 0.6)
    with style:
        grid = fig.subplots(len(kinds), len(names), squeeze=False, sharex=True, sharey="row")
        for axes, (indicator, source) in zip(grid, kinds, strict=True):
            rows, first = _rows(history, indicator, source, name="history"), (indicator, source) == kinds[0]
            for ax, model in zip(axes, names, strict=True):
                if model in set(rows["model"]):
                    what: dict[str, Any] = {"indicator": indicator, "source": source, "model": model}
                    plot_layers_over_epochs(history, **what, labels=labels, legend=False, ax=ax)
                else:
                    ax.spines[:].set_visible(False)
                    ax.tick_params(length=0, labelbottom=False)
                ax.set(xlabel="", ylabel="", title=model if first else "")
            axes[0].set_ylabel(_full_label(history, rows, labels).replace(" (", "\n("))
        fig.supxlabel("Epoch", fontsize=7.5)
        handles, texts = grid[0, 0].get_legend_handles_labels()
        fig.legend(handles, texts, loc="outside upper center", ncols=min(len(texts), 6))
    return fig


def plot_compression(curves: Mapping[str, pd.DataFrame], *, fig: Figure | None = None) -> Figure:
    """What a compression costs: change in accuracy (points, with 95 % intervals) by share removed, one row a model.

    Left the score directions masked, right the rows of W_q and W_k truly removed. ``curves`` holds by model what
    :func:`svda_analysis.verify.sweep` returns, of one run or pooled over runs (:func:`svda_analysis.verify.over_runs`);
    each criterion is a line, the random control in grey; budgets, met by one threshold for all heads, are a line of
    their own.
    """
    needed = ("criterion", "directions_removed", "rows_removed", "masked_change", "removed_change")
    for model, curve in curves.items():
        check_columns(curve, needed, f"curve of {model}")
    fig, styled = _own(fig, TWO_COLUMNS, 0.4 + 2.2 * len(curves))
    with styled:
        axes = fig.subplots(len(curves), 2, sharey="row", squeeze=False)
        for row, (model, curve) in zip(axes, curves.items(), strict=True):
            for ax, how, share in zip(row, ("masked", "removed"), ("directions_removed", "rows_removed"), strict=True):
                _plot_cost(ax, curve, how, share)
            row[0].set(ylabel="Change in accuracy (points)", title=model if len(curves) > 1 else "")
        axes[-1, 0].set(xlabel="Score directions masked (%)")
        axes[-1, 1].set(xlabel=r"Rows of $W_q$ and $W_k$ removed (%)")
        _shared_legend(fig, [axes[0, 0]])
    return fig


def _plot_cost(ax: Axes, curve: pd.DataFrame, how: str, share: str) -> None:
    by_budget = curve.get("budget", pd.Series(index=curve.index)).notna()
    label = curve["criterion"].astype(object).mask(by_budget, curve["criterion"] + ", one threshold")
    colored = [name for name in label.unique() if name != "random"]
    for criterion, rows in curve.groupby(label, sort=False):
        style = Style("#777777", "x", ":") if criterion == "random" else _style(colored.index(criterion))
        rows = rows.sort_values(share)
        x = 100 * rows[share]
        ax.plot(x, 100 * rows[f"{how}_change"], color=style.color, marker=style.marker, ls=style.dash, label=criterion)
        ax.fill_between(x, 100 * rows[f"{how}_low"], 100 * rows[f"{how}_high"], color=style.color, alpha=0.1, lw=0)
    ax.axhline(0, color=BLACK, lw=0.6)
    good = 100 * curve.loc[curve["criterion"] != "random", f"{how}_change"]
    if good.notna().any():  # a random choice, or far too little kept, costs most of the accuracy and would flatten all
        bottom = max(float(good.min()), -5) - 1
        ax.set_ylim(bottom, max(float(good.max()), 0) + 1)
        control = 100 * curve.loc[curve["criterion"] == "random", f"{how}_change"].dropna()
        if len(control) and control.max() < bottom:
            ax.text(0.02, 0.03, f"random: below, {control.max():.0f} at best", transform=ax.transAxes, color="#777777")


# --- over epochs: how a run organised itself -------------------------------------------------------------------------


def plot_sigma_over_epochs(trace: Trace, *, fig: Figure | None = None) -> Figure:
    """The learned diagonals of one run, epoch by epoch: ``|sigma|`` over its largest, sorted, mean over heads.

    One panel a layer, one line an epoch (light to dark).
    """
    if trace.sigma is None:
        raise InputError("trace must be of a model with a sigma (SVDA), got one without")
    size = np.sort(np.abs(trace.sigma), axis=-1)[..., ::-1]
    size = (size / np.maximum(size[..., :1], 1e-30)).mean(2)  # (E, layers, D)
    across = min(4, size.shape[1])
    down = math.ceil(size.shape[1] / across)
    fig, style = _own(fig, TWO_COLUMNS, 1.5 * down + 0.5)
    with style:
        axes = fig.subplots(down, across, sharex=True, sharey=True, squeeze=False).ravel()
        span = mpl.colors.Normalize(trace.epochs.min() - 0.3 * np.ptp(trace.epochs), trace.epochs.max())
        shades = mpl.colormaps["Blues"]
        for layer, ax in enumerate(axes[: size.shape[1]]):
            for epoch, values in zip(trace.epochs, size[:, layer], strict=True):
                ax.plot(range(1, len(values) + 1), values, color=shades(span(epoch)), lw=0.8)
            ax.set_title(f"layer {layer}")
        for ax in axes[size.shape[1] :]:
            ax.set_visible(False)
        axes[0].set_ylim(bottom=0)
        fig.supxlabel("Direction, the strongest first", fontsize=7.5)
        fig.supylabel(r"$|\sigma_i|\,/\,\max|\sigma|$", fontsize=7.5)
        bar = fig.colorbar(mpl.cm.ScalarMappable(span, shades), ax=list(axes), label="Epoch", aspect=25)
        bar.ax.set_ylim(trace.epochs.min() - 0.5, trace.epochs.max())
        bar.ax.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
        bar.outline.set_visible(False)
    return fig


def plot_maps_over_epochs(
    traces: Mapping[str, Trace], images: np.ndarray, *, columns: int = 7, fig: Figure | None = None
) -> Figure:
    """Where the class token looks in the last layer as training goes on: rows are models under each image.

    ``traces`` by model name, of the same ``images (n, H, W, C) uint8``; at most ``columns`` of the epochs that all have
    are drawn, the first and last among them. A map is the mean over heads, scaled to its own largest value.
    """
    shared = sorted(set.intersection(*({int(e) for e in trace.epochs} for trace in traces.values())))
    if not shared:
        raise InputError(f"traces must share an epoch, got none in {', '.join(traces)}")
    at = np.unique(np.linspace(0, len(shared) - 1, min(columns, len(shared))).round().astype(int))
    epochs = [shared[i] for i in at]
    n = min(len(images), *(trace.maps.shape[1] for trace in traces.values()))
    side = min(0.85, TWO_COLUMNS / (len(epochs) + 1.6))
    fig, style = _own(fig, max(ONE_COLUMN, side * (len(epochs) + 1.6)), side * n * len(traces) + 0.8)
    with style:
        grid = fig.add_gridspec(n * len(traces), len(epochs) + 1)
        for index in range(n):
            top = index * len(traces)
            ax = fig.add_subplot(grid[top : top + len(traces), 0])
            picture = images[index]
            ax.imshow(picture[..., 0] if picture.shape[-1] == 1 else picture, cmap="gray", vmin=0, vmax=255)
            _bare(ax)
            for row, (model, trace) in enumerate(traces.items(), start=top):
                for column, epoch in enumerate(epochs, start=1):
                    values = trace.maps[list(trace.epochs).index(epoch), index, -1].astype(np.float32)
                    ax = fig.add_subplot(grid[row, column])
                    across = math.isqrt(len(values))
                    shown = values.reshape(across, -1) / max(float(values.max()), 1e-30)
                    drawn = ax.imshow(shown, cmap=HEAT, vmin=0, vmax=1)
                    _bare(ax)
                    if row == 0:
                        ax.set_title(f"epoch {epoch}")
                    if column == 1:
                        ax.set_ylabel(_brief(model, 12), fontsize=6.5)
        bar = fig.colorbar(
            drawn, ax=fig.axes, location="bottom", ticks=[0, 1], shrink=0.3, aspect=30, pad=0.02, panchor=False
        )
        bar.set_label(
            "Attention of the class token in the last layer,\nmean over heads; each map relative to its maximum"
        )
        bar.outline.set_visible(False)
    return fig


# --- everything for a report ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class FigureData:
    """What :data:`FIGURES` draw from; a figure whose data are missing is left out."""

    table: pd.DataFrame
    spectra: pd.DataFrame | None = None
    examples: Mapping[str, Examples] | None = None
    history: pd.DataFrame | None = None
    comparison: pd.DataFrame | None = None
    labels: Labels = None
    models: Models = None
    skip: Names = ()

    def indicators(self, frame: pd.DataFrame | None) -> pd.DataFrame | None:
        """``frame`` if there is an indicator by layer to draw in it."""
        if frame is None or not (frame["layer"].notna() & ~frame["indicator"].isin(list(self.skip))).any():
            return None
        return frame

    @property
    def common(self) -> dict[str, Any]:
        return {"skip": self.skip, "models": self.models, "labels": self.labels}


Figures = Iterator[tuple[str, Figure]]


def _draw_heatmaps(data: FigureData) -> Figures:
    if data.indicators(data.table) is not None:
        yield "heatmaps", plot_all_heatmaps(data.table, **data.common)


def _draw_by_layer(data: FigureData) -> Figures:
    if data.indicators(data.table) is not None:
        yield "by_layer", plot_all_by_layer(data.table, **data.common)


def _draw_spectra(data: FigureData) -> Figures:
    if data.spectra is not None and len(data.spectra):
        for source in data.spectra["source"].unique():
            yield f"spectra_{source}", plot_spectra(data.spectra, source=source, models=data.models)


def _draw_attention_maps(data: FigureData) -> Figures:
    if data.examples:
        order = [model for model in data.models or data.examples if model in data.examples]
        if order:
            yield "attention_maps", plot_attention_maps({model: data.examples[model] for model in order})


def _draw_epochs(data: FigureData) -> Figures:
    if (history := data.indicators(data.history)) is not None:
        yield "epochs", plot_all_over_epochs(history, **data.common)


def _draw_training(data: FigureData) -> Figures:
    if data.history is not None and data.history["indicator"].isin(["loss", "accuracy"]).any():
        yield "training", plot_training_curves(data.history, models=data.models)


def _draw_comparison(data: FigureData) -> Figures:
    if data.comparison is None:
        return
    shown = data.comparison[~data.comparison["indicator"].isin([*data.skip, *FAITHFULNESS])]
    rows = shown[shown["layer"].isna()]
    if len(rows):
        with theme():
            fig, ax = plt.subplots(
                figsize=(TWO_COLUMNS, 0.9 + 0.2 * len(rows[["indicator", "source"]].drop_duplicates()))
            )
            plot_comparison(shown, models=data.models, labels=data.labels, ax=ax)
        yield "comparison", fig


def _draw_faithfulness(data: FigureData) -> Figures:
    if data.table["indicator"].isin(GAINS).any():
        yield "faithfulness", plot_faithfulness(data.table, models=data.models, labels=data.labels)


FIGURES: dict[str, Callable[[FigureData], Figures]] = {
    "comparison": _draw_comparison,
    "faithfulness": _draw_faithfulness,
    "by_layer": _draw_by_layer,
    "heatmaps": _draw_heatmaps,
    "spectra": _draw_spectra,
    "attention_maps": _draw_attention_maps,
    "training": _draw_training,
    "epochs": _draw_epochs,
}


def figures(
    table: pd.DataFrame,
    spectra: pd.DataFrame | None = None,
    examples: Mapping[str, Examples] | None = None,
    history: pd.DataFrame | None = None,
    comparison: pd.DataFrame | None = None,
    *,
    labels: Labels = None,
    models: Models = None,
    skip: Names = (),
) -> Figures:
    """Every figure of :data:`FIGURES` that the data allow, one by one, as (file stem, figure); close each when saved.

    ``skip`` names indicators to leave out. Models keep their colours through all figures.
    """
    frames = (table, spectra, history, comparison)
    models = models or list(dict.fromkeys(m for f in frames if f is not None and len(f) for m in model_styles(f)))
    table, spectra, history, comparison = (None if f is None else f[f["model"].isin(models)] for f in frames)
    data = FigureData(table, spectra, examples, history, comparison, labels, models, skip)
    for draw in FIGURES.values():
        yield from draw(data)


def save(fig: Figure, folder: str | Path, name: str) -> tuple[Path, Path]:
    """Write ``folder/name.pdf`` (vector) and ``folder/name.png`` (200 dpi, 256 colours unless it shows photographs).

    Returns both paths. The bytes depend on the figure and the versions of the libraries alone: no dates.
    """
    if not name or Path(name).name != name:
        raise InputError(f"name must be a file name without folders, got {name!r}")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pdf, png = folder / f"{name}.pdf", folder / f"{name}.png"
    pixels, dpi = io.BytesIO(), fig.dpi
    with theme():  # the canvases themselves: savefig would arrange and draw the panels five times over
        engine = fig.get_layout_engine()
        if engine is not None:
            engine.execute(fig)
        fig.set_layout_engine("none")
        FigureCanvasPdf(fig).print_pdf(pdf, metadata={"CreationDate": None})
        fig.set_dpi(200)
        FigureCanvasAgg(fig).print_png(pixels, metadata={"Software": None})
        fig.set_dpi(dpi)
        if engine is not None:
            fig.set_layout_engine(engine)
    with Image.open(pixels) as image:
        small = image.convert("RGB")
        if small.getcolors(20_000):  # a photograph has more colours, and would lose by a palette
            small = small.quantize(256, dither=Image.Dither.NONE)
        small.save(png, optimize=True, dpi=(200, 200))
    return pdf, png
