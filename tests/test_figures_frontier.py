"""Accuracy against rank along dials."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
from dial_cases import DIALS, LEVELS, dialled

from svda_analysis import figures
from svda_analysis.errors import InputError
from svda_analysis.study.frontier import frontier_runs


def test_a_line_runs_through_the_means_of_each_dial():
    runs = frontier_runs(dialled(), DIALS)
    ax = figures.plot_frontier(runs)
    lines = {drawn.get_label(): drawn for drawn in ax.lines}
    means = runs.groupby("model")["accuracy"].mean()
    for dial in DIALS:
        drawn = lines[dial.title]
        np.testing.assert_allclose(drawn.get_xdata(), [LEVELS[name][0] for name in dial.models])
        np.testing.assert_allclose(drawn.get_ydata(), [100 * means[name] for name in dial.models])
    assert [text.get_text() for text in ax.texts] == ["1", "1/2", "all", "8", "4"]


def test_a_model_on_several_dials_has_its_name():
    other = DIALS[1]._replace(title="another way", models=("vit", "vit_4"), settings=("none", "3"))
    ax = figures.plot_frontier(frontier_runs(dialled(), [*DIALS, other]))
    assert [text.get_text() for text in ax.texts] == ["1", "1/2", "vit", "8", "vit_4", "vit", "vit_4"]


def test_dots_are_runs_without_what_their_seed_has_in_common():
    """Of runs that differ by their seed alone, every dot lies on the mean."""
    ax = figures.plot_frontier(frontier_runs(dialled(noise=0.0), DIALS))
    dots = [drawn for drawn in ax.lines if drawn.get_linestyle() == "None"]
    assert [len(drawn.get_xdata()) for drawn in dots] == [6, 9]
    y = np.asarray(dots[1].get_ydata()).reshape(3, 3)
    np.testing.assert_allclose(y, y[:, :1].repeat(3, 1))
    assert len(figures.plot_frontier(frontier_runs(dialled(1), DIALS), ax=plt.figure().subplots()).lines) == 2


def test_runs_without_a_number_are_left_out():
    runs = frontier_runs(dialled(), DIALS)
    half = runs.assign(accuracy=runs["accuracy"].where(runs["model"] != "vit_4"))
    assert [text.get_text() for text in figures.plot_frontier(half).texts] == ["1", "1/2", "all", "8"]
    nothing = runs.assign(accuracy=np.nan)
    assert figures.pictures(nothing, "frontier") == []
    with pytest.raises(InputError, match="runs with both rank and accuracy"):
        figures.plot_frontier(nothing)
    (picture,) = figures.pictures(runs, "frontier")
    assert len(picture.draw().axes[0].lines) == 4
