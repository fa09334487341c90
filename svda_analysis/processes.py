"""The processes of a run and the machine under them, through accelerate: start, agree, stop, end together."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.tracking import get_available_trackers
from accelerate.utils import InitProcessGroupKwargs, LoggerType, gather_object
from torch.nn.attention import SDPBackend, sdpa_kernel

from svda_analysis.errors import HaltedError, InputError, one_line
from svda_analysis.recipe import Precision
from svda_analysis.team import ALONE, Team

TIMEOUT = 600.0  # seconds that a process waits for the others
LONGEST_WAIT = 7 * 24 * 3600.0  # likewise, where what the others do may take as long
_LOST = re.compile(r"tim(ed|e) ?out|connection (closed|reset|refused)|broken pipe|gloo", re.IGNORECASE)


@contextlib.contextmanager
def accelerated(
    mixed_precision: Precision, track: str | None, folder: Path, timeout: float = TIMEOUT
) -> Iterator[Accelerator]:
    """The accelerator of one run; after it another may choose its precision and tracker anew.

    A process that waits more than ``timeout`` seconds for the others, or loses them, ends in :class:`HaltedError`.
    """
    check_tracker(track)
    chosen: str | None = mixed_precision
    if mixed_precision == "auto":
        chosen = None if "ACCELERATE_MIXED_PRECISION" in os.environ else "bf16" if torch.cuda.is_available() else "no"
    several = _started_several()
    options: dict[str, Any] = {"mixed_precision": chosen, "log_with": track, "project_dir": folder}
    options["kwargs_handlers"] = [InitProcessGroupKwargs(timeout=timedelta(seconds=timeout))]
    saved = "what was saved stands, and --resume goes on from there"
    with _not_alone(timeout, saved) if several else contextlib.nullcontext():
        try:
            accelerator = Accelerator(cpu=several and not torch.cuda.is_available(), **options)
        except ValueError as error:
            raise InputError(f"mixed_precision or track cannot be used here: {error}") from None
        try:
            yield accelerator
        finally:
            accelerator.end_training()
            AcceleratorState._reset_state()  # else the next call in this process could not choose its precision


def _started_several() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextlib.contextmanager
def _not_alone(timeout: float, then: str) -> Iterator[None]:
    """What a lost or hung process raises in the others, as one line that says what ``then`` is."""
    try:
        yield
    except RuntimeError as error:
        if not _LOST.search(str(error)):
            raise
        rank, world = (os.environ.get(name, "?") for name in ("RANK", "WORLD_SIZE"))
        raise HaltedError(
            f"process {rank} of {world} lost the others: one hangs (timeout {timeout:g} s) or has died; {then} "
            f"({one_line(error)[:120]})",
            1,
        ) from None


@contextlib.contextmanager
def together(alone: bool = False) -> Iterator[Team]:
    """The team of all processes that torchrun, accelerate or ``torch.distributed`` started, each of which comes here;
    of this process by itself where it is ``alone`` or there is no other.

    Every process calls with the same arguments what it takes part in, a module on its own device. Batches are dealt
    round robin, whole, and moments merged by rank: all get the whole, equal to what one process gives but for rounding
    in float64 (one that has as many threads: sums in float32 depend on these). With a ``precision`` they stop together,
    after a round of a batch each: that may be a batch for each process later than one process stops. The first alone
    calls ``progress``, shows bars and touches a cache.

    They wait :data:`TIMEOUT` seconds for all to come, and then for each other as long as it takes
    (:data:`LONGEST_WAIT`): one may measure what the others have no part in. A process that loses the others ends in
    :class:`HaltedError`. They talk through gloo, whatever the models compute on.
    """
    if alone or not (_started_several() or (dist.is_available() and dist.is_initialized())):
        yield ALONE
        return
    meet, talk = timedelta(seconds=TIMEOUT), timedelta(seconds=LONGEST_WAIT)
    with _not_alone(TIMEOUT, "every process must come, or one with alone=True"):
        if not dist.is_initialized():
            PartialState(cpu=not torch.cuda.is_available(), timeout=meet)  # and its own device for each process
        meeting: Any = dist.new_group(backend="gloo", timeout=meet)  # made when all have come
        group: Any = dist.new_group(backend="gloo", timeout=talk)
    rank, world = dist.get_rank(), dist.get_world_size()
    lost = functools.partial(_not_alone, LONGEST_WAIT, "start it anew")

    def exchange(own: Any) -> list[Any]:
        found: list[Any] = [None] * world
        with lost():
            dist.all_gather_object(found, own, group=group)
        return found

    def tell(own: Any) -> Any:
        told = [own]
        with lost():
            dist.broadcast_object_list(told, src=0, group=group, device=torch.device("cpu"))
        return told[0]

    try:
        yield Team(rank, world, exchange, tell)
    finally:
        for made in (group, meeting):  # not before: another may still be connecting to it
            dist.destroy_process_group(made)


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
