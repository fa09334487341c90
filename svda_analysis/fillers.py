"""What stands where a patch was taken away: the fillers, in one registry :data:`FILLERS`.

A filler of pixels puts other pixels in a patch's place, which the model then reads as a patch like any other: black
patches are an answer too, and images of another kind. Dropping the tokens shows the model nothing there at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svda_analysis.answers import logits_of
from svda_analysis.errors import InputError
from svda_analysis.forward import call_model
from svda_analysis.maps import to_pixels
from svda_analysis.model import ViT
from svda_analysis.subject import Subject
from svda_analysis.tokens import Layout


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scene:
    """Images ``(B, C, H, W)`` whose patches, as they lie, are to be taken away, where the model is."""

    subject: Subject
    images: Tensor
    layout: Layout


Answer = Callable[[Tensor, Tensor], Tensor]  # (numbers of images (b,), patches that stay (b, P) bool) -> logits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Filler:
    """One way to take patches away. ``check(subject)`` raises :class:`InputError` where it cannot be done;
    ``prepare(scene)`` gives the function that answers for images of which some patches stay."""

    name: str
    label: str
    reference: str
    check: Callable[[Subject], Any]
    prepare: Callable[[Scene], Answer]


FILLERS: dict[str, Filler] = {}
Pixels = Callable[[Scene], Tensor]


def filler(label: str, reference: str, check: Callable[[Subject], Any] = lambda subject: None) -> Callable[..., Pixels]:
    """Decorator: enter a function that gives the pixels to put in, ``(B, C, H, W)``, in :data:`FILLERS` under its own
    name, less the underscore."""

    def enter(function: Pixels) -> Pixels:
        def prepare(scene: Scene) -> Answer:
            filling, size = function(scene), scene.images.shape[-2:]
            place = patch_of_pixels(scene.layout, size).to(scene.images.device)

            def answer(at: Tensor, kept: Tensor) -> Tensor:
                from_image = kept[:, place][:, None]  # (b, 1, H, W)
                mixed = torch.where(from_image, scene.images[at], filling[at])
                return logits_of(call_model(scene.subject.model, mixed), scene.subject.model)

            return answer

        name = function.__name__.lstrip("_")
        FILLERS[name] = Filler(name=name, label=label, reference=reference, check=check, prepare=prepare)
        return function

    return enter


def choose_filler(name: str) -> Filler:
    """The filler of that name. Raises :class:`InputError` with the names there are."""
    if name not in FILLERS:
        raise InputError(f"baseline must be one of {', '.join(FILLERS)}, got {name!r}")
    return FILLERS[name]


# --- pixels -----------------------------------------------------------------------------------------------------------


@filler("mean colour", "zero after preprocessing")
def _mean(scene: Scene) -> Tensor:
    """The zero image: the mean colour of the data where preprocessing subtracts the mean."""
    return torch.zeros_like(scene.images)


@filler("blur", "Petsiuk, Das & Saenko 2018; the width is our definition")
def _blur(scene: Scene) -> Tensor:
    """The image under a Gaussian whose deviation is one patch side, cut off at two deviations or at the image's
    side."""
    from torchvision.transforms.v2 import functional as transforms

    H, W = scene.images.shape[-2:]
    sides = _patch_sides(scene.layout, (H, W))[::-1]  # horizontal first, as torchvision has it
    kernel = [min(4 * side + 1, 2 * size - 1) for side, size in zip(sides, (W, H), strict=True)]  # it reflects at edges
    return transforms.gaussian_blur(scene.images, kernel, [float(side) for side in sides])


def _patch_sides(layout: Layout, size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of a patch in pixels: how far middles lie apart; where these are not known, or there is one
    patch, an even part of the image."""
    high, wide = (
        round(middles[1] - middles[0]) if len(middles) > 1 else length // count
        for length, count, middles in zip(size, layout.grid, layout.centres or ((), ()), strict=True)
    )
    return max(1, high), max(1, wide)


def _normalisation(subject: Subject) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if (known := subject.preprocessing.normalisation) is None:
        raise InputError(
            "black needs the mean and deviation that the images were brought to, which are not known here: give "
            "preprocessing its mean and std"
        )
    return known


