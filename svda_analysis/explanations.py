"""Attention and attribution maps of image files, a few images at a time: what ``svda explain`` draws."""

from __future__ import annotations

import dataclasses
import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svda_analysis.answers import class_scores
from svda_analysis.attribution import METHODS, OF_ATTENTION, OF_STACKS, attribute, choose_method
from svda_analysis.errors import InputError, check_name, several
from svda_analysis.formatting import file_names, shorten
from svda_analysis.forward import call_model, for_model
from svda_analysis.soundness import check_weights_finite, naming_the_layer
from svda_analysis.sources import image_files, open_images
from svda_analysis.specs import Given, open_model, open_models
from svda_analysis.subject import Subject, run_label


@dataclasses.dataclass(frozen=True, kw_only=True)
class Explanations:
    """Maps of ``n`` images by one ``model``. ``pictures (n, H, W, C) uint8``; ``maps`` by method, each
    ``(n, H, W) float32``; ``predictions (n,) int64`` and their ``probabilities (n,)``, -1 and NaN for a model without a
    classifier; ``classes`` may be empty. ``left_out``: the methods that nobody asked for by name and that this model
    cannot have, each with the reason. ``warnings``: what is to be known before a map is read."""

    files: tuple[str, ...]
    pictures: np.ndarray
    maps: dict[str, np.ndarray]
    predictions: np.ndarray
    probabilities: np.ndarray
    model: str = "model"
    classes: tuple[str, ...] = ()
    left_out: dict[str, str] = dataclasses.field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def captions(self) -> list[str]:
        """The model, the predicted class and its probability, for each image."""
        said = zip(self.predictions, self.probabilities, strict=True)
        return [f"{self.model[:16]}\n{self._predicted(int(label), float(p))}".rstrip() for label, p in said]

    def name_of(self, label: int) -> str:
        """The class of that number; empty for -1."""
        if label < 0:
            return ""
        return self.classes[label] if label < len(self.classes) else f"class {label}"

    def _predicted(self, label: int, probability: float) -> str:
        name = self.name_of(label)
        if not name:
            return ""
        return shorten(f"{name.split(',')[0]}", 16) + ("" if np.isnan(probability) else f" {probability:.0%}")


@dataclasses.dataclass(frozen=True)
class SideBySide:
    """The :class:`Explanations` of the same files by several models, whose names differ."""

    parts: tuple[Explanations, ...]

    @property
    def names(self) -> list[str]:
        """The models."""
        return [part.model for part in self.parts]

    @property
    def labels(self) -> list[str]:
        """The methods that some model has, by label."""
        return list(dict.fromkeys(METHODS[name].label for part in self.parts for name in part.maps))

    @property
    def signed(self) -> list[str]:
        """Labels of the methods that speak for the class and against it."""
        return [one.label for one in METHODS.values() if one.signed]

    def pictures_of(self, name: str) -> np.ndarray:
        """The images as that model sees them."""
        return self._part(name).pictures

    def map_of(self, name: str, label: str) -> np.ndarray | None:
        """The maps of one model by the method of that label; None where it has none."""
        found = {METHODS[method].label: values for method, values in self._part(name).maps.items()}
        return found.get(label)

    def captions_of(self, name: str) -> list[str]:
        """What one model predicts of each image."""
        return self._part(name).captions

    def picture_names(self) -> list[str]:
        """The files, without folder and suffix."""
        return [shorten(Path(file).stem, 18) for file in self.parts[0].files]

    def predictions(self) -> list[dict[str, Any]]:
        """What each model predicts of each file: ``model, file, class`` (its number), ``name, probability``; -1, "" and
        NaN of a model without a classifier."""
        return [
            {"model": part.model, "file": file, "class": int(label), "name": part.name_of(int(label)), "probability": p}
            for part in self.parts
            for file, label, p in zip(part.files, part.predictions, part.probabilities, strict=True)
        ]

    def arrays(self) -> dict[str, np.ndarray]:
        """All numbers, for a file: ``files``, and by ``model/`` its pictures, predictions, probabilities and maps."""
        found: dict[str, np.ndarray] = {"files": np.array(self.parts[0].files)}
        for part in self.parts:
            own = {"pictures": part.pictures, "predictions": part.predictions, "probabilities": part.probabilities}
            found |= {f"{part.model}/{key}": values for key, values in {**own, **part.maps}.items()}
        return found

    def _part(self, name: str) -> Explanations:
        return self.parts[self.names.index(name)]


