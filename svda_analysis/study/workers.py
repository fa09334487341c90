"""Tasks done by several processes at once, which end when one of them fails or whoever gave them is stopped.

A process gets a task when it has done its last one, so that none begins after a failure. To end it gets SIGTERM, on
which a training saves after the step that it is in (``processes.Termination``).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from svda_analysis.errors import HaltedError

_PATIENCE = 10.0  # seconds that a process has to end, before it is killed


class _Worker:
    """A process, and the pipe by which it gets tasks and answers each with None or what it failed with."""

    def __init__(self, call: Callable[..., None]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, self._theirs = context.Pipe()
        self.process = context.Process(target=_do_tasks, args=(self._theirs, call))

    def start(self) -> None:
        with _without_interrupts():
            self.process.start()
        self._theirs.close()  # so that the pipe ends with the process

    def answer(self) -> None:
        """Raise what the task that is done failed with; :class:`HaltedError` where the process is gone."""
        try:
            failed = self.pipe.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            code = self.process.exitcode or 0
            how = f"on signal {-code}" if code < 0 else f"with exit code {code}"
            raise HaltedError(f"a process of --jobs ended before its run, {how}; what is done is kept", 1) from None
        if failed is not None:
            raise failed


def each_done(call: Callable[..., None], tasks: Iterable[tuple[Any, ...]], jobs: int) -> Generator[int]:
    """Call ``call(*task)`` for each of the tasks, ``jobs`` of them at once, each in a process of its own; yields the
    number of each, from 0, when it is done.

    Close the iterator (``contextlib.closing``): the processes end then, and when a task fails or this process is
    interrupted; on SIGTERM, too, which becomes :class:`HaltedError` meanwhile.
    """
    waiting = deque(enumerate(tasks))
    workers = [_Worker(call) for _ in range(min(jobs, len(waiting)))]
    busy: dict[Any, tuple[_Worker, int]] = {}

    def give(worker: _Worker) -> None:
        if waiting:
            at, task = waiting.popleft()
            busy[worker.pipe] = worker, at
            with contextlib.suppress(ConnectionError):  # it is gone: its answer says so
                worker.pipe.send(task)

    try:
        with _halting_on_sigterm():
            for worker in workers:
                worker.start()
                give(worker)
            while busy:
                for pipe in wait(list(busy)):
                    worker, at = busy.pop(pipe)
                    worker.answer()
                    give(worker)
                    yield at
    finally:
        _end_workers([worker for worker in workers if worker.process.pid is not None])


def _end_workers(workers: Sequence[_Worker]) -> None:
    """End workers, soon; at once where another Ctrl-C comes meanwhile."""
    try:
        for worker in workers:
            worker.process.terminate()
            worker.pipe.close()  # one that has just done its task waits for no other
        until = time.monotonic() + _PATIENCE
        for worker in workers:
            worker.process.join(max(0.0, until - time.monotonic()))
    finally:
        for worker in workers:
            worker.process.kill()
        for worker in workers:
            worker.process.join()


# --- signals ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """A process that is started inside is deaf to Ctrl-C from its first moment on, also while it imports: a terminal
    sends it to all processes, and who started them ends them."""
    with _signal_handled(signal.SIGINT, signal.SIG_IGN):
        yield


@contextlib.contextmanager
def _halting_on_sigterm() -> Iterator[None]:
    def halt(_number: int, _frame: Any) -> None:
        raise HaltedError("stopped by SIGTERM, saved what each run has done", 128 + signal.SIGTERM)

    with _signal_handled(signal.SIGTERM, halt):
        yield


@contextlib.contextmanager
def _signal_handled(number: signal.Signals, handler: Any) -> Iterator[None]:
    """A signal handled so inside; in threads, which get no signals, nothing changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before or signal.SIG_DFL)


# --- in a worker ------------------------------------------------------------------------------------------------------


def _do_tasks(pipe: Connection, call: Callable[..., None]) -> None:
    """Do one task after another until the pipe ends or a task fails."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    failed = None
    with contextlib.suppress(EOFError, ConnectionError):
        while failed is None:
            task = pipe.recv()
            try:
                call(*task)
            except Exception as error:
                failed = _sendable(error)
            pipe.send(failed)
    with contextlib.suppress(OSError, AttributeError):  # None where there is no output
        sys.stdout.flush()
    os._exit(0)  # to take down all that was imported, object by object, may take seconds


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on beside the next run of the same study."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _sendable(error: Exception) -> Exception:
    """An error with where it was raised, which a traceback of another process does not tell."""
    error.add_note("".join(traceback.format_exception(error)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # of a library's own kind
        made = RuntimeError(f"{type(error).__name__}: {error}")
        made.add_note(error.__notes__[-1])
        return made
    return error
