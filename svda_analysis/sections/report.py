"""An analysis -> a folder: its frames and arrays, figures, a summary in markdown and HTML, a table in LaTeX.

What lies there is the whole analysis, so that the report can be written again without measuring.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path

from svda_analysis.render.latex import to_latex
from svda_analysis.render.writer import write_document
from svda_analysis.results import META, Analysis
from svda_analysis.sections.analysis import analysis_document, latex_tables

REPORT_FILES = ("summary.md", "report.html", META, "indicators.csv", "spectra.csv", "table.tex", "figures")


def write_report(
    analysis: Analysis,
    folder: str | os.PathLike[str],
    *,
    baseline: str | None = None,
    command: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write the whole report of an analysis into ``folder``; returns the files, ``summary.md`` first.

    ``baseline`` takes the place of the analysis's own; ``progress`` is called with (figures drawn, in all). A failed
    call leaves what was there. Raises
    :class:`~svda_analysis.errors.InputError` when the folder cannot be written.
    """
    place = Path(folder)
    if baseline is not None:
        analysis = dataclasses.replace(analysis, baseline=baseline)
    comparison = analysis.comparison
    return write_document(
        analysis_document(analysis, title=f"Attention analysis: {place.resolve().name}", command=command),
        place,
        save=analysis.save,
        frames={} if comparison is None else {"comparison": comparison},
        texts={"table.tex": to_latex(latex_tables(analysis), analysis.warnings)},
        meta=analysis.meta,
        progress=progress,
    )


def render_again(folder: str | os.PathLike[str]) -> list[Path]:
    """Write the report in ``folder`` again from the analysis that lies in it, without measuring; returns the files.

    Raises :class:`~svda_analysis.errors.InputError` when there is no analysis in it, or a part of it is missing.
    """
    analysis = Analysis.load(folder)
    meta = json.loads((Path(folder) / META).read_text(encoding="utf-8"))
    return write_report(analysis, folder, command=str(meta.get("command", "")))
