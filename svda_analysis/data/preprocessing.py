"""How a model wants its images: :class:`Preprocessing`. Needs no torch."""

from __future__ import annotations

import dataclasses
import math

from svda_analysis.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_LARGEST_SIDE = 2**14  # pixels along a side


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a model wants image files: the shorter side is brought to ``resize`` pixels, the middle ``image_size`` x
    ``image_size`` is cut out, and ``(pixel / 255 - mean) / std`` taken per channel.

    None is what is not known: the size and the normalisation of the data as they come. Raises :class:`InputError` for a
    mean and a deviation that do not fit each other or cannot be divided by.
    """

    image_size: int | None = None
    resize: int | None = None
    interpolation: str = "bilinear"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        for name in ("image_size", "resize"):
            if (pixels := getattr(self, name)) is not None and not 1 <= pixels <= _LARGEST_SIDE:
                raise InputError(f"{name} must lie from 1 to {_LARGEST_SIDE} pixels, got {pixels}")
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
        known = [f"mean {self.mean}"] * (self.mean is not None) + [f"std {self.std}"] * (self.std is not None)
        if size := self._size():
            return ", ".join([size, *(known or ["normalised as the data set is"])])
        return ", ".join(["the size as the data set gives it", *known]) if known else "as the data set gives them"

    def _size(self) -> str:
        shorter = f"a shorter side of {self.resize} ({self.interpolation})"
        if self.image_size is None:
            return "" if self.resize is None else shorter
        square = f"{self.image_size} x {self.image_size}"
        return square if self.resize is None else f"{square} from {shorter}"
