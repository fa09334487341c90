"""How a model wants its images: :class:`Preprocessing`. Needs no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from svda_analysis.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
ImageSize = int | tuple[int, int]  # the side of a square, or height and width
LARGEST_SIDE = 2**14  # pixels along a side


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a model wants image files: the shorter side is brought to ``resize`` pixels, the middle of ``image_size`` is
    cut out, and ``(pixel / 255 - mean) / std`` taken per channel.

    ``image_size`` is the side of a square, or (height, width); of a ``resize`` that is (height, width) both sides are
    brought to it, whatever the picture's shape. ``processor`` is the model's own function of a picture of PIL, which
    gives ``(C, H, W) float32``: where there is one it is run instead of all of this. None is what is not known: the
    size and the normalisation of the data as they come. Raises :class:`InputError` for a mean and a deviation that do
    not fit each other or cannot be divided by.
    """

    image_size: ImageSize | None = None
    resize: ImageSize | None = None
    interpolation: str = "bilinear"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    processor: Callable[[Any], Any] | None = None

    def __post_init__(self) -> None:
        for name in ("image_size", "resize"):
            given = getattr(self, name)
            if given is not None and not all(1 <= pixels <= LARGEST_SIDE for pixels in sides(given)):
                raise InputError(f"{name} must lie from 1 to {LARGEST_SIDE} pixels, got {given}")
        if self.image_size is not None and len(set(sides(self.image_size))) == 1:
            object.__setattr__(self, "image_size", sides(self.image_size)[0])
        mean, std = self.mean or (), self.std or ()
        if len(mean) != len(std):
            raise InputError(f"mean and std must have as many numbers each, got {len(mean)} and {len(std)}")
        if not all(map(math.isfinite, (*mean, *std))) or any(x <= 0 for x in std):
            raise InputError(f"mean and std must be finite and std above 0, got mean {mean} and std {std}")

    @property
    def normalisation(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and deviation per channel; None where either is not known."""
        return (self.mean, self.std) if self.mean and self.std else None

    def __str__(self) -> str:
        if self.processor is not None:
            return f"as {self.processor} does it"
        given = (("mean", self.mean), ("std", self.std))
        known = [f"{name} {x if len(x) > 1 else x[0]}" for name, x in given if x is not None]
        if size := self._size():
            return ", ".join([size, *(known or ["normalised as the data set is"])])
        return ", ".join(["the size as the data set gives it", *known]) if known else "as the data set gives them"

    def _size(self) -> str:
        if self.resize is None:
            return "" if self.image_size is None else in_pixels(self.image_size)
        squashed = not isinstance(self.resize, int)
        start = f"both sides brought to {in_pixels(self.resize)}" if squashed else f"a shorter side of {self.resize}"
        start += f" ({self.interpolation})"
        if self.image_size is None or (squashed and sides(self.resize) == sides(self.image_size)):
            return start
        return f"{in_pixels(self.image_size)} from {start}"


def sides(size: ImageSize) -> tuple[int, int]:
    """Height and width."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def in_pixels(size: ImageSize) -> str:
    """``"224 x 224"``."""
    return " x ".join(map(str, sides(size)))


def usual_resize(size: ImageSize) -> ImageSize:
    """What pictures are brought to before ``size`` is cut out, where a model does not say it: a shorter side of 256/224
    of a square; both sides of any other."""
    return round(size * 256 / 224) if isinstance(size, int) else size
