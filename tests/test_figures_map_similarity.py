"""The layers of two models beside each other."""

from __future__ import annotations

import numpy as np
import pytest

from svda_analysis import figures
from svda_analysis.errors import InputError
from svda_analysis.frames import MAP_COLUMNS, make_frame


def test_map_similarity_is_the_mean_over_pairs_of_runs():
    pair = {"measure": "js", "images": "same", "model": "svda", "baseline": "vit"}
    rows = [
        {**pair, "layer_a": i, "layer_b": j, "similarity": (i + 2 * j + seed) / 10, "seed": seed}
        for seed in range(2)
        for i in range(2)
        for j in range(2)
    ]
    fig = figures.plot_map_similarity(make_frame(rows, MAP_COLUMNS["similarity"]))
    np.testing.assert_allclose(fig.axes[0].collections[0].get_array(), [[0.05, 0.25], [0.15, 0.35]])
    assert fig.axes[0].get_ylabel() == "Layer of svda"
    with pytest.raises(InputError, match="measure must be one of js, got 'cka'"):
        figures.plot_map_similarity(make_frame(rows, MAP_COLUMNS["similarity"]), measure="cka")
