"""What panels share: limits, legends, pictures."""

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest

from svda_analysis.figures import panels
from svda_analysis.figures.style import THEME


@pytest.mark.parametrize(
    ("low", "high", "found"),
    [(0.0, 1.0, (0.0, 1.0)), (100.0, 100.0, (99.5, 100.5)), (-100.0, -99.9, (-100.45, -99.45)), (np.nan, 1, (0, 1))],
)
def test_limits_stand_at_least_one_percent_of_the_values_apart(low, high, found):
    assert panels.least_span(low, high) == pytest.approx(found)


def test_a_figure_that_is_given_keeps_the_style_in_force_and_a_new_one_has_the_papers():
    fig, style = panels.own_figure(None, 3, 2)
    assert tuple(fig.get_size_inches()) == (3, 2)
    with style:
        assert mpl.rcParams["font.size"] == THEME["font.size"]
    given = plt.figure(figsize=(5, 5))
    fig, style = panels.own_figure(given, 3, 2)
    before = mpl.rcParams["font.size"]
    with style:
        assert (fig, mpl.rcParams["font.size"]) == (given, before)
    assert tuple(fig.get_size_inches()) == (5, 5)


def test_panels_that_are_left_over_are_hidden_and_their_numbers_go_up():
    axes = panels.panel_grid(plt.figure(), 2, 2, 3, sharex=True)
    shown = [ax.get_visible() for ax in axes[0].figure.axes]
    assert (len(axes), shown) == (3, [True, True, True, False])
    labels = [ax.xaxis.get_tick_params()["labelbottom"] for ax in axes]
    assert labels == [False, True, True]  # the second stands over the hidden one


def test_a_legend_has_each_label_once_in_the_order_of_the_fullest_panel_then_notes():
    fig, axes = plt.subplots(1, 2)
    for name in ("vit", "svda"):
        axes[0].plot([0], [0], label=name)
    axes[1].plot([0], [0], label="svda")
    panels.shared_legend(fig, axes, panels.legend_note("95 % interval", lw=1))
    (legend,) = fig.legends
    assert [text.get_text() for text in legend.get_texts()] == ["vit", "svda", "95 % interval"]


def test_pictures_are_shown_as_they_are_and_maps_relative_to_their_largest():
    fig, (left, middle, right) = plt.subplots(1, 3)
    grey, colour = np.full((2, 3, 1), 7, np.uint8), np.full((2, 3, 3), 7, np.uint8)
    panels.show_picture(left, grey)
    panels.show_picture(middle, colour)
    np.testing.assert_array_equal(left.images[0].get_array(), grey[..., 0])
    np.testing.assert_array_equal(middle.images[0].get_array(), colour)
    drawn = panels.show_map(right, np.array([[1.0, 2.0], [4.0, 0.0]]))
    np.testing.assert_allclose(drawn.get_array(), [[0.25, 0.5], [1, 0]])
    assert np.isfinite(panels.show_map(right, np.zeros((2, 2))).get_array()).all()
    panels.map_bar(fig, drawn, "relative")
    assert fig.axes[-1].get_xlabel() == "relative"


def test_ticks_are_whole_numbers():
    ax = plt.figure().subplots()
    ax.plot([0, 2], [0, 1])
    panels.integer_ticks(ax)
    assert all(tick == int(tick) for tick in ax.get_xticks())
    assert (panels.runs_text(1), panels.runs_text(3)) == ("1 run", "3 seeds")
