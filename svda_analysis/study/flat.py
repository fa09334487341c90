"""Reports of studies as version 0.1 wrote them, ``data/<data set>_indicators.csv``, read as results. No torch here.

Their frames had six digits and no limits, which the vocabulary knows; seconds and memory stand in their table of costs.
Traces and examples were not kept: figures of them are carried over as files.
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pandas as pd

from svda_analysis.earlier import as_measured_now
from svda_analysis.errors import check_file
from svda_analysis.formatting import file_word
from svda_analysis.frames import SPECTRA_COLUMNS, TABLE_COLUMNS, each_row, make_frame
from svda_analysis.results import Analysis, Run, nothing_measured, read_frame
from svda_analysis.study.costs import Size, in_order, size_in
from svda_analysis.study.result import NOT_AT_HAND, DatasetResult, asks_for_variants
from svda_analysis.study.sections import study_pictures
from svda_analysis.vocabulary import known_bounds

_LIMITS = ("low", "high")
VERSION = "0.1"


def read_flat_results(place: Path, meta: dict[str, Any]) -> list[DatasetResult]:
    """The data sets of a report of version 0.1 that lies in ``place``."""
    check_file(place / "tables" / "t1_cost.csv", "a table")
    costs = pd.read_csv(place / "tables" / "t1_cost.csv", dtype={"data": "string", "model": "string"})
    titles = dict.fromkeys(costs["data"])
    return [
        _flat_result(place, name, str(title), costs[costs["data"] == title], meta)
        for name, title in zip(meta["manifest"]["datasets"], titles, strict=True)
    ]


def _flat_result(place: Path, name: str, title: str, costs: pd.DataFrame, meta: dict[str, Any]) -> DatasetResult:
    stem, asked = place / "data" / file_word(name), meta["manifest"]["variants"]
    sizes = _flat_sizes(costs, {model: fields["attention"] for model, fields in asked.items()})
    if not Path(f"{stem}_indicators.csv").exists():
        return DatasetResult(name=name, title=title, sizes=sizes, missing=NOT_AT_HAND, analysis=nothing_measured())
    analysis = Analysis(
        table=as_measured_now(_flat_frame(Path(f"{stem}_indicators.csv")), VERSION),
        spectra=as_measured_now(_flat_spectra(Path(f"{stem}_spectra.csv")), VERSION),
        history=as_measured_now(_flat_frame(Path(f"{stem}_history.csv")), VERSION),
        runs=tuple(_flat_run(run) for run in meta["runs"] if run["recipe"].get("dataset") == name),
        versions=meta["versions"],
    )
    found = DatasetResult(
        name=name, title=title, sizes=sizes, analysis=analysis, source=_source_line(place / "README.md", title)
    )
    analysis = dataclasses.replace(analysis, baseline=found.baseline)
    carried = _carried(found, asks_for_variants(meta["manifest"]), meta["files"])
    traced = any("_over_epochs" in figure for figure in carried)
    return dataclasses.replace(
        found, analysis=analysis, carried=carried, untraced=() if traced else tuple(found.trained)
    )


def _flat_spectra(path: Path) -> pd.DataFrame:
    return read_frame(path, SPECTRA_COLUMNS) if path.exists() else make_frame([], SPECTRA_COLUMNS)


def _flat_frame(path: Path) -> pd.DataFrame:
    columns = {key: kind for key, kind in TABLE_COLUMNS.items() if key not in _LIMITS}
    frame = read_frame(path, columns)
    for at, column in enumerate(_LIMITS):
        limits = {name: known_bounds(str(name))[at] for name in frame["indicator"].unique()}
        finite = {name: limit if math.isfinite(limit) else math.nan for name, limit in limits.items()}
        frame[column] = frame["indicator"].map(finite)
    return frame.astype(TABLE_COLUMNS)


def _flat_sizes(costs: pd.DataFrame, kinds: dict[str, str]) -> dict[str, Size]:
    return in_order({str(row.model): size_in(row, kinds[str(row.model)]) for row in each_row(costs)})


def _flat_run(run: dict[str, Any]) -> Run:
    who = {key: run[key] for key in ("model", "attention", "seed", "epoch", "recipe")}
    settings = {key: run[key] for key in ("trained_on", "trained_with", "measured_with")}
    return Run(**who, path=run["checkpoint"], dataset=run["recipe"].get("dataset"), settings=settings)


def _source_line(page: Path, title: str) -> str:
    """What the old page said of a data set's images."""
    start = f"- {title}: "
    lines = page.read_text(encoding="utf-8").split("\n")
    found = next((line.removeprefix(start) for line in lines if line.startswith(start)), "")
    return found.partition("; ")[0]  # what follows is told of the runs


def _carried(result: DatasetResult, of_variants: bool, files: list[str]) -> tuple[str, ...]:
    """The figures of the old report that its data do not give, in the order of sigma, then maps."""
    drawn = {picture.name for picture in study_pictures(result, of_variants=of_variants)}
    own = [Path(file).stem for file in files if file.startswith(f"figures/{file_word(result.name)}_")]
    return tuple(sorted({name for name in own if name not in drawn}, reverse=True))
