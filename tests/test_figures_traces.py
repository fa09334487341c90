"""Traces over epochs."""

from __future__ import annotations

import numpy as np
import pytest
from figure_frames import make_trace

from svda_analysis import figures
from svda_analysis.errors import InputError


def test_sigma_over_epochs_is_sorted_relative_and_averaged_over_heads():
    trace = make_trace()
    fig = figures.plot_sigma_over_epochs(trace)
    for layer in range(2):
        lines = fig.axes[layer].get_lines()
        assert len(lines) == 3
        for epoch, drawn in enumerate(lines):
            heads = [sorted(np.abs(head) / np.abs(head).max(), reverse=True) for head in trace.sigma[epoch, layer]]
            np.testing.assert_allclose(drawn.get_ydata(), np.mean(heads, axis=0), rtol=1e-5)
    with pytest.raises(InputError, match="trace must be of a model with a sigma"):
        figures.plot_sigma_over_epochs(make_trace(sigma=False))


def test_maps_over_epochs_are_those_of_the_epochs_that_all_have():
    traces = {"vit": make_trace(False, (1, 2, 3)), "svda": make_trace(True, (2, 3, 4))}
    fig = figures.plot_maps_over_epochs(traces, np.zeros((2, 8, 8, 1), np.uint8))
    drawn = [ax for ax in fig.axes if ax.images and ax.images[0].get_array().shape == (4, 4)]
    assert len(drawn) == 2 * 2 * 2  # images, models, epochs 2 and 3
    assert [ax.get_title() for ax in drawn if ax.get_title()] == ["Epoch 2", "Epoch 3"] * 2
    first = traces["vit"].maps[1, 0, -1].astype(float)
    np.testing.assert_allclose(drawn[0].images[0].get_array().ravel(), first / first.max(), rtol=1e-3)
    with pytest.raises(InputError, match="traces must share an epoch"):
        figures.plot_maps_over_epochs(
            {"a": make_trace(epochs=(1,)), "b": make_trace(epochs=(2,))}, np.zeros((1, 8, 8, 1))
        )
