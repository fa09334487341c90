"""Metrics of maps against loops over images and patches in float64: gains, contrast, agreement, re-drawn weights."""

import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch
from known_models import model_and_images
from scipy import stats
from test_trial import MEAN, STD, a_trial, probabilities
from torch import nn

from svda_analysis.attribution import attribute
from svda_analysis.errors import InputError
from svda_analysis.faithful import randomisation_check
from svda_analysis.fillers import pixel_fillers
from svda_analysis.metrics import METRICS, choose_metrics
from svda_analysis.perturbation import deletion_insertion
from svda_analysis.redrawing import parts_from_the_top
from svda_analysis.vocabulary import groups_of, quantity

BLACK = [-m / s for m, s in zip(MEAN, STD, strict=True)]


def value(name, trial):
    """The metric, whose range holds it."""
    found = METRICS[name].function(trial)
    low, high = quantity(name).bounds()
    assert ((found >= low) & (found <= high)).all()
    return found


def along(trial, maps, *, alone=False):
    """Probabilities of target and runner-up at each number of patches, ``(B, 10)`` each."""
    points = [probabilities(trial, maps, count, alone=alone) for count in range(10)]
    return [torch.stack([p.gather(1, c[:, None])[:, 0] for p in points], 1) for c in (trial.target, trial.runner_up)]


def of_classes(trial, **classes):
    """The trial, and its random ones, for other classes."""
    random = tuple(dataclasses.replace(one, **classes) for one in trial.random)
    return dataclasses.replace(trial, **classes, random=random)


def area(heights):
    """By the trapezoid rule over ten even points."""
    return [sum((a + b) / 2 / 9 for a, b in itertools.pairwise(row)) for row in heights.tolist()]


# --- gains ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["deletion", "insertion"])
def test_gains_are_over_the_mean_of_the_random_rankings_and_their_share_of_the_fall(kind):
    trial, alone = a_trial(), kind == "insertion"
    least = probabilities(trial, trial.maps, 0)[0].argmin()  # a class that cannot fall by much
    trial = of_classes(trial, target=torch.stack([least, *trial.target[1:]]))
    own = area(along(trial, trial.maps, alone=alone)[0])
    random = [area(along(trial, one.maps, alone=alone)[0]) for one in trial.random]
    chance = [sum(each) / 2 for each in zip(*random, strict=True)]
    gains = [(a - b) if alone else (b - a) for a, b in zip(own, chance, strict=True)]
    assert value(f"{kind}_gain", trial).tolist() == pytest.approx(gains, abs=1e-9)
    full, empty = (probabilities(trial, trial.maps, count).gather(1, trial.target[:, None]) for count in (0, 9))
    falls = (full - empty)[:, 0].tolist()
    shares = [gain / fall for gain, fall in zip(gains, falls, strict=True) if fall >= 0.1]
    assert len(shares) == 2
    assert value(f"normalised_{kind}_gain", trial).tolist() == pytest.approx(shares, abs=1e-9)


def test_class_contrast_is_the_fall_of_the_target_s_share_against_the_runner_up():
    trial = a_trial()

    def share(maps):
        target, runner_up = along(trial, maps)
        return area(target / (target + runner_up))

    chance = [sum(each) / 2 for each in zip(*(share(one.maps) for one in trial.random), strict=True)]
    wanted = [b - a for a, b in zip(share(trial.maps), chance, strict=True)]
    assert value("class_contrast", trial).tolist() == pytest.approx(wanted, abs=1e-9)


def test_a_model_of_one_class_has_no_contrast():
    trial = a_trial()
    alike = of_classes(trial, runner_up=trial.target)  # there is no other
    assert value("class_contrast", alike).abs().max() < 1e-12


# --- other fillers ----------------------------------------------------------------------------------------------------


def gains_under(trial, name):
    """Deletion and insertion gain of each image under a filler."""
    maps = (trial.maps, *(one.maps for one in trial.random))
    areas = [deletion_insertion(trial.subject, trial.images, m, target=trial.target, baseline=name) for m in maps]
    own, first, second = areas
    return (first[0] + second[0]) / 2 - own[0], own[1] - (first[1] + second[1]) / 2


