"""A tap on forwards that run anyway, in a loop of whoever's: nothing is run for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from svda_analysis.calls import AttentionRecord
from svda_analysis.layer_inputs import LayerInputs
from svda_analysis.tap import Tap


class Ride(NamedTuple):
    """What :func:`ride` does in one forward: as the arguments of :func:`~svda_analysis.tap.capture`."""

    on_record: Callable[[AttentionRecord], None]
    inputs: LayerInputs | None = None


def ride(
    model: nn.Module, board: Callable[[tuple[Any, ...]], Ride | None], leave: Callable[[], None]
) -> Callable[[], None]:
    """Tap forwards of ``model`` as they run in a loop of others; returns what takes the tap off for good.

    ``board`` is called with what each forward is given, and returns what taps it (None: it is left alone); ``leave``
    when a tapped one is over, also by an error. The model's own kernels answer, and records carry no graph. What
    torch.compile runs is left alone.
    """
    taps: list[Tap] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling() or module is not model:  # hooks go along with a copy
            return
        given = (*args, *kwargs.values())
        if not taps and (wanted := board(given)) is not None:
            taps.append(Tap(wanted.on_record, "kernel", wanted.inputs))
            taps[0].__enter__()
        for tap in taps:
            tap.start(given)

    def after(module: nn.Module, *_: Any) -> None:
        if torch.compiler.is_compiling() or module is not model:
            return
        for tap in list(taps):
            tap.stop()
            if not tap.depth:
                taps.clear()
                tap.__exit__(None, None, None)
                leave()

    hooks = [
        model.register_forward_pre_hook(before, with_kwargs=True),
        model.register_forward_hook(after, always_call=True),
    ]

    def off() -> None:
        for hook in hooks:
            hook.remove()

    return off
