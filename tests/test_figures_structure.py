"""Accuracy against structure."""

from __future__ import annotations

import numpy as np
from figure_frames import line, make_table, of

from svda_analysis import figures


def test_structure_shows_runs_and_the_mean_over_them():
    table = make_table(seeds=3)
    ax = figures.plot_accuracy_structure(table, indicator="effective_rank", source="scores")
    rows = of(table, "svda", "effective_rank", "scores")
    x = rows.groupby("seed")["mean"].mean().to_numpy()
    y = 100 * of(table, "svda", "accuracy", "test").sort_values("seed")["mean"].to_numpy()
    mean = line(ax, "svda")
    dots = next(drawn for drawn in ax.lines if len(drawn.get_xdata()) == 3 and drawn.get_color() == mean.get_color())
    np.testing.assert_allclose(np.column_stack([dots.get_xdata(), dots.get_ydata()]), np.column_stack([x, y]))
    np.testing.assert_allclose([mean.get_xdata()[0], mean.get_ydata()[0]], [x.mean(), y.mean()])
    assert mean.get_label() == "svda (3 seeds)"


def test_of_many_models_each_has_a_row_the_most_accurate_first():
    names = [f"m{at}" for at in range(8)]
    table = make_table(names, seeds=2)
    fig = figures.plot_structure(table)
    whole = table[table["indicator"] == "accuracy"].groupby("model")["mean"].mean().sort_values(ascending=False)
    assert [text.get_text() for text in fig.axes[0].get_yticklabels()] == list(whole.index)
    means = [drawn.get_xdata()[0] for drawn in fig.axes[0].lines if drawn.get_marker() == "o"]
    np.testing.assert_allclose(means, 100 * whole)


def test_structure_leaves_out_runs_without_either_number():
    table = make_table(seeds=3)
    table = table[~((table["indicator"] == "accuracy") & (table["seed"] == 2) & (table["model"] == "vit"))]
    ax = figures.plot_accuracy_structure(table, indicator="effective_rank", source="scores")
    assert line(ax, "vit").get_label() == "vit (2 seeds)"
