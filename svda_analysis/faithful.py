"""Does a map tell the truth about the model? Patches taken away and brought back, noise, and other weights.

Faithfulness is a property of a model and a method together. A random ranking of the patches, the control, stands beside
every method: a map that does no better says nothing about what the model used. Beside it stand rankings that ask no
model, by brightness and by closeness to the middle: a map that does no better than these may owe it to where things
lie, or to what the filler is. Areas depend on how sure a model is of itself, so models are compared by their gain over
the control.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from svda_analysis.answers import logits_of
from svda_analysis.attribution import RANKINGS, attribute, check_images
from svda_analysis.draws import draws_of_images
from svda_analysis.errors import InputError, several
from svda_analysis.fillers import choose_filler
from svda_analysis.forward import call_model, for_model
from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.maps import to_pixels
from svda_analysis.metrics import Metric, choose_metrics
from svda_analysis.perturbation import (
    check_methods,
    check_whole,
    class_logits,
    patch_layout,
    step_counts,
    targets_of,
)
from svda_analysis.redrawing import cascade, rank_correlation, redrawn
from svda_analysis.soundness import NotFiniteError
from svda_analysis.sources import Data, ImageFeed, open_feed
from svda_analysis.specs import Given, open_model
from svda_analysis.stats import Moments
from svda_analysis.subject import Subject
from svda_analysis.team import ALONE, Team
from svda_analysis.trial import Trial
from svda_analysis.vocabulary import quantity

USUAL_METHODS = ("rollout", "relevance", "cls_attention")
IN_PLACE = "input_x_gradient"
_TRIED = 2  # images


def faithfulness(
    model: Given,
    data: Data | ImageFeed | None = None,
    *,
    methods: Sequence[str] | None = None,
    rankings: Sequence[str] = ("brightness", "centre"),
    metrics: Sequence[str] | None = None,
    images: int | None = 200,
    batch_size: int = 16,
    baseline: str = "mean",
    steps: int | None = 16,
    samples: int = 10,
    draws: int = 3,
    patch_size: int | None = None,
    seed: int = 0,
    data_root: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    team: Team = ALONE,
) -> pd.DataFrame:
    """Every measure of faithfulness, for each method and for rankings of the patches that are none: means over images.

    Maps and curves speak of the model's own prediction. ``methods``: None are those of :func:`methods_for`, with a
    warning where the model cannot have them all. A frame with :data:`~svda_analysis.frames.TABLE_COLUMNS`:
    ``source`` is the method, a ranking that asks no model (``brightness``, ``centre``:
    :data:`~svda_analysis.attribution.RANKINGS`) or ``random``, the mean of ``draws`` random rankings, drawn anew for
    each image; layer and head are NA, the interval is the 95 % t interval of the mean over images (the spread over
    draws is in it, as each image has its own). The ``indicator`` is one of ``metrics``: names or groups of
    :mod:`~svda_analysis.metrics`, which explains them; ``"default"``, or None, are all of no group. ``steps`` is the
    number of steps of the curves (None: patch by patch), ``samples`` that of the draws of ``infidelity`` and
    ``sensitivity_max`` (0 leaves both out).

    ``images`` are drawn with ``seed`` (None: all; of a tensor or loader the first), and all else that is drawn follows
    from it too. ``progress`` is called with (images done, images in all); each process of a ``team`` measures its
    batches and gets the whole. The rest is as in :func:`~svda_analysis.perturbation.deletion_insertion`. Raises
    :class:`InputError` when an argument is outside what is allowed, or a filler is not to be had for the model.
    """
    settings = _Settings(
        methods=several(methods or ()),
        rankings=several(rankings),
        metrics=choose_metrics(metrics),
        images=images,
        batch_size=batch_size,
        baseline=baseline,
        steps=steps,
        samples=samples,
        draws=draws,
        patch_size=patch_size,
        seed=seed,
    )
    opened = open_model(model)
    feed = open_feed(data, opened, data_root)
    subject = check_faithful(opened, feed, metrics, baseline)
    if methods is None:
        settings = dataclasses.replace(settings, methods=_with_warnings(*methods_for(subject, feed)))
    values = _over_images(subject, feed, settings, progress or (lambda done, total: None), team)
    rows = [
        {**subject.identity, "dataset": feed.name, "source": name, **_as_row(indicator, found)}
        for (indicator, name), found in values.items()
    ]
    return make_frame(rows, TABLE_COLUMNS)


def check_faithful(
    subject: Subject, feed: ImageFeed, metrics: Sequence[str] | None = None, baseline: str = "mean"
) -> Subject:
    """The subject that knows what its images of this feed were brought to.

    Raises :class:`InputError` where it has no classifier, or cannot have a filler that the baseline or a metric needs.
    """
    wanted = choose_metrics(metrics)
    if feed.normalisation is not None:
        mean, std = feed.normalisation
        known = dataclasses.replace(subject.preprocessing, mean=tuple(mean), std=tuple(std))
        subject = dataclasses.replace(subject, preprocessing=known)
    for name in dict.fromkeys([baseline, *(name for one in wanted for name in one.fillers)]):
        choose_filler(name).check(subject)
    with subject.running() as model, torch.no_grad(), contextlib.suppress(NotFiniteError):  # told where it is measured
        class_logits(logits_of(call_model(model, feed.examples(1)[0]), model), model)
    return subject


def methods_for(subject: Subject, feed: ImageFeed) -> tuple[tuple[str, ...], list[str]]:
    """The methods whose faithfulness is measured where none are named, and a line for each reason to leave some out.

    They are :data:`USUAL_METHODS`, as far as the model can have them: that is tried on a few images. Of a model whose
    layers are no unbroken stack, or whose output does not depend on its attention, some cannot be had; then
    :data:`IN_PLACE`, which needs no layers, stands beside the rest.
    """
    images = feed.examples(_TRIED)[0]
    chosen: list[str] = []
    refused: dict[str, str] = {}
    for name in (*USUAL_METHODS, IN_PLACE):
        if name == IN_PLACE and not refused:
            break
        try:
            attribute(subject, images, method=name)
            chosen.append(name)
        except NotFiniteError:
            raise
        except InputError as error:
            refused[name] = str(error)
    beside = f"; {IN_PLACE} is measured beside the others" if IN_PLACE in chosen else ""
    names = {why: " and ".join(name for name in refused if refused[name] == why) for why in refused.values()}
    return tuple(chosen), [f"{subject.name}: no faithfulness of {which}: {why}{beside}" for why, which in names.items()]


def _with_warnings(methods: tuple[str, ...], lines: list[str]) -> tuple[str, ...]:
    for line in lines:
        warnings.warn(line, stacklevel=3)
    return methods


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Settings:
    """The arguments of :func:`faithfulness`, checked."""

    methods: Sequence[str]
    rankings: Sequence[str]
    metrics: list[Metric]
    images: int | None
    batch_size: int
    baseline: str
    steps: int | None
    samples: int
    draws: int
    patch_size: int | None
    seed: int

    def __post_init__(self) -> None:
        check_methods(self.methods)
        for name in self.rankings:
            if name not in RANKINGS:
                raise InputError(f"rankings must be names among {', '.join(RANKINGS)}, got {name!r}")
        if self.images is not None and self.images < 1:
            raise InputError(f"images must be at least 1, got {self.images}")
        for name in ("batch_size", "draws", "steps", "samples"):
            left_out = getattr(self, name) is None if name == "steps" else name == "samples" and self.samples == 0
            if not left_out:
                check_whole(name, getattr(self, name))


def _over_images(
    subject: Subject, feed: ImageFeed, settings: _Settings, progress: Callable[[int, int], None], team: Team
) -> dict[tuple[str, str], Moments]:
    """The moments of every value over the images, ``(indicator, source) -> moments``."""
    values: dict[tuple[str, str], Moments] = {}
    total = min(settings.images or feed.total, feed.total)
    with subject.running() as network:
        subjects = (subject, redrawn(subject, settings.seed))
        for first, given, _labels in feed.dealt(settings.batch_size, settings.images, settings.seed, team):
            for key, found in _measure(subjects, for_model(given, network), settings, first).items():
                values.setdefault(key, Moments()).update(found.numpy())
            progress(first + len(given), total)
    whole: dict[tuple[str, str], Moments] = {}
    for part in team.gather(values):
        for key, moments in part.items():
            whole.setdefault(key, Moments()).merge(moments)
    return whole


def _measure(
    subjects: tuple[Subject, Subject], batch: Tensor, settings: _Settings, first: int
) -> dict[tuple[str, str], Tensor]:
    """The values of one batch, ``(indicator, source) -> (B,)``; its first image is the stream's number ``first``."""
    (subject, other), (B, *_, H, W) = subjects, batch.shape
    with torch.no_grad():
        outputs = logits_of(call_model(subject.model, batch), subject.model).cpu()
        layout = patch_layout(subject, batch, settings.patch_size)
    target, logits = outputs.argmax(-1), class_logits(outputs, subject.model)
    P = math.prod(layout.grid)
    control = Trial(
        subject=subject,
        redrawn=other,
        images=batch,
        maps=torch.zeros(B, H, W),
        target=target,
        runner_up=logits.scatter(1, target[:, None], -torch.inf).argmax(-1),
        method="random",
        baseline=settings.baseline,
        counts=step_counts(P, None if settings.steps is None else min(settings.steps, P)),
        at_once=4 * settings.batch_size,
        places={"patch_size": settings.patch_size},
        draws={"samples": settings.samples, "seed": settings.seed, "first": first},
    )
    purposes = ["ranking", *(f"ranking {draw}" for draw in range(1, settings.draws))]
    rankings = [draws_of_images(what, range(first, first + B), layout.grid, settings.seed) for what in purposes]
    random = tuple(dataclasses.replace(control, maps=to_pixels(drawn, layout, (H, W))) for drawn in rankings)
    wanted = [one for one in settings.metrics if settings.samples or not one.sampled]
    values = {
        (one.name, "random"): torch.stack([one.function(trial) for trial in random]).mean(0)
        for one in wanted
        if one.measures(control)
    }
    shown = {name: partial(control.explain, subject, name) for name in settings.methods}
    shown |= {name: partial(RANKINGS[name], batch, layout) for name in settings.rankings}
    for name, explain in shown.items():
        trial = dataclasses.replace(control, maps=explain(), method=name, random=random)
        values |= {(one.name, name): one.function(trial) for one in wanted if one.measures(trial)}
    return values


