"""The runs of a study: those of its manifest, trained where they are missing, or those that a folder holds.

Training can be stopped at any moment and started again: it resumes from the last whole epoch. A checkpoint is read
once: what goes on from here is its :class:`~svda_analysis.subject.Subject`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from svda_analysis.checkpoint import Checkpoint
from svda_analysis.data import load_dataset
from svda_analysis.data.images import usable_cores
from svda_analysis.data.loading import resolved_name
from svda_analysis.errors import DataNotFoundError, InputError
from svda_analysis.recipe import Precision, changes, precision_change
from svda_analysis.specs import open_model, run_names
from svda_analysis.study.manifest import Manifest, PlannedRun
from svda_analysis.study.workers import each_done
from svda_analysis.subject import Subject
from svda_analysis.training import Progress, train


class Trained(NamedTuple):
    """One finished run; ``name`` is its model's, shared by the seeds."""

    dataset: str
    name: str
    subject: Subject


def train_missing(
    manifest: Manifest,
    checkpoints: str | os.PathLike[str],
    *,
    data_root: str | os.PathLike[str] | None = None,
    jobs: int = 1,
    held: Collection[tuple[str, str, int | None]] = (),
    on_run: Callable[[PlannedRun, int, int], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Trained]:
    """Train every run of ``manifest`` that ``checkpoints/<data set>/<model>_s<seed>.pt`` does not hold to its last
    epoch, and return all that are finished. Data sets that are not on this machine are left out, never downloaded.

    ``jobs`` runs train at once, each in a process with its share of the cores. Runs that are ``held`` (data set, model,
    seed) are not trained: a report has them (:func:`~svda_analysis.study.extending.held_runs`). ``on_run`` is called
    with a run, its number from 1 and their count, when it begins (with several jobs: when it is done). Raises
    :class:`InputError`, and before any training for a checkpoint of another recipe.
    """
    if jobs < 1:
        raise InputError(f"jobs must be at least 1, got {jobs}")
    folder = Path(checkpoints)
    every = [run for dataset in manifest.datasets for run in manifest.runs(dataset)]
    finished = {run.file: _finished(run, folder / run.file, manifest.mixed_precision) for run in every}
    missing = [
        run for run in every if finished[run.file] is None and (run.dataset, run.name, run.recipe.seed) not in held
    ]
    wanted = dict.fromkeys(run.dataset for run in missing)
    absent = {name for name in wanted if not is_at_hand(manifest, name, data_root, splits=(True, False))}
    todo = [run for run in missing if run.dataset not in absent]
    training = _train_each(todo, folder, data_root, manifest.mixed_precision, jobs, on_run, on_progress)
    with contextlib.closing(training) as done:
        for at, run in enumerate(done, start=1):
            finished[run.file] = _open_run(folder / run.file)
            if on_run and jobs > 1:
                on_run(run, at, len(todo))
    return [Trained(run.dataset, run.name, subject) for run in every if (subject := finished[run.file]) is not None]


def _train_each(
    runs: Sequence[PlannedRun],
    folder: Path,
    root: str | os.PathLike[str] | None,
    precision: Precision,
    jobs: int,
    on_run: Callable[[PlannedRun, int, int], None] | None,
    on_progress: Callable[[Progress], None] | None,
) -> Generator[PlannedRun]:
    """Train the runs, yielding each when it is done."""
    if jobs == 1:
        for at, run in enumerate(runs, start=1):
            if on_run:
                on_run(run, at, len(runs))
            _train_one(run, folder / run.file, root, precision, on_progress)
            yield run
        return
    threads = max(1, usable_cores() // jobs)
    tasks = [(run, folder / run.file, root, precision, threads) for run in runs]
    with contextlib.closing(each_done(_train_alone, tasks, jobs)) as done:
        for at in done:
            yield runs[at]


def _train_alone(
    run: PlannedRun, path: Path, root: str | os.PathLike[str] | None, precision: Precision, threads: int
) -> None:
    torch.set_num_threads(threads)
    _train_one(run, path, root, precision, None)


def _train_one(
    run: PlannedRun,
    path: Path,
    root: str | os.PathLike[str] | None,
    precision: Precision,
    on_progress: Callable[[Progress], None] | None,
) -> None:
    options: dict[str, Any] = {"data_root": root, "mixed_precision": precision, "on_progress": on_progress}
    train(run.config, run.recipe, path, resume=True, **options)


def _finished(run: PlannedRun, path: Path, precision: Precision) -> Subject | None:
    """The subject of a run whose last epoch is done; None for any other. Raises where the file is of another recipe, or
    trained in another precision."""
    if not path.exists():
        return None
    subject = _open_run(path)
    checkpoint = checkpoint_of(subject)
    if changed := [*changes(checkpoint, run.config, run.recipe), *precision_change(checkpoint.versions, precision)]:
        raise InputError(f"{path} is of another recipe than the manifest's: {', '.join(changed)}; move it away")
    return subject if checkpoint.epoch >= run.recipe.epochs else None


def _open_run(path: Path) -> Subject:
    """A checkpoint as a subject, without the state of its optimizer, which is larger than the model."""
    subject = open_model(path)
    if subject.checkpoint is None:
        return subject
    return dataclasses.replace(subject, checkpoint=dataclasses.replace(subject.checkpoint, optimizer=None))


def checkpoint_of(subject: Subject) -> Checkpoint:
    """The checkpoint that a run of a study was read from."""
    if subject.checkpoint is None:
        raise InputError(f"a study is made of checkpoints of this package, got {subject.name}")
    return subject.checkpoint


def is_at_hand(
    manifest: Manifest, dataset: str, root: str | os.PathLike[str] | None, splits: Sequence[bool] = (False,)
) -> bool:
    """Whether the test images (and the training images, for a ``True`` in ``splits``) are on this machine."""
    if not manifest.datasets[dataset].at_hand:
        return False
    size = manifest.runs(dataset)[0].config.image_size
    try:
        for train in splits:
            load_dataset(dataset, root=root, train=train, image_size=size, allow_download=False)
    except DataNotFoundError:
        return False
    return True


def measured_again(
    manifest: Manifest, checkpoints: str | os.PathLike[str], data_root: str | os.PathLike[str] | None = None
) -> set[tuple[str, str, int | None]]:
    """The runs of ``manifest`` (data set, model, seed) that have a checkpoint, on data sets whose test images are on
    this machine: whatever an earlier report holds of them, they can be measured again."""
    found = [run for dataset in manifest.datasets for run in manifest.runs(dataset)]
    kept = [run for run in found if (Path(checkpoints) / run.file).exists()]
    at_hand = {name for name in {run.dataset for run in kept} if is_at_hand(manifest, name, data_root)}
    return {(run.dataset, run.name, run.recipe.seed) for run in kept if run.dataset in at_hand}


def find_checkpoints(folder: str | os.PathLike[str], datasets: Iterable[str] = ()) -> tuple[list[Trained], list[str]]:
    """The finished runs under ``folder``, sub-folders included, and a line for each file that is left out.

    Grouped by the data set they were trained on, which has its name among ``datasets`` where it is one of them, and
    into models as ``svda analyze`` does. Raises :class:`InputError` when there is none.
    """
    place = Path(folder)
    if not place.is_dir():
        raise InputError(f"--from must be a folder with checkpoints, got {place}")
    names = {resolved_name(name): name for name in datasets}
    by_dataset: dict[str, list[Subject]] = {}
    left_out = []
    for path in sorted(place.rglob("*.pt")):
        try:
            opened = _open_run(path)
        except InputError as error:
            left_out.append(f"left out: {error}")
            continue
        if why := _unfit(opened):
            left_out.append(f"left out: {path}, {why}")
            continue
        by_dataset.setdefault(_dataset_of(opened, names), []).append(opened)
    found = [
        Trained(dataset, name, run)
        for dataset, runs in by_dataset.items()
        for name, run in zip(run_names(runs), runs, strict=True)
    ]
    if not found:
        raise InputError("; ".join([f"no finished checkpoint in {place}", *left_out[:3]]))
    return found, left_out


def _dataset_of(run: Subject, names: dict[str, str]) -> str:
    """The name of what a run was trained on: that which ``names``, by resolved name, have for it, else its own, which
    goes into them. A folder that is gone is known by what the recipe calls it."""
    own = str(run.data["name"])
    ways = [resolved_name(own), resolved_name(str(run.recipe.get("dataset", own)))]
    return next((names[way] for way in ways if way in names), None) or names.setdefault(ways[0], own)


def _unfit(opened: Subject) -> str:
    """Why a checkpoint is no finished run of a study; empty where it is one."""
    if opened.checkpoint is None:
        return "it is no checkpoint of a training of ours from its start"
    epochs = opened.recipe.get("epochs", opened.epoch)
    if not opened.data:
        return "it does not say what it was trained on"
    if opened.epoch != epochs:
        return f"epoch {opened.epoch} of {epochs}"
    if opened.checkpoint.config.compressed:
        return "compressed: its history is that of the model it was made from"
    tested = opened.history[(opened.history["indicator"] == "accuracy") & (opened.history["source"] == "test")]
    return "" if len(tested) else "its history holds no test accuracy"
