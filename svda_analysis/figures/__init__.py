"""Figures of an analysis: frames in, Axes out. matplotlib, no torch, no files but in :func:`save`.

A single panel is ``plot_*(frame, *, ax=None) -> Axes``: it draws on ``ax`` (the current Axes when ``None``) in the
style in force. A figure of several panels is ``plot_*(frame, *, fig=None) -> Figure``: it fills an empty ``fig``, or
makes its own in the paper style :data:`THEME`. To draw single panels in that style::

    with figures.theme():
        fig, ax = plt.subplots(figsize=(figures.ONE_COLUMN, 2.4))
        figures.plot_indicator_by_layer(result.table, indicator="effective_rank", source="scores", ax=ax)
    figures.save(fig, "reports", "effective_rank")

Arguments that mean the same everywhere: ``source`` may be left out when the indicator has a single one; ``models``
fixes which models are drawn, their order, colours and markers (default: the dot-product baseline first, then by name).
Labels are those of the vocabulary, means and intervals over runs those of ``comparison.summarise``. Layers, heads and
epochs are numbered as in the table. Where a table holds several epochs, figures of the final state take the last one of
each run. All raise ``InputError`` for a missing column, an unknown name, or more than one row for the same model, seed,
epoch, layer and head (several data sets, say).

All figures of a report are :func:`pictures` of its analysis; :func:`figure` enters another one.
"""

from svda_analysis.figures.attention_maps import plot_attention_maps, plot_matched_heads
from svda_analysis.figures.costs import plot_compression
from svda_analysis.figures.differences import plot_comparison, plot_faithfulness, plot_fillers, plot_metrics
from svda_analysis.figures.distributions import plot_distributions
from svda_analysis.figures.epochs import (
    plot_all_over_epochs,
    plot_epochs_by_layer,
    plot_indicator_over_epochs,
    plot_layers_over_epochs,
    plot_training_curves,
)
from svda_analysis.figures.explanations import plot_explanations
from svda_analysis.figures.frontier import plot_frontier, plot_frontiers
from svda_analysis.figures.heatmaps import plot_all_heatmaps, plot_indicator_heatmap, plot_indicator_heatmaps
from svda_analysis.figures.layers import plot_all_by_layer, plot_indicator_by_layer, plot_overview
from svda_analysis.figures.map_similarity import plot_map_similarity
from svda_analysis.figures.registry import FIGURES, FigureSpec, figure, pictures
from svda_analysis.figures.saving import save_figure as save
from svda_analysis.figures.spectra import plot_spectra
from svda_analysis.figures.structure import plot_accuracy_structure, plot_structure
from svda_analysis.figures.style import ONE_COLUMN, THEME, TWO_COLUMNS, Style, model_styles, on_page, theme
from svda_analysis.figures.traces import plot_maps_over_epochs, plot_sigma_over_epochs

from svda_analysis.figures import catalog  # isort: skip  # enters the figures of reports

__all__ = [
    "FIGURES",
    "ONE_COLUMN",
    "THEME",
    "TWO_COLUMNS",
    "FigureSpec",
    "Style",
    "catalog",
    "figure",
    "model_styles",
    "on_page",
    "pictures",
    "plot_accuracy_structure",
    "plot_all_by_layer",
    "plot_all_heatmaps",
    "plot_all_over_epochs",
    "plot_attention_maps",
    "plot_comparison",
    "plot_compression",
    "plot_distributions",
    "plot_epochs_by_layer",
    "plot_explanations",
    "plot_faithfulness",
    "plot_fillers",
    "plot_frontier",
    "plot_frontiers",
    "plot_indicator_by_layer",
    "plot_indicator_heatmap",
    "plot_indicator_heatmaps",
    "plot_indicator_over_epochs",
    "plot_layers_over_epochs",
    "plot_map_similarity",
    "plot_maps_over_epochs",
    "plot_matched_heads",
    "plot_metrics",
    "plot_overview",
    "plot_sigma_over_epochs",
    "plot_spectra",
    "plot_structure",
    "plot_training_curves",
    "save",
    "theme",
]
