"""Differences and gains."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from figure_frames import make_comparison, make_gains, make_table
from matplotlib.colors import to_rgb

from svda_analysis import figures
from svda_analysis.errors import InputError
from svda_analysis.figures import differences
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


def test_comparison_is_in_units_of_the_spread_the_largest_of_a_source_first():
    rows = make_comparison()
    ax = figures.plot_comparison(rows)
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == ["Effective rank (scores)", "Selectivity index", "Effective rank (attention)"]
    bars, points = ax.collections
    np.testing.assert_allclose(points.get_offsets()[:, 0], [5 / 2, 0.1 / (0.075 / 1.96), 1 / 2])  # g, none, g
    np.testing.assert_allclose(bars.get_segments()[0][:, 0], [2 / 2, 8 / 2])
    assert ax.get_xlabel() == "Difference from vit / its spread over runs"
    assert ax.texts[0].get_text() == "20.00 → 25.00"


@pytest.mark.parametrize(
    ("unit", "filled", "said"),
    [
        ("seeds", [True, True, False], ["adjusted p < 0.05", "otherwise"]),
        ("images", [False] * 3, ["one run each: no p"]),
    ],
)
def test_comparison_fills_what_has_a_small_adjusted_p_alone(unit, filled, said):
    ax = figures.plot_comparison(make_comparison(unit))
    faces = [tuple(face[:3]) for face in ax.collections[1].get_facecolors()]
    assert [face != to_rgb("white") for face in faces] == filled
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["svda", *said]


def test_comparison_of_one_layer():
    ax = figures.plot_comparison(make_comparison(), layer=1)
    np.testing.assert_allclose(ax.collections[1].get_offsets()[:, 0], [-5 / 2])
    with pytest.raises(InputError, match="layer 7"):
        figures.plot_comparison(make_comparison(), layer=7)


def test_maps_that_tell_nothing_have_no_figure_of_faithfulness():
    table = make_gains()
    assert differences.tells_something(table)
    assert not differences.tells_something(table.assign(mean=0.001))
