"""What holds images - a data set's name, a tensor, a Dataset, a DataLoader - as one stream of batches for a model."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset, default_collate
from torchvision.transforms import v2

from svda_analysis.data import (
    IMAGE_SUFFIXES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    FolderImages,
    ImageData,
    load_dataset,
    open_image,
)
from svda_analysis.errors import InputError
from svda_analysis.model import ViT
from svda_analysis.subject import Subject

Data = str | Tensor | Dataset[Any] | DataLoader[Any]
Batches = Iterator[tuple[Tensor, Tensor | None]]


@dataclasses.dataclass
class ImageSource:
    """Images for one model. ``batches(batch_size, images, seed)`` yields preprocessed images ``(B, C, H, W)`` and
    labels ``(B,)`` or None; ``examples(n)`` gives the same n images each time, with labels (-1: none) and, for showing,
    pictures ``(n, H, W, C) uint8``. ``scores``: how many outputs a model of these classes has (0: it is not known).
    ``normalisation``: mean and deviation per channel that pixels in [0, 1] were brought to, ``labels (total,)``: those
    of all images (None: not known)."""

    name: str
    description: str
    total: int
    batches: Callable[[int, int | None, int], Batches]
    examples: Callable[[int], tuple[Tensor, Tensor, np.ndarray]]
    classes: tuple[str, ...] = ()
    scores: int = 0
    warnings: list[str] = dataclasses.field(default_factory=list)
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    labels: Tensor | None = None


def open_source(
    data: Data | ImageSource | None,
    subject: Subject,
    root: str | os.PathLike[str] | None = None,
    *,
    opened: dict[Any, ImageData] | None = None,
) -> ImageSource:
    """``data``, or the data that ``subject`` was trained on, for its model. Errors are :class:`InputError`.

    ``opened`` keeps data sets that were found by name, so that several subjects share what was read once.
    """
    if isinstance(data, ImageSource):
        return data
    if data is None and not subject.data:
        raise InputError(
            "data must be given (a data set's name, images, a Dataset or a DataLoader): the model has none"
        )
    if data is None or isinstance(data, str):
        data = _load(data, subject, root, {} if opened is None else opened)
    if isinstance(data, ImageData):
        return _from_image_data(as_learned(data, subject), subject)
    if isinstance(data, Tensor):
        return _from_tensor(data)
    if isinstance(data, DataLoader):
        return _from_loader(data)
    if isinstance(data, Dataset):
        return _from_dataset(data)
    raise InputError(f"data must be a data set's name, a tensor, a Dataset or a DataLoader, got {type(data).__name__}")


def open_images(paths: Sequence[str | os.PathLike[str]], subject: Subject) -> tuple[Tensor, np.ndarray, list[str]]:
    """Image files, and all those in folders, as ``subject``'s model takes them.

    Returns images ``(n, C, H, W)`` float32 preprocessed, pictures of the same for showing ``(n, H, W, C)`` uint8, and
    the files. The shorter side is resized and the middle cut out; colour becomes grey for a model of one channel.
    """
    config = subject.model.config if isinstance(subject.model, ViT) else None
    own = subject.preprocessing
    size = own.image_size or 224
    files = image_files(paths)
    mode = v2.InterpolationMode(own.interpolation)
    steps = [v2.Resize(own.resize or size, interpolation=mode), v2.CenterCrop(size), v2.PILToTensor()]
    colours = "L" if config and config.in_channels == 1 else "RGB"
    pixels = torch.stack([v2.Compose(steps)(open_image(file).convert(colours)) for file in files])  # (n, C, H, W)
    mean, std = (torch.tensor(x)[:, None, None] for x in (own.mean or IMAGENET_MEAN, own.std or IMAGENET_STD))
    return (pixels / 255 - mean) / std, pixels.permute(0, 2, 3, 1).numpy(), files


def image_files(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The files named, and all images in the folders named. Raises :class:`InputError` for what is not there."""
    return [str(file) for path in paths for file in _files_at(path)]