def explain_models(
    models: Given | Sequence[Given],
    images: Sequence[str | os.PathLike[str]],
    *,
    methods: Sequence[str] | None = None,
    target: int | str | None = None,
    batch_size: int = 8,
) -> Iterator[SideBySide]:
    """:func:`explain` of the same images by several models, side by side: a :class:`SideBySide` for each page of them.

    Models of one name are told apart by a number. Raises :class:`InputError` as :func:`explain`.
    """
    subjects = open_models(models)
    names = file_names(subject.name for subject in subjects)
    renamed = [dataclasses.replace(subject, name=name) for subject, name in zip(subjects, names, strict=True)]
    options: dict[str, Any] = {"methods": methods, "target": target, "batch_size": batch_size}
    pages = [explain(subject, images, **options) for subject in renamed]  # each checks what it was given
    return (SideBySide(tuple(parts)) for parts in zip(*pages, strict=True))


def class_of(subject: Subject, target: int | str) -> int:
    """The number of a class that is given by its number or its name (of several names in one, any; case aside).

    Raises :class:`InputError` for a name that the model has not, or where it names none.
    """
    if isinstance(target, int) or re.fullmatch(r"-?\d{1,18}", target.strip()):  # of more digits it is no class
        return int(target)
    if not subject.classes:
        raise InputError(f"target must be the number of a class, as {subject.name} names none, got {target!r}")
    wanted = target.strip().casefold()
    for at, name in enumerate(subject.classes):
        if wanted in {name.casefold(), *(part.strip().casefold() for part in name.split(","))}:
            return at
    near = difflib.get_close_matches(target, subject.classes, 3, 0.5) or subject.classes[:5]
    raise InputError(f"target must be a class of {subject.name}, like {', '.join(near)}, got {target!r}")


def explain(
    model: Given,
    images: Sequence[str | os.PathLike[str]],
    *,
    methods: Sequence[str] | None = None,
    target: int | str | None = None,
    batch_size: int = 8,
) -> Iterator[Explanations]:
    """Maps over image files, and all those in folders: an :class:`Explanations` for each ``batch_size`` of them.

    ``model`` is what :func:`~svda_analysis.specs.open_model` takes; ``methods`` are names of
    :data:`~svda_analysis.attribution.METHODS` (default: all that the model can have: of one without a classifier those
    that need no class, of one whose layers are no unbroken stack those that need none);
    ``target`` is the class to explain, its number or its name (default: what the model predicts). Memory does not grow
    with the number of files. Raises :class:`InputError` as :func:`~svda_analysis.attribution.attribute` does, for a
    file that is no image,
    and before the first map for an unknown method or a missing file.
    """
    methods = None if methods is None else several(methods)
    for name in methods or ():
        choose_method(name)
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    subject, files = open_model(model), image_files(images)
    for file in files:
        check_name(file, "the name of an image")
    check_weights_finite(subject.model, run_label(subject))
    chosen = None if target is None else class_of(subject, target)
    return _pages(subject, files, methods, chosen, batch_size)


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
            probabilities=_probabilities_of(subject, logits, len(part)),
            model=subject.name,
            classes=subject.classes,
            left_out=left_out,
            warnings=tuple(_warnings_on(subject, maps)),
        )


def _probabilities_of(subject: Subject, logits: Tensor | None, count: int) -> np.ndarray:
    """Of each image's prediction: the softmax of its logits, their sigmoid where the model says that its labels do not
    exclude each other, NaN where there is none (no classifier, a single output)."""
    if logits is None or logits.shape[-1] < 2:
        return np.full(count, np.nan)
    many_labels = getattr(getattr(subject.model, "config", None), "problem_type", None) == "multi_label_classification"
    shares = logits.double().sigmoid() if many_labels else logits.double().softmax(-1)
    return shares.max(-1).values.cpu().numpy()


def _warnings_on(subject: Subject, maps: Mapping[str, np.ndarray]) -> Iterator[str]:
    if subject.untrained:
        yield f"{subject.name} has random weights: its maps say nothing of what a trained model looks at"
    nil = [METHODS[name].label for name, values in maps.items() if not np.abs(values).max(initial=0) > 0]
    if nil:
        yield f"{subject.name}: {', '.join(nil)} is 0 everywhere: what is explained does not depend on the image"


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
