"""Compress a checkpoint and verify it, from the file to the numbers: :func:`compress_and_verify`."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import Subset

from svda_analysis.checkpoint import Checkpoint, build_model
from svda_analysis.compression.finetuning import finetune, further_recipe
from svda_analysis.compression.keep import Keep
from svda_analysis.compression.ranking import Counts, Ranking, keep_energy, keep_logit, rank
from svda_analysis.compression.removal import as_checkpoint, remove, removed_shares, to_budget
from svda_analysis.compression.result import Compression
from svda_analysis.compression.search import smallest, sweep
from svda_analysis.compression.verification import accuracy_change, predictions, verify
from svda_analysis.data import ImageData, load_dataset
from svda_analysis.errors import InputError
from svda_analysis.frames import NORM_COLUMNS, SWEEP_COLUMNS, VERIFICATION_COLUMNS, make_frame
from svda_analysis.model import ViT
from svda_analysis.results import versions
from svda_analysis.sources import ImageSource, as_learned, open_source
from svda_analysis.specs import open_model
from svda_analysis.subject import Subject

_CHANGE = ("before", "after", "change", "ci_low", "ci_high", "p", "n")  # of accuracy, in a verification


def compress_and_verify(
    path: str | os.PathLike[str] | Subject,
    *,
    keep: Keep | None = None,
    epochs: int = 0,
    data: str | None = None,
    data_root: str | os.PathLike[str] | None = None,
    rank_images: int = 256,
    held_out: int = 5000,
    test_images: int | None = None,
    sweep_images: int = 2000,
    name: str | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
    **fields: Any,
) -> Compression:
    """Compress the checkpoint at ``path`` (or opened) and verify it. What stays is said by ``keep``, or by fields of
    :class:`~svda_analysis.compression.keep.Keep` as keywords: ``compress_and_verify(path, energy=0.9)``.

    Directions are ranked on ``rank_images`` training images, a tolerance is met on ``held_out`` other training images,
    and everything is verified on ``test_images`` test images (None: all). With ``epochs`` of fine-tuning, what is
    returned and verified is the fine-tuned model, against the whole one; further rows say what the training gave back.
    The data of the recipe must then be on the machine: no sample takes their place. A sweep of budgets on
    ``test_images`` and of energies on at most ``sweep_images`` of them ends it (0: no sweep), without fine-tuning.
    ``name`` is the model's in the report (default: the file's), shared by its runs.
    """
    keep = Keep.of(keep, fields)
    if test_images is not None and test_images < 1:
        raise InputError(f"test_images must be at least 1, got {test_images}")
    subject = open_model(path, name=name)
    origin = _checkpoint_of(subject)
    if epochs:  # refused now rather than after the search
        _check_data_of(further_recipe(origin, epochs).dataset, origin, data_root)
    source = open_source(data, subject, data_root)
    images, others, training = _training_images(subject, data, data_root, rank_images, held_out, seed)
    found = rank(subject.model, images, criterion=keep.criterion, seed=seed)
    model, chosen = _smaller(subject.model, found, keep, others)
    norm = keep.norm_at(chosen.get("min_logit", keep.threshold))
    smaller, gains, written = as_checkpoint(model, origin), make_frame([], VERIFICATION_COLUMNS), model
    if epochs:
        smaller, gains = _finetuned(smaller, subject.model, epochs, source, test_images, seed, data_root)
        written = build_model(smaller)
    verification = verify(subject.model, written, source, images=test_images, seed=seed)
    norms = _means_for_the_norm(subject.model, found, model, source, norm, test_images, seed)
    advance = None if progress is None else functools.partial(progress, "sweep")
    curve = _curve(subject.model, images, source, keep, seed, test_images, sweep_images, advance)
    meta = {
        **{"model": subject.name, "attention": subject.attention, "seed": subject.seed, "epoch": subject.epoch},
        **{"criterion": keep.criterion, "norm_logit": norm, "constant": keep.constant, "finetune_epochs": epochs},
        **chosen,
        **removed_shares(model),
        **{"ranked on": f"{len(images)} of {training}", "data": source.description, "versions": versions()},
        "warnings": source.warnings,
    }
    return Compression(smaller, pd.concat([verification, gains], ignore_index=True), norms, curve, meta)


def _checkpoint_of(subject: Subject) -> Checkpoint:
    if subject.checkpoint is None:
        raise InputError(f"{subject.spec} must be a checkpoint of svda train; compress_model takes any other model")
    return subject.checkpoint


def _check_data_of(dataset: str, origin: Checkpoint, root: str | os.PathLike[str] | None) -> None:
    for part in (True, False):
        load_dataset(dataset, root=root, train=part, image_size=origin.config.image_size)


def _smaller(model: nn.Module, found: Ranking, keep: Keep, others: ImageSource) -> tuple[nn.Module, dict[str, Any]]:
    """The model that ``keep`` asks for, and what decided: a threshold on the logits, a budget, a tolerance met."""
    options: dict[str, Any] = {"norm_logit": keep.norm_logit, "constant": keep.constant}
    if keep.tolerance is not None:
        least, smaller, change = smallest(model, found, others, tolerance=keep.tolerance, **options)
        met = {"tolerance": keep.tolerance, "held_out": dataclasses.asdict(change)}
        return smaller, {**met, "min_logit": least}
    if keep.budget is not None:
        least, smaller = to_budget(model, found, keep.budget, **options)
        return smaller, {"budget": keep.budget, "min_logit": least}
    counts = keep_logit(found, keep.min_logit) if keep.energy is None else keep_energy(found, keep.energy)
    smaller = remove(model, found, counts, norm_logit=keep.norm_threshold, constant=keep.constant)
    return smaller, {"min_logit": keep.min_logit} if keep.energy is None else {"energy": keep.energy}


def _curve(
    model: nn.Module,
    images: Tensor,
    source: ImageSource,
    keep: Keep,
    seed: int,
    test_images: int | None,
    sweep_images: int,
    progress: Callable[[int, int], None] | None,
) -> pd.DataFrame:
    """Budgets on all test images, energies on a part of them; empty where no sweep is wanted."""
    if not sweep_images:
        return make_frame([], SWEEP_COLUMNS)
    options: dict[str, Any] = {"norm_logit": keep.norm_logit, "constant": keep.constant, "progress": progress}
    swept = functools.partial(sweep, model, images, source, seed=seed, **options)
    few = min(sweep_images, test_images or sweep_images)
    curves = [swept(energies=(), test_images=test_images), swept(budgets=(), test_images=few)]
    return pd.concat(curves, ignore_index=True)


def _means_for_the_norm(
    model: nn.Module,
    found: Ranking,
    smaller: nn.Module,
    source: ImageSource,
    norm_logit: float,
    images: int | None,
    seed: int,
) -> pd.DataFrame:
    """The same directions removed with each means of keeping the norm, without fine-tuning: ``NORM_COLUMNS``."""
    rows: list[dict[str, Any]] = []
    if found.layers[0].sigma is not None and isinstance(smaller, ViT) and smaller.config.score_dims is not None:
        counts: Counts = [list(layer) for layer in smaller.config.score_dims]
        guesses, labels = predictions(model, source, images=images, seed=seed)
        means = {
            "all rows (masked)": (0.0, False),
            "norm rows and constant": (norm_logit, True),
            "norm rows": (norm_logit, False),
            "constant": (math.inf, True),
            "neither": (math.inf, False),
        }
        for name, (least, constant) in means.items():
            if math.isinf(norm_logit) and name.startswith("norm rows"):
                continue
            tried = remove(model, found, counts, norm_logit=least, constant=constant)
            change = accuracy_change(guesses, predictions(tried, source, images=images, seed=seed)[0], labels)
            numbers = {key: getattr(change, key) for key in ("change", "ci_low", "ci_high", "n")}
            rows.append({"kept": name, "rows_removed": removed_shares(tried)["rows_removed"], **numbers})
    return make_frame(rows, NORM_COLUMNS)


def _finetuned(
    smaller: Checkpoint,
    teacher: nn.Module,
    epochs: int,
    source: ImageSource,
    images: int | None,
    seed: int,
    root: str | os.PathLike[str] | None,
) -> tuple[Checkpoint, pd.DataFrame]:
    """The compressed checkpoint after fine-tuning; and rows of accuracy: what compression had cost, what came back."""
    tuned = finetune(smaller, teacher, epochs, data_root=root)
    models = (teacher, build_model(smaller), build_model(tuned))
    whole, before, after = (predictions(model, source, images=images, seed=seed) for model in models)
    rows = []
    for name, (first, second) in {"before_finetuning": (whole, before), "finetuning": (before, after)}.items():
        change = accuracy_change(first[0], second[0], whole[1])
        rows.append({"quantity": name, **{key: getattr(change, key) for key in _CHANGE}})
    return tuned, make_frame(rows, VERIFICATION_COLUMNS)


def _training_images(
    subject: Subject,
    data: str | None,
    root: str | os.PathLike[str] | None,
    number: int,
    held_out: int,
    seed: int,
) -> tuple[Tensor, ImageSource, str]:
    """Images to rank by, other training images with their labels, and where both are from."""
    if number < 2 or held_out < 2:
        raise InputError(f"rank_images and held_out must be at least 2, got {number} and {held_out}")
    name = subject.data.get("name") if data is None else data
    if name is None:
        raise InputError("data must be given (a data set's name): the checkpoint does not say what it was trained on")
    size = subject.preprocessing.image_size
    opened: ImageData = load_dataset(name, root=root, train=True, image_size=size, sample_fallback=data is None)
    if opened.split == "all":
        raise InputError(
            f"{opened.name} has no training part to rank by: put its classes into train/ and test/ folders"
        )
    found = as_learned(opened, subject)
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
    first, rest = order[:number], order[number : number + held_out]
    if not len(rest):
        raise InputError(f"rank_images must leave some of the {len(found)} training images over, got {number}")
    images = next(found.batches(len(first), indices=first))[0]
    return images, open_source(Subset(found, rest.tolist()), subject), found.source
