"""Runs cases one after another in a forked worker with limits, and says how each of them ended.

A case is right (what it was given was sound, and read as what it is) or refused (an :class:`InputError` of one line,
or exit code 2 and one line). Everything else is a fault: a traceback, a signal, a hang, more memory than allowed, a
started program, a file outside of the case's folder, or wrong content that was taken for sound.
"""

from __future__ import annotations

import faulthandler
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from svda_analysis.errors import InputError

CPU_SECONDS, WALL_SECONDS, MEMORY = 20, 120, 2 * 2**30
_PROGRAMS = {"os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "socket.connect"}
_CHANGES = {"os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "shutil.rmtree"}


class SilentError(Exception):
    """Wrong content was taken for sound."""


class Case(NamedTuple):
    """``run(random, base, folder)`` reads what it damages from ``base`` and writes into ``folder`` alone."""

    kind: str
    run: Callable[[random.Random, Path, Path], None]


class Ending(NamedTuple):
    kind: str
    number: int
    how: str  # "right", "refused", or the name of a fault
    said: str


def run_cases(cases: Sequence[Case], base: Path, *, seed: int) -> list[Ending]:
    """How each case ended. A worker that dies is replaced, and the case that it died of has its name."""
    endings: list[Ending] = []
    with tempfile.TemporaryDirectory() as place:
        while len(endings) < len(cases):
            told, at = _one_worker(cases, base, Path(place), seed, len(endings))
            endings += told
            if len(endings) < len(cases):
                how = {signal.SIGPROF: "hang", signal.SIGALRM: "hang"}.get(at, "signal")
                endings.append(Ending(cases[len(endings)].kind, len(endings), how, f"ended by {at}"))
    return endings


def _one_worker(cases: Sequence[Case], base: Path, place: Path, seed: int, start: int) -> tuple[list[Ending], int]:
    read, write = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        os.close(read)
        try:
            _work(cases, base, place, seed, start, write)
        except BaseException:  # a fault of the harness itself
            os.write(1, traceback.format_exc().encode())
            os._exit(70)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as told:
        endings = [Ending(*json.loads(line)) for line in told if line.endswith("\n")]
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status):
        raise RuntimeError("the worker failed")
    return endings, os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def _work(cases: Sequence[Case], base: Path, place: Path, seed: int, start: int, write: int) -> None:
    seen = _watched(place)
    resource.setrlimit(resource.RLIMIT_AS, (_used() + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    (inner := place / "inner").mkdir(exist_ok=True)
    os.chdir(inner)  # so that what lies above is as empty as the place itself
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # what a library of another language says
    faulthandler.disable()  # pytest's, which writes of a crash to a descriptor of its own
    for at in range(start, len(cases)):
        folder = place / "case"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        del seen[:]
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        signal.alarm(WALL_SECONDS)
        how, said = _ending(cases[at], random.Random(f"{seed}/{cases[at].kind}/{at}"), base, folder)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        if seen:
            how, said = seen[0]
        os.write(write, (json.dumps([cases[at].kind, at, how, said[:500]]) + "\n").encode())


def _ending(case: Case, rng: random.Random, base: Path, folder: Path) -> tuple[str, str]:
    try:
        case.run(rng, base, folder)
    except InputError as error:
        said = str(error)
        return ("refused" if said and "\n" not in said else "several lines"), said
    except SilentError as error:
        return "silent", str(error)
    except BaseException:
        return "traceback", traceback.format_exc()[-500:]
    return "right", ""


def _watched(place: Path) -> list[tuple[str, str]]:
    """What the worker does that no case may; filled as it happens."""
    seen: list[tuple[str, str]] = []
    sys.dont_write_bytecode = True
    allowed = (str(place), "/dev/null")

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event in _PROGRAMS:
            seen.append(("code run", event))
        elif event == "open":
            path, mode, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and isinstance(path, str | bytes) and not os.path.abspath(os.fsdecode(path)).startswith(allowed):
                seen.append(("write outside", f"{path!r} {mode}"))
        elif event in _CHANGES:
            path = arguments[0]
            if isinstance(path, str | bytes) and not os.path.abspath(os.fsdecode(path)).startswith(allowed):
                seen.append(("write outside", f"{event} {path!r}"))

    sys.addaudithook(watch)
    return seen


def _used() -> int:
    """The address space of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
