"""What the labels of data mean to a model: which of its outputs stands for each class, where that is known."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from svda_analysis.data.catalog import BUNDLED

_WORDNET_ID = re.compile(r"n\d{8}")


class Meaning(NamedTuple):
    """``outputs (classes,)`` = the model's output of each class of the data (None: not known, and labels mean nothing
    to it). ``classes`` = names of outputs, ``scores`` = how many outputs such a model has (0: not known), ``warning`` =
    why nothing is known."""

    outputs: Tensor | None
    classes: tuple[str, ...]
    scores: int
    warning: str | None = None

    def labels(self, labels: Tensor) -> Tensor | None:
        """Class numbers of the data ``(B,)`` as those of the model; -1 stays."""
        if self.outputs is None:
            return None
        return torch.where(labels < 0, labels, self.outputs.to(labels.device)[labels.clamp_min(0)])


UNLABELLED = Meaning(None, (), 0)


def meaning(name: str, classes: Sequence[str], learned: Sequence[str], outputs: int | None) -> Meaning:
    """What the ``classes`` of the data ``name`` are to a model of so many ``outputs`` (None: not known) that stand for
    the classes ``learned`` (empty: not known).

    Names decide, where both have them; WordNet ids are ImageNet's classes in their usual order for a model of 1000;
    numbers are the model's own where it has more classes than the data. Else the order of the data's classes is taken
    for the model's, where both have as many.
    """
    scores = outputs or len(learned)
    found = _by_name(classes, learned)
    if found is None and _knows_imagenet(classes, learned, outputs):
        wordnet = imagenet_classes()
        learned, found = learned or wordnet, [wordnet.index(one) for one in classes]
    if found is None and learned:
        warning = f"the classes of {name} are not those that the model learned: no accuracy is given"
        return Meaning(None, tuple(learned), scores, warning)
    if found is None and outputs is not None and outputs != len(classes):
        if not all(one.isdecimal() for one in classes) or max(map(int, classes)) >= outputs:
            warning = f"{name} has {len(classes)} classes and the model {outputs}: no accuracy is given"
            return Meaning(None, (), scores, warning)
        learned, found = [str(at) for at in range(outputs)], [int(one) for one in classes]
    if found is None:
        return Meaning(torch.arange(len(classes)), tuple(classes), len(classes))
    return Meaning(torch.tensor(found), tuple(learned), scores)


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """The WordNet ids of ImageNet's 1000 classes in their usual order, which is the alphabet's."""
    return tuple((BUNDLED / "imagenet1k.txt").read_text(encoding="utf-8").split())


def _by_name(classes: Sequence[str], learned: Sequence[str]) -> list[int] | None:
    """The place of each class among those ``learned``, by its name; None unless all are there, each once."""
    known: dict[str, int | None] = {}
    for at, words in enumerate(learned):
        for word in dict.fromkeys([_bare_name(words), *map(_bare_name, words.split(","))]):  # "tench, Tinca tinca"
            known[word] = None if word in known else at
    found = [known.get(_bare_name(one)) for one in classes]
    whole = [at for at in found if at is not None]
    return whole if classes and len(whole) == len(found) == len(set(whole)) else None


def _bare_name(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _knows_imagenet(classes: Sequence[str], learned: Sequence[str], outputs: int | None) -> bool:
    usual = outputs == len(imagenet_classes()) and (not learned or _bare_name(learned[0]).startswith("tench"))
    return usual and all(_WORDNET_ID.fullmatch(one) for one in classes) and set(classes) <= set(imagenet_classes())
