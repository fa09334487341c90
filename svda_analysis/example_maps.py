"""A few images with their maps, as reports show them."""

from __future__ import annotations

from typing import Any

import numpy as np

from svda_analysis.answers import class_scores
from svda_analysis.attribution import flows
from svda_analysis.errors import InputError
from svda_analysis.forward import for_model
from svda_analysis.results import Examples
from svda_analysis.sources import ImageFeed
from svda_analysis.subject import Subject


def example_maps(subject: Subject, feed: ImageFeed, number: int) -> Examples | None:
    """A few images with their maps; None where no map covers the image (attention inside windows)."""
    if not number:
        return None
    images, labels, pictures = feed.examples(number)
    inputs = for_model(images, subject.model)
    try:
        found = subject.maps_of(inputs)
    except InputError:
        return None
    logits = class_scores(found.output, subject.model, feed.scores)
    predictions = np.full(len(images), -1) if logits is None else logits.argmax(-1).cpu().numpy()
    heads = found.maps[0].arranged(found.maps[0].raw).shape[1]  # which may differ in number
    alike = [one.map() for one in found.maps if one.arranged(one.raw).shape[1] == heads]
    maps = np.stack([a.half().cpu().numpy() for a in alike], axis=1)
    how = found.layout
    known: dict[str, Any] = {"grid": how.grid, "prefix": how.prefix, "suffix": how.suffix, "frames": how.frames}
    if how.prefix and not how.class_token:
        known["class_token"] = 0
    known |= {name: a.numpy() for name, a in flows(subject, inputs).items() if a.shape[-1] == maps.shape[-1]}
    return Examples(pictures, labels.cpu().numpy(), predictions, maps, classes=feed.classes, **known)
