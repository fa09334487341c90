"""Every run of a study measured once for all: checkpoints and images -> one result for each data set."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from svda_analysis.analysis import Options, analyze_subject
from svda_analysis.data import DATASETS, ImageData, load_dataset
from svda_analysis.directions import direction_shares
from svda_analysis.errors import DataNotFoundError
from svda_analysis.frames import SPECTRA_COLUMNS, TABLE_COLUMNS, make_frame
from svda_analysis.map_comparison import compare_run_maps
from svda_analysis.results import Analysis
from svda_analysis.sources import open_source
from svda_analysis.study.cache import joint_key, kept, subject_key
from svda_analysis.study.costs import TIMED, in_order, model_size
from svda_analysis.study.manifest import Manifest, StudyOptions
from svda_analysis.study.result import NOT_AT_HAND, DatasetResult, nothing_measured
from svda_analysis.study.runs import Trained, checkpoint_of, is_at_hand
from svda_analysis.subject import Subject

Advance = Callable[[str, int, int], None]
_DIGITS = 6  # of the numbers of each head at each epoch, the bulk of what a report holds


def measure_dataset(
    manifest: Manifest,
    dataset: str,
    trained: Sequence[Trained],
    cache: Path,
    *,
    root: str | os.PathLike[str] | None = None,
    progress: Advance = lambda label, done, total: None,
) -> DatasetResult:
    """Measure all runs on one data set; without any, or without its images, a result that says why it is empty."""
    plan = manifest.runs(dataset) if dataset in manifest.datasets and (manifest.study or not trained) else []
    configs = {run.name: run.config for run in plan}
    for run in trained:
        configs.setdefault(run.name, checkpoint_of(run.subject).config)
    sizes = in_order({name: model_size(config) for name, config in configs.items()})
    about: dict[str, Any] = {"name": dataset, "title": DATASETS[dataset.partition(":")[0]].title}
    if not trained:
        missing = "not run here: no checkpoint" if is_at_hand(manifest, dataset, root) else NOT_AT_HAND
        return DatasetResult(**about, sizes=sizes, missing=missing, analysis=nothing_measured())
    size = checkpoint_of(trained[0].subject).config.image_size
    try:
        data = load_dataset(dataset, root=root, image_size=size, allow_download=False)
    except DataNotFoundError:
        return DatasetResult(**about, sizes=sizes, missing=NOT_AT_HAND, analysis=nothing_measured())
    about |= {"title": data.source.partition(f" {data.split}, ")[0], "source": data.source}
    whole = _measure_each(dataset, trained, data, manifest.analysis, cache, progress)
    sizes = {name: size.timed(whole.history[whole.history["model"] == name]) for name, size in sizes.items()}
    about["untraced"] = tuple(name for name in sizes if name in whole.models and name not in whole.traces)
    measured = DatasetResult(**about, sizes=sizes, analysis=_for_report(whole, manifest))
    maps = _compared_maps(measured.baseline, trained, data, manifest.analysis, cache, progress)
    return dataclasses.replace(
        measured, analysis=dataclasses.replace(measured.analysis, baseline=measured.baseline, maps=maps)
    )


def measure(
    subject: Subject,
    data: ImageData,
    options: StudyOptions,
    cache: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Analysis:
    """:func:`~svda_analysis.analysis.analyze_subject` and :func:`~svda_analysis.directions.direction_shares` of a
    checkpoint, once for all: the result lies in ``cache`` and is read from there.

    It is of the model ``model`` and holds no path, no time, and nothing of the history.
    """

    def fresh() -> Analysis:
        nameless = dataclasses.replace(subject, name="model")
        source = open_source(data, nameless)
        limits = Options(images=options.images, precision=options.precision, examples=options.examples)
        part = analyze_subject(nameless, source, limits, progress=progress)
        rows = [part.table, direction_shares(nameless, source, options.energy_images)]
        return dataclasses.replace(
            part,
            table=pd.concat(rows, ignore_index=True).astype(TABLE_COLUMNS),
            history=make_frame([], TABLE_COLUMNS),
            traces={},
            runs=tuple(dataclasses.replace(run, path=None, seconds=0.0) for run in part.runs),
        )

    return kept(cache / _key(subject, data, options), fresh)


def _key(subject: Subject, data: ImageData, options: StudyOptions) -> str:
    settings = {key: value for key, value in dataclasses.asdict(options).items() if key not in ("maps", "margin")}
    return subject_key(subject, data, settings)


# --- the runs of a data set -------------------------------------------------------------------------------------------


def _measure_each(
    dataset: str,
    trained: Sequence[Trained],
    data: ImageData,
    options: StudyOptions,
    cache: Path,
    progress: Advance,
) -> Analysis:
    """All runs joined, each under its model's name, with accuracy and loss over all test images from its history."""
    parts, label = [], f"{dataset} checkpoints"
    for at, run in enumerate(trained):
        progress(label, at, len(trained))
        parts.append(_part_of_run(run, measure(run.subject, data, options, cache), data))
        progress(label, at + 1, len(trained))
    whole = Analysis.join(parts)
    return dataclasses.replace(whole, table=_final(whole.table, whole.history))


