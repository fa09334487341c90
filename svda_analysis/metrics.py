"""The metrics of faithfulness, each a function of a :class:`Trial` under one decorator, :func:`metric`."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from svda_analysis.attribution import attribute
from svda_analysis.perturbation import Baseline, deletion_insertion, infidelity, sensitivity_max
from svda_analysis.subject import Subject
from svda_analysis.vocabulary import FAITHFULNESS, Quantity, register


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One batch and the maps of one method on it, or of a random ranking.

    ``images (B, C, H, W)`` where ``subject`` is, ``maps (B, H, W)``, ``target (B,)`` the classes they speak of;
    ``redrawn`` is its model with the weights shuffled; ``control`` the trial of the random ranking (its own: itself).
    ``at_once`` images go through the model together where no gradients are needed; ``places`` and ``draws`` are
    arguments of the functions in ``perturbation.py``: where the patches are, and what is drawn.
    """

    subject: Subject
    redrawn: Subject
    images: Tensor
    maps: Tensor
    target: Tensor
    method: str
    baseline: Baseline
    steps: int | None
    at_once: int
    places: dict[str, Any]
    draws: dict[str, Any]
    random: Trial | None = None

    @property
    def control(self) -> Trial:
        return self.random or self

    @functools.cached_property
    def areas(self) -> tuple[Tensor, Tensor]:
        """The areas under the deletion and the insertion curve, each ``(B,)``."""
        return deletion_insertion(
            self.subject,
            self.images,
            self.maps,
            target=self.target,
            baseline=self.baseline,
            steps=self.steps,
            batch_size=self.at_once,
            **self.places,
        )

    def explain(self, subject: Subject, method: str) -> Tensor:
        """The maps ``(B, H, W)`` of a method for the trial's classes, by any model of the same images."""
        return attribute(subject, self.images, method=method, target=self.target, batch_size=len(self.images))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric(Quantity):
    """A quantity that ``function(trial)`` gives for each image, ``(B,)`` (fewer where an image has none).

    ``of_random``: the random ranking has it too. ``sampled``: it draws, and is left out where no samples are wanted.
    """

    function: Callable[[Trial], Tensor]
    of_random: bool = True
    sampled: bool = False


METRICS: dict[str, Metric] = {}
Measure = Callable[[Trial], Tensor]


def metric(**about: Any) -> Callable[[Measure], Measure]:
    """Decorator: enter the function in :data:`METRICS` and in the vocabulary; arguments are the fields of
    :class:`Metric`."""

    def enter(function: Measure) -> Measure:
        made = Metric(**{"family": FAITHFULNESS, "quality": "faithful", **about}, function=function)
        METRICS[made.name] = made
        register(made)
        return function

    return enter


@metric(
    name="deletion_auc",
    label="Deletion AUC",
    low=0.0,
    high=1.0,
    higher_means="less faithful",
    reference="Petsiuk, Das & Saenko 2018 (here patch by patch)",
)
def _deletion_auc(trial: Trial) -> Tensor:
    """The area under the deletion curve."""
    return trial.areas[0]


@metric(
    name="insertion_auc",
    label="Insertion AUC",
    low=0.0,
    high=1.0,
    higher_means="more faithful",
    reference="Petsiuk, Das & Saenko 2018 (here patch by patch)",
)
def _insertion_auc(trial: Trial) -> Tensor:
    """The area under the insertion curve."""
    return trial.areas[1]


@metric(
    name="infidelity",
    label="Infidelity",
    low=0.0,
    higher_means="the map foretells worse what taking patches away does",
    reference="Yeh et al. 2019, eq. 1",
    sampled=True,
)
def _infidelity(trial: Trial) -> Tensor:
    """:func:`~svda_analysis.perturbation.infidelity`."""
    options: dict[str, Any] = {"target": trial.target, "batch_size": trial.at_once, **trial.places, **trial.draws}
    return infidelity(trial.subject, trial.images, trial.maps, **options)


@metric(
    name="deletion_gain",
    label="Deletion gain",
    low=-1.0,
    high=1.0,
    higher_means="taking away what the map ranks highest costs more than a random choice",
    direction={"*": +1},
    reference="our definition, after Petsiuk, Das & Saenko 2018",
    of_random=False,
)
def _deletion_gain(trial: Trial) -> Tensor:
    """Random minus method, image by image."""
    return trial.control.areas[0] - trial.areas[0]


@metric(
    name="insertion_gain",
    label="Insertion gain",
    low=-1.0,
    high=1.0,
    higher_means="bringing back what the map ranks highest gives more than a random choice",
    direction={"*": +1},
    reference="our definition, after Petsiuk, Das & Saenko 2018",
    of_random=False,
)
def _insertion_gain(trial: Trial) -> Tensor:
    """Method minus random, image by image."""
    return trial.areas[1] - trial.control.areas[1]


@metric(
    name="sensitivity_max",
    label="Largest sensitivity",
    low=0.0,
    higher_means="the map changes more under small noise",
    reference="Yeh et al. 2019, eq. 4",
    of_random=False,
    sampled=True,
)
def _sensitivity_max(trial: Trial) -> Tensor:
    """:func:`~svda_analysis.perturbation.sensitivity_max`."""
    return sensitivity_max(trial.subject, trial.images, method=trial.method, target=trial.target, **trial.draws)


@metric(
    name="randomisation_correlation",
    label="Likeness, weights redrawn",
    low=-1.0,
    high=1.0,
    higher_means="the map depends less on what was learned",
    reference="Adebayo et al. 2018",
    of_random=False,
)
def _randomisation_correlation(trial: Trial) -> Tensor:
    """Rank correlation with the map of a model whose weights were shuffled; no image with a constant map."""
    values = rank_correlation(trial.maps, trial.explain(trial.redrawn, trial.method))
    return values[~values.isnan()]


# --- other weights ----------------------------------------------------------------------------------------------------


def redrawn(subject: Subject, seed: int) -> Subject:
    """The subject with a copy of its model, the entries of each parameter in a random order."""
    drawn, generator = copy.deepcopy(subject.model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in drawn.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return dataclasses.replace(subject, model=drawn)


def rank_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Spearman's coefficient of the maps ``x, y (B, H, W)``, ties at their mean rank, ``(B,) float64``; NaN for a
    constant map."""
    ranks = [torch.from_numpy(stats.rankdata(maps.flatten(1).numpy(), axis=1)) for maps in (x, y)]
    x_rank, y_rank = (rank - rank.mean(1, keepdim=True) for rank in ranks)
    return (x_rank * y_rank).sum(1) / (x_rank.norm(dim=1) * y_rank.norm(dim=1))
