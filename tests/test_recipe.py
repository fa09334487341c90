"""The recipe: what it refuses, the rate of each step, the rates and the decay of each parameter."""

import itertools
import math

import pytest
import torch

from svda_analysis.errors import InputError
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.penalties import penalty
from svda_analysis.recipe import (
    RECIPES,
    TrainConfig,
    all_fields,
    late_blocks_recipe,
    lr_share,
    named_recipe,
    parameter_groups,
)


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
        ({"crop_padding": True}, "crop_padding must be a whole number or None, got True"),
        ({"lr": -1.0}, "lr must be a finite number of at least 0, got -1.0"),
        ({"lr": math.nan}, "lr must be a finite number of at least 0, got nan"),
        ({"lr": math.inf}, "lr must be a finite number of at least 0, got inf"),
        ({"lr": 10**400}, "lr must be a finite number of at least 0, got 1000"),
        ({"lr": "a"}, "lr must be a number, got 'a'"),
        ({"weight_decay": torch.tensor(0.1)}, "weight_decay must be a number, got tensor"),
        ({"flip": "no"}, "flip must be true or false, got 'no'"),
        ({"label_smoothing": 1.0}, "label_smoothing must be below 1"),
        ({"seed": -1}, "seed must lie in"),
        ({"seed": True}, "seed must be a whole number, got True"),
        ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
        ({"dataset": 5}, "dataset must be text, got 5"),
    ],
)
def test_bad_recipes_name_the_field(change, message):
    with pytest.raises(InputError, match=message):
        TrainConfig(**change)


def test_a_config_and_a_recipe_share_no_field():
    config, plan = ViTConfig(), TrainConfig()
    assert len(all_fields(config, plan)) == len(all_fields(config)) + len(all_fields(plan))


def test_the_weights_of_the_penalties_go_by_the_arguments_of_penalty():
    names = ("shape_penalty", "target_rank", "norm_penalty", "sigma_l1", "sigma_entropy", "orthogonality")
    wanted = {name: at / 10 for at, name in enumerate((*names, "soft_orthogonality"), start=1)}
    assert TrainConfig(**wanted).penalties == wanted == {name: wanted[name] for name in penalty.__kwdefaults__}


def test_a_constant_rate_stays_after_its_rise():
    rates = [lr_share(step, 100, 0.1, "constant") for step in range(100)]
    assert rates[:10] == [lr_share(step, 100, 0.1) for step in range(10)]
    assert set(rates[10:]) == {1.0}


@pytest.mark.parametrize("dataset", ["fashion_mnist", "cifar10", "cifar100", "imagenet100"])
def test_the_recipe_of_the_source_is_what_was_read_off_its_code(dataset):
    model, recipe = named_recipe("source", dataset)
    config, plan = ViTConfig.preset(dataset, **model), TrainConfig(dataset=dataset, **recipe)
    large = dataset == "imagenet100"
    assert (config.dim, config.heads, config.depth, config.head_dim) == ((96, 2, 8, 48) if large else (256, 4, 4, 64))
    assert (config.norm, config.positions, config.sigma_start, config.sigma_noise) == ("post", "none", 1.0, 0.1)
    assert (plan.batch_size, plan.lr, plan.epochs) == ((32, 1e-4, 100) if large else (64, 3e-4, 100))
    assert (plan.schedule, plan.weight_decay, plan.normalise, plan.clip_norm) == ("constant", 0, False, 0)
    assert plan.rotation == (15 if "cifar" in dataset else 0)
    assert plan.soft_orthogonality == pytest.approx(3e-4 * 8 if large else 1e-3 * 4)


def test_the_late_blocks_of_the_source_are_what_was_read_off_its_code():
    model, fields = late_blocks_recipe("source")
    assert model == {"sigma_form": "linear", "sigma_start": 1}
    told = {"epochs": 20, "batch_size": 8, "lr": 2e-5, "weight_decay": 1e-4, "schedule": "constant"}
    assert {key: fields[key] for key in told} == told
    assert fields["soft_orthogonality"] == pytest.approx(2 * 5e-6)  # a sum over its two layers there
    assert fields["sigma_entropy"] == 5e-5
    assert TrainConfig(**fields).epochs == 20
    assert TrainConfig(**late_blocks_recipe("ours")[1])
    with pytest.raises(InputError, match="recipe must be one of ours, source"):
        late_blocks_recipe("theirs")


def test_recipes_have_names():
    assert named_recipe("ours", "fashion_mnist") == ({}, {})
    with pytest.raises(InputError, match="recipe must be one of ours, source, got 'theirs'"):
        named_recipe("theirs", "fashion_mnist")
    with pytest.raises(InputError, match="recipe source is for fashion_mnist, cifar10, cifar100, imagenet100, got"):
        named_recipe("source", "sample")
    assert list(RECIPES) == ["ours", "source"]
