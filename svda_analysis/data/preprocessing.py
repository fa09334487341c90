"""How a model wants image files, as plain numbers. No torch here."""

from __future__ import annotations

import dataclasses

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a model wants image files: the shorter side is brought to ``resize`` pixels, the middle ``image_size`` x
    ``image_size`` is cut out, and ``(pixel / 255 - mean) / std`` taken per channel. None: as the data are."""

    image_size: int | None = None
    resize: int | None = None
    interpolation: str = "bilinear"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    def __str__(self) -> str:
        if self.image_size is None:
            size = "in the size that they have"
        else:
            size = f"{self.image_size} x {self.image_size}"
            size += f" from a shorter side of {self.resize} ({self.interpolation})" if self.resize else ""
        scale = f"mean {self.mean}, std {self.std}" if self.mean and self.std else "normalised as the data set is"
        return f"{size}, {scale}"
