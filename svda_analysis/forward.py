"""A model called on images: on its device, in its precision, whatever holds them; its failure in one line."""

from __future__ import annotations

import contextlib
import inspect
import re
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from svda_analysis.errors import InputError, one_line

_IMAGES = ("pixel_values", "images", "image", "img", "x", "input", "inputs")  # what holds images in a mapping
_NO_KERNEL = "autograd kernel was not registered"
_MOST_WORDS = 300  # characters of a library's own words


def call_model(model: nn.Module, images: Any) -> Any:
    """What ``model`` returns for ``images``: a tensor, or a mapping of arguments as a processor makes it.

    Floating-point tensors go where the weights are and take their dtype. A model of Hugging Face gets
    ``interpolate_pos_encoding`` for images of another size than its own, where it knows it. Whatever the forward raises
    becomes an :class:`InputError` with its words and, where that is known, what the model takes.
    """
    given = {key: for_model(x, model) if isinstance(x, Tensor) else x for key, x in _arguments(images).items()}
    shown = images_in(given)
    try:
        if isinstance(images, Mapping):
            return model(**given)
        return model(shown, **_interpolating(model, shown))
    except InputError:
        raise
    except Exception as error:
        came = f"{shown.dtype} {tuple(shown.shape)}" if isinstance(shown, Tensor) else type(shown).__name__
        said = one_line(error)[:_MOST_WORDS]
        raise InputError(f"{type(model).__name__} fails on images {came}: {said}{_hint(model, shown)}") from error


def for_model(images: Tensor, model: nn.Module) -> Tensor:
    """Images where the model is, floating-point ones in the precision of its layers (norms may keep another)."""
    weights = next((p for p in model.parameters() if p.is_floating_point()), None)
    if weights is None:
        return images
    layers = (m.weight for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d | nn.Conv3d))
    read = next((w for w in layers if isinstance(w, Tensor) and w.is_floating_point()), weights)
    return images.to(weights.device, read.dtype if images.is_floating_point() else images.dtype)


def images_in(batch: Mapping[str, Any]) -> Any:
    """The images of a mapping, by the usual names; None where none of them is there."""
    return next((batch[name] for name in _IMAGES if name in batch), None)


def _arguments(images: Any) -> dict[str, Any]:
    return dict(images) if isinstance(images, Mapping) else {_IMAGES[0]: images}


def _interpolating(model: nn.Module, images: Any) -> dict[str, bool]:
    """The switch of Hugging Face's models for images of another size than theirs."""
    own = own_size(model) if hasattr(model, "config") else None
    if own is None or not isinstance(images, Tensor) or tuple(images.shape[-2:]) == own:
        return {}
    known = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    return {"interpolate_pos_encoding": True} if known else {}


def _hint(model: nn.Module, images: Any) -> str:
    if not isinstance(images, Tensor):
        return ""
    if not images.is_floating_point():
        return "; give floating-point images"
    if images.ndim < 4:
        return "; give a batch (B, C, H, W)" if images.ndim == 3 else ""
    if images.ndim == 4 and isinstance(frames := getattr(getattr(model, "config", None), "num_frames", None), int):
        return f"; it takes videos of {frames} frames (B, {frames}, C, H, W)"
    channels, size = own_channels(model), own_size(model)
    if channels is not None and channels != images.shape[1] and images.ndim == 4:
        return f"; it takes images of {channels} channels"
    if size is not None and size != tuple(images.shape[-2:]):
        pair = f"{size[0]}" if size[0] == size[1] else f"{size[0]}x{size[1]}"
        return f"; it takes images of {size[0]} x {size[1]} (--preprocess image_size={pair})"
    return ""


# --- what a model takes -----------------------------------------------------------------------------------------------


def own_size(model: nn.Module) -> tuple[int, int] | None:
    """Height and width of the images that a model was made for, where it says so (``image_size`` or ``img_size`` of its
    config or of a part of it); None where it does not, or takes any."""
    for part in (getattr(model, "config", None), *model.modules()):
        if getattr(part, "strict_img_size", True) is False or getattr(part, "dynamic_img_pad", False):
            return None  # timm's patch embedding for images of any size
        for name in ("image_size", "img_size"):
            if (found := _as_size(getattr(part, name, None))) is not None:
                return found
    return None


def _as_size(given: Any) -> tuple[int, int] | None:
    sides = [given, given] if isinstance(given, int) and not isinstance(given, bool) else given
    right = isinstance(sides, list | tuple) and len(sides) == 2 and all(isinstance(x, int) and x > 0 for x in sides)
    return (sides[0], sides[1]) if right else None


def own_channels(model: nn.Module) -> int | None:
    """How many channels a model's images have: its config says it, or its first convolution; None: not known."""
    config = getattr(model, "config", None)
    for name in ("in_channels", "num_channels"):
        if isinstance(told := getattr(config, name, None), int):
            return told
    first = next((part for part in model.modules() if isinstance(part, nn.Conv2d | nn.Conv3d)), None)
    return None if first is None else first.in_channels


# --- gradients --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def without_checkpointing(model: nn.Module) -> Iterator[None]:
    """Gradient checkpointing is off inside: what it computes again is out of the tap's sight."""
    names = ("grad_checkpointing", "gradient_checkpointing", "use_checkpoint", "use_checkpointing")
    on = [(part, name) for part in model.modules() for name in names if getattr(part, name, None) is True]
    for part, name in on:
        setattr(part, name, False)
    try:
        yield
    finally:
        for part, name in on:
            setattr(part, name, True)


@contextlib.contextmanager
def naming_the_cut(model: nn.Module, what: str) -> Iterator[None]:
    """Around a gradient: torch's complaint that none arrives, or that one may be wrong (through quantised layers),
    becomes an :class:`InputError` that names the causes."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=f".*{_NO_KERNEL}")
            yield
    except (RuntimeError, UserWarning) as error:
        if not re.search(f"require grad|in the graph|Inference tensors|heckpoint|{_NO_KERNEL}", repr(error)):
            raise
        raise InputError(_cut(model, what, f" ({one_line(error)[:_MOST_WORDS]})")) from error


def gradients_of(score: Tensor, inputs: list[Tensor], model: nn.Module, what: str) -> list[Tensor]:
    """The gradients of ``score`` by each of ``inputs``, in the order of the forward; zeros for those behind the last
    that it depends on. Raises :class:`InputError` where none arrives, or where the way back is cut."""
    with naming_the_cut(model, what):
        found = torch.autograd.grad(score, inputs, allow_unused=True)
    reached = [at for at, gradient in enumerate(found) if gradient is not None]
    if not reached or reached != list(range(reached[-1] + 1)):
        raise InputError(_cut(model, what))
    filled = [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]
    if not any(bool(gradient.any()) for gradient in filled):
        raise InputError(no_dependence(model, what))
    return filled


def no_dependence(model: nn.Module, what: str) -> str:
    name = type(model).__name__
    return f"the gradient of {name} by its {what} is 0 everywhere: its output does not depend on them"


def _cut(model: nn.Module, what: str, said: str = "") -> str:
    causes = "torch.no_grad(), detach(), gradient checkpointing or torch.compile inside its forward cut it off"
    return f"no gradient reaches the {what} of {type(model).__name__}: {causes}{said}"
