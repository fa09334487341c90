"""One batch and one ranking: curves of two classes, other fillers, the source's shares."""

import dataclasses

import pytest
import torch
from known_models import model_and_images

from svda_analysis.fillers import FILLERS
from svda_analysis.perturbation import deletion_insertion, step_counts
from svda_analysis.redrawing import redrawn
from svda_analysis.specs import open_model
from svda_analysis.trial import Trial

MEAN, STD = (0.25, 0.5), (0.5, 2.0)


def a_trial(method="rollout", **changes):
    """Three images of float64 under a map drawn at random, beside two random rankings."""
    model, images = model_and_images()
    subject, images = open_model(model.double(), preprocessing={"mean": MEAN, "std": STD}), images.double()
    maps = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(4)).double()
    top = model(images).topk(2).indices
    own = Trial(
        subject=subject,
        redrawn=redrawn(subject, 0),
        images=images,
        maps=maps[0],
        target=top[:, 0],
        runner_up=top[:, 1],
        method="random",
        baseline="mean",
        counts=step_counts(9),
        at_once=7,
        places={"patch_size": None},
        draws={"samples": 2, "seed": 0, "first": 0},
    )
    random = tuple(dataclasses.replace(own, maps=each) for each in maps[1:])
    return dataclasses.replace(own, method=method, random=random, **changes)


def probabilities(trial, maps, count, *, alone=False, colour=(0.0, 0.0)):
    """All classes' probabilities ``(B, classes)`` without the ``count`` heaviest patches, or with them alone; patches,
    pixels and images one by one."""
    found = []
    for image, pixels in zip(trial.images, maps, strict=True):
        corners = [(r, c) for r in range(0, 12, 4) for c in range(0, 12, 4)]
        weights = [pixels[r : r + 4, c : c + 4].sum().item() for r, c in corners]
        order = sorted(range(9), key=lambda p: -weights[p])
        shown = image.clone()
        for patch in order[count:] if alone else order[:count]:
            r, c = corners[patch]
            for channel, value in enumerate(colour):
                shown[channel, r : r + 4, c : c + 4] = value
        with torch.no_grad():
            found.append(trial.subject.model(shown[None]).softmax(-1)[0])
    return torch.stack(found)


def test_the_kind_follows_from_the_name():
    kinds = [a_trial(name).kind for name in ("rollout", "brightness", "centre", "random")]
    assert kinds == ["method", "ranking", "ranking", "random"]


def test_curves_hold_target_and_runner_up_while_patches_go_and_come_back():
    trial = a_trial()
    assert trial.curves.shape == (2, 3, 10, 2)
    for kind in range(2):
        for count in range(10):
            wanted = probabilities(trial, trial.maps, count, alone=bool(kind))
            classes = torch.stack([trial.target, trial.runner_up], 1)
            torch.testing.assert_close(trial.curves[kind, :, count].exp(), wanted.gather(1, classes), rtol=0, atol=1e-9)


def test_under_another_filler_it_is_the_same_ranking():
    trial = a_trial()
    assert set(trial.others) == set(FILLERS)
    assert trial.others["mean"] is trial
    for name in ("black", "tokens"):
        other = trial.others[name]
        for one, maps in ((other, trial.maps), (other.random[1], trial.random[1].maps)):
            wanted = deletion_insertion(trial.subject, trial.images, maps, target=trial.target, baseline=name)
            for ours, theirs in zip(one.areas, wanted, strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def test_chance_is_the_mean_over_the_random_rankings():
    trial = a_trial()
    first, second = (
        deletion_insertion(trial.subject, trial.images, one.maps, target=trial.target)[0] for one in trial.random
    )
    torch.testing.assert_close(trial.by_chance(lambda one: one.areas[0]), (first + second) / 2, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("at", "count"), [(0, 0), (1, 1), (2, 2), (3, 3)])
def test_the_shares_are_rounded_to_whole_patches_and_black(at, count):
    trial = a_trial()
    black = [-m / s for m, s in zip(MEAN, STD, strict=True)]
    for kind in range(2):
        wanted = probabilities(trial, trial.maps, count, alone=bool(kind), colour=black)
        found = trial.at_shares[kind, :, at]
        torch.testing.assert_close(found, wanted.gather(1, trial.target[:, None])[:, 0], rtol=0, atol=1e-9)