# --- other weights ----------------------------------------------------------------------------------------------------


def randomisation_check(model: Given, images: Tensor, *, method: str = "rollout", seed: int = 0) -> pd.DataFrame:
    """How much a map depends on what the model learned (Adebayo et al. 2018, all layers at once).

    Spearman's rank correlation of each image's map with that of a copy whose weights were re-drawn, both for the class
    that the model itself predicts: near 0 the map speaks of the weights, near 1 of the image or the architecture alone.
    Re-drawn means: the entries of each parameter in a random order, which keeps its scale (our definition); a parameter
    whose entries are all equal stays as it is. The model itself is left untouched.

    ``images (B, C, H, W)`` float, preprocessed. One row with :data:`~svda_analysis.frames.TABLE_COLUMNS`: the
    ``indicator`` is ``randomisation_correlation``, ``source`` the method; ``n`` leaves out images with a constant map,
    which has no ranks. Raises :class:`InputError` when an argument is outside what is allowed.
    """
    check_methods((method,))
    check_images(images, 16)
    subject = open_model(model)
    with subject.running(), torch.no_grad():
        batch = for_model(images, subject.model)
        target = targets_of(subject.model, batch, None, 16).cpu()
        subjects = (subject, redrawn(subject, seed))
        moments = _correlated(*(attribute(each, batch, method=method, target=target) for each in subjects))
    return make_frame(
        [{**subject.identity, "source": method, **_as_row("randomisation_correlation", moments)}], TABLE_COLUMNS
    )


