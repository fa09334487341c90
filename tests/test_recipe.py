"""The recipe: what it refuses, the rate of each step, the rates and the decay of each parameter."""

import itertools
import math

import pytest

from svda_analysis.errors import InputError
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.penalties import penalty
from svda_analysis.recipe import TrainConfig, all_fields, lr_share, parameter_groups


def test_rates_of_sigma_and_no_decay_where_none_belongs():
    model = ViT(ViTConfig(attention="svda", dim=24, depth=2, heads=2))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(
        model, TrainConfig(lr=0.01, shape_lr_factor=20.0, temperature_lr_factor=3.0, weight_decay=0.1)
    )
    seen = {names[id(p)]: (group["peak_lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(seen) == len(names)
    assert seen["blocks.0.attention.sigma_shape"] == pytest.approx((0.2, 0))
    assert seen["blocks.0.attention.log_temperature"] == pytest.approx((0.03, 0))
    assert seen["blocks.0.attention.qkv.weight"] == (0.01, 0.1)
    assert seen["pos_embed"] == seen["blocks.0.norm1.weight"] == (0.01, 0.0)


def test_rate_rises_then_falls_to_zero():
    rates = [lr_share(step, 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] < 1e-3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"epochs": 10**30}, "epochs must be at most 2147483647, got more"),
        ({"train_images": 0}, "train_images must be a whole number of at least 1"),
        ({"crop_padding": -1}, "crop_padding must be a whole number from 0 to 512, got -1"),
        ({"crop_padding": 10**9}, "crop_padding must be a whole number from 0 to 512"),
        ({"lr": -1.0}, "lr must be at least 0, got -1.0"),
        ({"lr": math.nan}, "lr must be at least 0, got nan"),
        ({"label_smoothing": 1.0}, "label_smoothing must be below 1"),
        ({"seed": -1}, "seed must lie in"),
    ],
)
def test_bad_recipes_name_the_field(change, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**change)


def test_a_config_and_a_recipe_share_no_field():
    config, plan = ViTConfig(), TrainConfig()
    assert len(all_fields(config, plan)) == len(all_fields(config)) + len(all_fields(plan))


def test_the_weights_of_the_penalties_go_by_the_arguments_of_penalty():
    wanted = {"shape_penalty": 0.1, "norm_penalty": 0.2, "sigma_l1": 0.3, "orthogonality": 0.4}
    assert TrainConfig(**wanted).penalties == wanted == {name: wanted[name] for name in penalty.__kwdefaults__}
