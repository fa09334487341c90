"""Attention and attribution maps of image files, a few images at a time: what ``svda explain`` draws."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svda_analysis.attribution import METHODS, OF_ATTENTION, OF_STACKS, attribute, choose_method
from svda_analysis.errors import InputError, check_name
from svda_analysis.forward import call_model, for_model
from svda_analysis.maps import class_scores
from svda_analysis.soundness import check_weights_finite, naming_the_layer
from svda_analysis.sources import image_files, open_images
from svda_analysis.specs import Given, open_model
from svda_analysis.subject import Subject, run_label


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanations:
    """Maps of ``n`` images. ``pictures (n, H, W, C) uint8``; ``maps`` by method, each ``(n, H, W) float32``;
    ``predictions (n,) int64``, -1 for a model without a classifier; ``classes`` may be empty. ``left_out``: the methods
    that nobody asked for by name and that this model cannot have, each with the reason."""

    files: tuple[str, ...]
    pictures: np.ndarray
    maps: dict[str, np.ndarray]
    predictions: np.ndarray
    classes: tuple[str, ...] = ()
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def labelled_maps(self) -> dict[str, np.ndarray]:
        """The maps by the label of their method."""
        return {METHODS[name].label: values for name, values in self.maps.items()}

    @property
    def signed(self) -> list[str]:
        """Labels of the methods that speak for the class and against it."""
        return [METHODS[name].label for name in self.maps if METHODS[name].signed]

    @property
    def captions(self) -> list[str]:
        """The file's name and the predicted class, a line each."""
        return [
            f"{Path(file).stem[:14]}\n{self._class(int(label))}"
            for file, label in zip(self.files, self.predictions, strict=True)
        ]

    def _class(self, label: int) -> str:
        if label < 0:
            return ""
        return self.classes[label] if label < len(self.classes) else f"class {label}"


def explain(
    model: Given,
    images: Sequence[str | os.PathLike[str]],
    *,
    methods: Sequence[str] | None = None,
    target: int | None = None,
    batch_size: int = 8,
) -> Iterator[Explanations]:
    """Maps over image files, and all those in folders: an :class:`Explanations` for each ``batch_size`` of them.

    ``model`` is what :func:`~svda_analysis.specs.open_model` takes; ``methods`` are names of
    :data:`~svda_analysis.attribution.METHODS` (default: all that the model can have: of one without a classifier those
    that need no class, of one whose layers are no unbroken stack those that need none);
    ``target`` is the class to explain (default: what the model predicts). Memory does not grow with the number of
    files. Raises :class:`InputError` as :func:`~svda_analysis.attribution.attribute` does, for a file that is no image,
    and before the first map for an unknown method or a missing file.
    """
    for name in methods or ():
        choose_method(name)
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    subject, files = open_model(model), image_files(images)
    for file in files:
        check_name(file, "the name of an image")
    check_weights_finite(subject.model, run_label(subject))
    return _pages(subject, files, methods, target, batch_size)


def _pages(
    subject: Subject, files: Sequence[str], methods: Sequence[str] | None, target: int | None, size: int
) -> Iterator[Explanations]:
    for at in range(0, len(files), size):
        part = files[at : at + size]
        given, pictures = open_images(part, subject)[:2]
        with subject.running() as model:
            inputs = for_model(given, model)
            with torch.no_grad(), naming_the_layer(subject.name, model, inputs):
                logits = class_scores(call_model(model, inputs), model)
            options: dict[str, Any] = {"target": target, "batch_size": size}
            left_out = _left_out_methods(subject, inputs, has_class=logits is not None or target is not None)
            left_out = {} if methods is not None else left_out
            names = [name for name in METHODS if name not in left_out] if methods is None else methods
            maps = {name: attribute(subject, inputs, method=name, **options).numpy() for name in names}
        yield Explanations(
            files=tuple(part),
            pictures=pictures,
            maps=maps,
            predictions=np.full(len(part), -1) if logits is None else logits.argmax(-1).cpu().numpy(),
            classes=subject.classes,
            left_out=left_out,
        )


def _left_out_methods(subject: Subject, images: Tensor, *, has_class: bool) -> dict[str, str]:
    """The methods that a model cannot have, each with the reason."""
    reasons = {} if has_class else {name: "has no classifier" for name, one in METHODS.items() if one.needs_target}
    try:
        with torch.no_grad():
            gaps = subject.maps_of(images[:1]).gaps
    except InputError as error:
        return {**dict.fromkeys(OF_ATTENTION, f"has no maps of the image ({error})"), **reasons}
    return (
        {**dict.fromkeys(OF_STACKS, f"is no unbroken stack of layers ({'; '.join(gaps)})"), **reasons}
        if gaps
        else reasons
    )
