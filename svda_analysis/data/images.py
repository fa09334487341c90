"""Labelled images of one split: :class:`MemoryImages` and :class:`FolderImages` hand out normalised batches.

Small images live in memory as uint8 and are augmented a batch at a time; folders of photographs are read and cropped
image by image. Random choices come from the caller's generator alone: it gives each image of the split its own, so that
an image is augmented alike in whichever batch, order or process it comes.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from svda_analysis.data.files import open_image
from svda_analysis.data.preprocessing import ImageSize, Preprocessing, usual_resize
from svda_analysis.errors import InputError


@dataclasses.dataclass(eq=False, kw_only=True)
class ImageData(Dataset[tuple[Tensor, int]]):
    """Labelled images of one split, as a torch data set: ``data[i]`` is ``(C, H, W) float32``, normalised, and an int.

    ``name`` opens it again with ``load_dataset``; ``source`` says in one line what was read from where;
    ``labels (n,) int64``; ``mean`` and ``std`` are per channel, of pixels in [0, 1]; ``warning`` is one line or None.
    ``padding`` (pixels; in memory only), ``flip`` and ``rotation`` (by up to so many degrees either way) say how
    training images are augmented.
    """

    name: str
    split: str
    source: str
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int
    image_size: ImageSize
    labels: Tensor
    padding: int = 0
    flip: bool = True
    rotation: float = 0.0
    is_sample: bool = False
    warning: str | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pixels = torch.from_numpy(self.raw([index])).permute(0, 3, 1, 2)
        return self.normalise(pixels)[0], int(self.labels[index])

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are brought to the model, as it is done."""
        return Preprocessing(image_size=self.image_size, mean=self.mean, std=self.std)

    def normalise(self, pixels: Tensor) -> Tensor:
        """``(pixels / 255 - mean) / std`` per channel: ``(B, C, H, W) uint8`` in, float32 of that shape out."""
        mean, std = (255 * torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return pixels.to(torch.float32, memory_format=torch.contiguous_format).sub_(mean).div_(std)

    def examples(self, number: int) -> Tensor:
        """Indices of the images to show: the first of each class, in their order, at most ``number`` of them; without
        classes the first ones."""
        if not self.classes:
            return torch.arange(min(number, len(self)))
        _, firsts = np.unique(self.labels.numpy(), return_index=True)
        return torch.from_numpy(np.sort(firsts)[:number])

    def raw(self, indices: Sequence[int] | Tensor) -> np.ndarray:
        """The images to show: ``(n, H, W, C) uint8``, resized and cropped as for testing, not normalised."""
        raise NotImplementedError

    def batches(
        self,
        batch_size: int,
        *,
        indices: Tensor | None = None,
        augment: bool = False,
        generator: torch.Generator | None = None,
        workers: int | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised images ``(B, C, H, W) float32`` and labels ``(B,) int64``; the last batch may be smaller.

        ``indices (n,) int64`` gives the images in their order (default: all, in file order). ``augment`` crops and
        mirrors at random, drawn from ``generator`` (CPU; default: torch's own) once for every image of the split: what
        becomes of an image follows from the generator's state and its index alone, whichever images come with it, and
        with any number of ``workers`` (processes that read folders, by default one for each core up to 8; images in
        memory need none, nor does a single batch).
        """
        if batch_size < 1:
            raise InputError(f"batch_size must be at least 1, got {batch_size}")
        if workers is None:
            workers = min(usable_cores(), 8)
        if workers < 0:
            raise InputError(f"workers must be at least 0, got {workers}")
        chosen = torch.arange(len(self)) if indices is None else self._check(indices)
        return self._batches(chosen, batch_size, augment, generator, workers)

    def _batches(
        self, indices: Tensor, batch_size: int, augment: bool, generator: torch.Generator | None, workers: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        raise NotImplementedError

    def _check(self, indices: Sequence[int] | Tensor) -> Tensor:
        chosen = torch.as_tensor(indices)
        whole = chosen.dtype in (torch.int64, torch.int32) and chosen.ndim == 1
        if chosen.shape != (0,) and not (whole and 0 <= chosen.min() <= chosen.max() < len(self)):
            got = f"{chosen.min()} to {chosen.max()}" if whole else f"{chosen.dtype} of shape {tuple(chosen.shape)}"
            raise InputError(f"indices must be a row of whole numbers from 0 to {len(self) - 1}, got {got}")
        return chosen.long()


@dataclasses.dataclass(eq=False, kw_only=True)
class MemoryImages(ImageData):
    """Images in memory, ``images (n, C, H, W) uint8``."""

    images: Tensor

    def raw(self, indices: Sequence[int] | Tensor) -> np.ndarray:
        return self.images[self._check(indices)].permute(0, 2, 3, 1).contiguous().numpy()

    def _batches(
        self, indices: Tensor, batch_size: int, augment: bool, generator: torch.Generator | None, workers: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        if augment:
            corners = torch.randint(2 * self.padding + 1, (2, len(self)), generator=generator)  # tops and lefts
            mirrored = (torch.rand(len(self), generator=generator) < 0.5) & self.flip
            turned = (2 * torch.rand(len(self), generator=generator) - 1) * self.rotation if self.rotation else None
        for chosen in indices.split(batch_size) if len(indices) else ():
            images = self.images[chosen]
            if augment:
                images = crop_and_flip(images, self.padding, corners[:, chosen], mirrored[chosen])
                images = images if turned is None else rotate(images, turned[chosen])
            yield self.normalise(images), self.labels[chosen]


def usable_cores() -> int:
    """The cores that this process may run on, which a scheduler may have made fewer than the machine has."""
    allowed = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def crop_and_flip(images: Tensor, padding: int, corners: Tensor, mirrored: Tensor) -> Tensor:
    """Crop each image out of itself with ``padding`` zero pixels around, at its own corner, then mirror those chosen.

    ``images (B, C, H, W)`` of any dtype; returns that shape. ``corners (2, B) int64`` are tops and lefts in
    [0, 2 padding], ``mirrored (B,) bool``.
    """
    B, _, H, W = images.shape
    top, left = corners
    windows = F.pad(images, (padding,) * 4).unfold(2, H, 1).unfold(3, W, 1)  # (B, C, 2p+1, 2p+1, H, W), a view
    crops = windows[torch.arange(B), :, top, left]  # (B, C, H, W)
    return torch.where(mirrored[:, None, None, None], crops.flip(-1), crops)


def rotate(images: Tensor, degrees: Tensor) -> Tensor:
    """Turn each image about its middle, by nearest neighbour, black beyond its edges.

    ``images (B, C, H, W)`` of any dtype; returns that shape. ``degrees (B,)``, counter-clockwise.
    """
    B, _, H, W = images.shape
    cos, sin = degrees.deg2rad().cos(), degrees.deg2rad().sin()
    zero = torch.zeros_like(cos)  # in units of half the height and half the width
    rows = torch.stack([cos, -sin * H / W, zero]), torch.stack([sin * W / H, cos, zero])
    grid = F.affine_grid(torch.stack(rows).permute(2, 0, 1), [B, 1, H, W], align_corners=False)
    return F.grid_sample(images.float(), grid, mode="nearest", align_corners=False).to(images.dtype)


@dataclasses.dataclass(eq=False, kw_only=True)
class FolderImages(ImageData):
    """Image files, read when they are asked for and brought to ``image_size`` (Inception crops for training).

    For testing they are brought to ``resize`` first (0: :func:`usual_resize`), or as ``processor`` does it: see
    :class:`Preprocessing`. One channel is grey.
    """

    paths: Sequence[Any]  # files, or pictures of PIL
    resize: ImageSize = 0
    interpolation: str = "bilinear"
    processor: Callable[[Any], Any] | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        return Preprocessing(
            image_size=self.image_size,
            resize=self.resize or usual_resize(self.image_size),
            interpolation=self.interpolation,
            mean=self.mean,
            std=self.std,
            processor=self.processor,
        )

    def raw(self, indices: Sequence[int] | Tensor) -> np.ndarray:
        return self.shown(indices)[1]

    def shown(self, indices: Sequence[int] | Tensor) -> tuple[Tensor, np.ndarray]:
        """Images as the model gets them, ``(n, C, H, W) float32``, and to be shown, as :meth:`raw` has them."""
        reader = _BatchReader(self, augment=False)
        found = reader.read([(i, 0) for i in self._check(indices).tolist()])[0]
        if self.processor is not None:
            return found, stretched(found)
        return self.normalise(found), found.permute(0, 2, 3, 1).contiguous().numpy()

    def _batches(
        self, indices: Tensor, batch_size: int, augment: bool, generator: torch.Generator | None, workers: int
    ) -> Iterator[tuple[Tensor, Tensor]]:
        seeds = torch.randint(2**62, (len(self),), generator=generator)[indices] if augment else 0 * indices
        todo = list(zip(indices.tolist(), seeds.tolist(), strict=True))
        jobs = [todo[start : start + batch_size] for start in range(0, len(todo), batch_size)]
        loader = DataLoader(
            _BatchReader(self, augment),
            batch_size=None,  # the reader makes whole batches
            sampler=jobs,  # any iterable will do
            num_workers=min(workers, len(jobs)) if len(jobs) > 1 else 0,  # one batch is not sooner read elsewhere
            generator=torch.Generator(),  # else it draws from torch's own, which is the caller's
        )
        for batch in loader:
            if isinstance(batch, InputError):
                raise batch
            yield batch


class _BatchReader(Dataset[Any]):
    """Reads one batch, given as ``[(index, seed), ...]``, maybe in another process."""

    def __init__(self, data: FolderImages, augment: bool) -> None:
        from torchvision.transforms import v2

        size, self.data, self.augment = data.image_size, data, augment
        mode = v2.InterpolationMode(data.interpolation)
        resize = data.resize or usual_resize(size)
        test = [v2.Resize(resize, interpolation=mode), v2.CenterCrop(size)]
        train = [v2.RandomResizedCrop(size), *([v2.RandomHorizontalFlip()] if data.flip else [])]
        train += [v2.RandomRotation(data.rotation)] if data.rotation else []
        self.transform = v2.Compose([*(train if augment else test), v2.PILToTensor()])

    def __getitem__(self, job: list[tuple[int, int]]) -> tuple[Tensor, Tensor] | InputError:
        try:
            pixels, labels = self.read(job)
        except InputError as error:  # raised here, a DataLoader would bury it in a traceback of many lines
            return error
        return pixels if self._processed else self.data.normalise(pixels), labels

    def read(self, job: list[tuple[int, int]]) -> tuple[Tensor, Tensor]:
        """Pixels ``(B, C, H, W) uint8``, or what the processor makes of them, and labels ``(B,)``."""
        found = [self._one(index, seed) for index, seed in job]
        if shapes := {tuple(one.shape) for one in found} - {tuple(found[0].shape)}:
            raise InputError(f"{self.data.processor} gives images of shapes {tuple(found[0].shape)} and {shapes.pop()}")
        return torch.stack(found), self.data.labels[[index for index, _ in job]]

    @property
    def _processed(self) -> bool:
        return self.data.processor is not None and not self.augment

    def _one(self, index: int, seed: int) -> Tensor:
        image = open_image(self.data.paths[index]).convert("L" if self.data.channels == 1 else "RGB")
        if self._processed and self.data.processor is not None:
            return self.data.processor(image)
        with torch.random.fork_rng(devices=[]):  # the transforms draw from torch's own generator
            if self.augment:
                torch.default_generator.manual_seed(seed)
            return self.transform(image)


def stretched(images: Tensor) -> np.ndarray:
    """Images whose normalisation is not known, each stretched to 0..255: ``(n, H, W, C) uint8``."""
    low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
    return ((images - low) / (high - low).clamp_min(1e-12) * 255).byte().permute(0, 2, 3, 1).cpu().numpy()
