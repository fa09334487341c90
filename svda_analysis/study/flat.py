"""Reports of studies as version 0.1 wrote them, ``data/<data set>_indicators.csv``, brought to today's layout.

Their frames had six digits and no limits, which the vocabulary knows; seconds and memory come from their table of costs.
Traces were not kept, so figures of them are carried over as files.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pandas as pd

from svda_analysis.formatting import file_word
from svda_analysis.frames import SPECTRA_COLUMNS, TABLE_COLUMNS, make_frame
from svda_analysis.results import Analysis, Run, read_frame
from svda_analysis.study.costs import Size, in_order
from svda_analysis.study.report import study_of, write_study
from svda_analysis.study.result import NOT_AT_HAND, DatasetResult, nothing_measured
from svda_analysis.study.sections import study_pictures
from svda_analysis.vocabulary import known_bounds

_LIMITS = ("low", "high")


def render_flat_study(folder: str | os.PathLike[str]) -> list[Path]:
    """Write a report of version 0.1 again, in today's layout, from what lies in its folder; returns the files.

    Figures whose data it did not keep stay as they are.
    """
    place = Path(folder)
    meta = json.loads((place / "meta.json").read_text(encoding="utf-8"))
    costs = pd.read_csv(place / "tables" / "t1_cost.csv", dtype={"data": "string", "model": "string"})
    titles = list(dict.fromkeys(costs["data"]))
    results = [
        _dataset_in(place, name, title, costs[costs["data"] == title], meta)
        for name, title in zip(meta["manifest"]["datasets"], titles, strict=True)
    ]
    study = study_of(meta, results)

    def keep(stage: Path) -> None:
        for figure in _not_drawn(study.of_variants, results, meta["files"]):
            (stage / "figures").mkdir(exist_ok=True)
            shutil.copy2(place / figure, stage / figure)

    return write_study(study, place, meta, keep=keep)


def _dataset_in(place: Path, name: str, title: str, costs: pd.DataFrame, meta: dict[str, Any]) -> DatasetResult:
    stem = place / "data" / file_word(name)
    kinds = {**{model: fields["attention"] for model, fields in meta["manifest"]["variants"].items()}}
    if not (table_file := Path(f"{stem}_indicators.csv")).exists():
        sizes = _flat_sizes(costs, kinds)
        return DatasetResult(name=name, title=title, sizes=sizes, missing=NOT_AT_HAND, analysis=nothing_measured())
    table, history = (_flat_frame(path) for path in (table_file, Path(f"{stem}_history.csv")))
    kinds |= dict(table[["model", "attention"]].drop_duplicates().itertuples(index=False, name=None))
    models, datasets = list(table["model"].unique()), set(table["dataset"].dropna())
    runs = tuple(_flat_run(run) for run in meta["runs"] if run["recipe"].get("dataset", name) in datasets | {name})
    spectra = Path(f"{stem}_spectra.csv")
    analysis = Analysis(
        table=table,
        spectra=read_frame(spectra, SPECTRA_COLUMNS) if spectra.exists() else make_frame([], SPECTRA_COLUMNS),
        history=history,
        runs=runs,
        versions=meta["versions"],
    )
    traced = any(f"{file_word(name)}_maps_over_epochs" in file for file in meta["files"])
    sizes = _flat_sizes(costs, kinds)
    found = DatasetResult(
        name=name,
        title=title,
        sizes=sizes,
        analysis=analysis,
        source=_source_line(place, title),
        untraced=() if traced else tuple(model for model in sizes if model in models),
    )
    return found


def _flat_frame(path: Path) -> pd.DataFrame:
    columns = {key: kind for key, kind in TABLE_COLUMNS.items() if key not in _LIMITS}
    frame = read_frame(path, columns)
    for at, column in enumerate(_LIMITS):
        limits = {name: known_bounds(str(name))[at] for name in frame["indicator"].unique()}
        finite = {name: limit if math.isfinite(limit) else math.nan for name, limit in limits.items()}
        frame[column] = frame["indicator"].map(finite)
    return frame.astype(TABLE_COLUMNS)


def _flat_sizes(costs: pd.DataFrame, kinds: dict[str, str]) -> dict[str, Size]:
    times = ("seconds", "seconds_std", "memory", "memory_std")
    return in_order(
        {
            str(row.model): Size(
                kinds[str(row.model)],
                int(row.parameters),
                int(row.macs),
                *(float(getattr(row, time)) for time in times),
            )
            for row in costs.itertuples()
        }
    )


def _flat_run(run: dict[str, Any]) -> Run:
    who = {key: run[key] for key in ("model", "attention", "seed", "epoch", "recipe")}
    settings = {key: run[key] for key in ("trained_on", "trained_with", "measured_with")}
    return Run(**who, path=run["checkpoint"], dataset=run["recipe"].get("dataset"), settings=settings)


def _source_line(place: Path, title: str) -> str:
    """What the old page said of a data set's images."""
    lines = (place / "README.md").read_text(encoding="utf-8").split("\n")
    return next((line.removeprefix(f"- {title}: ") for line in lines if line.startswith(f"- {title}: ")), "")


def _not_drawn(of_variants: bool, results: list[DatasetResult], files: list[str]) -> list[str]:
    """The figures of the old report that its data do not give."""
    drawn = {
        picture.name
        for result in results
        if result.trained
        for picture in study_pictures(result, of_variants=of_variants)
    }
    return [file for file in files if file.startswith("figures/") and Path(file).stem not in drawn]
