"""Dots of all heads, and their medians."""

from __future__ import annotations

import numpy as np
import pytest
from figure_frames import LAYERS, make_table, of

from svda_analysis import figures
from svda_analysis.errors import InputError


def test_distributions_show_every_head_of_every_run():
    table = make_table(seeds=3)
    fig = figures.plot_distributions(table)
    (ax,) = fig.axes
    assert ax.get_ylabel() == "Effective rank (scores)"
    shown = np.concatenate([np.asarray(dots.get_offsets(), float)[:, 1] for dots in ax.collections])
    medians = [drawn.get_ydata() for drawn in ax.lines if len(drawn.get_ydata()) == LAYERS]
    expected = table[(table["indicator"] == "effective_rank") & (table["source"] == "scores")]["mean"]
    np.testing.assert_allclose(np.sort(shown), np.sort(expected))
    by_layer = of(table, "vit", "effective_rank", "scores").groupby("layer")["mean"].median()
    np.testing.assert_allclose(medians[0], by_layer)
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["vit", "svda"]
    assert ax.get_legend() is None


def test_distributions_are_the_same_each_time(tmp_path):
    first, second = (figures.save(figures.plot_distributions(make_table()), tmp_path / name, "d") for name in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_distributions_need_a_measure_of_structure():
    table = make_table()
    with pytest.raises(InputError, match=r"table must hold one of selectivity_index, .*got none"):
        figures.plot_distributions(table[table["indicator"] == "attention_entropy"])
