"""The processes of a run and the machine under them, through accelerate: start, agree, stop, end together."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, get_args

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import InitProcessGroupKwargs, LoggerType, gather_object
from torch.nn.attention import SDPBackend, sdpa_kernel

from svda_analysis.attention import check_choice
from svda_analysis.bars import are_several
from svda_analysis.errors import InputError
from svda_analysis.recipe import Precision
from svda_analysis.team import TIMEOUT, not_alone


@contextlib.contextmanager
def accelerated(
    mixed_precision: Precision, track: str | None, folder: Path, timeout: float = TIMEOUT
) -> Iterator[Accelerator]:
    """The accelerator of one run; after it another may choose its precision and tracker anew.

    A process that waits more than ``timeout`` seconds for the others, or loses them, ends in ``HaltedError``.
    """
    check_tracker(track)
    check_choice("mixed_precision", mixed_precision, get_args(Precision))
    chosen: str | None = mixed_precision
    if mixed_precision == "auto":
        chosen = None if "ACCELERATE_MIXED_PRECISION" in os.environ else "bf16" if torch.cuda.is_available() else "no"
    several = are_several()
    options: dict[str, Any] = {"mixed_precision": chosen, "log_with": track, "project_dir": folder}
    options["kwargs_handlers"] = [InitProcessGroupKwargs(timeout=timedelta(seconds=timeout))]
    saved = "what was saved stands, and --resume goes on from there"
    with contextlib.ExitStack() as stack:
        if several:
            stack.enter_context(not_alone(timeout, saved))
        stack.callback(AcceleratorState._reset_state)  # else the next call in this process could not choose its own
        try:
            accelerator = Accelerator(cpu=several and not torch.cuda.is_available(), **options)
        except ValueError as error:
            raise InputError(f"mixed_precision or track cannot be used here: {error}") from None
        stack.callback(accelerator.end_training)
        if accelerator.mixed_precision == "fp16" and not accelerator.native_amp:  # it would train in float32
            where = accelerator.device.type
            raise InputError(f"mixed_precision must be no or bf16 on a {where} (fp16 needs a GPU), got fp16")
        yield accelerator


def check_tracker(track: str | None) -> None:
    """accelerate would leave out a tracker that is not installed, and train on."""
    installed = [str(name) for name in get_available_trackers()]
    if track == "all" and not installed:
        raise InputError("track needs a tracker and none is installed: pip install tensorboard")
    if track != "all" and track in LoggerType.list() and track not in installed:
        raise InputError(f"track needs {track}, which is not installed: pip install {track}")


def quick_attention(accelerator: Accelerator) -> contextlib.AbstractContextManager[None]:
    """On a CPU and in bfloat16, torch's fused attention runs backward ten times slower than its parts one by one."""
    slow = accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16"
    return sdpa_kernel(SDPBackend.MATH) if slow else contextlib.nullcontext()


def check_same(accelerator: Accelerator, value: object, complaint: str) -> None:
    """Raise :class:`InputError` with ``complaint`` unless every process has the same ``value``."""
    if accelerator.num_processes > 1 and len(set(gather_object([value]))) > 1:
        raise InputError(complaint)


class Termination:
    """Whether SIGTERM asked the run to stop, which schedulers send before they kill; all processes hear of it."""

    def __init__(self) -> None:
        self._heard = self._agreed = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[Termination]:
        """Take SIGTERM as a wish inside the context; in threads, which get no signals, nothing changes."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        before = signal.signal(signal.SIGTERM, self._hear)
        try:
            yield self
        finally:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)

    def _hear(self, _number: int, _frame: FrameType | None) -> None:
        self._heard = True

    def asked(self, accelerator: Accelerator) -> bool:
        """Whether any process was asked to stop; every process calls this at the same step."""
        if accelerator.num_processes == 1:
            return self._heard
        if self._heard:
            accelerator.set_trigger()
        self._agreed = self._agreed or accelerator.check_trigger()
        return self._agreed
