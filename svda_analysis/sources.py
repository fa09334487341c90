"""What holds images - a data set's name, a tensor, a Dataset, a DataLoader - as one stream of batches for a model."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, Subset

from svda_analysis.data import (
    DATASETS,
    FolderImages,
    ImageData,
    Preprocessing,
    images_under,
    in_pixels,
    load_dataset,
    stretched,
)
from svda_analysis.errors import InputError, check_file, reading, several
from svda_analysis.forward import own_channels
from svda_analysis.items import (
    Items,
    class_names,
    image_and_label,
    is_picture,
    length_of,
    same_each_time,
    tensors_of,
    told,
)
from svda_analysis.meanings import UNLABELLED, Meaning, meaning
from svda_analysis.model import ViT
from svda_analysis.subject import Subject
from svda_analysis.team import ALONE, Team

AnyImages = TypeVar("AnyImages", bound=ImageData)
Data = str | Tensor | Dataset[Any] | DataLoader[Any]
Batches = Iterator[tuple[Tensor, Tensor | None]]
Numbered = tuple[int, Tensor, Tensor | None]  # a batch behind the number of its first image


@dataclasses.dataclass
class ImageFeed:
    """Images for one model. ``dealt(batch_size, images, seed, team)`` yields the batches that are those of a team's
    process: the number of the first image, preprocessed images ``(B, C, H, W)``, and labels ``(B,)`` or None;
    ``examples(n)`` gives the same n images each time, with labels (-1: none) and, for showing, pictures ``(n, H, W, C)
    uint8``. ``scores``: how many outputs a model of these classes has (0: it is not known). ``normalisation``: mean and
    deviation per channel that pixels in [0, 1] were brought to, ``labels (total,)``: those of all images (None: not
    known), ``preprocessing`` how images are brought to the model, as it is done (None: they come as they are)."""

    name: str
    description: str
    total: int
    dealt: Callable[[int, int | None, int, Team], Iterator[Numbered]]
    examples: Callable[[int], tuple[Tensor, Tensor, np.ndarray]]
    classes: tuple[str, ...] = ()
    scores: int = 0
    warnings: list[str] = dataclasses.field(default_factory=list)
    normalisation: tuple[tuple[float, ...], tuple[float, ...]] | None = None
    labels: Tensor | None = None
    preprocessing: Preprocessing | None = None

    def batches(self, size: int, images: int | None, seed: int) -> Batches:
        """All batches, images and labels."""
        return ((batch, labels) for _, batch, labels in self.dealt(size, images, seed, ALONE))


def open_feed(
    data: Data | ImageFeed | None,
    subject: Subject,
    root: str | os.PathLike[str] | None = None,
    *,
    opened: dict[Any, ImageData] | None = None,
) -> ImageFeed:
    """``data``, or the data that ``subject`` was trained on, for its model. Errors are :class:`InputError`.

    ``opened`` keeps data sets that were found by name, so that several subjects share what was read once.
    """
    if isinstance(data, ImageFeed):
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
        return _from_loader(data, subject)
    if isinstance(data, Dataset) or _is_table(data):
        return _from_dataset(data, subject)
    if isinstance(data, dict) and data and all(map(_is_table, data.values())):
        raise InputError(f"data must be one part of a data set, got {', '.join(map(str, data))}: name one of them")
    raise InputError(f"data must be a data set's name, a tensor, a Dataset or a DataLoader, got {type(data).__name__}")


def _is_table(data: Any) -> bool:
    """Whether it is a data set of Hugging Face, or is like one: rows by number, and ``features``."""
    return hasattr(data, "features") and hasattr(data, "__getitem__") and not isinstance(data, Tensor | nn.Module)


def open_images(paths: Sequence[str | os.PathLike[str]], subject: Subject) -> tuple[Tensor, np.ndarray, list[str]]:
    """Image files, and all those in folders, as ``subject``'s model takes them.

    Returns images ``(n, C, H, W)`` float32 preprocessed, pictures of the same for showing ``(n, H, W, C)`` uint8, and
    the files: the same as of a folder that is given as data.
    """
    files = image_files(paths)
    return *_unlabelled(files, subject).shown(range(len(files))), files


def _unlabelled(pictures: Sequence[Any], subject: Subject) -> FolderImages:
    """Files or pictures of PIL, without labels, in the way of the model."""
    spec = DATASETS["images"]
    data = FolderImages(
        name=spec.name,
        split="all",
        source=f"{len(pictures)} images",
        classes=(),
        mean=spec.mean,
        std=spec.std,
        channels=spec.channels,
        image_size=subject.preprocessing.image_size or spec.image_size,
        labels=torch.full((len(pictures),), -1),
        paths=pictures,
    )
    return as_learned(data, subject)


def image_files(paths: Sequence[str | os.PathLike[str]]) -> list[str]:
    """The files named, and all images in the folders named. Raises :class:`InputError` for what is not there."""
    return [str(file) for path in several(paths) for file in _files_at(path)]


def _files_at(path: str | os.PathLike[str]) -> list[Path]:
    place = Path(path)
    if not place.exists():
        raise InputError(f"no such file: {place}")
    if not place.is_dir():
        check_file(place, "an image")
        return [place]
    files = [Path(file) for file in images_under(place)]
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


def as_learned(data: AnyImages, subject: Subject) -> AnyImages:
    """The images brought to the model in its own way: its size, its mean and deviation. Pixels are shared."""
    own = subject.preprocessing
    changes: dict[str, Any] = {}
    takes = own_channels(subject.model)
    if isinstance(data, FolderImages):
        if takes == 1 and data.channels == 3:
            changes |= {"channels": 1, "mean": _as_grey(data.mean), "std": _as_grey(data.std)}
        changes |= {"processor": own.processor}
        if own.resize:
            changes |= {"resize": own.resize, "interpolation": own.interpolation}
    elif own.processor is not None:
        raise InputError(f"{data.name} lies in memory, where {own.processor} cannot run: say preprocessing otherwise")
    channels = changes.get("channels", data.channels)
    _check_images(data, channels, takes, subject.model)
    if own.mean and own.std:
        if len(own.mean) != channels:
            raise InputError(
                f"mean and std must have a number for each channel of the data ({channels}), got {len(own.mean)}"
            )
        changes |= {"mean": tuple(own.mean), "std": tuple(own.std)}
    return dataclasses.replace(data, **changes) if changes else data


def _as_grey(of_colours: tuple[float, ...]) -> tuple[float, ...]:
    """A mean or deviation of red, green and blue as that of grey, which is 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601):
    exact for the mean; of the deviation an upper bound, near where the colours go together."""
    return (sum(weight * x for weight, x in zip((0.299, 0.587, 0.114), of_colours, strict=True)),)


def _check_images(data: ImageData, channels: int, takes: int | None, model: nn.Module) -> None:
    size = model.config.image_size if isinstance(model, ViT) else data.image_size
    if (takes is not None and takes != channels) or size != data.image_size:
        kinds = {1: "grey", 3: "RGB"}
        pairs = ((channels, data.image_size), (takes or channels, size))
        texts = [f"{kinds.get(c, f'{c}-channel')} {in_pixels(side)}" for c, side in pairs]
        raise InputError(f"{data.name} images are {texts[0]}, the model takes {texts[1]}")


def _from_image_data(data: ImageData, subject: Subject) -> ImageFeed:
    warnings = [data.warning] if data.warning else []
    known = meaning(data.name, data.classes, subject.classes, subject.outputs) if data.classes else UNLABELLED
    warnings += [known.warning] if known.warning else []

    def dealt(size: int, images: int | None, seed: int, team: Team) -> Iterator[Numbered]:
        order = team.part_of(_draw(len(data), images, seed), size)
        for first, (batch, labels) in zip(team.firsts(size), data.batches(size, indices=order), strict=False):
            yield first, batch, known.labels(labels)

    def examples(number: int) -> tuple[Tensor, Tensor, np.ndarray]:
        chosen = data.examples(number)
        images, labels = next(iter(data.batches(len(chosen), indices=chosen)))
        meant = known.labels(labels)
        return images, torch.full_like(labels, -1) if meant is None else meant, data.raw(chosen)

    return ImageFeed(
        data.name,
        data.source,
        len(data),
        dealt,
        examples,
        known.classes,
        known.scores,
        warnings,
        None if data.preprocessing.processor else data.preprocessing.normalisation,
        known.labels(data.labels),
        data.preprocessing,
    )


def _from_tensor(data: Tensor) -> ImageFeed:
    if data.ndim not in (4, 5) or not data.is_floating_point() or not len(data):
        raise InputError(f"data must be float images (B, C, H, W), got {data.dtype} {tuple(data.shape)}")

    def dealt(size: int, images: int | None, seed: int, team: Team) -> Iterator[Numbered]:
        every = data[:images].split(size)
        return ((first, batch, None) for first, batch in zip(team.firsts(size), team.share(every), strict=False))

    def examples(number: int) -> tuple[Tensor, Tensor, np.ndarray]:
        shown = data[:number]
        return shown, torch.full((len(shown),), -1), _as_pictures(shown)

    return ImageFeed("tensor", f"{len(data)} images given as a tensor", len(data), dealt, examples)


def _from_dataset(data: Any, subject: Subject) -> ImageFeed:
    total, name = length_of(data), type(data).__name__
    known, warnings = _known_of(data, subject)
    as_tensors = partial(_as_tensors, name=name, known=known, warnings=warnings)
    with reading(f"{name} fails"):
        image, _ = image_and_label(data[0])
    way = _unlabelled([image], subject) if is_picture(image) else None
    pairs = Items(data, lambda picture: _unlabelled([picture], subject).shown([0])[0][0])

    def dealt(size: int, images: int | None, seed: int, team: Team) -> Iterator[Numbered]:
        chosen = Subset(pairs, team.part_of(_draw(total, images, seed), size).tolist())
        loaded = told(DataLoader(chosen, batch_size=size, collate_fn=Items.batch), name)
        return ((first, *as_tensors(batch)) for first, batch in zip(team.firsts(size), loaded, strict=False))

    def examples(number: int) -> tuple[Tensor, Tensor, np.ndarray]:
        with reading(f"{name} fails"):
            batch = Items.batch([pairs[at] for at in range(min(number, total))])
        return _as_examples(*as_tensors(batch))

    about = (name, f"{total} images of a {name}", total)
    made = ImageFeed(*about, dealt, examples, *_outputs_of(known), warnings)
    return made if way is None else dataclasses.replace(made, preprocessing=way.preprocessing)


def _from_loader(data: DataLoader[Any], subject: Subject) -> ImageFeed:
    total, name = _number_given(data), type(data.dataset).__name__
    known, warnings = _known_of(data.dataset, subject)
    as_tensors = partial(_as_tensors, name=name, known=known, warnings=warnings)
    whole = data.batch_sampler is None  # each entry of the data set is a batch
    if whole:
        total *= len(tensors_of(data.dataset[0], name, warnings)[0])

    def dealt(size: int, images: int | None, seed: int, team: Team) -> Iterator[Numbered]:
        seen, most = 0, math.inf if images is None else images
        for number, made in enumerate(told(same_each_time(data), name)):
            batch, labels = as_tensors(made)
            if team.has(number):
                part = slice(min(most - seen, len(batch)))
                yield seen, batch[part], None if labels is None else labels[part]
            seen += len(batch)
            if seen >= most:
                return

    def examples(number: int) -> tuple[Tensor, Tensor, np.ndarray]:
        with reading(f"{name} fails"):
            items = [data.dataset[at] for at in range(1 if whole else min(number, total))]
            batch = items[0] if whole else data.collate_fn(items)
        images, labels = as_tensors(batch)
        return _as_examples(images[:number], None if labels is None else labels[:number])

    about = (name, f"{total} images of a DataLoader", total)
    return ImageFeed(*about, dealt, examples, *_outputs_of(known), warnings)


def _number_given(loader: DataLoader[Any]) -> int:
    """How many entries of its data set a loader gives: a sampler may choose some, and a last short batch may go."""
    total = length_of(loader.dataset)
    if loader.batch_sampler is None or type(loader.batch_sampler) is BatchSampler:
        with contextlib.suppress(TypeError, NotImplementedError):  # a sampler need not know its length
            total = len(loader.sampler)  # type: ignore[arg-type]
    return total - total % loader.batch_size if loader.drop_last and loader.batch_size else total


def _known_of(data: Any, subject: Subject) -> tuple[Meaning | None, list[str]]:
    """What the classes that a data set names are to the model (None: it names none), and what is to be said of it."""
    names = class_names(data)
    known = meaning(type(data).__name__, names, subject.classes, subject.outputs) if names else None
    return known, [known.warning] if known and known.warning else []


def _as_tensors(batch: Any, *, name: str, known: Meaning | None, warnings: list[str]) -> tuple[Tensor, Tensor | None]:
    images, labels = tensors_of(batch, name, warnings)
    return images, labels if known is None or labels is None else known.labels(labels)


def _outputs_of(known: Meaning | None) -> tuple[tuple[str, ...], int]:
    return (known.classes, known.scores) if known else ((), 0)


def _as_examples(images: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor, np.ndarray]:
    return images, torch.full((len(images),), -1) if labels is None else labels, _as_pictures(images)


def _draw(total: int, images: int | None, seed: int) -> Tensor:
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
    return order[:images]


def _as_pictures(images: Tensor) -> np.ndarray:
    """Preprocessed images stretched to 0..255 each: their own normalisation is not known. Of a video, the frames side
    by side."""
    if images.ndim == 5:
        frames = images if images.shape[2] in (1, 3) else images.transpose(1, 2)  # (B, T, C, H, W)
        images = torch.cat(frames[:, :, :3].unbind(1), dim=-1)
    return stretched(images)
