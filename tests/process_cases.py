"""What runs on this machine, read from /proc."""

import contextlib
from pathlib import Path

import pytest

of_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads the processes from /proc")


def status(process: int) -> tuple[int, bool] | None:
    """The parent of a process, and whether it is a worker of multiprocessing; None where it has ended."""
    with contextlib.suppress(OSError, ValueError):
        place = Path("/proc") / str(process)
        state, parent = (place / "stat").read_text().rpartition(")")[2].split()[:2]
        return None if state == "Z" else (int(parent), b"spawn_main" in (place / "cmdline").read_bytes())
    return None


def children(parent: int) -> dict[int, bool]:
    """The processes that ``parent`` has started and that run, and whether each is a worker of multiprocessing."""
    found = {int(place.name): status(int(place.name)) for place in Path("/proc").glob("[0-9]*")}
    return {number: about[1] for number, about in found.items() if about is not None and about[0] == parent}


def workers(parent: int) -> set[int]:
    """The workers of multiprocessing that ``parent`` has spawned."""
    return {number for number, is_one in children(parent).items() if is_one}


def is_worker(process: int) -> bool:
    found = status(process)
    return found is not None and found[1]
