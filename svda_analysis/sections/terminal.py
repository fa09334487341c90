"""What ``svda analyze`` prints: the short form of its report, for a screen of 80 columns. No torch here."""

from __future__ import annotations

from svda_analysis.document import Document, Points, Section, Table
from svda_analysis.results import Analysis
from svda_analysis.sections.analysis import side_by_side
from svda_analysis.sections.registry import section, sections_of
from svda_analysis.sections.sentences import accuracy_lines, statements
from svda_analysis.sections.tables import layer_table

_LAYERS = 8  # as many as 80 columns hold


def terminal_document(analysis: Analysis) -> Document:
    """What to print of an analysis: its data and accuracy, then every section registered for ``terminal``."""
    lines = [f"data: {source}" for source in dict.fromkeys(run.data for run in analysis.runs if not run.broken)]
    known = dict.fromkeys(run.preprocessing for run in analysis.runs if run.preprocessing)
    lines += [f"preprocessing: {line}" for line in known]
    lines += [f"test accuracy, {line}" for line in accuracy_lines(analysis.table)]
    return Document(title="", lead=tuple(lines), sections=sections_of(analysis, "terminal"))


@section("layers in brief", where=("terminal",))
def _brief_layers(analysis: Analysis) -> Section | None:
    """A single model layer by layer, as many layers beside each other as there is room for."""
    if len(analysis.models) > 1:
        return None
    text = layer_table(analysis.table, analysis.models[0])
    layers = list(text.columns[2:])
    blocks = tuple(
        Table(
            name="layers",
            text=text[["Source", "Indicator", *layers[at : at + _LAYERS]]],
            title="Mean over heads, by layer",
            group="Source",
        )
        for at in range(0, len(layers), _LAYERS)
    )
    return Section(name="layers", blocks=blocks)


@section("comparison in brief", where=("terminal",))
def _brief_comparison(analysis: Analysis) -> Section | None:
    """Models side by side without the columns that say little here, and what the numbers say."""
    comparison = analysis.comparison
    if comparison is None:
        return None
    lines = (*statements(comparison), *statements(comparison, "faithful"))
    return Section(name="comparison", blocks=(*map(_narrow, side_by_side(analysis)), Points(lines)))


def _narrow(table: Table) -> Table:
    several = set(table.text["Runs"]) != {"1"}
    runs = "by training seed, p after Holm" if several else "one run each"
    shown = table.text.drop(columns=["Effect", "Runs"] if several else ["Effect", "Runs", "p (Holm)"])
    text = shown.rename(columns={"p (Holm)": "p"})
    return Table(name=table.name, text=text, title=f"{table.title}, {runs}", group=table.group)
