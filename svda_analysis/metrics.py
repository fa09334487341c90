"""The metrics of faithfulness, each a function of a ``Trial`` under one decorator, :func:`metric`.

Of no group, and always measured unless others are asked for:

- ``deletion_auc``, ``insertion_auc``: :func:`~svda_analysis.perturbation.deletion_insertion`;
- ``deletion_gain``, ``insertion_gain``: how much better than the random rankings, image by image (random minus method,
  and method minus random). Above 0 the map tells something; these compare models;
- ``normalised_deletion_gain``, ``normalised_insertion_gain``: the same over p(full) - p(empty);
- ``class_contrast``: whether deletion turns the model from the target to the runner-up faster than random;
- ``infidelity`` (of methods and random rankings), ``sensitivity_max`` (of methods alone);
- ``randomisation_correlation`` (of methods alone): :func:`~svda_analysis.faithful.randomisation_check`.

Groups cost more, and are measured when asked for: ``fillers``, the gains under each filler of pixels, and the share of
pairs of these that agree on their sign; ``tokens``, the gains with tokens dropped; ``cascade``, the weights redrawn
from the top down (:func:`~svda_analysis.faithful.cascading_randomisation`); ``source``, the source's protocol: what the
top 10, 20 and 30 % of patches by ``cls_attention`` take along when they go black, and what they keep alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from svda_analysis.attribution import RANKINGS
from svda_analysis.fillers import FILLERS, TOKENS, pixel_fillers
from svda_analysis.perturbation import areas_under, infidelity, sensitivity_max
from svda_analysis.redrawing import cascade, rank_correlation
from svda_analysis.trial import KINDS, SHARES, Trial
from svda_analysis.vocabulary import FAITHFULNESS, FAITHFULNESS_CHECKS, Quantity, choose_quantities, register

LEAST_FALL = 0.1  # of the probability from the image to the empty one, below which a gain is no share of it


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metric(Quantity):
    """A quantity that ``function(trial)`` gives for each image, ``(B,)`` (fewer where an image has none).

    ``of`` says whose maps have it: some of :data:`KINDS`, or names of methods. ``sampled``: it draws, and is left out
    where no samples are wanted. ``fillers`` are those that it needs beside the baseline. Those of a ``group`` are
    measured only when they, or their group, are asked for.
    """

    function: Callable[[Trial], Tensor]
    of: tuple[str, ...] = KINDS
    sampled: bool = False
    fillers: tuple[str, ...] = ()
    group: str = ""

    def measures(self, trial: Trial) -> bool:
        """Whether the maps of this trial have it."""
        return trial.kind in self.of or trial.method in self.of


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


def choose_metrics(names: Sequence[str] | None = None) -> list[Metric]:
    """The metrics of these names, as :func:`~svda_analysis.vocabulary.choose_quantities` has it."""
    return choose_quantities(METRICS, names, "metrics")


_ONE_FILLER = (
    "that the map is right: the filler in the place of a patch is an answer too, and another may say otherwise"
)
_OF_RANKINGS = dict.fromkeys(RANKINGS, FAITHFULNESS_CHECKS)
_beside = partial(metric, family=FAITHFULNESS_CHECKS)  # says how far to trust the gains; adjusted apart

# --- curves -----------------------------------------------------------------------------------------------------------


@metric(
    name="deletion_auc",
    label="Deletion AUC",
    low=0.0,
    high=1.0,
    higher_means="less faithful",
    reference="Petsiuk, Das & Saenko 2018 (here patch by patch)",
    other_families=_OF_RANKINGS,
    headline=False,
    question="How much of the answer is left, on average, while the patches ranked highest are taken away?",
    not_said="whether that is better than chance: it grows with the model's confidence; read the gain",
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
    other_families=_OF_RANKINGS,
    headline=False,
    question="How much of the answer is there, on average, while the patches ranked highest are brought back?",
    not_said="whether that is better than chance: it grows with the model's confidence; read the gain",
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
    of=("method", "random"),
    sampled=True,
    headline=False,
    question="Does the map foretell what taking patches away does to the answer?",
    not_said="anything across models whose outputs differ in size: it is a squared error of the output",
)
def _infidelity(trial: Trial) -> Tensor:
    """:func:`~svda_analysis.perturbation.infidelity`."""
    options: dict[str, Any] = {"target": trial.target, "batch_size": trial.at_once, **trial.places, **trial.draws}
    return infidelity(trial.subject, trial.images, trial.maps, **options)


_AGAINST_RANDOM: dict[str, Any] = {
    "low": -1.0,
    "high": 1.0,
    "reference": "our definition, after Petsiuk, Das & Saenko 2018",
    "of": ("method", "ranking"),
}
_DELETES = "taking away what the map ranks highest costs more than a random choice"
_INSERTS = "bringing back what the map ranks highest gives more than a random choice"
_GAIN: dict[str, Any] = {
    **_AGAINST_RANDOM,
    "direction": {"*": +1, **dict.fromkeys(RANKINGS, 0)},
    "other_families": _OF_RANKINGS,
}


@metric(
    name="deletion_gain",
    label="Deletion gain",
    higher_means=_DELETES,
    question="Does the answer fall faster when the patches ranked highest go than when random ones do?",
    not_said=_ONE_FILLER,
    **_GAIN,
)
def _deletion_gain(trial: Trial) -> Tensor:
    """Random minus method, image by image."""
    return trial.by_chance(_deletion_auc) - trial.areas[0]


@metric(
    name="insertion_gain",
    label="Insertion gain",
    higher_means=_INSERTS,
    question="Is the answer there sooner when the patches ranked highest come first than when random ones do?",
    not_said=_ONE_FILLER,
    **_GAIN,
)
def _insertion_gain(trial: Trial) -> Tensor:
    """Method minus random, image by image."""
    return trial.areas[1] - trial.by_chance(_insertion_auc)


_SHARE_OF_FALL: dict[str, Any] = {
    "low": -1 / LEAST_FALL,
    "high": 1 / LEAST_FALL,
    "reference": "our definition, after Schulz et al. 2020",
    "of": ("method", "ranking"),
    "headline": False,
    "question": "How large is the gain beside all that taking every patch away costs?",
    "not_said": f"anything of images whose answer falls by less than {LEAST_FALL}: those are left out",
}


@_beside(
    name="normalised_deletion_gain", label="Deletion gain, share of the fall", higher_means=_DELETES, **_SHARE_OF_FALL
)
def _normalised_deletion_gain(trial: Trial) -> Tensor:
    """``(deletion area of random - that of the method) / (p(full) - p(empty))``, which no longer grows with the
    model's confidence; no image where the probability falls by less than :data:`LEAST_FALL`."""
    return _per_fall(_deletion_gain(trial), trial)