def _files_at(path: str | os.PathLike[str]) -> list[Path]:
    place = Path(path)
    if not place.exists():
        raise InputError(f"no such file: {place}")
    if place.is_file():
        return [place]
    files = sorted(file for file in place.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise InputError(f"no images in {place}")
    return files


def _load(
    name: str | None, subject: Subject, root: str | os.PathLike[str] | None, opened: dict[Any, ImageData]
) -> ImageData:
    """The test part of a data set, by name or what the subject learned from, at the size that its model takes."""
    wanted = (subject.data["name"] if name is None else name, subject.preprocessing.image_size, name is None)
    if wanted not in opened:
        opened[wanted] = load_dataset(wanted[0], root=root, image_size=wanted[1], sample_fallback=wanted[2])
    return opened[wanted]


def as_learned(data: ImageData, subject: Subject) -> ImageData:
    """The images brought to the model in its own way: its size, its mean and deviation. Pixels are shared."""
    _check_images(data, subject.model)
    own = subject.preprocessing
    changes: dict[str, Any] = {}
    if own.resize and isinstance(data, FolderImages):
        changes |= {"resize": own.resize, "interpolation": own.interpolation}
    if own.mean and own.std:
        if len(own.mean) != data.channels:
            raise InputError(
                f"mean and std must have a number for each channel of the data ({data.channels}), got {len(own.mean)}"
            )
        changes |= {"mean": tuple(own.mean), "std": tuple(own.std)}
    return dataclasses.replace(data, **changes) if changes else data


def _from_image_data(data: ImageData, subject: Subject) -> ImageSource:
    warnings = [data.warning] if data.warning else []
    known = tuple(subject.data.get("classes") or ())
    learned = known or tuple(data.classes)
    same = learned == tuple(data.classes)
    if not same:
        warnings.append(f"the classes of {data.name} are not those that the model learned: no accuracy is given")

    def batches(size: int, images: int | None, seed: int) -> Batches:
        for batch, labels in data.batches(size, indices=_draw(len(data), images, seed)):
            yield batch, labels if same else None

    def examples(number: int) -> tuple[Tensor, Tensor, np.ndarray]:
        chosen = data.examples(number)
        images, labels = next(iter(data.batches(len(chosen), indices=chosen)))
        return images, labels if same else torch.full_like(labels, -1), data.raw(chosen)

    about = (data.name, data.source, len(data))
    scores = 0 if known else len(learned)
    return ImageSource(*about, batches, examples, learned, scores, warnings, (data.mean, data.std), data.labels)


def _check_images(data: ImageData, model: nn.Module) -> None:
    if isinstance(model, ViT):
        has, takes = (data.channels, data.image_size), (model.config.in_channels, model.config.image_size)
        if has != takes:
            kinds = {1: "grey", 3: "RGB"}
            texts = [f"{kinds.get(c, f'{c}-channel')} {size} x {size}" for c, size in (has, takes)]
            raise InputError(f"{data.name} images are {texts[0]}, the model takes {texts[1]}")


def _from_tensor(data: Tensor) -> ImageSource:
    if data.ndim not in (4, 5) or not data.is_floating_point() or not len(data):
        raise InputError(f"data must be float images (B, C, H, W), got {data.dtype} {tuple(data.shape)}")

    def batches(size: int, images: int | None, seed: int) -> Batches:
        return ((batch, None) for batch in data[:images].split(size))

    def examples(number: int) -> tuple[Tensor, Tensor, np.ndarray]:
        shown = data[:number]
        return shown, torch.full((len(shown),), -1), _as_pictures(shown)

    return ImageSource("tensor", f"{len(data)} images given as a tensor", len(data), batches, examples)


def _from_dataset(data: Dataset[Any]) -> ImageSource:
    total, name = _length(data), type(data).__name__

    def batches(size: int, images: int | None, seed: int) -> Batches:
        chosen = Subset(data, _draw(total, images, seed).tolist())
        return map(_image_and_label, DataLoader(chosen, batch_size=size))

    return ImageSource(name, f"{total} images of a {name}", total, batches, _first_of(data))


def _from_loader(data: DataLoader[Any]) -> ImageSource:
    total = _length(data.dataset)
    if data.batch_sampler is None:  # each entry of the data set is a batch
        total *= len(_image_and_label(data.dataset[0])[0])

    def batches(size: int, images: int | None, seed: int) -> Batches:
        left = math.inf if images is None else images
        for batch, labels in map(_image_and_label, _same_each_time(data)):
            part = slice(min(left, len(batch)))
            yield batch[part], None if labels is None else labels[part]
            left -= len(batch)
            if left <= 0:
                return

    name = type(data.dataset).__name__
    return ImageSource(name, f"{total} images of a DataLoader", total, batches, _first_of(data.dataset))


def _same_each_time(data: DataLoader[Any]) -> Iterator[Any]:
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


def _length(data: Dataset[Any]) -> int:
    try:
        total = len(data)  # type: ignore[arg-type]  # not every Dataset has a length, which is what is asked here
    except TypeError:
        raise InputError(
            f"data must have a length, got the stream {type(data).__name__}: take a tensor of it"
        ) from None
    if not total:
        raise InputError(f"data must hold at least one image, got an empty {type(data).__name__}")
    return total


def _first_of(data: Dataset[Any]) -> Callable[[int], tuple[Tensor, Tensor, np.ndarray]]:
    def examples(number: int) -> tuple[Tensor, Tensor, np.ndarray]:
        images, labels = _image_and_label(default_collate([data[i] for i in range(min(number, _length(data)))]))
        shown = torch.full((len(images),), -1) if labels is None else labels
        return images, shown, _as_pictures(images)

    return examples


def _image_and_label(batch: Any) -> tuple[Tensor, Tensor | None]:
    if isinstance(batch, Tensor):
        return batch, None
    images, *rest = batch
    return images, rest[0] if rest else None


def _draw(total: int, images: int | None, seed: int) -> Tensor:
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return order[:images]


def _as_pictures(images: Tensor) -> np.ndarray:
    """Preprocessed images stretched to 0..255 each: their own normalisation is not known. Of a video, the frames side
    by side."""
    if images.ndim == 5:
        frames = images if images.shape[2] in (1, 3) else images.transpose(1, 2)  # (B, T, C, H, W)
        images = torch.cat(frames[:, :, :3].unbind(1), dim=-1)
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return ((images - low) / (high - low).clamp_min(1e-12) * 255).byte().permute(0, 2, 3, 1).cpu().numpy()
