"""Every run of a study measured once for all: checkpoints and images -> one result for each data set."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from svda_analysis.analysis import LEFT_OUT, analyze_runs
from svda_analysis.data import DATASETS, ImageData, load_dataset
from svda_analysis.data.readers import without_place
from svda_analysis.errors import DataNotFoundError
from svda_analysis.formatting import file_word
from svda_analysis.frames import SPECTRA_COLUMNS, TABLE_COLUMNS, make_frame
from svda_analysis.results import Analysis, Run, nothing_measured
from svda_analysis.soundness import NotFiniteError
from svda_analysis.study.costs import TIMED, in_order, model_size
from svda_analysis.study.manifest import Manifest, StudyOptions
from svda_analysis.study.result import FROM_HISTORY, NOT_AT_HAND, DatasetResult
from svda_analysis.study.runs import Trained, checkpoint_of, is_at_hand

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
    """Measure all runs on one data set; without any, or without its images, a result that says why it is empty.

    What was measured of a run lies in ``cache`` and is read from there.
    """
    plan = manifest.runs(dataset) if dataset in manifest.datasets and (manifest.of_variants or not trained) else []
    configs = {run.name: run.config for run in plan}
    for run in trained:
        configs.setdefault(run.name, checkpoint_of(run.subject).config)
    sizes = in_order({name: model_size(configs[name]) for name in sorted(configs, key=manifest.place_of)})
    kind, _, place = dataset.partition(":")
    of_folder = f" {file_word(dataset)}" if place else ""
    title = DATASETS[kind].title + of_folder
    nothing = DatasetResult(name=dataset, title=title, sizes=sizes, analysis=nothing_measured())
    if not trained:
        missing = "not run here: no checkpoint" if is_at_hand(manifest, dataset, root) else NOT_AT_HAND
        return dataclasses.replace(nothing, missing=missing)
    size = checkpoint_of(trained[0].subject).config.image_size
    try:
        data = load_dataset(dataset, root=root, image_size=size, allow_download=False)
    except DataNotFoundError:
        return dataclasses.replace(nothing, missing=NOT_AT_HAND)
    baseline = nothing.first_of("baseline", [run.name for run in trained])
    try:
        whole = _measure_runs(trained, data, manifest.analysis, baseline, cache, progress)
    except NotFiniteError as error:
        return dataclasses.replace(nothing, missing="no run has finite numbers", broken=(f"{dataset}: {error}",))
    return dataclasses.replace(
        nothing,
        title=data.source.partition(f" {data.split}, ")[0] + of_folder,
        source=data.source,
        sizes={name: size.timed(whole.history[whole.history["model"] == name]) for name, size in sizes.items()},
        untraced=tuple(name for name in sizes if name in whole.models and name not in whole.traces),
        analysis=_for_report(whole, manifest),
        broken=tuple(f"{dataset}: {line}" for line in whole.warnings if LEFT_OUT in line),
    )


def _measure_runs(
    trained: Sequence[Trained],
    data: ImageData,
    options: StudyOptions,
    baseline: str | None,
    cache: Path,
    progress: Advance,
) -> Analysis:
    """All runs joined, each under its model's name, with accuracy and loss over all test images from its history."""
    names = [run.name for run in trained]
    comparable = baseline is not None and len(set(names)) > 1
    whole = analyze_runs(
        [run.subject for run in trained],
        data,
        names=names,
        baseline=baseline,
        maps=options.maps if comparable else None,
        faithfulness=options.faithfulness,
        metrics=options.metrics or None,
        directions=options.energy_images,
        cache=cache,
        progress=progress,
        images=options.images,
        precision=options.precision,
        costly_images=None,
        examples=options.examples,
    )
    runs = tuple(_of_study(found, run, whole.versions) for found, run in zip(whole.runs, trained, strict=True))
    return dataclasses.replace(whole, table=_final(whole.table, whole.history), runs=runs)


def _of_study(found: Run, run: Trained, versions: Mapping[str, str]) -> Run:
    """A run as a study tells of it: nothing of this machine and hour, and how it was trained."""
    subject, checkpoint = run.subject, checkpoint_of(run.subject)
    trained_on = without_place(str(subject.data.get("source", "")))
    known = {"trained_on": trained_on, "trained_with": checkpoint.versions, "measured_with": versions}
    known["config"] = dataclasses.asdict(checkpoint.config)
    path = "/".join(Path(subject.spec or subject.name).parts[-2:])
    return dataclasses.replace(found, path=path, seconds=0.0, settings={**found.settings, **known})


def _final(table: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """The measured indicators, with loss and accuracy over all test images as they stood after the last epoch."""
    tested = history[history["indicator"].isin(FROM_HISTORY) & (history["source"] == "test")]
    last = tested["epoch"] == tested.groupby(["model", "seed"], dropna=False)["epoch"].transform("max")
    measured = table[~table["indicator"].isin(FROM_HISTORY)]
    return pd.concat([measured, tested[last]], ignore_index=True).astype(TABLE_COLUMNS)


# --- what a report keeps ----------------------------------------------------------------------------------------------


def _for_report(whole: Analysis, manifest: Manifest) -> Analysis:
    """What the tables and figures of a study show. The times of the history are in the sizes; of many variants no
    spectra, no head at an epoch, and traces and examples of the plain models alone, which change their attention."""
    history = whole.history[~whole.history["indicator"].isin(TIMED)]
    if not manifest.of_variants:
        return dataclasses.replace(whole, history=_shortened(history), warnings=())
    plain = [name for name in whole.models if len(manifest.variants.get(name, ())) <= 1]
    shown = next((name for name in plain if name in whole.traces and name in whole.examples), None)
    return dataclasses.replace(
        whole,
        spectra=make_frame([], SPECTRA_COLUMNS),
        warnings=(),
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
