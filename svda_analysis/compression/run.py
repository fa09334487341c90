"""Compress a checkpoint and verify it, from the file to the numbers: :func:`compress_and_verify`."""

from __future__ import annotations

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from torch import Tensor, nn

from svda_analysis.checkpoint import Checkpoint, build_model
from svda_analysis.compression.budgets import accuracy_at_budgets
from svda_analysis.compression.finetuning import finetune, further_recipe
from svda_analysis.compression.images import OpenedData, training_images, unseen_images
from svda_analysis.compression.keep import Keep, check_share
from svda_analysis.compression.ranking import Counts, Ranking, keep_energy, keep_logit, rank
from svda_analysis.compression.removal import as_checkpoint, remove, removed_shares, to_budget
from svda_analysis.compression.result import Compression
from svda_analysis.compression.search import smallest, sweep
from svda_analysis.compression.sites import attention_sites
from svda_analysis.compression.verification import Change, Whole, accuracy_change, verify_against
from svda_analysis.data import ImageData
from svda_analysis.errors import InputError
from svda_analysis.frames import BUDGET_COLUMNS, NORM_COLUMNS, SWEEP_COLUMNS, VERIFICATION_COLUMNS, make_frame
from svda_analysis.model import ViT
from svda_analysis.results import versions
from svda_analysis.soundness import check_weights_finite
from svda_analysis.sources import ImageFeed
from svda_analysis.specs import open_model
from svda_analysis.subject import Subject, run_label

