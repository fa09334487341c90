"""Where numbers stop being finite: the first weight, else the first module whose output is not."""

import math

import pytest
import torch
from torch import nn

from svda_analysis.answers import class_scores
from svda_analysis.errors import InputError
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.soundness import (
    NotFiniteError,
    broken_weight,
    check_weights_finite,
    first_broken,
    naming_the_layer,
    not_finite,
)

IMAGES = torch.zeros(2, 1, 28, 28)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return ViT(ViTConfig(depth=3, dim=24, heads=2)).eval()


def test_a_sound_model_has_no_such_place(model):
    assert broken_weight(model) == first_broken(model, IMAGES) == ""
    check_weights_finite(model, "m")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_first_weight_in_the_order_of_the_model_is_named(value, model):
    for layer in (2, 1):
        model.blocks[layer].mlp[0].weight.data[3, 1] = value
    assert broken_weight(model) == "blocks.1.mlp.0.weight"
    assert first_broken(model, IMAGES) == "the weight blocks.1.mlp.0.weight"
    with pytest.raises(InputError, match=r"^m has numbers that are not finite .* blocks\.1\.mlp\.0\.weight$"):
        check_weights_finite(model, "m")


def test_buffers_count_too():
    assert broken_weight(nn.BatchNorm2d(3).requires_grad_(False)) == ""
    norm = nn.BatchNorm2d(3)
    norm.running_var[1] = math.nan
    assert broken_weight(norm) == "running_var"


def test_finite_weights_that_overflow_are_found_where_they_do(model):
    model.blocks[1].mlp[3].weight.data.fill_(3e38)
    model.blocks[1].mlp[3].bias.data.fill_(3e38)
    assert first_broken(model, torch.randn(2, 1, 28, 28)) == "the output of blocks.1.mlp.3"
    assert not any(module._forward_hooks for module in model.modules())
    assert "the output of blocks.1.mlp.3" in str(not_finite(model.train(), torch.randn(2, 1, 28, 28)))
    assert model.training


def test_what_is_told_of_a_model_names_where_it_began(model):
    with torch.no_grad():
        model.head.weight.fill_(3e38)
    images = torch.randn(1, 1, 28, 28)
    said = r"^mine has numbers that are not finite .*: the first are in the output of head$"
    with pytest.raises(NotFiniteError, match=said), naming_the_layer("mine", model, images):
        class_scores(model(images), model)
