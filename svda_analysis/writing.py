"""Who may write an output: one process at a time, and what a killed one left behind goes away."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from svda_analysis.errors import InputError

_UNFINISHED = ".unfinished"  # ends the names of files and folders that are being made
_HELD: set[tuple[int, Path]] = set()  # what each thread of this process holds


@contextlib.contextmanager
def only_writer(output: str | os.PathLike[str], name: str = "out") -> Iterator[None]:
    """Hold ``output``, a file or a folder, for writing; what a killed writer left unfinished beside it is removed.

    The lock is a hidden file beside the output with the process and the time in it. The operating system lets go of it
    when its process dies, so a stale one is taken over. The same thread may hold an output several times. Raises
    :class:`InputError` naming ``name`` where another process writes there, or the lock cannot be made.
    """
    target = Path(os.path.realpath(output))
    key = (threading.get_ident(), target)
    if key in _HELD:
        yield
        return
    missing = [folder for folder in target.parents if not folder.exists()]
    lock = _acquired(target, f"{name}: {output}")
    _HELD.add(key)
    try:
        remove_unfinished(target)
        yield
    finally:
        _HELD.discard(key)
        with contextlib.suppress(OSError):
            os.unlink(lock.lock_file)  # while it is held: who opened it meanwhile sees that, and makes it anew
            for folder in missing:  # made for the lock, and still empty: nothing was written
                folder.rmdir()
        lock.release()


@contextlib.contextmanager
def all_or_none(targets: Sequence[Path], name: str = "out") -> Iterator[list[Path]]:
    """Hold several files for writing (:func:`only_writer`). Yields where to write each meanwhile: they take the places
    of ``targets`` together once all went well, and none does otherwise."""
    with contextlib.ExitStack() as held:
        stages = []
        for target in targets:
            held.enter_context(only_writer(target, name))
            start, end = unfinished_name(target)
            made = held.enter_context(tempfile.TemporaryDirectory(dir=target.parent, prefix=start, suffix=end))
            stages.append(Path(made) / target.name)
        yield stages
        for stage, target in zip(stages, targets, strict=True):
            os.replace(stage, target)


def _acquired(target: Path, named: str) -> FileLock:
    """The lock of a target, held, with who holds it and since when written into it."""
    place = _lock_file(target)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(place, timeout=0)
        lock.acquire()
        place.write_text(f"{os.getpid()} {time.time():.0f}\n", encoding="ascii")
    except Timeout:
        raise InputError(f"{named} is being written by {_holder(place)}: wait for it, or choose another name") from None
    except OSError as error:
        raise InputError(f"{named} cannot be written: {error.strerror or error}") from None
    return lock


def _lock_file(target: Path) -> Path:
    """Beside the target; inside a folder that lies in none, or in one that cannot be written."""
    inside = target.is_dir() and (target == target.parent or not os.access(target.parent, os.W_OK))
    return target / ".svda.lock" if inside else target.with_name(f".{target.name}.lock")


def _holder(lock: Path) -> str:
    """The process that holds a lock and for how long, as words."""
    try:
        process, since = lock.read_text(encoding="ascii").split()
        minutes = max(time.time() - float(since), 0) / 60
    except (OSError, ValueError):  # it is about to write it, or has just let go
        return "another process"
    age = f"{minutes:.0f} min" if minutes >= 1 else f"{60 * minutes:.0f} s"
    return f"process {process}, for {age}"


def names_folder(target: str | os.PathLike[str]) -> bool:
    """Whether a target names a folder: one that is there, or by a slash at its end."""
    return Path(target).is_dir() or os.fspath(target).endswith(("/", os.sep))


def check_target(
    target: str | os.PathLike[str],
    sources: Iterable[str | os.PathLike[str]],
    *,
    name: str = "target",
    force: bool | None = False,
) -> None:
    """Raise :class:`InputError` where a file to be written is one of those it is made of, under whatever name, or
    exists and ``force`` does not say that it may be lost (None: nothing can say so)."""
    path = Path(target)
    if names_folder(target):
        raise InputError(f"{name} must be a file, got the directory {path}")
    if not os.path.lexists(path):
        return
    for source in sources:
        if path.exists() and Path(source).exists() and path.samefile(source):
            raise InputError(f"{name} must not be what it is made from, got {path}")
    if path.exists() and not path.is_file():
        raise InputError(f"{name} must be a file, got the device, pipe or socket {path}")
    if not force:
        way = "choose another name" if force is None else "force writes over it; or choose another name"
        raise InputError(f"{name} already exists: {path} ({way})")


def unfinished_name(target: Path) -> tuple[str, str]:
    """What the name of a file or folder begins and ends with while it is made beside ``target``."""
    return f".{target.name}.", _UNFINISHED


def remove_unfinished(target: Path) -> None:
    """Remove what killed writers of ``target`` left beside it; call it while holding the lock."""
    start, end = unfinished_name(target)
    with contextlib.suppress(OSError):  # no such folder: nothing was left in it
        for entry in list(os.scandir(target.parent)):
            if entry.name.startswith(start) and entry.name.endswith(end):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
                else:
                    Path(entry.path).unlink(missing_ok=True)