def cascading_randomisation(model: Given, images: Tensor, *, method: str = "rollout", seed: int = 0) -> pd.DataFrame:
    """How a map changes as the model's parts are re-drawn from the top down (Adebayo et al. 2018, cascading).

    First the head is re-drawn, then the last block as well, and so on down to the embedding, when all is: a row each
    (``part`` names what was re-drawn last), with the rank correlation of each image's map with the model's own, for the
    class that the model itself predicts. A map that follows what was learned changes at the first stages already.
    Parts: :func:`~svda_analysis.redrawing.parts_from_the_top`; re-drawn, ``images`` and ``n`` as in
    :func:`randomisation_check`, whose number the last stage has.

    A frame with :data:`~svda_analysis.frames.TABLE_COLUMNS` and ``part``: the ``indicator`` is
    ``randomisation_correlation``, ``source`` the method. Raises :class:`InputError` when an argument is outside what
    is allowed, or the model has no list of blocks.
    """
    check_methods((method,))
    check_images(images, 16)
    subject = open_model(model)
    rows = []
    with subject.running(), torch.no_grad():
        batch = for_model(images, subject.model)
        target = targets_of(subject.model, batch, None, 16).cpu()
        own = attribute(subject, batch, method=method, target=target)
        for part, each in cascade(subject, redrawn(subject, seed)):
            moments = _correlated(own, attribute(each, batch, method=method, target=target))
            row = _as_row("randomisation_correlation", moments)
            rows.append({**subject.identity, "source": method, **row, "part": part})
    return make_frame(rows, {**TABLE_COLUMNS, "part": "string"})


def _correlated(own: Tensor, others: Tensor) -> Moments:
    values, moments = rank_correlation(own, others), Moments()
    moments.update(values[~values.isnan()].numpy())
    return moments


def _as_row(name: str, found: Moments) -> dict[str, Any]:
    """The columns of a number over images; no number at all (every map was constant) is NaN."""
    low, high = quantity(name).bounds()
    if not found.n:
        return {"indicator": name, "mean": math.nan, "n": 0, "low": low, "high": high}
    ends = found.interval(low, high)
    numbers = {
        "mean": float(found.mean),
        "std": float(found.std()),
        "ci_low": ends.low,
        "ci_high": ends.high,
        "n": found.n,
    }
    return {"indicator": name, **numbers, "low": low, "high": high}
