"""A study -> a folder: its report, and beside it all that the report is made of, so that it can be written again.

``tables/`` holds each table as csv, md and tex, ``figures/`` each figure as pdf and png; ``data/<data set>/`` the
analysis of its runs and ``data/costs.csv`` what each model costs. ``meta.json`` says what was asked for, of which runs.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from svda_analysis.errors import InputError, check_writable, reading
from svda_analysis.formatting import file_word
from svda_analysis.render.writer import write_document
from svda_analysis.results import META, Analysis, Run, nothing_measured, read_frame, read_json, versions
from svda_analysis.study.costs import COST_COLUMNS, cost_frame, sizes_of
from svda_analysis.study.flat import read_flat_results
from svda_analysis.study.recipes import unlike_trainings
from svda_analysis.study.result import DatasetResult, StudyResult
from svda_analysis.study.sections import study_document

if TYPE_CHECKING:
    from svda_analysis.study.manifest import Manifest
    from svda_analysis.study.runs import Trained

KIND = "study"
_ASKED = ("manifest", "versions", "warnings")  # in meta.json
_COSTS = "costs.csv"
_FOUND = ("name", "title", "source", "missing", "untraced", "carried")  # of each data set, in meta.json


def write_paper(
    manifest: Manifest,
    trained: Sequence[Trained],
    out: str | os.PathLike[str],
    *,
    data_root: str | os.PathLike[str] | None = None,
    command: str = "",
    warnings: Iterable[str] = (),
    held: Mapping[str, DatasetResult] | None = None,
    progress: Callable[[str, int, int], None] = lambda label, done, total: None,
    on_warning: Callable[[str], None] = lambda line: None,
) -> list[Path]:
    """Measure the checkpoints and write the report of a study into ``out``; returns its files, ``README.md`` first.

    ``cache/`` keeps what was measured (it may be removed: it is then measured again). Files whose content did not
    change are not touched. ``held`` are runs of an earlier report (:func:`~svda_analysis.study.extending.held_runs`)
    that stay in it where they are not measured now from ``trained``. ``progress`` is called with (label, done, in all),
    ``on_warning`` with a line for each run that is left out because its numbers are not finite, and for each thing in
    which runs that are compared were not trained alike.

    Raises :class:`InputError` when the folder cannot be written or a checkpoint does not suit its data.
    """
    from svda_analysis.cache import UNFINISHED
    from svda_analysis.study.extending import extended, without
    from svda_analysis.study.manifest import check_different
    from svda_analysis.study.measuring import measure_dataset

    datasets = list(dict.fromkeys([*manifest.datasets, *(run.dataset for run in trained)]))
    check_different(datasets)
    folder = Path(out)
    check_writable(folder, "output folder")
    for left in [*folder.glob(f"{UNFINISHED}*"), *folder.glob(f"cache/{UNFINISHED}*")]:
        shutil.rmtree(left, ignore_errors=True)  # what a killed run left behind
    results = []
    for dataset in datasets:
        mine = [run for run in trained if run.dataset == dataset]
        result = measure_dataset(manifest, dataset, mine, folder / "cache", root=data_root, progress=progress)
        measured = set() if result.missing else {(dataset, run.name, run.subject.seed) for run in mine}
        earlier = without(held or {}, measured).get(dataset)
        results.append(result if earlier is None else extended(earlier, result, manifest))
    broken = [line for result in results for line in result.broken]
    about = {"manifest": json.loads(json.dumps(dataclasses.asdict(manifest))), "versions": versions()}
    meta = {
        "command": command,
        **about,
        "warnings": [*warnings, *broken],
    }
    study = StudyResult.of(about["manifest"], results)
    for line in [*broken, *unlike_trainings(study)]:
        on_warning(line)
    return write_study(study, folder, meta, progress=progress)


def write_study(
    study: StudyResult,
    out: str | os.PathLike[str],
    meta: Mapping[str, Any],
    *,
    progress: Callable[[str, int, int], None] = lambda label, done, total: None,
) -> list[Path]:
    """Write the report of what a study found into ``out``; returns its files, ``README.md`` first.

    ``meta`` holds command, manifest, versions and warnings. Figures that are carried are those that lie in ``out``.
    """

    def save(stage: Path) -> None:
        (stage / "data").mkdir(parents=True)
        costs = cost_frame((result.name, result.sizes) for result in study.datasets)
        costs.to_csv(stage / "data" / _COSTS, index=False)
        for result in study.datasets:
            if result.trained:
                result.analysis.save(stage / "data" / file_word(result.name))
            for name in result.carried:
                _carry(Path(out) / "figures", name, stage / "figures")

    found = [{key: getattr(result, key) for key in _FOUND} for result in study.datasets]
    runs = [_run_record(run) for result in study.datasets for run in result.analysis.runs]
    return write_document(
        study_document(study, command=str(meta["command"]), warnings=meta["warnings"], versions=meta["versions"]),
        out,
        page="README.md",
        tables="tables",
        save=save,
        meta={"kind": KIND, **{key: meta[key] for key in _ASKED}, "runs": runs, "datasets": found},
        progress=lambda done, total: progress("figures", done, total),
    )


def _carry(figures: Path, name: str, stage: Path) -> None:
    stage.mkdir(exist_ok=True)
    for file in figures.glob(f"{name}.*"):
        shutil.copy2(file, stage / file.name)


def _run_record(run: Run) -> dict[str, Any]:
    """What ``meta.json`` says of a run."""
    shown = {"model": run.model, "attention": run.attention, "seed": run.seed, "epoch": run.epoch}
    known = {key: run.settings.get(key) for key in ("trained_with", "measured_with")}
    trained = {"trained_on": run.settings.get("trained_on"), "recipe": run.recipe}
    return {**shown, "checkpoint": run.path, **trained, **known}


# --- again ------------------------------------------------------------------------------------------------------------


def render_study_again(folder: str | os.PathLike[str]) -> list[Path]:
    """Write the report in ``folder`` again from what lies in it, without checkpoints and without measuring; returns the
    files. Raises :class:`InputError` where it holds no study, or one of its files is missing."""
    study, meta = read_study(folder)
    return write_study(study, folder, meta)


def read_study(folder: str | os.PathLike[str]) -> tuple[StudyResult, dict[str, Any]]:
    """The study whose report lies in ``folder``, and its ``meta.json``. Errors as :func:`render_study_again`."""
    place = Path(folder)
    meta = _read_meta_file(place)
    with reading(f"{place / META} is damaged"):
        return _study_in(place, meta), meta


def _study_in(place: Path, meta: Mapping[str, Any]) -> StudyResult:
    if "kind" not in meta:
        return StudyResult.of(meta["manifest"], read_flat_results(place, dict(meta)))
    costs, results = read_frame(place / "data" / _COSTS, COST_COLUMNS), []
    for found in meta["datasets"]:
        analysis = nothing_measured() if found["missing"] else Analysis.load(place / "data" / file_word(found["name"]))
        about: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in found.items()
        }
        results.append(DatasetResult(**about, sizes=sizes_of(costs, found["name"]), analysis=analysis))
    return StudyResult.of(meta["manifest"], results)


def _read_meta_file(folder: Path) -> dict[str, Any]:
    """The ``meta.json`` of a study's report."""
    path = folder / META
    if not path.exists():
        raise InputError(f"{folder} holds no report: there is no {META} in it")
    found = read_json(path)
    meta = found if isinstance(found, dict) else {}
    needed = ("command", *_ASKED, "datasets" if "kind" in meta else "runs")
    if meta.get("kind", KIND) != KIND or not all(key in meta for key in needed):
        raise InputError(f"{path} is not of a study")
    return meta
