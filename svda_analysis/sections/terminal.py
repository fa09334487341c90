"""What ``svda analyze`` prints: the short form of its report, for a screen of 80 columns. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence

from svda_analysis.document import Document, Points, Section, Table
from svda_analysis.formatting import MISSING
from svda_analysis.results import Analysis
from svda_analysis.sections.analysis import side_by_side
from svda_analysis.sections.page import stopped_lines
from svda_analysis.sections.registry import section, sections_of
from svda_analysis.sections.sentences import accuracy_lines, gain_lines, matching_lines, statements
from svda_analysis.sections.tables import layer_table

_LAYERS = 4  # as many as 80 columns hold beside the rest
_BARS = "▁▂▃▄▅▆▇█"


def terminal_document(analysis: Analysis) -> Document:
    """What to print of an analysis: its data and accuracy, then every section registered for ``terminal``."""
    lines = [f"data: {source}" for source in dict.fromkeys(run.data for run in analysis.runs if not run.broken)]
    known = dict.fromkeys(run.preprocessing for run in analysis.runs if run.preprocessing)
    lines += [f"preprocessing: {line}" for line in known]
    lines += stopped_lines(analysis.runs)
    lines += [f"test accuracy, {line}" for line in accuracy_lines(analysis.table)]
    return Document(title="", lead=tuple(lines), sections=sections_of(analysis, "terminal"))


@section("layers in brief", where=("terminal",))
def _brief_layers(analysis: Analysis) -> Section | None:
    """A single model layer by layer: a line drawn over all layers, and the first, the middle and the last in numbers
    (all, where there is room)."""
    if len(analysis.models) > 1:
        return None
    text = layer_table(analysis.table, analysis.models[0])
    layers = list(text.columns[2:-1])
    shown = layers if len(layers) <= _LAYERS else [layers[0], layers[len(layers) // 2], layers[-1]]
    course = [sparkline([_as_number(cell) for cell in row]) for row in text[layers].itertuples(index=False)]
    table = Table(
        name="layers",
        text=text[["Source", "Indicator"]].assign(**{"by layer": course}).join(text[[*shown, "all"]]),
        title="Mean over heads, by layer",
        group="Source",
    )
    return Section(name="layers", blocks=(table, Points(tuple(gain_lines(analysis.table)))))


def sparkline(values: Sequence[float]) -> str:
    """Numbers as a line of bars, from the least to the largest of them; a space for one that is missing."""
    known = [value for value in values if not math.isnan(value)]
    low, span = min(known, default=0.0), max(known, default=0.0) - min(known, default=0.0)
    step = (len(_BARS) - 1) / span if span > 1e-9 * max(map(abs, known), default=1.0) else 0.0
    return "".join(" " if math.isnan(value) else _BARS[round((value - low) * step)] for value in values)


def _as_number(cell: str) -> float:
    return math.nan if cell == MISSING else float(cell)


@section("comparison in brief", where=("terminal",))
def _brief_comparison(analysis: Analysis) -> Section | None:
    """Models side by side without the columns that say little here, and last, where a screen ends, what the numbers
    say."""
    comparison = analysis.comparison
    if comparison is None:
        return None
    maps = matching_lines(analysis.maps["matching"]) if "matching" in analysis.maps else []
    lines = (*maps, *statements(comparison), *statements(comparison, "faithful"))
    return Section(name="comparison", blocks=(*map(_narrow, side_by_side(analysis)), Points(lines)))


def _narrow(table: Table) -> Table:
    several = set(table.text["Runs"]) != {"1"}
    runs = "by training seed, p after Holm" if several else "one run each"
    shown = table.text.drop(columns=["Effect", "Runs"] if several else ["Effect", "Runs", "p (Holm)"])
    text = shown.rename(columns={"p (Holm)": "p"})
    return Table(name=table.name, text=text, title=f"{table.title}, {runs}", group=table.group)
