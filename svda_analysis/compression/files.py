"""Compress checkpoint files: where the smaller ones go, and all of them with one report."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from svda_analysis.checkpoint import save
from svda_analysis.compression.images import OpenedData
from svda_analysis.compression.keep import Keep
from svda_analysis.compression.result import Compression
from svda_analysis.compression.run import OnPoint, Work, compress_subject, compressible
from svda_analysis.errors import InputError, check_writable
from svda_analysis.specs import open_model, run_names
from svda_analysis.subject import Subject
from svda_analysis.writing import all_or_none, check_target, names_folder


def smaller_files(checkpoints: Sequence[Path], out: str | None, keep: Keep) -> list[Path]:
    """Where the smaller checkpoints go: ``svda_s0.pt`` -> ``svda_s0_l0.05.pt``; ``_e90`` for an energy of 0.9, ``_b30``
    for a budget of 0.3, ``_t0.5`` for a tolerance of half a point. Beside the checkpoints, in the folder ``out``, or
    the file ``out`` (of one checkpoint, unless a folder is there or ``out`` ends in a slash)."""
    if keep.tolerance is not None:
        end = f"t{100 * keep.tolerance:g}"
    elif keep.budget is not None:
        end = f"b{100 * keep.budget:g}"
    elif keep.energy is not None:
        end = f"e{100 * keep.energy:g}"
    else:
        end = f"l{keep.min_logit:g}"
    found = [path.parent / f"{path.stem}_{end}.pt" for path in checkpoints]
    if out is not None:
        as_file = len(checkpoints) == 1 and not names_folder(out)
        found = [Path(out)] if as_file else [Path(out) / path.name for path in found]
    _check_different_files(checkpoints, found)
    return found


def _check_different_files(checkpoints: Sequence[Path], targets: Sequence[Path]) -> None:
    """Raise :class:`InputError` where a checkpoint is named twice, or two of them would become one file."""
    given: dict[str, Path] = {}
    made: dict[Path, Path] = {}
    for path, target in zip(checkpoints, targets, strict=True):
        real = os.path.realpath(path)
        if other := given.get(real):
            again = "twice" if other == path else f"and {path}, which are one"
            raise InputError(f"checkpoints must be different files, got {other} {again}")
        if other := made.get(target):
            raise InputError(f"checkpoints must get different names, got {other} and {path}, both to become {target}")
        given[real] = made[target] = path


def compress_files(
    checkpoints: Sequence[str | os.PathLike[str]],
    keep: Keep,
    *,
    out: str | None = None,
    force: bool = False,
    data_root: str | os.PathLike[str] | None = None,
    progress: OnPoint | None = None,
    **work: Any,
) -> contextlib.AbstractContextManager[list[tuple[Path, Compression]]]:
    """Compress each checkpoint: ``with compress_files(...) as done`` tells of each where the smaller one goes and what
    was verified; runs of one model share its name. The smaller files are there when the block ends, all of them, or
    none if anything fails, in the block too.

    ``work`` is what :func:`~svda_analysis.compression.run.compress_and_verify` takes beside (epochs, data, images,
    seed). Names, folders and checkpoints are checked before any work; a file that exists is written over with
    ``force`` alone. One model is compressed at a time, and each data set read once.
    """
    paths = [Path(given) for given in checkpoints]
    targets = smaller_files(paths, out, keep)
    for target in targets:
        check_target(target, paths, name="--out", force=force)
    shared = run_names(_open_compressible(path) for path in paths)
    names = shared if len(paths) > 1 else [paths[0].stem]
    for target in targets:
        check_writable(target.parent, "--out: the folder")
    return _compressed(
        list(zip(paths, names, targets, strict=True)), keep, Work(**work), OpenedData(data_root), progress
    )


def _open_compressible(path: Path) -> Subject:
    subject = open_model(path)
    compressible(subject)
    return subject


@contextlib.contextmanager
def _compressed(
    files: Sequence[tuple[Path, str, Path]],
    keep: Keep,
    work: Work,
    opened: OpenedData,
    progress: OnPoint | None,
) -> Iterator[list[tuple[Path, Compression]]]:
    targets, runs = [target for _, _, target in files], []
    with all_or_none(targets, "--out") as stages:
        for (path, name, _), stage in zip(files, stages, strict=True):
            done = compress_subject(open_model(path, name=name), keep, work, opened, progress)
            save(done.checkpoint, stage)
            fields = ("verification", "norms", "curve", "meta", "budgets")
            runs.append(Compression(**{field: getattr(done, field) for field in fields}))
            del done
        yield list(zip(targets, runs, strict=True))
