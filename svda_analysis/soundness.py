"""Numbers that are no longer finite, and where they begin: the weights of a model, what its modules give."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from svda_analysis.errors import InputError
from svda_analysis.forward import call_model
from svda_analysis.tap import evaluating

NOT_FINITE = "has numbers that are not finite (NaN or inf)"


class NotFiniteError(InputError):
    """A model that holds or gives NaN or inf: nothing can be measured of it. The message names where they begin."""


def is_finite(values: Tensor) -> bool:
    """Whether all numbers of a tensor are finite."""
    return bool(torch.isfinite(values).all())


def broken_weight(model: nn.Module) -> str:
    """The first parameter or buffer, in the order of the model, that holds NaN or inf; empty where there is none."""
    for name, values in itertools.chain(model.named_parameters(), model.named_buffers()):
        if values.is_floating_point() and not is_finite(values):
            return name
    return ""


def first_broken(model: nn.Module, images: Tensor) -> str:
    """Where NaN or inf begin when ``images (B, C, H, W)`` go through the model, as words; empty where they do not.

    The first weight that is not finite, else the first module whose output is not.
    """
    if name := broken_weight(model):
        return f"the weight {name}"
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            if not found and isinstance(output, Tensor) and not is_finite(output):
                found.append(name)

        return hook

    hooks = [module.register_forward_hook(watch(name)) for name, module in model.named_modules()]
    try:
        with torch.no_grad():
            call_model(model, images)
    finally:
        for hook in hooks:
            hook.remove()
    return f"the output of {found[0] or type(model).__name__}" if found else ""


def check_weights_finite(model: nn.Module, name: str) -> None:
    """Raise :class:`NotFiniteError`, one line, for a model called ``name`` with a weight that is not finite."""
    if where := broken_weight(model):
        raise NotFiniteError(f"{name} {NOT_FINITE}: the first are in the weight {where}")


def not_finite(model: nn.Module, images: Tensor, what: str = "what it gives") -> NotFiniteError:
    """The error for a model whose numbers were not finite on ``images``: it names where they begin."""
    with evaluating(model):
        return NotFiniteError(f"the first are in {first_broken(model, images) or what}")


@contextlib.contextmanager
def naming_the_layer(name: str, model: nn.Module, images: Tensor) -> Iterator[None]:
    """Around what a model called ``name`` gives for ``images``: where that is not finite, the error names where it
    began."""
    try:
        yield
    except NotFiniteError:
        raise NotFiniteError(f"{name} {NOT_FINITE}: {not_finite(model, images)}") from None
