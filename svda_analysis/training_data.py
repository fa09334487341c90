"""The images of a training run: which are learned from, tested on and looked at, and in which order."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor

from svda_analysis.data import ImageData, load_dataset
from svda_analysis.data.preprocessing import ImageSize
from svda_analysis.errors import InputError
from svda_analysis.model import ViTConfig
from svda_analysis.recipe import TrainConfig

TRACED_IMAGES = 4


@dataclasses.dataclass
class TrainingData:
    """Both parts of the recipe's data set. All that is drawn from them follows from the recipe and the epoch."""

    train: ImageData
    test: ImageData
    recipe: TrainConfig

    @classmethod
    def load(
        cls,
        config: ViTConfig,
        recipe: TrainConfig,
        root: str | os.PathLike[str] | None,
        accelerator: Accelerator,
        opened: tuple[ImageData, ImageData] | None = None,
    ) -> TrainingData:
        """Find both parts (or take those ``opened``, which stay as they are), and augment as the recipe says. Raises
        :class:`InputError` where they don't suit it."""
        with accelerator.main_process_first():  # a download is for one process, its file for all
            train, test = opened or both_parts(recipe.dataset, config.image_size, root)
        _check_suits(config, recipe, train)
        padding = train.padding if recipe.crop_padding is None else recipe.crop_padding
        plain: dict[str, Any] = (
            {} if recipe.normalise else {"mean": (0.0,) * train.channels, "std": (1.0,) * train.channels}
        )
        ways: dict[str, Any] = {"flip": recipe.flip, "padding": padding, "rotation": recipe.rotation, **plain}
        made = cls(dataclasses.replace(train, **ways), dataclasses.replace(test, **plain), recipe)
        if not len(made.learned_from):
            raise InputError(
                f"validation_images must leave some of {len(train)} images, got {recipe.validation_images}"
            )
        if made.batch_size % accelerator.num_processes:
            shared = f"a multiple of the {accelerator.num_processes} processes"
            raise InputError(f"batch_size must be {shared}, and so must the images, got {made.batch_size}")
        return made

    @functools.cached_property
    def validated(self) -> Tensor:
        """Indices of the images that are kept for validation, the same for every seed; none unless they are asked
        for."""
        return _draw_images(len(self.train), self.recipe.validation_images or 0, generator(1))

    @functools.cached_property
    def learned_from(self) -> Tensor:
        """Indices of the training images, the same for every seed."""
        if not len(self.validated):
            return _draw_images(len(self.train), self.recipe.train_images, generator(0))
        rest = torch.ones(len(self.train), dtype=torch.bool)
        rest[self.validated] = False
        at_hand = rest.nonzero()[:, 0]
        return at_hand[_draw_images(len(at_hand), self.recipe.train_images, generator(0))]

    @property
    def batch_size(self) -> int:
        """Images of one step, of all processes together."""
        return min(self.recipe.batch_size, len(self.learned_from))

    @property
    def steps_per_epoch(self) -> int:
        return len(self.learned_from) // self.batch_size

    def batches(self, epoch: int, rank: int, world: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """What process ``rank`` of ``world`` has of an epoch's batches from the ``first`` on; a last one that is not
        full is left out. Each image is augmented as (seed, epoch, its index) say, whoever has it."""
        chosen, seed = self.learned_from, self.recipe.seed
        order = chosen[torch.randperm(len(chosen), generator=generator(seed, epoch))]
        size = self.batch_size
        order = order[: len(order) // size * size].view(-1, size)[first:, rank::world].flatten()
        return self.train.batches(size // world, indices=order, augment=True, generator=generator(seed, epoch, 1))

    def tested(self, epoch: int) -> Tensor:
        """Indices of the test images that are classified once ``epoch`` epochs are done; all of them at the end."""
        limit = self.recipe.monitor_images if epoch < self.recipe.epochs else None
        return _draw_images(len(self.test), limit, generator(0))

    def probe(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The test images on which indicators are measured, the same for every seed and epoch."""
        chosen = _draw_images(len(self.test), self.recipe.probe_images, torch.Generator().manual_seed(0))
        return self.test.batches(64, indices=chosen)

    def traced(self) -> Tensor:
        """The test images whose maps are kept, ``(n, C, H, W) float32``: the first of some classes."""
        return next(iter(self.test.batches(TRACED_IMAGES, indices=self.test.examples(TRACED_IMAGES))))[0]


def both_parts(
    name: str, image_size: ImageSize, root: str | os.PathLike[str] | None = None
) -> tuple[ImageData, ImageData]:
    """Training and test part of a data set, as a training run looks for them: no sample takes their place."""
    train, test = (load_dataset(name, root=root, train=part, image_size=image_size) for part in (True, False))
    return train, test


def _draw_images(size: int, limit: int | None, draw: torch.Generator) -> Tensor:
    """Indices of ``limit`` images out of ``size``; of all in their order where there is no limit."""
    return torch.arange(size) if limit is None else torch.randperm(size, generator=draw)[:limit]


def generator(*numbers: int) -> torch.Generator:
    """A generator that follows from several small numbers."""
    return torch.Generator().manual_seed(mixed_seed(*numbers))


def mixed_seed(*numbers: int) -> int:
    """One generator seed from several small numbers, far apart for neighbours."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 1) % (2**63 - 25)
    return mixed


def _check_suits(config: ViTConfig, recipe: TrainConfig, data: ImageData) -> None:
    if (data.labels < 0).all():
        raise InputError(
            f"{data.name} has no classes to train on: put the images of each into a folder (imagefolder:DIR)"
        )
    if data.split == "all":
        raise InputError(f"{data.name} has no training and test parts: put its classes into train/ and test/ folders")
    for name in ("orthogonality", "soft_orthogonality", "qk_weight_decay"):
        if getattr(recipe, name) and config.score_dims is not None:
            short = "a compressed model" if config.compressed else "a model with qk_dim"
            raise InputError(f"{name} must be 0 for {short}, got {getattr(recipe, name)}")
    if data.channels != config.in_channels:
        raise InputError(f"{data.name} images have {data.channels} channels, the model takes {config.in_channels}")
    if len(data.classes) > config.num_classes:
        raise InputError(f"{data.name} has {len(data.classes)} classes, the model tells {config.num_classes} apart")
