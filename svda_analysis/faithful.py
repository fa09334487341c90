"""Does a map tell the truth about the model? Patches taken away and brought back, noise, and other weights.

Faithfulness is a property of a model and a method together. A random ranking of the patches, the control, stands beside
every method: a map that does no better says nothing about what the model used. Areas depend on how sure a model is of
itself, so models are compared by their gain over that control.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor

from svda_analysis.attribution import attribute, check_images
from svda_analysis.errors import InputError
from svda_analysis.forward import for_model
from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.maps import to_pixels
from svda_analysis.metrics import METRICS, Trial, rank_correlation, redrawn
from svda_analysis.perturbation import (
    Baseline,
    check_baseline,
    check_methods,
    check_whole,
    draws_of_images,
    patch_layout,
    targets_of,
)
from svda_analysis.sources import Data, ImageSource, open_source
from svda_analysis.specs import Given, open_model
from svda_analysis.stats import Moments
from svda_analysis.subject import Subject
from svda_analysis.vocabulary import quantity


def faithfulness(
    model: Given,
    data: Data | ImageSource | None = None,
    *,
    methods: Sequence[str] = ("rollout", "relevance", "cls_attention"),
    images: int | None = 200,
    batch_size: int = 16,
    baseline: Baseline = "mean",
    steps: int | None = 16,
    samples: int = 10,
    patch_size: int | None = None,
    seed: int = 0,
    data_root: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Every measure of faithfulness, for each method and for a random ranking of the patches: means over images.

    Maps and curves speak of the model's own prediction. A frame with :data:`~svda_analysis.frames.TABLE_COLUMNS`:
    ``source`` is the method or ``random``, layer and head are NA, the interval is the 95 % t interval of the mean over
    images. The ``indicator`` is

    - ``deletion_auc``, ``insertion_auc``: :func:`deletion_insertion` in at most ``steps`` steps (None: patch by patch);
    - ``deletion_gain``, ``insertion_gain``: how much better than the random ranking, image by image (random minus
      method, and method minus random). Above 0 the map tells something; these compare models;
    - ``infidelity``, and ``sensitivity_max`` (not of ``random``, which sees no image), of ``samples`` draws each; 0
      leaves both out;
    - ``randomisation_correlation`` (not of ``random``): see :func:`randomisation_check`;
    - and whatever else is registered in :data:`~svda_analysis.metrics.METRICS`.

    ``images`` are drawn with ``seed`` (None: all; of a tensor or loader the first), and all else that is drawn follows
    from it too. ``progress`` is called with (images done, images in all); the rest is as in
    :func:`deletion_insertion`. Raises :class:`InputError` when an argument is outside what is allowed.
    """
    check_methods(methods)
    check_baseline(baseline)
    if images is not None and images < 1:
        raise InputError(f"images must be at least 1, got {images}")
    check_whole("batch_size", batch_size)
    for name, value in (("steps", steps), ("samples", samples or None)):
        if value is not None:
            check_whole(name, value)
    subject = open_model(model)
    source = open_source(data, subject, data_root)
    chosen = tuple(dict.fromkeys(methods))
    settings = _Settings(chosen, baseline, steps, samples, patch_size, seed, 4 * batch_size)
    values: dict[tuple[str, str], Moments] = {}
    done, total = 0, min(images or source.total, source.total)
    with subject.running() as network:
        subjects = (subject, redrawn(subject, seed))
        for given, _labels in source.batches(batch_size, images, seed):
            for key, found in _measure(subjects, for_model(given, network), settings, done).items():
                values.setdefault(key, Moments()).update(found.numpy())
            done += len(given)
            if progress:
                progress(done, total)
    rows = [
        {**subject.identity, "dataset": source.name, "source": name, **_as_row(indicator, found)}
        for (indicator, name), found in values.items()
    ]
    return make_frame(rows, TABLE_COLUMNS)


class _Settings(NamedTuple):
    methods: tuple[str, ...]
    baseline: Baseline
    steps: int | None
    samples: int
    patch_size: int | None
    seed: int
    at_once: int


def _measure(
    subjects: tuple[Subject, Subject], batch: Tensor, settings: _Settings, first: int
) -> dict[tuple[str, str], Tensor]:
    """The values of one batch, ``(indicator, source) -> (B,)``; its first image is the stream's number ``first``."""
    (subject, other), B = subjects, len(batch)
    with torch.no_grad():
        target = targets_of(subject.model, batch, None, B).cpu()
        layout = patch_layout(subject, batch, settings.patch_size)
    control = Trial(
        subject=subject,
        redrawn=other,
        images=batch,
        maps=to_pixels(draws_of_images("ranking", B, layout.grid, settings.seed, first), layout, batch.shape[-2:]),
        target=target,
        method="random",
        baseline=settings.baseline,
        steps=None if settings.steps is None else min(settings.steps, layout.patches),
        at_once=settings.at_once,
        places={"patch_size": settings.patch_size},
        draws={"samples": settings.samples, "seed": settings.seed, "first": first},
    )
    values = _values_of(control, settings)
    for name in settings.methods:
        maps = control.explain(subject, name)
        values |= _values_of(dataclasses.replace(control, maps=maps, method=name, random=control), settings)
    return values


def _values_of(trial: Trial, settings: _Settings) -> dict[tuple[str, str], Tensor]:
    wanted = (one for one in METRICS.values() if settings.samples or not one.sampled)
    return {
        (one.name, trial.method): one.function(trial) for one in wanted if trial.random is not None or one.of_random
    }


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
        maps = [attribute(each, batch, method=method, target=target) for each in subjects]
    values, moments = rank_correlation(*maps), Moments()
    moments.update(values[~values.isnan()].numpy())
    return make_frame(
        [{**subject.identity, "source": method, **_as_row("randomisation_correlation", moments)}], TABLE_COLUMNS
    )


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
