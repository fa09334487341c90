"""A study that grows: runs that its report holds already, whose checkpoints are gone, and those measured now.

A run is held where the report tells of it with the very configuration and recipe that the manifest plans, trained in
the same precision, and measured with the same options by a version whose numbers are defined as this one's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from svda_analysis.earlier import is_measured_alike
from svda_analysis.errors import InputError, reading
from svda_analysis.model import ViTConfig
from svda_analysis.recipe import all_fields, changed_fields, precision_change
from svda_analysis.results import Analysis, Run, versions
from svda_analysis.study.costs import in_order
from svda_analysis.study.manifest import DatasetPlan, Manifest, PlannedRun, StudyOptions
from svda_analysis.study.result import FROM_HISTORY, DatasetResult, StudyResult


class RunKey(NamedTuple):
    """Which run of a study: the names of its data set and model, and its seed."""

    dataset: str
    model: str
    seed: int | None


def held_runs(study: StudyResult, meta: Mapping[str, Any], manifest: Manifest) -> dict[str, DatasetResult]:
    """What a report holds of the runs that ``manifest`` plans, by data set; ``study`` and ``meta`` are what
    :func:`~svda_analysis.study.report.read_study` gives of it. Raises ``InputError`` for a damaged ``meta``.
    """
    return without({result.name: result for result in study.datasets}, refused_runs(study, meta, manifest))


def refused_runs(study: StudyResult, meta: Mapping[str, Any], manifest: Manifest) -> dict[RunKey, str]:
    """The runs of a report that are not held, each with how it differs from what ``manifest`` plans. Arguments and
    errors as :func:`held_runs`."""
    with reading("meta.json of the report to extend is damaged"):
        before = _manifest_in(meta["manifest"])
    refused = {}
    for result in study.datasets:
        plans, then = (_plans(one, result.name) for one in (manifest, before))
        for run in result.analysis.runs:
            plan, key = plans.get((run.model, run.seed)), RunKey(result.name, run.model, run.seed)
            if plan is None:
                refused[key] = "it is not planned"
            elif found := _differences(run, plan, then.get((run.model, run.seed)), before, manifest):
                refused[key] = ", ".join(found)
    return refused


def check_none_lost(
    refused: Mapping[RunKey, str], again: Collection[tuple[str, str, int | None]], folder: Path
) -> None:
    """Raise ``InputError`` where a report in ``folder`` would lose runs: those that are ``refused``
    (:func:`refused_runs`) and not measured ``again`` from their checkpoints."""
    lost = [key for key in refused if key not in again]
    if not lost:
        return
    first = lost[0]
    others = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
    raise InputError(
        f"--extend would lose runs of the report in {folder}, whose checkpoints or images are not here: "
        f"{first.dataset} {first.model} seed {first.seed} ({refused[first]}){others}; choose another --out, or leave "
        "--extend out, which writes the report without them"
    )


def _plans(manifest: Manifest, dataset: str) -> dict[tuple[str, int | None], PlannedRun]:
    runs = manifest.runs(dataset) if dataset in manifest.datasets else []
    return {(run.name, run.recipe.seed): run for run in runs}


def _differences(
    run: Run, plan: PlannedRun, then: PlannedRun | None, before: Manifest, manifest: Manifest
) -> list[str]:
    """How a run that was planned as ``then`` in the manifest ``before`` was trained or measured otherwise than planned,
    as far as its report says how."""
    config = run.settings.get("config") or (None if then is None else all_fields(then.config))
    if config is None:
        return ["its report does not say of which model it is"]
    found = changed_fields({**all_fields(ViTConfig()), **config}, run.recipe, plan.config, plan.recipe)
    if run.epoch != (epochs := run.recipe.get("epochs", plan.recipe.epochs)):
        found.append(f"epoch {run.epoch} of {epochs}")
    made_with = {"mixed_precision": before.mixed_precision, **(run.settings.get("trained_with") or {})}
    found += precision_change(made_with, manifest.mixed_precision)
    was, now = before.analysis.measured, manifest.analysis.measured
    found += [f"analysis.{name} {was[name]!r} -> {now[name]!r}" for name in now if was[name] != now[name]]
    version, own = ((of or {}).get("svda-analysis", "") for of in (run.settings.get("measured_with"), versions()))
    if not is_measured_alike(version, own):
        found.append(
            f"measured by svda-analysis {version or 'of unknown version'}, whose numbers may mean another thing"
        )
    return found


def keys_of(held: Mapping[str, DatasetResult]) -> set[RunKey]:
    """Which runs are held."""
    return {
        RunKey(name, run.model, run.seed)
        for name, result in held.items()
        for run in result.analysis.runs
        if run.seed is not None
    }


def without(
    held: Mapping[str, DatasetResult], measured: Collection[tuple[str, str, int | None]]
) -> dict[str, DatasetResult]:
    """What is held of other runs than those that are ``measured`` from their checkpoints (data set, model, seed)."""
    left = keys_of(held) - set(measured)
    return {
        name: dataclasses.replace(result, analysis=_only(result.analysis, mine))
        for name, result in held.items()
        if (mine := {key for key in left if key.dataset == name})
    }


def _manifest_in(kept: Mapping[str, Any]) -> Manifest:
    """A manifest as ``meta.json`` keeps it."""
    datasets = {name: DatasetPlan(**plan) for name, plan in kept["datasets"].items()}
    known = {"datasets": datasets, "analysis": StudyOptions(**kept["analysis"]), "seeds": tuple(kept["seeds"])}
    names = {field.name for field in dataclasses.fields(Manifest)}
    return Manifest(**{key: value for key, value in kept.items() if key in names} | known)


def _only(whole: Analysis, keys: set[RunKey]) -> Analysis:
    """An analysis of some of its runs."""
    kept = {(key.model, key.seed) for key in keys}
    models = {model for model, _ in kept}

    def rows(frame: pd.DataFrame) -> pd.DataFrame:
        chosen = [pair in kept for pair in zip(frame["model"], frame["seed"], strict=True)]
        return frame[chosen].reset_index(drop=True)

    return dataclasses.replace(
        whole,
        table=rows(whole.table),
        spectra=rows(whole.spectra),
        history=rows(whole.history),
        maps={name: rows(frame) for name, frame in whole.maps.items()},
        examples={name: found for name, found in whole.examples.items() if name in models},
        traces={name: found for name, found in whole.traces.items() if name in models},
        runs=tuple(run for run in whole.runs if (run.model, run.seed) in kept),
    )


def extended(held: DatasetResult, fresh: DatasetResult, manifest: Manifest) -> DatasetResult:
    """The runs held and those measured now as one result, in the order in which the manifest plans them.

    Seconds and memory of a model are those of its runs measured now, where there are any, else those that were held.
    """
    planned = [(run.name, run.recipe.seed) for run in manifest.runs(held.name)]
    parts = [held.analysis] if fresh.missing else [held.analysis, fresh.analysis]
    names = [run.model for part in parts for run in part.runs]
    known = {name: size for name, size in held.sizes.items() if name in names}
    known |= {name: size for name, size in fresh.sizes.items() if name not in known or size.seconds >= 0}
    sizes = in_order({name: known[name] for name in sorted(known, key=manifest.place_of)})
    whole = fresh if not fresh.missing else held
    baseline = dataclasses.replace(whole, sizes=sizes).first_of("baseline", names)
    joined = Analysis.join([dataclasses.replace(part, baseline=baseline) for part in parts])
    return dataclasses.replace(
        whole,
        sizes=sizes,
        analysis=_in_order(_few_examples(joined, held, manifest), planned),
        untraced=tuple(name for name in sizes if name in names and name not in joined.traces),
        carried=(),
        broken=fresh.broken,
    )


def _few_examples(joined: Analysis, held: DatasetResult, manifest: Manifest) -> Analysis:
    """Of variants the example maps of one model, as a report of them shows: those that it had."""
    if not (manifest.of_variants and held.analysis.examples):
        return joined
    return dataclasses.replace(joined, examples=held.analysis.examples)


def _in_order(whole: Analysis, planned: Sequence[tuple[str, int]]) -> Analysis:
    """The runs as planned; in the table what was measured comes before what the histories end with."""
    place = {key: at for at, key in enumerate(planned)}

    def rows(frame: pd.DataFrame) -> pd.DataFrame:
        at = [place[pair] for pair in zip(frame["model"], frame["seed"], strict=True)]
        return frame.iloc[np.argsort(at, kind="stable")].reset_index(drop=True)

    ends = whole.table["indicator"].isin(FROM_HISTORY)
    return dataclasses.replace(
        whole,
        table=pd.concat([rows(whole.table[~ends]), rows(whole.table[ends])], ignore_index=True),
        spectra=rows(whole.spectra),
        history=rows(whole.history),
        runs=tuple(sorted(whole.runs, key=lambda run: place[run.model, run.seed])),  # type: ignore[index]
    )