@pytest.mark.parametrize("name", [*pixel_fillers(), "tokens"])
def test_gains_under_each_filler(name):
    trial = a_trial()
    for kind, wanted in zip(("deletion", "insertion"), gains_under(trial, name), strict=True):
        torch.testing.assert_close(value(f"{kind}_gain_{name}", trial), wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("at", [0, 1])
def test_agreement_is_the_share_of_pairs_of_fillers_with_the_same_sign(at):
    trial = a_trial()
    gains = torch.stack([gains_under(trial, name)[at] for name in ("mean", "blur", "black", "image_mean")], 1)
    wanted = []
    for image in gains.tolist():
        pairs = [(a > 0) == (b > 0) for i, a in enumerate(image) for b in image[i + 1 :]]
        wanted.append(sum(pairs) / 6)
    name = ("deletion_agreement", "insertion_agreement")[at]
    assert value(name, trial).tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("share", [10, 20, 30])
def test_the_source_s_protocol_is_that_of_a_loop(share):
    trial, count = a_trial("cls_attention"), {10: 1, 20: 2, 30: 3}[share]  # of 9 patches
    without, alone = (
        probabilities(trial, trial.maps, count, alone=alone, colour=BLACK).gather(1, trial.target[:, None])[:, 0]
        for alone in (False, True)
    )
    full = probabilities(trial, trial.maps, 0).gather(1, trial.target[:, None])[:, 0]
    torch.testing.assert_close(value(f"source_deletion_{share}", trial), full - without, rtol=0, atol=1e-9)
    torch.testing.assert_close(value(f"source_insertion_{share}", trial), alone, rtol=0, atol=1e-9)


# --- which are measured -----------------------------------------------------------------------------------------------


def test_metrics_are_chosen_by_name_group_or_default():
    assert groups_of(METRICS) == ["cascade", "fillers", "tokens", "source"]
    default = [one.name for one in METRICS.values() if not one.group]
    assert [one.name for one in choose_metrics()] == [one.name for one in choose_metrics(["default"])] == default
    both = [one.name for one in choose_metrics(["tokens", "infidelity", "deletion_gain_tokens"])]
    assert both == ["deletion_gain_tokens", "insertion_gain_tokens", "infidelity"]
    with pytest.raises(InputError, match=r"metrics must be among default, cascade, .*, got 'infidelty'"):
        choose_metrics(["infidelty"])


def test_every_metric_has_its_words_and_range():
    for one in METRICS.values():
        assert one.label
        assert one.reference
        assert one.higher_means
        assert one.low < one.high


def test_of_whom_a_metric_is_measured():
    kinds = {name: {m.name for m in METRICS.values() if m.measures(a_trial(name))} for name in
             ("rollout", "cls_attention", "centre", "random")}  # fmt: skip
    source = {name for name, one in METRICS.items() if one.group == "source"}
    assert kinds["cls_attention"] - kinds["rollout"] == source
    assert kinds["random"] == {"deletion_auc", "insertion_auc", "infidelity"} | source
    assert {"infidelity", "sensitivity_max", "cascade_correlation"} <= kinds["rollout"] - kinds["centre"]
    assert {"deletion_gain", "class_contrast", "deletion_gain_tokens"} <= kinds["centre"]


# --- other weights ----------------------------------------------------------------------------------------------------


def test_the_cascade_is_the_mean_of_spearmans_coefficients_over_its_stages():
    trial = a_trial()
    own = attribute(trial.subject, trial.images)
    trial = dataclasses.replace(trial, maps=own)
    weights = dict(trial.redrawn.model.named_parameters())
    stage, sums = copy.deepcopy(trial.subject.model), np.zeros(3)
    parts = parts_from_the_top(stage)
    for names in parts.values():
        for name in names:
            dict(stage.named_parameters())[name].data = weights[name].data
        maps = attribute(stage, trial.images, target=trial.target)
        sums += [stats.spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(own, maps, strict=True)]
    np.testing.assert_allclose(value("cascade_correlation", trial), sums / len(parts), atol=1e-9)


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
    for block in model.blocks:
        nn.init.zeros_(block.attention.qkv.weight)  # uniform attention, whatever the image
        nn.init.zeros_(block.attention.qkv.bias)
    row = randomisation_check(model, images, method="cls_attention").iloc[0]
    assert row["n"] == 0
    assert np.isnan(row["mean"])
