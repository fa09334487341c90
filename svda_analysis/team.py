"""The processes that measure together: whose batch is whose, and what all of them know."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

Held = TypeVar("Held")


class _Failure:
    """What a process has to say in the place of what it was to hand over."""

    def __init__(self, error: Exception) -> None:
        self.error = error


class _FailedError(Exception):
    """A failure that every process has heard of."""


@dataclasses.dataclass(frozen=True)
class Team:
    """Process ``rank`` of ``world`` that measure one analysis together; each calls the same methods in the same order.

    ``exchange`` gives what every process holds, by rank, to all of them, and ``tell`` what the first one holds.
    """

    rank: int = 0
    world: int = 1
    exchange: Callable[[Any], list[Any]] = lambda own: [own]
    tell: Callable[[Any], Any] = lambda own: own

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
        found = self.exchange(own)
        if failed := next((one for one in found if isinstance(one, _Failure)), None):
            raise _FailedError from failed.error
        return found

    def first(self, make: Callable[[], Held]) -> Held:
        """What ``make()`` gives in the first process, which alone calls it, for all."""
        made = make() if self.rank == 0 else None
        self.gather(None)  # who failed before says so now
        return self.tell(made)

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