@_beside(
    name="normalised_insertion_gain", label="Insertion gain, share of the fall", higher_means=_INSERTS, **_SHARE_OF_FALL
)
def _normalised_insertion_gain(trial: Trial) -> Tensor:
    """``(insertion area of the method - that of random) / (p(full) - p(empty))``, likewise."""
    return _per_fall(_insertion_gain(trial), trial)


def _per_fall(gain: Tensor, trial: Trial) -> Tensor:
    deletion = trial.curves[0, :, :, 0].exp()
    fall = deletion[:, 0] - deletion[:, -1]
    enough = fall >= LEAST_FALL
    return gain[enough] / fall[enough]


@_beside(
    name="class_contrast",
    label="Target against runner-up",
    higher_means="taking away what the map ranks highest turns the model from the target to the runner-up, more than a "
    "random choice",
    question="Does the map tell the model's class from its runner-up?",
    not_said="which patches speak for the runner-up",
    **{**_AGAINST_RANDOM, "reference": "our definition"},
)
def _class_contrast(trial: Trial) -> Tensor:
    """``E[area of p_t / (p_t + p_r) under random] - that area under the method``, along the deletion curve, with t the
    target and r the likeliest other class: near 0, the map takes from both alike and does not tell them apart."""
    return trial.by_chance(_share_area) - _share_area(trial)


def _share_area(trial: Trial) -> Tensor:
    deletion = trial.curves[0]
    return areas_under((deletion[..., 0] - deletion[..., 1]).sigmoid(), trial.counts)


# --- other maps, other weights ----------------------------------------------------------------------------------------


@metric(
    name="sensitivity_max",
    label="Largest sensitivity",
    low=0.0,
    higher_means="the map changes more under small noise",
    reference="Yeh et al. 2019, eq. 4",
    of=("method",),
    sampled=True,
    headline=False,
    question="How much can the map change when pixels change a little?",
    not_said="whether the map is right: one that is always the same has 0",
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
    of=("method",),
    question="Does the map depend on what the model learned?",
    not_said="whether it is right: a map may depend on the weights and still mislead",
)
def _randomisation_correlation(trial: Trial) -> Tensor:
    """Rank correlation with the map of a model whose weights were shuffled; no image with a constant map."""
    values = rank_correlation(trial.maps, trial.explain(trial.redrawn, trial.method))
    return values[~values.isnan()]


