"""A study that grows: runs that its report holds already, whose checkpoints are gone, and those measured now.

A run is held where the report tells of it with the very configuration and recipe that the manifest plans, trained in
the same precision, and measured with the same options by this version, whose numbers are defined alike.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from svda_analysis.errors import reading
from svda_analysis.recipe import with_all_fields
from svda_analysis.results import Analysis, Run, versions
from svda_analysis.study.costs import in_order
from svda_analysis.study.manifest import DatasetPlan, Manifest, PlannedRun, StudyOptions
from svda_analysis.study.result import FROM_HISTORY, DatasetResult, StudyResult


class RunKey(NamedTuple):
    """Which run of a study: the names of its data set and model, and its seed."""

    dataset: str
    model: str
    seed: int


def held_runs(study: StudyResult, meta: Mapping[str, Any], manifest: Manifest) -> dict[str, DatasetResult]:
    """What a report holds of the runs that ``manifest`` plans, by data set; ``study`` and ``meta`` are what
    :func:`~svda_analysis.study.report.read_study` gives of it. Raises ``InputError`` for a damaged ``meta``.
    """
    with reading("meta.json of the report to extend is damaged"):
        before = _manifest_in(meta["manifest"])
    alike = before.analysis == manifest.analysis and before.mixed_precision == manifest.mixed_precision
    results = {}
    for result in study.datasets if alike else ():
        if result.missing or result.name not in manifest.datasets or result.name not in before.datasets:
            continue
        plans, then = ({(run.name, run.recipe.seed): run for run in m.runs(result.name)} for m in (manifest, before))
        mine = {
            RunKey(result.name, run.model, run.seed)
            for run in result.analysis.runs
            if run.seed is not None
            and (key := (run.model, run.seed)) in plans
            and plans[key] == then.get(key)
            and _is_of(run, plans[key])
            and _release(run.settings.get("measured_with")) == _release(versions())
        }
        if mine:
            results[result.name] = dataclasses.replace(result, analysis=_only(result.analysis, mine))
    return results


def _is_of(run: Run, plan: PlannedRun) -> bool:
    """Whether a run was trained as planned, as far as its report says how."""
    config, planned = run.settings.get("config"), json.loads(json.dumps(dataclasses.asdict(plan.config)))
    as_planned = with_all_fields(run.recipe) == dataclasses.asdict(plan.recipe) and config in (None, planned)
    return as_planned and run.epoch == plan.recipe.epochs


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


def _release(found: Mapping[str, str] | None) -> str:
    """The major and minor version of this package among ``found``: quantities keep their definitions within one."""
    return ".".join((found or {}).get("svda-analysis", "").split(".")[:2])


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
