"""What a compression costs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from figure_frames import line

from svda_analysis import figures
from svda_analysis.errors import InputError


def test_compression_draws_points_and_says_where_the_control_lies():
    rows = []
    for criterion, change in (("operator", -0.01), ("random", -0.5)):
        for share in (0.2, 0.4):
            numbers = {f"{how}_{end}": change for how in ("masked", "removed") for end in ("change", "low", "high")}
            rows.append({"criterion": criterion, "directions_removed": share, "rows_removed": share, **numbers})
    left, right = figures.plot_compression({"svda": pd.DataFrame(rows)}).axes
    for ax in (left, right):
        np.testing.assert_allclose(line(ax, "by singular value").get_xdata(), [20, 40])
        np.testing.assert_allclose(line(ax, "by singular value").get_ydata(), [-1, -1])
        assert [text.get_text() for text in ax.texts] == ["at random: below, \u221250 at best"]
    fig = figures.plot_compression({"v$_{$": pd.DataFrame(rows), "svda": pd.DataFrame(rows)})
    fig.draw_without_rendering()  # a name that would be no mathematics
    with pytest.raises(InputError, match="curve of svda lacks the columns rows_removed"):
        figures.plot_compression({"svda": pd.DataFrame(rows).drop(columns="rows_removed")})


def test_intervals_are_bars_and_what_lies_far_below_is_out_of_sight():
    rows = []
    for share, change in ((0.2, 0.0), (0.4, -0.01), (0.6, -0.4)):
        ends = {"change": change, "low": change - 0.3, "high": change + 0.5}
        numbers = {f"{how}_{end}": x for how in ("masked", "removed") for end, x in ends.items()}
        rows.append({"criterion": "data", "directions_removed": share, "rows_removed": share, **numbers})
    left = figures.plot_compression({"svda": pd.DataFrame(rows)}).axes[0]
    (bars,) = left.collections
    np.testing.assert_allclose([bar[:, 1] for bar in bars.get_segments()], [(-30, 50), (-31, 49), (-70, 10)])
    np.testing.assert_allclose(line(left, "by sigma and the data").get_xdata(), [20, 40, 60])
    assert left.get_ylim()[0] == -6
