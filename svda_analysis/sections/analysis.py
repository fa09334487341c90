"""The sections of the report of an analysis, in the order of reading. No torch here."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from svda_analysis.comparison import HOW_ADJUSTED
from svda_analysis.document import Document, Picture, Points, Section, Table
from svda_analysis.results import Analysis
from svda_analysis.sections.explorer import widget_section
from svda_analysis.sections.likeness import unlike_runs
from svda_analysis.sections.page import about_analysis, citation, first_findings, terms_of
from svda_analysis.sections.registry import section, sections_of
from svda_analysis.sections.sentences import first_lines, gain_lines, statements
from svda_analysis.sections.tables import (
    beside_table,
    comparison_tables,
    layer_table,
    matching_table,
    runs_table,
    summary_table,
)
from svda_analysis.verdicts import RULE


def analysis_document(analysis: Analysis, *, title: str, command: str = "") -> Document:
    """The whole report of an analysis: its runs, then every section registered for ``analysis``."""
    found = sections_of(analysis, "analysis")
    first, sections = beside_their_sections(found)
    return Document(
        title=title,
        command=command,
        warnings=(*analysis.warnings, *unlike_runs(analysis.runs)),
        lead=(*first, Table(name="runs", text=runs_table(analysis.runs))),
        sections=sections,
        about=about_analysis(analysis),
        answer=first_findings(analysis),
        versions=analysis.versions,
        terms=terms_of(analysis.table),
        cite=citation(analysis.versions),
    )


def latex_tables(analysis: Analysis) -> list[Table]:
    """What ``table.tex`` holds: the comparison with the baseline, of a single model its numbers."""
    if analysis.comparison is None:
        return [Table(name="summary", text=summary_table(analysis.table), title=analysis.models[0])]
    return side_by_side(analysis)


def side_by_side(analysis: Analysis) -> list[Table]:
    """A table of text for each model beside the baseline; none for a single model."""
    comparison = analysis.comparison
    tables = {} if comparison is None else comparison_tables(comparison)
    return [
        Table(name=f"{model}_{against}", text=text, title=f"{model} against {against}", group="Source")
        for (model, against), text in tables.items()
    ]


_FIRST = "overview"  # the picture that stands under the answers
_BESIDE_SECTIONS = {  # sections, and the beginnings of the names of the pictures that belong there
    "structure": ("comparison",),
    "faithfulness": ("faithfulness",),
    "maps": ("map_similarity", "token_similarity", "matched_heads"),
}


def beside_their_sections(sections: Sequence[Section]) -> tuple[list[Picture], tuple[Section, ...]]:
    """The picture that comes first, and the sections with each of the other pictures where it is spoken of; what
    belongs to none that is there stays among the figures."""
    pictures = [one for part in sections if part.name == "figures" for one in part.blocks if isinstance(one, Picture)]
    first = [one for one in pictures if one.name == _FIRST]
    there = {part.name for part in sections}
    homes = {
        one.name: home
        for one in pictures
        for home, starts in _BESIDE_SECTIONS.items()
        if home in there and one.name.startswith(starts)
    }
    made = []
    for part in sections:
        blocks = part.blocks
        if part.name == "figures":
            blocks = tuple(one for one in blocks if one not in first and getattr(one, "name", "") not in homes)
        blocks = (*blocks, *(one for one in pictures if homes.get(one.name) == part.name))
        made += [dataclasses.replace(part, blocks=blocks)] if blocks else []
    return first, tuple(made)


@section("structure")
def _structure_section(analysis: Analysis) -> Section | None:
    comparison = analysis.comparison
    lines = () if comparison is None else tuple(statements(comparison))
    title = "Which attention is more structured?"
    return Section(name="structure", title=title, blocks=(Points(first_lines(lines)), RULE)) if lines else None


@section("faithfulness")
def _faithfulness_section(analysis: Analysis) -> Section | None:
    comparison = analysis.comparison
    lines = tuple(gain_lines(analysis.table) if comparison is None else statements(comparison, "faithful"))
    title = "Do its maps tell what it decides by?" if comparison is None else "Whose maps are more faithful?"
    rankings = [_RANKINGS] if {"brightness", "centre"} & set(analysis.table["source"]) else []
    return Section(name="faithfulness", title=title, blocks=(_FAITHFUL, *rankings, Points(lines))) if lines else None


@section("explorer")
def _explorer_section(analysis: Analysis) -> Section | None:
    return widget_section(analysis)


@section("comparison")
def _comparison_section(analysis: Analysis) -> Section | None:
    tables = side_by_side(analysis)
    title = "Comparison over the whole model"
    return Section(name="comparison", title=title, blocks=(_COMPARING, *tables)) if tables else None


@section("beside")
def _beside_section(analysis: Analysis) -> Section | None:
    text = beside_table(analysis.table)
    table = Table(name="beside", text=text, group="Model")
    title = "The source's number beside ours"
    return Section(name="beside", title=title, blocks=(_BESIDE, table)) if len(text) else None


@section("maps")
def _maps_section(analysis: Analysis) -> Section | None:
    if not analysis.maps:
        return None
    table = Table(name="matching", text=matching_table(analysis.maps["matching"]), group="Models")
    return Section(name="maps", title="Do the heads attend to the same places?", blocks=(_MATCHING, table))


@section("layers")
def _layer_sections(analysis: Analysis) -> list[Section]:
    return [
        Section(
            name=f"layers-{model}",
            title=f"{model}, layer by layer",
            blocks=(Table(name=f"layers_{model}", text=layer_table(analysis.table, model), group="Source"),),
            folded=True,
        )
        for model in analysis.models
    ]


@section("figures")
def _figures_section(analysis: Analysis) -> Section | None:
    found = _pictures(analysis)
    return Section(name="figures", title="Figures", blocks=tuple(found)) if found else None


def _pictures(analysis: Analysis) -> list[Picture]:
    from svda_analysis.figures.registry import pictures  # matplotlib, for those who draw

    return pictures(analysis, where="analysis")


@section("reading")
def _reading_section(analysis: Analysis) -> Section:
    return Section(name="reading", title="How to read this", blocks=(_HOW,))


# --- texts ------------------------------------------------------------------------------------------------------------

_COMPARING = f"""Means over heads and layers; differences are model minus baseline, paired by training seed where seeds
are shared. {HOW_ADJUSTED} The effect is the paired difference in units of its own spread over seeds (Hedges'
correction). Of one run each, intervals are over images as if the two models had seen different ones, so wider than
pairs would give: `svda compress` compares a smaller model with its source image by image."""
_FAITHFUL = """How much faster the predicted class falls when the patches that a map ranks highest are taken away
(deletion), and rises when they are brought back (insertion), than under a random ranking of the same model. Above 0 the
map tells something. Raw areas depend on how confident a model is, and are not compared here."""
_RANKINGS = """Brightness and centre, which rank patches by how bright they are and how near to the middle, tell what
can be had without asking the model."""
_BESIDE = """The six indicators as the public code that fits arXiv 2602.10994 computes them, and ours of the same
name: other formulas under one word, so that a number of one says nothing about a number of the other. Means over
layers and heads. A dash: ours was not asked for (default,source asks for both). Selectivity of the source runs
backwards: uniform attention has its maximum, 1 - 1/N. Its robustness is a distance: lower is steadier."""
_MATCHING = """Similarity (one minus the Jensen-Shannon distance) of what the class token attends to, between the heads
of two models: in the order the heads have, matched one to one, and by chance. Heads were matched on one half of the
images and are judged on the other. Runs of the same seed share their initial weights and the order of their data, so
that their heads sit at the same index for that reason alone: read the rows of another seed. Intervals are over pairs of
runs where there are several (those of one model share runs, so theirs are a guide), else over images. "Other seed" is
what a new training run alone changes. With "other" images, one model saw another image: a gain that stays there is a
habit of the heads, not an answer to the image."""
_HOW = """Layers and heads count from 0. The source says what an indicator was computed from: the learned diagonal
(sigma), the scores before the softmax (scores), or the maps after it (attention). Intervals are 95 %: over training
seeds where a model has several runs, else over images, and then they speak of that checkpoint alone. Compare two models
within one source only: sigma exists for SVDA alone and stands beside no number of another model. A structured attention
map is not by itself a faithful explanation of a decision: where deletion and insertion were measured, set each method
beside the random ranking of the same model, since the areas depend on how confident a model is."""
