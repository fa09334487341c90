"""A folder of files that appears whole: it is made beside its place and swapped in. No torch here.

What else lies in the place, files of the user or of another report, comes along. A writer that is killed leaves the old
folder or the new one; the next writer finishes what it had begun.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from svda_analysis.errors import InputError, check_writable
from svda_analysis.results import META, read_own_meta
from svda_analysis.writing import only_writer, unfinished_name

_ASIDE = ".old"  # ends the name of a folder that another took the place of


@contextlib.contextmanager
def staged(folder: Path, meta_file: str = META, *, old: Iterable[Path] | None = None) -> Iterator[Path]:
    """A folder to write into; when all went well its files take the place of those of an earlier report.

    What an earlier report lists in its ``meta_file``, if that has our mark, and is not written now goes away; never a
    link, nor anything behind one. Equal files keep their date, and everything else stays. The swap is one renaming;
    only where that cannot be (a mounted folder, one that the process works in, a parent that cannot be written) files
    are moved one by one, ``meta_file`` last. ``old``: instead of a ``meta_file``, the files relative to the folder that
    are known to be of an earlier call; whatever has the name of one that is written may be lost with them.

    Raises :class:`InputError` where the folder cannot be written, another process writes it, or it holds other files
    of the names that are written.
    """
    place = Path(os.path.realpath(folder))
    try:
        with only_writer(place, "output folder"):
            if place.exists() and not place.is_dir():
                raise NotADirectoryError(None, "it is no folder")
            recover(place)
            stage = _new_stage(place)
            try:
                yield stage
                if old is None:
                    check_free(place, inside(stage), meta_file)
                gone = own_files(place / meta_file) if old is None else set(old)
                _put_in_place(stage, place, gone, meta_file)
            finally:
                shutil.rmtree(stage, ignore_errors=True)
    except BrokenPipeError:
        raise  # what is printed meanwhile is read no more
    except OSError as error:
        raise InputError(f"output folder {folder} cannot be written: {error.strerror or error}") from None


def inside(folder: Path) -> list[Path]:
    """Every file in a folder and below, relative to it, in order."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def check_report_folder(folder: Path, *names: str, meta_file: str = META) -> None:
    """Raise :class:`InputError` unless a report with files of these names can be written into ``folder``: before the
    work of which it is made."""
    check_writable(folder, "output folder")
    check_free(Path(os.path.realpath(folder)), map(Path, names), meta_file)


def check_free(place: Path, names: Iterable[Path], meta_file: str = META) -> None:
    """Raise :class:`InputError` where one of the names is a link, or is there and no report of ours put it there."""
    ours = read_own_meta(place / meta_file) is not None
    for name in names:
        linked = next((x for x in (name, *name.parents) if x != Path() and (place / x).is_symlink()), None)
        if linked is not None:
            raise InputError(f"output folder {place} holds a link of the name {linked}: remove it, or choose another")
        if not ours and os.path.lexists(place / name):
            raise InputError(
                f"output folder {place} holds a file {name} and no report of svda-analysis: move it away, or choose "
                "another folder"
            )


# --- what is ours -----------------------------------------------------------------------------------------------------


def own_files(meta_file: Path) -> set[Path]:
    """The files that a report lists in its ``meta_file``, relative to its folder; none if it is not ours."""
    meta = read_own_meta(meta_file)
    names = meta.get("files") if meta else None
    return _plain_files(meta_file.parent, names if isinstance(names, list) else ())


def _plain_files(place: Path, names: Iterable[object]) -> set[Path]:
    """Of these names the regular files inside the folder; none that is a link or lies behind one."""
    found = set()
    for name in names:
        if not isinstance(name, str) or "\0" in name:
            continue
        path = Path(name)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            continue
        if not any((place / x).is_symlink() for x in (path, *path.parents)) and (place / path).is_file():
            found.add(path)
    return found


# --- the swap ---------------------------------------------------------------------------------------------------------


def _new_stage(place: Path) -> Path:
    """An empty folder to make the new one in: beside its place, or inside it where they cannot be swapped."""
    start, end = unfinished_name(place)
    name = f"{start}{os.getpid()}{end}"
    stage = place.with_name(name) if _can_swap(place) else place / name
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    return stage


def _can_swap(place: Path) -> bool:
    here = Path.cwd().resolve()
    return os.access(place.parent, os.W_OK) and not place.is_mount() and not here.is_relative_to(place)


def _put_in_place(stage: Path, place: Path, old: set[Path], meta_file: str) -> None:
    """Let the stage take the place, where ``old`` files are of the report before it."""
    fresh = inside(stage)
    for name in fresh:
        if (place / name).is_dir() and not (place / name).is_symlink():
            raise IsADirectoryError(None, f"{name} is a folder in it")
        _keep_date(stage / name, place / name)
    if not place.exists():
        os.rename(stage, place)
    elif stage.parent == place:
        _move_each(stage, place, fresh, old, meta_file)
    else:
        shutil.copymode(place, stage)
        aside = place.with_name(f".{place.name}.{os.getpid()}{_ASIDE}")
        os.rename(place, aside)
        os.rename(stage, place)
        _bring_over(aside, place, old)
        shutil.rmtree(aside)


def _keep_date(made: Path, before: Path) -> None:
    """What did not change keeps its date."""
    if before.is_file() and not before.is_symlink() and before.read_bytes() == made.read_bytes():
        times = before.stat()
        os.utime(made, ns=(times.st_atime_ns, times.st_mtime_ns))


def _move_each(stage: Path, place: Path, fresh: list[Path], old: set[Path], meta_file: str) -> None:
    for name in sorted(fresh, key=lambda name: name == Path(meta_file)):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(stage / name, place / name)
    for name in old - set(fresh):
        (place / name).unlink(missing_ok=True)


def _bring_over(aside: Path, place: Path, gone: set[Path], below: Path = Path()) -> None:
    """Move from the old folder into the new what the new one has no file of, but for what is ``gone``."""
    for entry in sorted(os.scandir(aside / below), key=lambda entry: entry.name):
        name = below / entry.name
        is_folder, target = entry.is_dir(follow_symlinks=False), place / name
        if not os.path.lexists(target):
            if is_folder and any(path.is_relative_to(name) for path in gone):
                _bring_over(aside, place, gone, name)
            elif name not in gone:
                target.parent.mkdir(parents=True, exist_ok=True)
                os.rename(entry.path, target)
        elif is_folder and target.is_dir():
            _bring_over(aside, place, gone, name)


def is_unfinished(folder: str | os.PathLike[str]) -> bool:
    """Whether a killed writer of ``folder`` left something to :func:`recover`."""
    with contextlib.suppress(OSError):
        return bool(_set_aside(Path(os.path.realpath(folder))))
    return False


def _set_aside(place: Path) -> list[Path]:
    """The folders that another took the place of, and that are still there."""
    names = re.compile(re.escape(f".{place.name}.") + r"\d+" + re.escape(_ASIDE))
    return sorted(Path(entry.path) for entry in os.scandir(place.parent) if names.fullmatch(entry.name))


def recover(folder: str | os.PathLike[str]) -> None:
    """Finish what a killed writer of ``folder`` had begun; call it while holding the folder."""
    place = Path(os.path.realpath(folder))
    with contextlib.suppress(OSError):
        for aside in _set_aside(place):
            if not place.exists():
                os.rename(aside, place)
                continue
            superseded = (own_files(meta) for meta in aside.glob("*.json") if (place / meta.name).exists())
            _bring_over(aside, place, set().union(*superseded))
            shutil.rmtree(aside)
