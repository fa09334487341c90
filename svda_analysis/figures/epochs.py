"""Numbers against epoch: how runs went, and how their layers came to differ. No torch here."""

from __future__ import annotations

from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svda_analysis.comparison import one_number_per_run, summarise
from svda_analysis.earlier import UNCENTRED
from svda_analysis.errors import InputError
from svda_analysis.figures.layers import small_panels
from svda_analysis.figures.panels import integer_ticks, least_span, legend_note, own_figure, runs_text, shared_legend
from svda_analysis.figures.rows import (
    axis_label,
    choose,
    drawn_styles,
    layered_pairs,
    of_models,
    present_pairs,
    rows_of,
)
from svda_analysis.figures.style import HEAT, ONE_COLUMN, Models, Names, model_styles, page_width, verbatim
from svda_analysis.frames import check_columns
from svda_analysis.vocabulary import label

ORGANISING_PAIRS = (
    ("selectivity_index", "attention"),
    ("effective_rank", "scores"),
    ("effective_rank", "sigma"),
    ("effective_rank", UNCENTRED),
)
_CURVES = ((("loss", "train"), ("loss", "test")), (("accuracy", "test"),))


def plot_indicator_over_epochs(
    history: pd.DataFrame,
    *,
    indicator: str,
    source: str | None = None,
    models: Models = None,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Mean over layers and heads against epoch: a thin line for each run, a thick one for the mean over the runs.

    The mean stops where the first run stops: a mean over fewer runs would jump.
    """
    rows = _rows_of_epochs(history, indicator, source, per_layer=False)
    styles, runs = drawn_styles(rows, models), one_number_per_run(rows, epochs="each")
    means = summarise(rows, epochs="each", runs=runs)
    whole = runs[runs["layer"].isna()]
    ax = plt.gca() if ax is None else ax
    for model, style in styles.items():
        mine = [run for _, run in whole[whole["model"] == model].groupby("seed", dropna=False)]
        for run in mine if len(mine) > 1 else ():
            ax.plot(run["epoch"].to_numpy(int), run["mean"], color=style.color, lw=0.5, alpha=0.5)
        mean = _with_all_runs(means[(means["model"] == model) & means["layer"].isna()])
        counts = [len(mine), *([] if legend else _runs_of_each(history, model))]  # a shared legend is of all indicators
        text = verbatim(f"{model} ({runs_text(min(counts), max(counts))})")
        ax.plot(mean["epoch"].to_numpy(int), mean["mean"], color=style.color, ls=style.dash, lw=1.4, label=text)
        if len(mean) == 1:
            ax.lines[-1].set_marker(style.marker)
    integer_ticks(ax)
    ax.set_ylim(least_span(*ax.get_ylim()))
    ax.set(xlabel="Epoch", ylabel=axis_label(history, rows))
    if legend:
        ax.legend()
    return ax


def _runs_of_each(history: pd.DataFrame, model: str) -> list[int]:
    """How many runs of a model have each indicator that has layers."""
    mine = history[(history["model"] == model) & history["layer"].notna()]
    return [len(rows["seed"].unique()) for _, rows in mine.groupby(["indicator", "source"], dropna=False)]


def _rows_of_epochs(history: pd.DataFrame, indicator: str, source: str | None, *, per_layer: bool) -> pd.DataFrame:
    rows = rows_of(history, indicator, source, name="history", per_layer=per_layer).dropna(subset="epoch")
    check_columns(rows, ["epoch"], "history")
    return rows


def _with_all_runs(means: pd.DataFrame) -> pd.DataFrame:
    """Of the means of one model and layer those that are over all of its runs."""
    return means[(means["n_seeds"] == means["n_seeds"].max()) & means["mean"].notna()]


def plot_all_over_epochs(
    history: pd.DataFrame, *, skip: Names = (), models: Models = None, fig: Figure | None = None
) -> Figure:
    """Every indicator that has layers (but those in ``skip``), each as :func:`plot_indicator_over_epochs`."""
    history = of_models(history, models)
    models = models or list(model_styles(history))
    pairs = layered_pairs(history, skip, "history")
    several = history[["model", "seed"]].drop_duplicates()["model"].duplicated().any()
    notes = [legend_note("single runs", lw=0.5)] if several else []
    return small_panels(plot_indicator_over_epochs, history, pairs, models, fig, notes)


# --- layer by layer ---------------------------------------------------------------------------------------------------


def plot_layers_over_epochs(
    history: pd.DataFrame,
    *,
    indicator: str,
    source: str | None = None,
    model: str | None = None,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """An indicator of one model against epoch, one line for each layer: mean over heads and runs, and its 95 % interval
    over runs as a band. Deeper layers are darker."""
    rows = _rows_of_epochs(history, indicator, source, per_layer=True)
    rows = rows[rows["model"] == choose("model", model, list(rows["model"].unique()))]
    ax, means, layers = plt.gca() if ax is None else ax, summarise(rows, epochs="each"), sorted(rows["layer"].unique())
    for i, layer in enumerate(layers):
        mean = _with_all_runs(means[(means["layer"] == layer).fillna(False)])
        color = mpl.colormaps[HEAT](0.85 * (1 - i / max(1, len(layers) - 1)))
        marker = "o" if len(mean) == 1 else ""
        ax.plot(mean["epoch"].to_numpy(int), mean["mean"], color=color, lw=1.1, label=f"Layer {layer}", marker=marker)
        _draw_band(ax, mean, color)
    integer_ticks(ax)
    ax.set(xlabel="Epoch", ylabel=axis_label(history, rows), title=verbatim(str(rows["model"].iloc[0])))
    if legend:
        ax.legend()
    return ax


def _draw_band(ax: Axes, means: pd.DataFrame, color: object) -> None:
    """The interval over runs; one run has none, and that over its images would be of another kind."""
    low, high = (means[end].where(means["unit"] == "seeds") for end in ("ci_low", "ci_high"))
    ax.fill_between(means["epoch"].to_numpy(int), low, high, color=color, alpha=0.15, lw=0)


def plot_epochs_by_layer(history: pd.DataFrame, *, models: Models = None, fig: Figure | None = None) -> Figure:
    """:func:`plot_layers_over_epochs` of selectivity, the rank of the scores and that of sigma (rows, one scale each)
    for each model (columns). A model without a sigma leaves its place empty."""
    kinds, names = present_pairs(history, ORGANISING_PAIRS, "history"), list(drawn_styles(history, models))
    fig, style = own_figure(fig, page_width(), 1.35 * len(kinds) + 0.6)
    with style:
        grid = fig.subplots(len(kinds), len(names), squeeze=False, sharex=True, sharey="row")
        for at, (axes, (indicator, source)) in enumerate(zip(grid, kinds, strict=True)):
            rows = rows_of(history, indicator, source, name="history")
            for column, (ax, model) in enumerate(zip(axes, names, strict=True)):
                if model in set(rows["model"]):
                    plot_layers_over_epochs(
                        history, indicator=indicator, source=source, model=model, legend=False, ax=ax
                    )
                else:
                    ax.spines[:].set_visible(False)
                    ax.tick_params(length=0, labelbottom=False)
                    if at:  # the numbers under a column go with its lowest panel
                        grid[at - 1, column].tick_params(labelbottom=True)
                ax.set(xlabel="", ylabel="", title="" if at else verbatim(model))
            axes[0].set_ylabel(axis_label(history, rows).replace(" (", "\n("))
        fig.supxlabel("Epoch", fontsize=7.5)
        handles, texts = grid[0, 0].get_legend_handles_labels()
        fig.legend(handles, texts, loc="outside upper center", ncols=min(len(texts), 6))
    return fig


# --- loss and accuracy ------------------------------------------------------------------------------------------------


def plot_training_curves(history: pd.DataFrame, *, models: Models = None, fig: Figure | None = None) -> Figure:
    """Loss and test accuracy against epoch: mean over seeds, band = its 95 % interval. Dashes are those of the
    model; training loss, which augmentation and smoothed labels raise, is thin.

    Rows ``loss`` with source ``train`` or ``test`` and ``accuracy`` with source ``test``; what is absent is left out.
    """
    check_columns(history, ["indicator", "source"], "history")
    present = set(history[["indicator", "source"]].itertuples(index=False, name=None))
    panels = [[c for c in curves if c in present] for curves in _CURVES]
    panels = [curves for curves in panels if curves]
    if not panels:
        raise InputError("history must hold loss (train, test) or accuracy (test), got neither")
    wide = page_width() > 5
    size = (min(ONE_COLUMN * len(panels), page_width()), 2.3) if wide else (page_width(), 1.7 * len(panels) + 0.5)
    fig, style = own_figure(fig, *size)
    with style:
        axes = fig.subplots(*((1, len(panels)) if wide else (len(panels), 1)), squeeze=False).ravel()
        for ax, curves in zip(axes, panels, strict=True):
            for indicator, source in curves:
                _draw_curves(ax, _rows_of_epochs(history, indicator, source, per_layer=False), models)
            integer_ticks(ax)
            ax.set(xlabel="Epoch", ylabel=label(*curves[0]) if len(curves) == 1 else "Loss")
        notes = [legend_note("test", lw=1.3), legend_note("train", lw=0.7, alpha=0.5)]
        shared_legend(fig, axes, *(notes if ("loss", "train") in present else []))
    return fig


def _draw_curves(ax: Axes, rows: pd.DataFrame, models: Models) -> None:
    train, means = rows["source"].iloc[0] == "train", summarise(rows, epochs="each")
    look: dict[str, Any] = {"lw": 0.7, "alpha": 0.6} if train else {"lw": 1.3}
    for model, style in drawn_styles(rows, models).items():
        mean = _with_all_runs(means[means["model"] == model])
        text = None if train else f"{model} ({runs_text(int(means.loc[means['model'] == model, 'n_seeds'].max()))})"
        ax.plot(
            mean["epoch"].to_numpy(int),
            mean["mean"],
            color=style.color,
            ls=style.dash,
            label=text and verbatim(text),
            **look,
        )
        _draw_band(ax, mean, style.color)
