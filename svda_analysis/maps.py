"""Attention maps of whole images, and what a model answers: the one place that says which maps count and how they lie.

A map is of the whole image when it is square, over tokens of one image (no windows), and has as many tokens as most
such maps of the forward. The row of the first token (CLS) is read at the patches; a model without prefix tokens has
no such row, and the mean over all queries takes its place.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from typing import Any

from torch import Tensor, nn

from svda_analysis.errors import InputError
from svda_analysis.tap import AttentionRecord, capture, check_captured
from svda_analysis.trail import CallTrail


@dataclasses.dataclass(frozen=True)
class WholeMaps:
    """The maps of one forward of ``B`` images: ``layers`` ``(B, H, N, N)`` each, ``N = prefix + rows * columns``.

    ``grid`` = (rows, columns) of patches, row by row; ``prefix`` = tokens before the first patch; ``output`` is what
    the model returned; ``left_out`` holds the tokens of self-attention over whole images with another number of them.
    ``tokens``: what each layer reads ``(B, N, C)``; None where it was not asked for, or cannot be told.
    """

    layers: list[Tensor]
    grid: tuple[int, int]
    prefix: int
    output: Any
    left_out: tuple[int, ...]
    tokens: tuple[Tensor | None, ...] = ()


def whole_maps(
    model: nn.Module,
    images: Tensor,
    *,
    prefix_tokens: int | None = None,
    gradients: bool = False,
    tokens: bool = False,
) -> WholeMaps:
    """The maps of all self-attention layers over whole images, of one forward of ``images (B, C, H, W)``.

    ``gradients``: the maps are part of the graph (``capture(output="map")``), else the model's own kernels run.
    ``tokens``: also what each layer reads. Raises :class:`InputError` when there is none, or the layout of the tokens
    cannot be told.
    """
    seen, found = 0, list[tuple[Tensor, Tensor | None]]()

    def on_record(record: AttentionRecord) -> None:
        nonlocal seen
        seen += 1
        if is_whole(record.a, len(images)):
            found.append((record.a, record.tokens))

    trail = CallTrail() if tokens else None
    with capture(model, on_record, output="map" if gradients else "kernel", trail=trail):
        output = model(images)
    check_captured(seen, model)
    if not found:
        raise InputError(f"{type(model).__name__} has no self-attention over whole images, only windows or pooling")
    N = statistics.mode(a.shape[-1] for a, _ in found)
    layers, read = zip(*((a, x) for a, x in found if a.shape[-1] == N), strict=True)
    size = (images.shape[-2], images.shape[-1])
    grid, prefix = token_layout(model, N, image_size=size, prefix=prefix_tokens)
    left_out = tuple(a.shape[-1] for a, _ in found if a.shape[-1] != N)
    return WholeMaps(list(layers), grid, prefix, output, left_out, read)


def is_whole(a: Tensor, images: int) -> bool:
    """Whether ``a`` is self-attention over whole images: square, and one entry for each image."""
    return a.ndim == 4 and a.shape[-1] == a.shape[-2] and len(a) == images


def class_row(a: Tensor, prefix: int) -> Tensor:
    """What CLS pays to the patches, ``(..., N, N) -> (..., P)``; without prefix tokens the mean over all queries."""
    return (a[..., 0, :] if prefix else a.mean(-2))[..., prefix:]


# --- what a model answers ---------------------------------------------------------------------------------------------


def class_scores(output: Any, model: nn.Module, classes: int = 0) -> Tensor | None:
    """The logits ``(B, classes)`` of what a model returned, a tensor or Hugging Face's output, if they are scores of
    ``classes`` classes (0: their number is not known).

    None for a model without a classifier: what it returns are features, and their largest is no prediction. A model
    says how many classes it tells apart (``num_classes``, Hugging Face's ``config.num_labels``), or its logits do.
    """
    logits = _told_logits(output)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        return None
    config = getattr(model, "config", None)
    told = getattr(model, "num_classes", getattr(config, "num_classes", None))
    if told is None and logits is not output:
        told = getattr(config, "num_labels", None)
    if told is not None and told != logits.shape[-1]:
        return None
    return logits if classes in (0, logits.shape[-1]) else None


def logits_of(output: Any, model: nn.Module) -> Tensor:
    """:func:`class_scores`, where there must be some. Raises :class:`InputError` where there are none."""
    if (scores := class_scores(output, model)) is not None:
        return scores
    logits = _told_logits(output)
    came = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    told = f", features of {type(model).__name__}, which has no classifier" if getattr(logits, "ndim", 0) == 2 else ""
    raise InputError(f"model must return class scores (B, classes), got {came}{told}")


def _told_logits(output: Any) -> Any:
    return getattr(output, "logits", output)


# --- how tokens lie ---------------------------------------------------------------------------------------------------


def token_layout(
    model: nn.Module, tokens: int, *, image_size: tuple[int, int] | None = None, prefix: int | None = None
) -> tuple[tuple[int, int], int]:
    """How ``tokens`` are laid out: ``(rows, columns)`` of the patch grid, and the prefix tokens (CLS and the like).

    The prefix is ``prefix`` where given, else the model's ``num_prefix_tokens``, else what its patch embedding leaves
    over: the first convolution whose stride is its kernel, on images of ``image_size`` (height, width). Fewer tokens
    than that grid has are a square window of it. Raises :class:`InputError` when the layout cannot be told.
    """
    grid = _patch_grid(model, image_size)
    if prefix is None:
        prefix = getattr(model, "num_prefix_tokens", None)
    if prefix is None and grid is not None:
        prefix = max(tokens - grid[0] * grid[1], 0)
    if prefix is None:
        raise InputError(f"{type(model).__name__} does not say which of its {tokens} tokens are patches: give prefix")
    if grid is not None and grid[0] * grid[1] + prefix == tokens:
        return grid, prefix
    side = math.isqrt(max(tokens - prefix, 0))
    if side < 1 or side * side + prefix != tokens:
        raise InputError(f"{tokens} tokens with prefix {prefix} leave no square grid of patches")
    return (side, side), prefix


def _patch_grid(model: nn.Module, image_size: tuple[int, int] | None) -> tuple[int, int] | None:
    if image_size is None:
        return None
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.stride == module.kernel_size != (1, 1):
            rows, columns = (size // step for size, step in zip(image_size, module.stride, strict=True))
            return rows, columns
    return None
