"""What is drawn at random for an image: it follows from the seed and the image's number alone."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

import torch
from torch import Tensor


def draws_of_images(
    what: str, images: Iterable[int], shape: tuple[int, ...], seed: int, draw: Callable[..., Tensor] = torch.rand
) -> Tensor:
    """Random numbers ``(B, *shape)`` float32 for the images of these numbers: uniform in [0, 1), or as ``draw`` has
    them.

    Those of each image come from a generator of its own, which follows from ``what`` is drawn, ``seed`` and the image's
    number: neither the batch it is in nor the process that has it changes them, and what is drawn for one purpose does
    not go with what is drawn for another.
    """

    def drawn(image: int) -> Tensor:
        digest = hashlib.sha256(f"{what}/{seed}/{image}".encode()).digest()
        return draw(shape, generator=torch.Generator().manual_seed(int.from_bytes(digest[:7], "big")))

    return torch.stack([drawn(image) for image in images])
