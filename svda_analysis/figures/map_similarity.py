"""How alike the maps of two models are. No torch here."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from svda_analysis.figures.panels import heat_cells, own_figure
from svda_analysis.figures.rows import choose
from svda_analysis.figures.style import page_width, verbatim
from svda_analysis.formatting import shorten
from svda_analysis.frames import check_columns, seeds_of_pairs

_COLUMNS = ("model", "baseline", "seed", "baseline_seed", "layer_a", "layer_b", "measure", "images", "similarity")

_LABELS = {"js": "1 - Jensen-Shannon distance", "cka": "Linear CKA of the tokens"}


def plot_map_similarity(similarity: pd.DataFrame, *, measure: str = "js", fig: Figure | None = None) -> Figure:
    """How alike the maps of two models are, layer by layer: a column for each pair of models, a row for each kind of
    images.

    ``similarity`` is the frame of that name from :func:`svda_analysis.compare_maps`, with columns ``model`` and
    ``baseline``; ``measure`` "cka" shows how alike the layers' tokens are. The mean over pairs of runs, of different
    seeds where there are such, is drawn, all panels on one scale.
    """
    check_columns(similarity, _COLUMNS, "similarity")
    rows = similarity[similarity["measure"] == choose("measure", measure, list(similarity["measure"].unique()))]
    rows = _across_seeds(rows)
    pairs = list(rows[["model", "baseline"]].drop_duplicates().itertuples(index=False, name=None))
    kinds = list(rows["images"].unique())
    width, high = min(page_width(), 1.9 * len(pairs) + 0.6), float(rows["similarity"].max())
    fig, style = own_figure(fig, width, (1.0 * (width - 0.6) / len(pairs) + 0.15) * len(kinds) + 0.3)
    with style:
        axes = fig.subplots(len(kinds), len(pairs), squeeze=False)
        panels = rows.groupby(["images", "model", "baseline"])
        where = [(kind, pair) for kind in kinds for pair in pairs]
        for ax, (kind, (model, baseline)) in zip(axes.flat, where, strict=True):
            cells = panels.get_group((kind, model, baseline)).pivot_table(
                index="layer_a", columns="layer_b", values="similarity"
            )
            drawn = heat_cells(ax, cells, vmin=0, vmax=high, numbers=cells.size <= 36)
            other = baseline if model != baseline else f"{model}, other seed"
            ax.set(xlabel=verbatim(f"Layer of {shorten(other, 18)}"), ylabel=verbatim(f"Layer of {shorten(model, 14)}"))
            ax.set_title(f"{kind} image", fontsize=7)
            if kind == kinds[0]:
                ax.set_title(verbatim(f"{shorten(model, 14)}, {shorten(other, 18)}\n{kind} image"), fontsize=7)
        fig.colorbar(drawn, ax=axes, label=_LABELS.get(measure, measure.capitalize()))
    return fig


def _across_seeds(rows: pd.DataFrame) -> pd.DataFrame:
    """Of models that have pairs of runs of different seeds, these alone: equal seeds share their initial weights."""
    seeds = seeds_of_pairs(rows)
    across = (seeds == "other").groupby([rows["model"], rows["baseline"]]).transform("any")
    return rows[(seeds != "same") | ~across]
