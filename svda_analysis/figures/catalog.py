"""The figures that reports and studies show, in the order in which they are drawn. No torch here.

A study of variants draws sigma and maps over epochs of the models whose traces its analysis holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Protocol

import pandas as pd

from svda_analysis.document import Picture
from svda_analysis.figures.attention_maps import plot_attention_maps, plot_matched_heads
from svda_analysis.figures.costs import plot_compression
from svda_analysis.figures.differences import (
    GAINS,
    comparison_figure,
    other_metrics,
    plot_faithfulness,
    plot_fillers,
    plot_metrics,
    tells_something,
)
from svda_analysis.figures.distributions import plot_distributions
from svda_analysis.figures.epochs import (
    ORGANISING_PAIRS,
    plot_all_over_epochs,
    plot_epochs_by_layer,
    plot_training_curves,
)
from svda_analysis.figures.explanations import Explained, plot_explanations
from svda_analysis.figures.frontier import plot_frontiers
from svda_analysis.figures.heatmaps import HEAT_PAIRS, plot_all_heatmaps
from svda_analysis.figures.layers import OVERVIEW_PAIRS, plot_all_by_layer, plot_overview
from svda_analysis.figures.map_similarity import plot_map_similarity
from svda_analysis.figures.registry import figure
from svda_analysis.figures.reproduction import plot_source_epochs
from svda_analysis.figures.spectra import plot_spectra
from svda_analysis.figures.structure import STRUCTURE_PAIRS, plot_structure
from svda_analysis.figures.traces import plot_maps_over_epochs, plot_sigma_over_epochs
from svda_analysis.results import Analysis
from svda_analysis.source_numbers import SOURCE_MEASURES
from svda_analysis.vocabulary import quantity

Pictures = Iterator[Picture]
_MODELS = ("analysis", "study")
_STUDIES = ("study", "variants")


def _has_layers(frame: pd.DataFrame) -> bool:
    """Whether an indicator was measured layer by layer."""
    return bool(frame["layer"].notna().any())


def _has_pairs(frame: pd.DataFrame, pairs: tuple[tuple[str, str], ...]) -> bool:
    """Whether one of these (indicator, source) was measured."""
    return not set(pairs).isdisjoint(frame[["indicator", "source"]].itertuples(index=False, name=None))


@figure("overview", where=_MODELS, needs="indicators of structure")
def _overview(analysis: Analysis) -> Pictures:
    if _has_layers(analysis.table) and _has_pairs(analysis.table, OVERVIEW_PAIRS):
        yield Picture(name="overview", draw=partial(plot_overview, analysis.table, models=analysis.models))


@figure("accuracy_structure", where=_STUDIES, needs="test accuracy and the indicators of structure")
def _accuracy_structure(analysis: Analysis) -> Pictures:
    if _has_pairs(analysis.table, STRUCTURE_PAIRS) and _has_pairs(analysis.table, (("accuracy", "test"),)):
        yield Picture(name="accuracy_structure", draw=partial(plot_structure, analysis.table, models=analysis.models))


@figure("frontier", where=("frontier",), needs="runs on a dial")
def _frontier(runs: pd.DataFrame) -> Pictures:
    if runs[["rank", "accuracy"]].notna().all(axis=1).any():
        caption = (
            "Test accuracy against the effective rank of the scores: a line for each way to a lower rank, from its "
            "loosest setting to its tightest, through the means over training runs; small, the runs, less what the "
            "runs of their seed have in common."
        )
        yield Picture(name="frontier", draw=partial(plot_frontiers, runs), caption=caption)


@figure("comparison", where=_MODELS, needs="two models")
def _comparison(analysis: Analysis) -> Pictures:
    if (rows := analysis.comparison) is None:
        return
    own_figure = rows["indicator"].map(lambda name: quantity(str(name)).quality == "faithful").astype(bool)
    rows = rows[~own_figure & rows["layer"].isna()]
    if len(rows):
        yield Picture(name="comparison", draw=partial(comparison_figure, rows, analysis.models))


@figure("faithfulness", where=_MODELS, needs="svda-analyze --faithfulness N")
def _faithfulness(analysis: Analysis) -> Pictures:
    if tells_something(analysis.table):
        yield Picture(name="faithfulness", draw=partial(plot_faithfulness, analysis.table, models=analysis.models))


@figure("faithfulness_fillers", where=_MODELS, needs="svda-analyze --faithfulness N --metrics default,fillers")
def _faithfulness_fillers(analysis: Analysis) -> Pictures:
    if analysis.table["indicator"].str.startswith(f"{GAINS[0]}_").any():
        draw = partial(plot_fillers, analysis.table, models=analysis.models)
        yield Picture(name="faithfulness_fillers", draw=draw)


@figure("faithfulness_metrics", where=_MODELS, needs="svda-analyze --faithfulness N")
def _faithfulness_metrics(analysis: Analysis) -> Pictures:
    if other_metrics(analysis.table):
        draw = partial(plot_metrics, analysis.table, models=analysis.models)
        yield Picture(name="faithfulness_metrics", draw=draw)


@figure("by_layer", where=_MODELS, needs="indicators by layer")
def _by_layer(analysis: Analysis) -> Pictures:
    if _has_layers(analysis.table):
        yield Picture(name="by_layer", draw=partial(plot_all_by_layer, analysis.table, models=analysis.models))


@figure("distributions", needs="indicators of structure by layer and head")
def _distributions(analysis: Analysis) -> Pictures:
    if _has_pairs(analysis.table, STRUCTURE_PAIRS):
        yield Picture(name="distributions", draw=partial(plot_distributions, analysis.table, models=analysis.models))


@figure("heatmaps", where=_MODELS, needs="indicators by layer and head")
def _heatmaps(analysis: Analysis) -> Pictures:
    if _has_layers(analysis.table) and _has_pairs(analysis.table, HEAT_PAIRS):
        draw = partial(plot_all_heatmaps, analysis.table, pairs=HEAT_PAIRS, models=analysis.models)
        yield Picture(name="heatmaps", draw=draw)


@figure("spectra", where=_MODELS, needs="spectra of sigma, scores or maps")
def _spectra(analysis: Analysis) -> Pictures:
    for source in analysis.spectra["source"].unique():
        draw = partial(plot_spectra, analysis.spectra, source=source, models=analysis.models)
        yield Picture(name=f"spectra_{source}", draw=draw)


@figure("attention_maps", where=_MODELS, needs="example images (--examples N)")
def _attention_maps(analysis: Analysis) -> Pictures:
    shown = {model: analysis.examples[model] for model in analysis.models if model in analysis.examples}
    if shown:
        yield Picture(name="attention_maps", draw=partial(plot_attention_maps, shown))


@figure("training", where=_MODELS, needs="a checkpoint with the history of its training")
def _training(analysis: Analysis) -> Pictures:
    if analysis.history["indicator"].isin(["loss", "accuracy"]).any():
        yield Picture(name="training", draw=partial(plot_training_curves, analysis.history, models=analysis.models))


@figure("epochs", where=_MODELS, needs="a checkpoint with these indicators in its history")
def _epochs(analysis: Analysis) -> Pictures:
    asked = analysis.history["indicator"].isin(analysis.table["indicator"])  # a history holds all that was tracked
    if _has_layers(history := analysis.history[asked]):
        yield Picture(name="epochs", draw=partial(plot_all_over_epochs, history, models=analysis.models))


@figure("epochs_by_layer", where=("study",), needs="a checkpoint with indicators of structure in its history")
def _epochs_by_layer(analysis: Analysis) -> Pictures:
    if _has_pairs(analysis.history, ORGANISING_PAIRS):
        draw = partial(plot_epochs_by_layer, analysis.history, models=analysis.models)
        yield Picture(name="epochs_by_layer", draw=draw)


@figure("source_epochs", where=("study",), needs='runs of SVDA on FashionMNIST by the recipe "source"')
def _source_epochs(analysis: Analysis) -> Pictures:
    """Of SVDA on FashionMNIST, which the source's log is of, where training measured the source's indicators."""
    history = analysis.history[analysis.history["attention"] == "svda"]
    history = history[history["indicator"].isin(measure.indicator for measure in SOURCE_MEASURES.values())]
    if len(history) and set(history["dataset"].dropna()) == {"fashion_mnist"}:
        yield Picture(name="source_epochs", draw=partial(plot_source_epochs, history))


@figure("sigma_over_epochs", where=_STUDIES, needs="checkpoints that keep a trace of sigma")
def _sigma_over_epochs(analysis: Analysis) -> Pictures:
    for model in analysis.models:
        trace = analysis.traces.get(model)
        if trace is not None and trace.sigma is not None:
            yield Picture(name=f"sigma_over_epochs_{model}", draw=partial(plot_sigma_over_epochs, trace))


@figure("maps_over_epochs", where=_STUDIES, needs="checkpoints that keep a trace of their maps")
def _maps_over_epochs(analysis: Analysis) -> Pictures:
    traces = {model: analysis.traces[model] for model in analysis.models if model in analysis.traces}
    if traces and analysis.examples:
        images = next(iter(analysis.examples.values())).images  # all models have the same
        yield Picture(name="maps_over_epochs", draw=partial(plot_maps_over_epochs, traces, images))


@figure("map_similarity", where=("analysis", *_STUDIES), needs="two models and svda-analyze --maps N")
def _map_similarity(analysis: Analysis) -> Pictures:
    if "similarity" in analysis.maps:
        found = analysis.maps["similarity"]
        yield Picture(name="map_similarity", draw=partial(plot_map_similarity, found))
        if (found["measure"] == "cka").any():
            draw = partial(plot_map_similarity, found, measure="cka")
            yield Picture(name="token_similarity", draw=draw)


@figure("matched_heads", needs="two models and svda-analyze --maps N")
def _matched_heads(analysis: Analysis) -> Pictures:
    """For each pair of models: of the runs whose example maps are at hand, which are the first of each model."""
    if "heads" not in analysis.maps:
        return
    first = {run.model: run.seed for run in reversed(analysis.runs) if not run.broken}
    for (model, baseline), heads in analysis.maps["heads"].groupby(["model", "baseline"], sort=False):
        if model == baseline or not {model, baseline} <= analysis.examples.keys() & first.keys():
            continue
        seeds = ((heads["seed"], first[str(model)]), (heads["baseline_seed"], first[str(baseline)]))
        ours, theirs = (found.isna() if seed is None else found == seed for found, seed in seeds)
        if len(shown := heads[ours & theirs]):
            both = [analysis.examples[str(name)] for name in (model, baseline)]
            yield Picture(name=f"matched_heads_{model}_{baseline}", draw=partial(plot_matched_heads, shown, *both))


# --- of compressions and of explanations ------------------------------------------------------------------------------


class Swept(Protocol):
    """What the figure of a compression is drawn from: a sweep for each model."""

    @property
    def curves(self) -> Mapping[str, pd.DataFrame]: ...


@figure("compression", where=("compression",), needs="a sweep (svda compress --sweep)")
def _compression(compressions: Swept) -> Pictures:
    if compressions.curves:
        caption = (
            "Change in accuracy by the share of score directions masked (left) and of rows of W_q and W_k truly "
            "removed (right), with 95 % intervals; in grey what is chosen at random."
        )
        yield Picture(name="compression", draw=partial(plot_compression, compressions.curves), caption=caption)


@figure("explanations", where=("explanations",), needs="svda explain")
def _explanations(page: Explained) -> Pictures:
    caption = f"What speaks for the class in {', '.join(page.names)}: {', '.join(page.labels)}"
    yield Picture(name="explanations", draw=partial(plot_explanations, page), caption=caption)