@_beside(
    name="cascade_correlation",
    label="Likeness, redrawn top down",
    low=-1.0,
    high=1.0,
    higher_means="the map depends less on what the upper parts learned",
    reference="Adebayo et al. 2018, cascading randomisation",
    of=("method",),
    group="cascade",
    question="From which depth on does the map depend on what was learned?",
    not_said="which stage it is: the stages are averaged",
)
def _cascade_correlation(trial: Trial) -> Tensor:
    """The mean over the stages of the cascade (head, then block by block, then the embedding, all above shuffled too)
    of the rank correlation with the model's own map; no image with a constant map at some stage."""
    stages = [trial.explain(each, trial.method) for _part, each in cascade(trial.subject, trial.redrawn)]
    values = torch.stack([rank_correlation(trial.maps, maps) for maps in stages]).mean(0)
    return values[~values.isnan()]


# --- other fillers ----------------------------------------------------------------------------------------------------


def _under_each_filler() -> None:
    """The gains under each filler; those of pixels are one group, dropped tokens another."""
    for name, one in FILLERS.items():
        about: dict[str, Any] = {
            **_AGAINST_RANDOM,
            "reference": one.reference,
            "fillers": (name,),
            "group": TOKENS if name == TOKENS else "fillers",
            "headline": name == TOKENS,
        }
        for kind, means, gain in (("deletion", _DELETES, _deletion_gain), ("insertion", _INSERTS, _insertion_gain)):
            about |= {
                "name": f"{kind}_gain_{name}",
                "label": f"{kind.capitalize()} gain, {one.label}",
                "question": f"Does the {kind} gain stay with {one.label} in the place of the baseline?"
                if name != TOKENS
                else f"Does the {kind} gain stay where the model sees nothing in the place of a patch?",
                "not_said": _ONE_FILLER if name != TOKENS else "anything of a model that cannot do without tokens",
            }
            _beside(higher_means=means, **about)(partial(_gain_under, name, gain))


def _gain_under(name: str, gain: Measure, trial: Trial) -> Tensor:
    """``deletion_gain`` or ``insertion_gain`` where a filler of that name stands for what was taken."""
    return gain(trial.others[name])


_under_each_filler()

_AGREEMENT: dict[str, Any] = {
    "low": 0.0,
    "high": 1.0,
    "reference": "our definition",
    "of": ("method", "ranking"),
    "fillers": tuple(pixel_fillers()),
    "group": "fillers",
    "question": "Does the verdict on the map depend on what stands in the place of a patch?",
    "not_said": "which filler to trust",
}


@_beside(
    name="deletion_agreement",
    label="Fillers agree, deletion gain",
    higher_means="more pairs of fillers say the same",
    **_AGREEMENT,
)
def _deletion_agreement(trial: Trial) -> Tensor:
    """The share of pairs of pixel fillers under which the image's deletion gain has the same sign; 1/3 where two of
    four say more than random and two less."""
    return _sign_agreement(trial, _deletion_gain)


@_beside(
    name="insertion_agreement",
    label="Fillers agree, insertion gain",
    higher_means="more pairs of fillers say the same",
    **_AGREEMENT,
)
def _insertion_agreement(trial: Trial) -> Tensor:
    """The same of the insertion gain."""
    return _sign_agreement(trial, _insertion_gain)


def _sign_agreement(trial: Trial, gain: Measure) -> Tensor:
    signs = torch.stack([gain(trial.others[name]) for name in pixel_fillers()]).sign()  # (F, B)
    first, second = torch.triu_indices(len(signs), len(signs), 1)
    return (signs[first] == signs[second]).double().mean(0)


# --- the source's own protocol ----------------------------------------------------------------------------------------


def _at_each_share() -> None:
    about: dict[str, Any] = {
        "high": 1.0,
        "reference": "as in the source's public code",
        "of": ("cls_attention", "random"),
        "fillers": ("black",),
        "group": "source",
        "not_said": "whether a random choice does as well (read the random row), nor anything without black patches",
    }
    for at, share in enumerate(SHARES, 1):
        top = f"top {share} % of patches"
        _beside(
            name=f"source_deletion_{share}",
            label=f"Source's deletion, top {share} %",
            low=-1.0,
            question=f"What does the source print for deletion at {share} %?",
            higher_means=f"the predicted class loses more without the {top}",
            **about,
        )(partial(_source_deletion, at))
        _beside(
            name=f"source_insertion_{share}",
            label=f"Source's insertion, top {share} %",
            low=0.0,
            question=f"What does the source print for insertion at {share} %?",
            higher_means=f"the {top} alone keep more of the predicted class",
            **about,
        )(partial(_source_insertion, at))


def _source_deletion(at: int, trial: Trial) -> Tensor:
    """``p(image) - p(image with the top patches black)`` of the predicted class."""
    return trial.at_shares[0, :, 0] - trial.at_shares[0, :, at]


def _source_insertion(at: int, trial: Trial) -> Tensor:
    """``p(top patches alone, black elsewhere)`` of the predicted class."""
    return trial.at_shares[1, :, at]


_at_each_share()