@filler("black", "pixels 0, as in the source's public code", _normalisation)
def _black(scene: Scene) -> Tensor:
    """What a pixel of 0 becomes, ``(0 - mean) / std`` in each channel: the darkest that an image can be."""
    mean, std = (torch.tensor(x, dtype=torch.float64) for x in _normalisation(scene.subject))
    if len(mean) not in (1, scene.images.shape[1]):
        raise InputError(
            f"mean and std must have a number for each of {scene.images.shape[1]} channels, got {len(mean)}"
        )
    return (-mean / std).to(scene.images)[:, None, None].expand_as(scene.images)


@filler("image's mean colour", "our definition")
def _image_mean(scene: Scene) -> Tensor:
    """The mean of each channel over the image itself."""
    return scene.images.mean((-2, -1), keepdim=True).expand_as(scene.images)


def pixel_fillers() -> list[str]:
    """The fillers that put other pixels in."""
    return [name for name in FILLERS if name != TOKENS]


def patch_of_pixels(layout: Layout, size: Sequence[int]) -> Tensor:
    """The number of the patch of each pixel, ``(H, W) int64``: of the one whose middle is nearest."""
    return to_pixels(torch.arange(math.prod(layout.grid)).view(layout.grid), layout, size)


# --- tokens -----------------------------------------------------------------------------------------------------------

TOKENS = "tokens"


def first_block(model: nn.Module) -> tuple[nn.Module, int]:
    """The first transformer block of a model whose patch tokens can be dropped before it, and its prefix tokens.

    Ours, and timm's ``VisionTransformer`` that reads its class token: each token has its position by then, and no
    later part asks where a token lies, so that what is computed for the others is exact. Raises :class:`InputError`
    for any other model.
    """
    timm = any((kin.__module__, kin.__name__) == _TIMM for kin in type(model).__mro__)
    by_class_token = isinstance(model, ViT) or (timm and model.global_pool == "token" and model.cls_token is not None)
    if not by_class_token:
        told = f" with global_pool {model.global_pool!r}" if timm else ""
        raise InputError(
            "tokens can be dropped from our ViT and from timm's VisionTransformer that reads its class token, got "
            f"{type(model).__name__}{told}"
        )
    blocks: Any = model.blocks
    return blocks[0], int(model.num_prefix_tokens)  # type: ignore[arg-type]  # a number in both


_TIMM = ("timm.models.vision_transformer", "VisionTransformer")


@contextlib.contextmanager
def dropped_tokens(model: nn.Module, kept: Tensor) -> Iterator[None]:
    """Inside, the blocks of ``model`` see only the patches of ``kept (B, P) bool``, as many of each image.

    Raises :class:`InputError` as :func:`first_block` does, and where P is not the number of its patch tokens.
    """
    block, prefix = first_block(model)

    def drop(_block: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        x, *others = given  # (B, N, C)
        if x.shape[1] != prefix + kept.shape[1]:
            raise InputError(
                f"tokens are dropped patch by patch: {x.shape[1] - prefix} patch tokens, got {kept.shape[1]} patches"
            )
        stay = F.pad(kept.to(x.device), (prefix, 0), value=True)  # (B, N)
        return (x[stay].view(len(x), -1, x.shape[-1]), *others)

    handle = block.register_forward_pre_hook(drop)
    try:
        yield
    finally:
        handle.remove()


def _answer_without_tokens(scene: Scene) -> Answer:
    model = scene.subject.model

    def answer(at: Tensor, kept: Tensor) -> Tensor:
        counts = kept.sum(1)
        found: dict[int, Tensor] = {}
        for count in counts.unique():
            rows = (counts == count).nonzero()[:, 0]
            with dropped_tokens(model, kept[rows]):
                logits = logits_of(call_model(model, scene.images[at[rows]]), model)
            found |= dict(zip(rows.tolist(), logits, strict=True))
        return torch.stack([found[row] for row in range(len(at))])

    return answer


FILLERS[TOKENS] = Filler(
    name=TOKENS,
    label="tokens dropped",
    reference="Jain et al. 2022",
    check=lambda subject: first_block(subject.model),
    prepare=_answer_without_tokens,
)
