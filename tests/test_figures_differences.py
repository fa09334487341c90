"""Differences and gains."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from figure_frames import (
    close_figures,  # noqa: F401  # it closes the figures of each test by itself
    make_comparison,
    make_gains,
    make_table,
)
from matplotlib.colors import to_rgb

from svda_analysis import figures
from svda_analysis.errors import InputError
from svda_analysis.stats import interval_over


def test_faithfulness_shows_means_over_runs_with_their_t_interval():
    table = make_gains()
    fig = figures.plot_faithfulness(table)
    assert [ax.get_title() for ax in fig.axes] == ["Deletion gain", "Insertion gain"]
    for ax, indicator in zip(fig.axes, ("deletion_gain", "insertion_gain"), strict=True):
        of_measure = table[table["indicator"] == indicator]
        wanted = []
        for model in ("vit", "svda"):
            for source in ("rollout", "relevance"):
                rows = of_measure[(of_measure["model"] == model) & (of_measure["source"] == source)]
                values = rows["mean"]
                wanted.append((values.mean(), *interval_over(values, low=-1.0, high=1.0)))
        means = [drawn.get_ydata()[0] for drawn in ax.lines if len(drawn.get_ydata()) == 1]
        ends = [bar.get_segments()[0][:, 1] for bar in ax.collections]
        np.testing.assert_allclose(means, [mean for mean, _, _ in wanted])
        np.testing.assert_allclose(ends, [(low, high) for _, low, high in wanted])
    with pytest.raises(InputError, match="deletion_gain and insertion_gain"):
        figures.plot_faithfulness(make_table())


def test_fillers_stand_side_by_side_with_the_gains_of_each():
    table = make_gains()
    under = [
        table.assign(indicator=table["indicator"] + f"_{name}", mean=table["mean"] + shift)
        for name, shift in (("blur", 0.05), ("tokens", -0.1))
    ]
    fig = figures.plot_fillers(pd.concat([table, *under], ignore_index=True))
    assert [ax.get_title() for ax in fig.axes] == ["blur", "tokens dropped", "", ""]
    assert [ax.get_ylabel() for ax in fig.axes] == ["Deletion gain", "", "Insertion gain", ""]
    for ax, (gain, shift) in zip(
        fig.axes, [(g, s) for g in ("deletion_gain", "insertion_gain") for s in (0.05, -0.1)], strict=True
    ):
        rows = table[table["indicator"] == gain]
        means = [drawn.get_ydata()[0] for drawn in ax.lines if len(drawn.get_ydata()) == 1]
        wanted = [
            rows[(rows["model"] == model) & (rows["source"] == source)]["mean"].mean() + shift
            for model in ("vit", "svda")
            for source in ("rollout", "relevance")
        ]
        np.testing.assert_allclose(means, wanted)
    with pytest.raises(InputError, match="gains under named fillers"):
        figures.plot_fillers(table)


def test_comparison_is_relative_to_the_size_of_the_baseline():
    ax = figures.plot_comparison(make_comparison())
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == ["Effective rank (scores)", "Effective rank (attention)", "Selectivity index"]
    bars, points = ax.collections
    np.testing.assert_allclose(np.ma.filled(points.get_offsets(), np.nan)[:, 0], [25, 25, np.nan])
    ends = [segment[:, 0] for segment in bars.get_segments()[:2]]  # the third, relative to 0, is not drawn
    np.testing.assert_allclose(ends, [[10, 40], [-25, 75]])
    assert ax.get_xlabel() == "Difference from vit (% of its value)"


@pytest.mark.parametrize(("unit", "said"), [("seeds", "adjusted p < 0.05"), ("images", "interval without 0")])
def test_comparison_fills_what_is_clear_and_says_so(unit, said):
    ax = figures.plot_comparison(make_comparison(unit))
    faces = [tuple(face[:3]) for face in ax.collections[1].get_facecolors()]
    assert [face == to_rgb("white") for face in faces] == [False, True, False]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["svda", said, "otherwise"]


def test_comparison_of_one_layer():
    ax = figures.plot_comparison(make_comparison(), layer=1)
    np.testing.assert_allclose(ax.collections[1].get_offsets()[:, 0], [-50])
    with pytest.raises(InputError, match="layer 7"):
        figures.plot_comparison(make_comparison(), layer=7)
