"""What the items and batches of a user's data hold: images and labels, by place or by name, as tensors or pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from svda_analysis.errors import InputError, reading
from svda_analysis.forward import images_in

_NAMES_OF_LABELS = ("labels", "label", "targets", "target", "class", "classes", "y", "fine_label")
_END = object()


def image_and_label(held: Any) -> tuple[Any, Any]:
    """The image or images of an item or a batch, and what stands beside as its label (None: nothing)."""
    if isinstance(held, Mapping):
        return images_in(held), next((held[name] for name in _NAMES_OF_LABELS if name in held), None)
    if isinstance(held, tuple | list):
        return (held[0] if held else None), (held[1] if len(held) > 1 else None)
    return held, None


def tensors_of(batch: Any, name: str, warnings: list[str]) -> tuple[Tensor, Tensor | None]:
    """Images ``(B, C, H, W)``, or videos, and labels ``(B,) int64`` of a batch; None where they are no class numbers,
    which is then said in ``warnings``."""
    images, labels = image_and_label(batch)
    if not isinstance(images, Tensor) or images.ndim not in (4, 5) or not images.is_floating_point():
        whole = isinstance(images, Tensor) and not images.is_floating_point()
        way = ": bring pixels to what the model takes, or give pictures of PIL" if whole else ""
        raise InputError(f"{name} must give float images (B, C, H, W), got {_described(images)}{way}")
    numbers = _class_numbers(labels, len(images))
    if labels is not None and numbers is None:
        line = f"the labels of {name} are no class numbers but {_of_each(labels)}: they are left out"
        warnings += [line] * (line not in warnings)
    return images, numbers


def _class_numbers(labels: Any, B: int) -> Tensor | None:
    if isinstance(labels, list | tuple) and labels and all(map(_is_number, labels)):
        labels = torch.tensor([int(x) for x in labels])
    whole = isinstance(labels, Tensor) and not labels.is_floating_point() and labels.dtype != torch.bool
    return labels.long().view(B) if whole and labels.shape in ((B,), (B, 1)) else None


def _is_number(x: Any) -> bool:
    return isinstance(x, int | np.integer) and not isinstance(x, bool)


def _of_each(labels: Any) -> str:
    """What the label of one image is."""
    if not isinstance(labels, Tensor):
        return _described(labels)
    return f"{labels.dtype} {tuple(labels.shape[1:])}" if labels.ndim > 1 else str(labels.dtype)


def _described(x: Any) -> str:
    if isinstance(x, Tensor):
        return f"{x.dtype} {tuple(x.shape)}"
    return f"{type(x).__name__} of {type(x[0]).__name__}" if isinstance(x, list | tuple) and x else type(x).__name__


def told(batches: Iterable[Any], name: str) -> Iterator[Any]:
    """The batches; what their making fails with becomes one line."""
    with reading(f"{name} fails"):
        left = iter(batches)
    while True:
        with reading(f"{name} fails"):
            batch = next(left, _END)
        if batch is _END:
            return
        yield batch


@dataclasses.dataclass(eq=False)
class Items(Dataset[tuple[Tensor, Any]]):
    """The items of ``data`` as an image ``(C, H, W)`` and its label; pictures of PIL go through ``bring``."""

    data: Any
    bring: Callable[[Any], Tensor]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        image, label = image_and_label(self.data[index])
        if is_picture(image):
            image = self.bring(image)
        elif isinstance(image, np.ndarray):
            image = torch.from_numpy(image)
        if isinstance(label, Tensor | np.generic) and label.ndim == 0:
            label = label.item()
        return image, label

    @staticmethod
    def batch(pairs: Sequence[tuple[Tensor, Any]]) -> tuple[Any, Any]:
        """Images ``(B, C, H, W)``, and labels where each has one: numbers alone as they are."""
        images, labels = zip(*pairs, strict=True)
        if not all(isinstance(image, Tensor) for image in images):
            return list(images), None
        alike = all(isinstance(x, Tensor) and x.shape == labels[0].shape for x in labels)
        stacked = torch.stack(labels) if alike else list(labels)
        return torch.stack(images), None if all(label is None for label in labels) else stacked


def is_picture(image: Any) -> bool:
    """Whether it is an image of PIL."""
    from PIL import Image

    return isinstance(image, Image.Image)


def class_names(data: Any) -> tuple[str, ...]:
    """Names of classes that a data set brings: torchvision's ``classes``, the ``features`` of Hugging Face."""
    features = getattr(data, "features", None)
    if isinstance(features, Mapping):
        label = next((features[name] for name in _NAMES_OF_LABELS if name in features), None)
        return tuple(map(str, getattr(label, "names", None) or ()))
    names = getattr(data, "classes", None)
    right = isinstance(names, list | tuple) and all(isinstance(one, str) for one in names)
    return tuple(names) if right else ()  # type: ignore[arg-type]


def length_of(data: Any) -> int:
    """How many items there are. Raises :class:`InputError` for a stream, and for none."""
    try:
        total = len(data)
    except TypeError:
        raise InputError(
            f"data must have a length, got the stream {type(data).__name__}: take a tensor of it"
        ) from None
    if not total:
        raise InputError(f"data must hold at least one image, got an empty {type(data).__name__}")
    return total


def same_each_time(data: DataLoader[Any]) -> Iterator[Any]:
    """The loader's batches; one that shuffles gives them in the same order each time, so that models see the same."""
    given = getattr(data.sampler, "generator", None)
    before = given.get_state() if given is not None else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if given is not None:
            given.manual_seed(0)
        order: dict[str, Any] = (
            {"batch_sampler": [list(batch) for batch in data.batch_sampler]}
            if data.batch_sampler is not None
            else {"sampler": list(data.sampler), "batch_size": None}
        )
    if given is not None:
        given.set_state(before)
    how: dict[str, Any] = {name: getattr(data, name) for name in ("num_workers", "collate_fn", "worker_init_fn")}
    return iter(DataLoader(data.dataset, **order, **how, generator=torch.Generator()))