_CHANGE = ("before", "after", "change", "ci_low", "ci_high", "p", "n")  # of accuracy, in a verification
OnPoint = Callable[[str, int, int], None]  # (label, done, in all)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compressed(Compression):
    """A compression with its smaller ``checkpoint``."""

    checkpoint: Checkpoint


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """What is done beside removing, and on how many images; the fields are explained at :func:`compress_and_verify`.
    Checked when it is made."""

    epochs: int = 0
    finetune_images: int | None = None
    accuracy_at: tuple[float, ...] = ()
    data: str | None = None
    rank_images: int = 256
    held_out: int = 5000
    test_images: int | None = None
    sweep_images: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("test_images", "finetune_images"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise InputError(f"{name} must be at least 1, got {number}")
        for budget in self.accuracy_at:
            check_share("accuracy_at", budget)


def compress_and_verify(
    path: str | os.PathLike[str] | Subject,
    *,
    keep: Keep | None = None,
    epochs: int = 0,
    finetune_images: int | None = None,
    accuracy_at: Sequence[float] = (),
    data: str | None = None,
    data_root: str | os.PathLike[str] | None = None,
    rank_images: int = 256,
    held_out: int = 5000,
    test_images: int | None = None,
    sweep_images: int = 0,
    seed: int = 0,
    progress: OnPoint | None = None,
    **fields: Any,
) -> Compressed:
    """Compress the checkpoint at ``path`` (or opened) and verify it. What stays is said by ``keep``, or by fields of
    :class:`~svda_analysis.compression.keep.Keep` as keywords: ``compress_and_verify(path, energy=0.9)``.

    Directions are ranked on ``rank_images`` training images, a tolerance is met on ``held_out`` other training images,
    and everything is verified on ``test_images`` test images (None: all). With ``epochs`` of fine-tuning (on
    ``finetune_images`` training images; None: all), what is returned and verified is the fine-tuned model, against the
    whole one; further rows say what the training gave back. At each budget of ``accuracy_at`` the accuracy of a smaller
    model is tabulated beside, with the same fine-tuning and without
    (:func:`~svda_analysis.compression.budgets.accuracy_at_budgets`).
    The data of the recipe must then be on the machine: no sample takes their place. With ``sweep_images`` a sweep of
    budgets on ``test_images`` and of energies on at most ``sweep_images`` of them ends it, without fine-tuning.
    ``progress`` is called with (what is done, images or points done, in all).
    Runs that share a name (``open_model(path, name=...)``, default: the file's) are one model in a report.
    """
    work = Work(
        epochs=epochs,
        finetune_images=finetune_images,
        accuracy_at=tuple(accuracy_at),
        data=data,
        rank_images=rank_images,
        held_out=held_out,
        test_images=test_images,
        sweep_images=sweep_images,
        seed=seed,
    )
    return compress_subject(open_model(path), Keep.of(keep, fields), work, OpenedData(data_root), progress)


def compress_subject(
    subject: Subject, keep: Keep, work: Work, opened: OpenedData, progress: OnPoint | None = None
) -> Compressed:
    """:func:`compress_and_verify` of an opened checkpoint; data sets that are read go into ``opened``."""
    origin = compressible(subject)
    lessons = _lessons(origin, work.epochs, opened)  # refused now rather than after the search
    feed = unseen_images(subject, work.data, opened)
    numbers = {"number": work.rank_images, "held_out": work.held_out, "seed": work.seed}
    images, others, training = training_images(subject, work.data, opened, **numbers)
    found = rank(subject, images, criterion=keep.criterion, seed=work.seed)
    model, chosen = _smaller(subject, found, keep, others)
    norm = keep.norm_at(chosen.get("min_logit", keep.threshold))
    whole = Whole(subject, feed, work.test_images, work.seed, progress)
    smaller, gains = as_checkpoint(model, origin), make_frame([], VERIFICATION_COLUMNS)
    if lessons:
        smaller, gains = _finetuned(whole, smaller, work, lessons)
    compressed = build_model(smaller)
    verification = verify_against(whole, subject.like(compressed))
    meta = {
        **{"model": subject.name, "attention": subject.attention, "seed": subject.seed, "epoch": subject.epoch},
        **{"criterion": keep.criterion, "norm_logit": norm, "constant": keep.constant, "finetune_epochs": work.epochs},
        "finetune_images": work.finetune_images,
        **chosen,
        **removed_shares(model),
        **{"ranked on": f"{len(images)} of {training}", "data": feed.description, "versions": versions()},
        "warnings": feed.warnings,
    }
    return Compressed(
        checkpoint=smaller,
        verification=pd.concat([verification, gains], ignore_index=True),
        norms=_means_for_the_norm(whole, found, model, norm, None if lessons or not keep.constant else compressed),
        budgets=_at_budgets(whole, images, keep, work, lessons, progress),
        curve=_curve(whole, images, keep, work.sweep_images, progress),
        meta=meta,
    )


def compressible(subject: Subject) -> Checkpoint:
    """The checkpoint of a subject that can be compressed. Raises :class:`InputError` for one that is none of ours,
    whose weights are not finite, or whose attention has no smaller form: all that its weights alone tell."""
    if subject.checkpoint is None:
        raise InputError(f"{subject.spec} must be a checkpoint of svda train; compress_model takes any other model")
    check_weights_finite(subject.model, run_label(subject))
    try:
        attention_sites(subject.model)
    except InputError as error:
        raise InputError(f"{run_label(subject)}: {error}") from None
    return subject.checkpoint


def _lessons(origin: Checkpoint, epochs: int, opened: OpenedData) -> tuple[ImageData, ImageData] | None:
    """Both parts of the data that fine-tuning goes through; None where there is none. Or its complaint."""
    return opened.both(further_recipe(origin, epochs).dataset, origin.config.image_size) if epochs else None


def _smaller(subject: Subject, found: Ranking, keep: Keep, others: ImageFeed) -> tuple[nn.Module, dict[str, Any]]:
    """The model that ``keep`` asks for, and what decided: a threshold on the logits, a budget, a tolerance met."""
    model = subject.model
    if keep.tolerance is not None:
        least, smaller, change = smallest(subject, found, others, keep=keep)
        met = {"tolerance": keep.tolerance, "held_out": dataclasses.asdict(change)}
        return smaller, {**met, "min_logit": least}
    if keep.budget is not None:
        least, smaller = to_budget(model, found, keep.budget, norm_logit=keep.norm_logit, constant=keep.constant)
        return smaller, {"budget": keep.budget, "min_logit": least}
    counts = keep_logit(found, keep.min_logit) if keep.energy is None else keep_energy(found, keep.energy)
    smaller = remove(model, found, counts, norm_logit=keep.norm_threshold, constant=keep.constant)
    return smaller, {"min_logit": keep.min_logit} if keep.energy is None else {"energy": keep.energy}


def _curve(whole: Whole, images: Tensor, keep: Keep, sweep_images: int, progress: OnPoint | None) -> pd.DataFrame:
    """Budgets on all test images, energies on a part of them; empty where no sweep is wanted."""
    if not sweep_images:
        return make_frame([], SWEEP_COLUMNS)
    advance = None if progress is None else functools.partial(progress, "sweep")
    swept = functools.partial(sweep, whole.subject, images, whole.feed, keep=keep, seed=whole.seed, progress=advance)
    few = min(sweep_images, whole.images or sweep_images)
    curves = [swept(energies=(), test_images=whole.images), swept(budgets=(), test_images=few)]
    return pd.concat(curves, ignore_index=True)


def _at_budgets(
    whole: Whole,
    images: Tensor,
    keep: Keep,
    work: Work,
    lessons: tuple[ImageData, ImageData] | None,
    progress: OnPoint | None,
) -> pd.DataFrame:
    """Accuracy at each budget that was asked for, with the fine-tuning of ``work`` and without."""
    if not work.accuracy_at:
        return make_frame([], BUDGET_COLUMNS)

    def tuned(smaller: Checkpoint) -> Checkpoint:
        return finetune(smaller, whole.subject.model, work.epochs, images=work.finetune_images, opened=lessons)

    advance = None if progress is None else functools.partial(progress, "budgets")
    options: dict[str, Any] = {"keep": keep, "finetuned": tuned if lessons else None, "progress": advance}
    return accuracy_at_budgets(whole, images, work.accuracy_at, **options)


def _means_for_the_norm(
    whole: Whole, found: Ranking, smaller: nn.Module, norm_logit: float, usual: nn.Module | None
) -> pd.DataFrame:
    """The same directions removed with each means of keeping the norm, without fine-tuning: ``NORM_COLUMNS``.

    ``usual`` is the model with norm rows and a constant, where there is one that was verified.
    """
    rows: list[dict[str, Any]] = []
    if found.layers[0].sigma is not None and isinstance(smaller, ViT) and smaller.config.score_dims is not None:
        counts: Counts = [list(layer) for layer in smaller.config.score_dims]
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
            tried = remove(whole.subject.model, found, counts, norm_logit=least, constant=constant)
            change = whole.change(usual if usual is not None and name == "norm rows and constant" else tried)
            numbers = {key: getattr(change, key) for key in ("change", "ci_low", "ci_high", "n")}
            rows.append({"kept": name, "rows_removed": removed_shares(tried)["rows_removed"], **numbers})
    return make_frame(rows, NORM_COLUMNS)


def _finetuned(
    whole: Whole, smaller: Checkpoint, work: Work, lessons: tuple[ImageData, ImageData]
) -> tuple[Checkpoint, pd.DataFrame]:
    """The compressed checkpoint after fine-tuning; and rows of accuracy: what compression had cost, what came back."""
    tuned = finetune(smaller, whole.subject.model, work.epochs, images=work.finetune_images, opened=lessons)
    before, after = (whole.guesses_of(build_model(checkpoint)) for checkpoint in (smaller, tuned))

    def row(name: str, change: Change) -> dict[str, Any]:
        return {"quantity": name, **{key: getattr(change, key) for key in _CHANGE}}

    cost = row("before_finetuning", accuracy_change(whole.guesses, before, whole.labels))
    gain = row("finetuning", accuracy_change(before, after, whole.labels))
    return tuned, make_frame([cost, gain], VERIFICATION_COLUMNS)
