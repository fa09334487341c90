"""Bring a compressed model back to the whole one, by its logits and without labels."""

from __future__ import annotations

import copy
import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from svda_analysis.checkpoint import Checkpoint
from svda_analysis.data import ImageData
from svda_analysis.errors import InputError
from svda_analysis.recipe import TrainConfig
from svda_analysis.training import train


def finetune(
    checkpoint: Checkpoint,
    teacher: nn.Module,
    epochs: int,
    *,
    lr: float | None = None,
    images: int | None = None,
    data_root: str | os.PathLike[str] | None = None,
    opened: tuple[ImageData, ImageData] | None = None,
) -> Checkpoint:
    """Bring a compressed checkpoint back to the model that it was made from, ``teacher``: ``epochs`` through the
    training images (``images`` of them, the same for every model and seed; None: all) towards its logits (Ba & Caruana
    2014), without labels.

    Only what compression touched is trained: the projections of attention, sigma and the norm's constants. The rest of
    the recipe without penalties and decay, on a fresh schedule with peak ``lr``, by default 0.3 of the recipe's. By
    this loss the whole model has nothing to learn, so what the compressed one gains is recovery, never longer training.
    The data of the recipe are looked for in ``data_root`` first, unless both parts are ``opened`` already.
    Raises :class:`InputError` where the checkpoint does not say how it was trained.
    """
    recipe, root = further_recipe(checkpoint, epochs, lr, images), None if data_root is None else Path(data_root)
    options: dict[str, Any] = {"weights": checkpoint.model, "teacher": copy.deepcopy(teacher)}
    options |= {"data_root": root, "opened": opened, "trained": _was_compressed, "measured": False}
    with tempfile.TemporaryDirectory() as folder:
        done = train(checkpoint.config, recipe, Path(folder) / "run.pt", **options)
    return dataclasses.replace(checkpoint, model=done.model, epoch=checkpoint.epoch + epochs, optimizer=None)


def _was_compressed(name: str) -> bool:
    return ".attention." in name and ".proj." not in name


def further_recipe(
    checkpoint: Checkpoint, epochs: int, lr: float | None = None, images: int | None = None
) -> TrainConfig:
    """The recipe that :func:`finetune` trains with, or its complaint."""
    if epochs < 1:
        raise InputError(f"finetune must be at least 1 epoch, got {epochs}")
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    if not checkpoint.recipe.keys() <= known or "dataset" not in checkpoint.recipe:
        raise InputError("finetune needs a checkpoint of svda train: this one does not say how it was trained")
    recipe = TrainConfig(**checkpoint.recipe)
    penalties = (*recipe.penalties, "weight_decay", "qk_weight_decay")
    off: dict[str, Any] = {**dict.fromkeys(penalties, 0.0), "sigma_lr_factor": 1.0}
    off |= {"train_images": recipe.train_images if images is None else images}
    return dataclasses.replace(recipe, epochs=epochs, lr=0.3 * recipe.lr if lr is None else lr, **off)
