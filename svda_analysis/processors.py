"""The image processors of other libraries as :class:`Preprocessing`: said in our words where that is proved
on pictures, run as they are elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from svda_analysis.data import FolderImages, ImageSize, Preprocessing, sides
from svda_analysis.errors import InputError, reading

_MODES = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # PIL's numbers
_LARGEST_PROVED = 2**10  # pixels along a side: pictures for larger ones take memory
_ALIKE = 0.03  # of the deviation of what the processor gives: rounding of resized pixels stays below


@dataclasses.dataclass(frozen=True)
class Processor:
    """A library's own function of a picture of PIL, which gives ``(C, H, W) float32``."""

    name: str
    function: Callable[[Any], Any]

    def __call__(self, picture: Any) -> Tensor:
        way = "--preprocess image_size=, mean= and std= take its place"
        with reading(f"{self} fails on a picture ({way})"):
            found = torch.as_tensor(np.asarray(self.function(picture)))
        if found.ndim != 3:
            came = f"{found.dtype} {tuple(found.shape)}"
            raise InputError(f"{self} gives {came} of a picture, not one image (C, H, W) ({way})")
        return found.float()

    def __str__(self) -> str:
        return self.name


def processed(run: Any, channels: int) -> Preprocessing:
    """How an image processor of Hugging Face brings pictures to a model of so many channels."""
    processor = Processor(type(run).__name__, lambda picture: run(picture, return_tensors="pt")["pixel_values"][0])
    return proved(_told(run.to_dict()), processor, channels)


def proved(told: Preprocessing | None, processor: Processor, channels: int) -> Preprocessing:
    """What ``told`` says - resized, cut, rescaled, normalised - where that is what the processor does to pictures of
    other shapes; where it is not, the processor itself is what the :class:`Preprocessing` holds."""
    if told is not None and _does_so(told, processor, channels):
        return told
    return Preprocessing(image_size=None if told is None else told.image_size, processor=processor)


def _told(settings: Mapping[str, Any]) -> Preprocessing | None:
    """What the settings of a processor say; None where they leave the size open or say what we do not know."""
    size, crop = settings.get("size"), settings.get("crop_size")
    resize = _read_size(size) if settings.get("do_resize", True) else None
    image_size = _read_size(crop) if settings.get("do_center_crop") else resize
    shorter = isinstance(size, Mapping) and "shortest_edge" in size
    mode = _MODES.get(2 if (resample := settings.get("resample")) is None else int(resample))
    if image_size is None or mode is None or (shorter and not settings.get("do_center_crop")):
        return None
    factor = 255 * (settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1)
    usual = settings.get("image_mean") or (0.0,), settings.get("image_std") or (1.0,)
    mean, std = usual if settings.get("do_normalize", True) else ([0.0] * len(usual[0]), [1.0] * len(usual[1]))
    return Preprocessing(  # ((p * f - m) / s) of a pixel p is (p / 255 - m / 255f) / (s / 255f)
        image_size=image_size,
        resize=resize,
        interpolation=mode,
        mean=tuple(float(x) / factor for x in mean),
        std=tuple(float(x) / factor for x in std),
    )


def _read_size(given: Any) -> ImageSize | None:
    """A number is a shorter side, a pair both sides."""
    if isinstance(given, Mapping):
        pair = given.get("height"), given.get("width")
        given = pair if all(pair) else given.get("shortest_edge")
    if isinstance(given, list | tuple) and len(given) == 2:
        return int(given[0]), int(given[1])
    return None if given is None else int(given)


def _does_so(told: Preprocessing, processor: Processor, channels: int) -> bool:
    """Whether ours is what the processor does, to a wide and to a tall picture."""
    if told.image_size is None or len(told.mean or ()) != channels or max(sides(told.image_size)) > _LARGEST_PROVED:
        return False
    height, width = sides(told.image_size)
    for at, shape in enumerate(((height + 7, 2 * width), (2 * height, width // 2 + 5))):
        picture = _picture(*shape, seed=at).convert("L" if channels == 1 else "RGB")
        try:
            wanted = processor(picture)
        except InputError:  # it will be said when a picture is given
            return False
        got = _brought(told, picture, channels)
        if got.shape != wanted.shape or float((got - wanted).abs().mean()) > _ALIKE * float(wanted.std()):
            return False
    return True


def _picture(height: int, width: int, seed: int) -> Any:
    """A picture with structure: slopes, a bright corner, some noise."""
    from PIL import Image

    y, x = np.mgrid[0:height, 0:width]
    slopes = np.stack([255 * x / width, 255 * y / height, 255 - 255 * x / width], -1)
    slopes[: height // 3, : width // 3] = (250, 240, 20)
    noise = np.random.default_rng(seed).normal(0, 4, slopes.shape)
    return Image.fromarray(np.clip(slopes + noise, 0, 255).astype(np.uint8))


def _brought(told: Preprocessing, picture: Any, channels: int) -> Tensor:
    mean, std = told.normalisation or ((0.0,) * channels, (1.0,) * channels)
    data = FolderImages(
        name="picture",
        split="all",
        source="",
        classes=(),
        mean=mean,
        std=std,
        channels=channels,
        image_size=told.image_size or 1,
        labels=torch.full((1,), -1),
        paths=[picture],
        resize=told.resize or 0,
        interpolation=told.interpolation,
    )
    return data.shown([0])[0][0]


def processor_of(transformers: Any, place: Path, local: Mapping[str, Any]) -> Any | None:
    """The image processor of a folder; None where it has none."""
    files = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
    if not any((place / name).is_file() for name in files):
        return None
    with reading("its image processor cannot be read"):
        return transformers.AutoImageProcessor.from_pretrained(str(place), **local)
