"""Metrics of maps: re-drawn weights, and the correlation with their maps."""

import copy

import numpy as np
import pytest
import torch
from known_models import model_and_images
from scipy import stats
from torch import nn

from svda_analysis.attribution import attribute
from svda_analysis.faithful import randomisation_check


@pytest.mark.parametrize("kind", ["dot", "svda"])
@pytest.mark.parametrize("method", ["rollout", "relevance"])
def test_re_drawn_weights_leave_the_model_as_it_was(kind, method):
    model, images = model_and_images(images=4, kind=kind)
    before = copy.deepcopy(model.state_dict())
    row = randomisation_check(model, images, method=method).iloc[0]
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (row["indicator"], row["source"], row["n"]) == ("randomisation_correlation", method, 4)
    assert -1 <= row["ci_low"] < row["mean"] < row["ci_high"]
    assert row["mean"] < 0.9


def test_the_correlation_is_spearmans_with_the_maps_of_the_permuted_weights():
    model, images = model_and_images(images=4)
    redrawn, generator = copy.deepcopy(model), torch.Generator().manual_seed(7)
    for parameter in redrawn.parameters():
        parameter.data = parameter.data.reshape(-1)[torch.randperm(parameter.numel(), generator=generator)].view(
            parameter.shape
        )
    maps = [attribute(each, images)[:, ::4, ::4].flatten(1) for each in (model, redrawn)]  # one pixel of each patch
    values = [stats.spearmanr(a, b).statistic for a, b in zip(*maps, strict=True)]
    row = randomisation_check(model, images, seed=7).iloc[0]
    assert row["mean"] == pytest.approx(np.mean(values), abs=1e-9)
    assert row["std"] == pytest.approx(np.std(values, ddof=1), abs=1e-9)


def test_constant_maps_have_no_correlation():
    model, images = model_and_images()
    nn.init.zeros_(model.head.weight)  # no logit depends on any map
    row = randomisation_check(model, images, method="relevance").iloc[0]
    assert row["n"] == 0
    assert np.isnan(row["mean"])
