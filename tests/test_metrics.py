"""Metrics of maps: re-drawn weights, and the correlation with their maps."""

import copy

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from svda_analysis.attribution import attribute
from svda_analysis.faithful import randomisation_check
from svda_analysis.model import ViT, ViTConfig


def model_and_images(images=3, kind="dot"):
    torch.manual_seed(0)
    model = ViT(ViTConfig(attention=kind, image_size=12, in_channels=2, dim=24, depth=2, heads=2)).eval()
    nn.init.normal_(model.head.weight)  # a new head is zero, and gives every class the same probability
    for layer in model.attention_layers():
        nn.init.normal_(layer.qkv.weight, std=0.5)
    return model, torch.randn(images, 2, 12, 12)


class OnePatch(nn.Module):
    """The logit of class 0 is the sum over one 2 x 2 patch of a 4 x 6 image; that of class 1 is zero."""

    def __init__(self, patch):
        super().__init__()
        self.row, self.column = 2 * (patch // 3), 2 * (patch % 3)

    def forward(self, images):
        score = images[:, :, self.row : self.row + 2, self.column : self.column + 2].sum((1, 2, 3))
        return torch.stack([score, torch.zeros_like(score)], 1)


class Uneven(nn.Module):
    """Patches of 5 x 5 pixels of an image of 12 x 12: two pixels at the edge are in no token, but in the logit."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.embed = nn.Conv2d(1, 4, 5, stride=5)

    def forward(self, images):
        x = self.embed(images).flatten(2).mT[:, None]
        x = nn.functional.scaled_dot_product_attention(x, x, x).mean((1, 2))
        return x + images[:, :, 10:].mean((1, 2, 3))[:, None] * torch.arange(4.0)


class Sum(nn.Module):
    """Class 0 has probability 1/2 + the mean of the image / 8, a linear function."""

    def forward(self, images):
        p = 0.5 + images.mean((1, 2, 3)) / 8
        return torch.stack([p.log(), (1 - p).log()], 1)


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
