"""The images of a compression: ranked on, held out, tested on and taught with, each data set read once."""

from __future__ import annotations

import dataclasses
import os

import torch
from torch import Tensor
from torch.utils.data import Subset

from svda_analysis.data import ImageData, ImageSize, load_dataset
from svda_analysis.errors import InputError
from svda_analysis.sources import ImageFeed, as_learned, open_feed
from svda_analysis.subject import Subject


@dataclasses.dataclass
class OpenedData:
    """Data sets as they were found in ``root`` and the usual places; each part is read once, whoever looks at it."""

    root: str | os.PathLike[str] | None = None
    parts: dict[tuple[str, ImageSize | None, bool], ImageData] = dataclasses.field(default_factory=dict)

    def part(self, name: str, size: ImageSize | None, *, train: bool, or_sample: bool = False) -> ImageData:
        """The training or the test part at the ``size`` that a model takes; the bundled sample in the place of
        FashionMNIST only ``or_sample``."""
        known = self.parts.get((name, size, train))
        if known is None or (known.warning and not or_sample):
            known = load_dataset(name, root=self.root, train=train, image_size=size, sample_fallback=or_sample)
            self.parts[name, size, train] = known
        return known

    def both(self, name: str, size: ImageSize | None) -> tuple[ImageData, ImageData]:
        """The training part and the test part; no sample takes their place."""
        return self.part(name, size, train=True), self.part(name, size, train=False)


def unseen_images(subject: Subject, name: str | None, opened: OpenedData) -> ImageFeed:
    """The test images of a data set, by default of what the model was trained on."""
    size = subject.preprocessing.image_size
    data = opened.part(_data_name(subject, name), size, train=False, or_sample=name is None)
    return open_feed(data, subject)


def training_images(
    subject: Subject, name: str | None, opened: OpenedData, *, number: int, held_out: int, seed: int
) -> tuple[Tensor, ImageFeed, str]:
    """``number`` images to rank by, ``held_out`` other training images with their labels, and where both are from."""
    if number < 2 or held_out < 2:
        raise InputError(f"rank_images and held_out must be at least 2, got {number} and {held_out}")
    size = subject.preprocessing.image_size
    data = opened.part(_data_name(subject, name), size, train=True, or_sample=name is None)
    if data.split == "all":
        raise InputError(f"{data.name} has no training part to rank by: put its classes into train/ and test/ folders")
    found = as_learned(data, subject)
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
    first, rest = order[:number], order[number : number + held_out]
    if not len(rest):
        raise InputError(
            f"data must have more training images than the {number} that directions are ranked on, got {len(found)} of "
            f"{data.name}: name a larger data set, or rank on fewer from Python (rank_images)"
        )
    images = next(found.batches(len(first), indices=first))[0]
    return images, open_feed(Subset(found, rest.tolist()), subject), found.source


def _data_name(subject: Subject, name: str | None) -> str:
    known = subject.data.get("name") if name is None else name
    if known is None:
        raise InputError("data must be given (a data set's name): the checkpoint does not say what it was trained on")
    return str(known)