def _part_of_run(run: Trained, measured: Analysis, data: ImageData) -> Analysis:
    """What was measured of a run, under its model's name, with its history and trace and all that is known of it."""
    subject, checkpoint = run.subject, checkpoint_of(run.subject)
    trained_on = str(subject.data.get("source", "")).partition(" from ")[0]
    known = {"trained_on": trained_on, "trained_with": checkpoint.versions, "measured_with": measured.versions}
    (found,) = measured.runs
    about = dataclasses.replace(
        found,
        path="/".join(Path(subject.spec or subject.name).parts[-2:]),
        data=data.source,
        recipe=subject.recipe,
        settings={**found.settings, **known},
    )
    part = dataclasses.replace(
        measured,
        history=subject.history.assign(model="model").astype(TABLE_COLUMNS),
        traces={"model": subject.trace} if subject.trace else {},
        runs=(about,),
        warnings=(),
    )
    return part.renamed(run.name)


def _final(table: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """The measured indicators, with loss and accuracy over all test images as they stood after the last epoch."""
    tested = history[history["indicator"].isin(["accuracy", "loss"]) & (history["source"] == "test")]
    last = tested["epoch"] == tested.groupby(["model", "seed"], dropna=False)["epoch"].transform("max")
    measured = table[~table["indicator"].isin(["accuracy", "loss"])]
    return pd.concat([measured, tested[last]], ignore_index=True).astype(TABLE_COLUMNS)


def _compared_maps(
    baseline: str | None,
    trained: Sequence[Trained],
    data: ImageData,
    options: StudyOptions,
    cache: Path,
    progress: Advance,
) -> dict[str, pd.DataFrame]:
    """The comparison of attention maps with the baseline's, where it is asked for and there is one; from the cache."""
    if options.maps is None or baseline is None or len({run.name for run in trained}) < 2:
        return {}
    subjects = [dataclasses.replace(run.subject, name=run.name) for run in trained]
    keys = [_key(subject, data, options) for subject in subjects]

    def fresh() -> Analysis:
        found = compare_run_maps(
            subjects,
            [open_source(data, subject) for subject in subjects],
            baseline=baseline,
            images=options.maps or 0,
            progress=functools.partial(progress, "maps"),
        )
        return dataclasses.replace(nothing_measured(), maps=found)

    key = joint_key(options.maps, baseline, [subject.name for subject in subjects], keys)
    return kept(cache / f"maps-{key}", fresh).maps


# --- what a report keeps ----------------------------------------------------------------------------------------------


def _for_report(whole: Analysis, manifest: Manifest) -> Analysis:
    """What the tables and figures of a study show. The times of the history are in the sizes; of many variants no
    spectra, no head at an epoch, and traces and examples of the plain models alone, which change their attention."""
    history = whole.history[~whole.history["indicator"].isin(TIMED)]
    if not manifest.study:
        return dataclasses.replace(whole, history=_shortened(history))
    plain = [name for name in whole.models if len(manifest.variants.get(name, ())) <= 1]
    shown = next((name for name in plain if name in whole.traces and name in whole.examples), None)
    return dataclasses.replace(
        whole,
        spectra=make_frame([], SPECTRA_COLUMNS),
        history=history[history["layer"].isna()].reset_index(drop=True),
        examples={shown: whole.examples[shown]} if shown else {},  # the same images for all
        traces={name: trace for name, trace in whole.traces.items() if name in plain},
    )


def _shortened(history: pd.DataFrame) -> pd.DataFrame:
    """The numbers of each head at each epoch with six digits, as they are drawn: they are the bulk of a report."""
    made, heads = history.reset_index(drop=True), history["layer"].notna().to_numpy()
    for column in ("mean", "std", "ci_low", "ci_high"):
        values = made[column].to_numpy(dtype=float, copy=True)
        values[heads] = [float(f"{x:.{_DIGITS}g}") for x in values[heads]]
        made[column] = values
    return made
