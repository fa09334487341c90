"""Measure a model in the middle of its training, and leave the training as it was."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from svda_analysis.tap import evaluating


def inner_model(model: nn.Module) -> nn.Module:
    """The module inside of what ``torch.compile``, DDP, DataParallel and DeepSpeed wrap around it.

    What FSDP wraps is left as it is: its forward gathers the weights. Compiled in place, a module is itself.
    """
    while True:
        if (inside := getattr(model, "_orig_mod", None)) is None:
            wraps = isinstance(model, DistributedDataParallel | DataParallel) or type(model).__name__ in _ENGINES
            inside = getattr(model, "module", None) if wraps else None
        if not isinstance(inside, nn.Module):
            return model
        model = inside


_ENGINES = ("DeepSpeedEngine",)


def is_compiled(model: nn.Module) -> bool:
    """Whether torch.compile holds the model or a part of it."""
    return any(hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) for m in model.modules())


@contextlib.contextmanager
def undisturbed(model: nn.Module) -> Iterator[nn.Module]:
    """Inside, ``inner_model(model)`` in eval mode, without gradients and autocast; everything is as before afterwards.

    What comes back: each module's training flag, the state of every generator (torch's of the CPU and of the
    accelerators in use, numpy's, Python's), autocast. Gradients, optimizers and scalers are not touched.
    """
    inside = inner_model(model)
    with evaluating(inside), torch.no_grad(), full_precision(inside), same_randomness(), _own_forward(inside):
        yield inside


@contextlib.contextmanager
def full_precision(model: nn.Module) -> Iterator[None]:
    """No autocast inside, where the model is and on the CPU."""
    with contextlib.ExitStack() as stack:
        for device in {"cpu", *(p.device.type for p in model.parameters())} - {"meta"}:
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextlib.contextmanager
def same_randomness() -> Iterator[None]:
    """After it, every generator of torch, numpy and Python is where it was."""
    kinds = [torch.cuda] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    states = [(kind, kind.get_rng_state_all()) for kind in kinds]
    cpu, array, python = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002  (others use it)
    try:
        yield
    finally:
        torch.set_rng_state(cpu)
        np.random.set_state(array)  # noqa: NPY002  (likewise)
        random.setstate(python)
        for kind, state in states:
            kind.set_rng_state_all(state)


@contextlib.contextmanager
def _own_forward(model: nn.Module) -> Iterator[None]:
    """Without the autocast that accelerate put around a prepared model's forward."""
    prepared, own = vars(model).get("forward"), vars(model).get("_original_forward")
    if prepared is None or own is None:
        yield
        return
    vars(model)["forward"] = own
    try:
        yield
    finally:
        vars(model)["forward"] = prepared
