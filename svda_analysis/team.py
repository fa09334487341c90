"""The processes that measure together: whose batch is whose, and what all of them know."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from svda_analysis.bars import are_several
from svda_analysis.errors import HaltedError, one_line

Held = TypeVar("Held")
TIMEOUT = 600.0  # seconds that a process waits for the others
LONGEST_WAIT = 7 * 24 * 3600.0  # likewise, where what the others do may take as long
_LOST = re.compile(r"tim(ed|e) ?out|connection (closed|reset|refused)|broken pipe|gloo", re.IGNORECASE)


class _Failure:
    """What a process has to say in the place of what it was to hand over."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _FailedError(Exception):
    """A failure that every process has heard of."""


@dataclasses.dataclass(frozen=True)
class Team:
    """Process ``rank`` of ``world`` that measure one analysis together; each calls the same methods in the same order.

    ``all_gather`` gives what every process holds, by rank, to all of them, ``broadcast`` what the first one holds.
    """

    rank: int = 0
    world: int = 1
    all_gather: Callable[[Any], list[Any]] = lambda own: [own]
    broadcast: Callable[[Any], Any] = lambda own: own

    # --- whose batch is whose: they are dealt round robin, whole ------------------------------------------------------

    def has(self, batch: int) -> bool:
        """Whether the batch of this number is this process's."""
        return batch % self.world == self.rank

    def share(self, batches: Sequence[Held]) -> Sequence[Held]:
        """Those that are this process's."""
        return batches[self.rank :: self.world]

    def part_of(self, order: Tensor, size: int) -> Tensor:
        """Of images ``order (n,)``, read ``size`` at once, those of this process: read so, they are its batches."""
        return torch.cat([order[:0], *self.share(order.split(size))])

    def firsts(self, size: int) -> Iterator[int]:
        """The numbers of the first images of its batches of this size."""
        return itertools.count(self.rank * size, self.world * size)

    # --- what all know ------------------------------------------------------------------------------------------------

    def gather(self, own: Held) -> list[Held]:
        """What every process holds, by rank."""
        found = self.all_gather(own)
        if failed := next((one for one in found if isinstance(one, _Failure)), None):
            raise _FailedError from failed.error
        return found

    def first(self, make: Callable[[], Held]) -> Held:
        """What ``make()`` gives in the first process, which alone calls it, for all."""
        made = make() if self.rank == 0 else None
        self.gather(None)  # who failed before says so now
        return self.broadcast(made)

    def rounds(self, items: Iterable[Held]) -> Iterator[Held | None]:
        """This process's items; None as long as others still have some."""
        own = iter(items)
        item = next(own, None)
        while any(self.gather(item is not None)):
            yield item
            item = next(own, None)

    @contextlib.contextmanager
    def failing_together(self, *kinds: type[Exception]) -> Iterator[None]:
        """An error of these kinds that any process meets inside is raised in all, the same; at the latest at the end.
        Any other is its own, and the end of it."""
        try:
            try:
                yield
            except kinds as error:
                self.gather(_Failure(error))
            self.gather(None)
        except _FailedError as failed:
            raise failed.__cause__ or failed from None


ALONE = Team()


@contextlib.contextmanager
def not_alone(timeout: float, then: str) -> Iterator[None]:
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
    if alone or not (are_several() or (dist.is_available() and dist.is_initialized())):
        yield ALONE
        return
    meet, talk = timedelta(seconds=TIMEOUT), timedelta(seconds=LONGEST_WAIT)
    with not_alone(TIMEOUT, "every process must come, or one with alone=True"):
        if not dist.is_initialized():
            from accelerate import PartialState  # which takes a while, and several processes alone need

            PartialState(cpu=not torch.cuda.is_available(), timeout=meet)  # and its own device for each process
        meeting: Any = dist.new_group(backend="gloo", timeout=meet)  # made when all have come; a group has one timeout
        group: Any = dist.new_group(backend="gloo", timeout=talk)
    rank, world = dist.get_rank(), dist.get_world_size()
    lost = functools.partial(not_alone, LONGEST_WAIT, "start it anew")

    def all_gather(own: Any) -> list[Any]:
        found: list[Any] = [None] * world
        with lost():
            dist.all_gather_object(found, own, group=group)
        return found

    def broadcast(own: Any) -> Any:
        told = [own]
        with lost():
            dist.broadcast_object_list(told, src=0, group=group, device=torch.device("cpu"))
        return told[0]

    try:
        yield Team(rank, world, all_gather, broadcast)
    finally:
        for made in (group, meeting):  # not before: another may still be connecting to it
            dist.destroy_process_group(made)


def first_to_fail() -> bool:
    """Whether of the processes that torchrun started this one is the first to fail: it says why, for all."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return True
    try:
        place = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = dist.TCPStore(*place, is_master=False, timeout=timedelta(seconds=2))  # type: ignore[attr-defined]
        run = [os.environ.get(f"TORCHELASTIC_{name}", "") for name in ("RUN_ID", "RESTART_COUNT")]
        return bool(store.add("/".join(["svda_analysis", "failed", *run]), 1) == 1)
    except (RuntimeError, KeyError, ValueError):  # the store is gone with who had it
        return True
