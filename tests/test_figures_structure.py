"""Accuracy against structure."""

from __future__ import annotations

import numpy as np
from figure_frames import (
    close_figures,  # noqa: F401  # it closes the figures of each test by itself
    line,
    make_table,
    of,
)

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


def test_structure_leaves_out_runs_without_either_number():
    table = make_table(seeds=3)
    table = table[~((table["indicator"] == "accuracy") & (table["seed"] == 2) & (table["model"] == "vit"))]
    ax = figures.plot_accuracy_structure(table, indicator="effective_rank", source="scores")
    assert line(ax, "vit").get_label() == "vit (2 seeds)"
