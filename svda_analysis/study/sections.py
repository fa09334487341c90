"""What the report of a study says: functions ``StudyResult -> sections``, in the order of reading. No torch here."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

from svda_analysis.document import Content, Document, Picture, Points, Section, Table
from svda_analysis.formatting import file_word, spoken
from svda_analysis.sections.explorer import widget_section
from svda_analysis.sections.page import citation, from_to, terms_of
from svda_analysis.sections.registry import section, sections_of
from svda_analysis.sections.tables import matching_table
from svda_analysis.study.claims import by_claim, overview_table, tables_of_claims, tables_of_pairs
from svda_analysis.study.dials import Dial, dials_of
from svda_analysis.study.findings import parts_of, price_of_low_rank, what_parts_do, who_differs
from svda_analysis.study.frontier import equal_rank_table, frontier_runs, frontier_table, what_structure_costs
from svda_analysis.study.recipes import recipe_words, unlike_trainings
from svda_analysis.study.reproduction import epochs_table, reproduced_data, reproduction_table, what_became
from svda_analysis.study.result import DatasetResult, StudyResult
from svda_analysis.study.tables import (
    accuracy_table,
    blocked_table,
    cost_table,
    indicator_tables,
    runs_compared,
    study_table,
    what_changed,
)

_MADE_BY = "Made by `{command}`. Each table lies in `tables/` as csv, md and tex, each figure in `figures/`."


def study_document(
    study: StudyResult, *, command: str = "", warnings: Iterable[str] = (), versions: Mapping[str, str] | None = None
) -> Document:
    """The whole report: which images, what the manifest has it say, then every section registered for ``study``. Its
    warnings are ``warnings`` and in what the trainings on one data set are unlike."""
    lines = [f"{one.title}: {'; '.join(_seen_and_trained(one))}" for one in study.datasets if not one.missing]
    missing = [f"{one.title} ({one.missing.removeprefix('not run here: ')})" for one in study.datasets if one.missing]
    lines += [f"Not run here: {', '.join(missing)}"] if missing else []
    return Document(
        title=study.title,
        command=command,
        made_by=_MADE_BY,
        warnings=(*warnings, *unlike_trainings(study)),
        lead=(Points((*lines, *study.notes)),),
        sections=sections_of(study, "study"),
        answer=tuple(first_answers(study)),
        versions=versions or {},
        terms=tuple({one.name: one for result in study.datasets for one in terms_of(result.analysis.table)}.values()),
        cite=citation(versions or {}),
    )


def _seen_and_trained(result: DatasetResult) -> Iterator[str]:
    """Which images its models saw, of how many their attention was measured, how large they are, how long trained."""
    yield result.source
    table = result.table[result.table["source"] != "sigma"]  # which is read off the weights
    rows = {name: table[table["indicator"] == name] for name in ("accuracy", "selectivity_index", "directions_90")}
    all_images, images, few = (sorted(set(one["n"].dropna().astype(int))) for one in rows.values())
    if images and images != all_images:
        beside = f", directions by data on {from_to(few)}" if few and few != images else ""
        yield f"attention measured on {from_to(images)} of them{beside}"
    layers = rows["selectivity_index"].groupby(["model", "seed"], dropna=False)["layer"].nunique()
    if deep := sorted(set(layers)):
        yield f"models of {from_to(deep)} layer{'s' if deep[-1] > 1 else ''}"
    if length := training_length(result):
        yield f"trained for {length}"


def training_length(result: DatasetResult) -> str:
    """For how many epochs on how many images the runs of a data set were trained, as far as they say so; else empty."""
    recipes = [run.recipe for run in result.analysis.runs if run.recipe.get("epochs")]
    if not recipes:
        return ""
    epochs = sorted({int(one["epochs"]) for one in recipes})
    few = sorted({int(one["train_images"]) for one in recipes if one.get("train_images")})
    all_too = " or all" if not all(one.get("train_images") for one in recipes) else ""
    on = f" on {from_to(few)}{all_too} images" if few else ""
    return f"{from_to(epochs)} epoch{'s' if epochs[-1] > 1 else ''}{on}"


def first_answers(study: StudyResult) -> list[str]:
    """What a page says first: what was reproduced of the source and became of each claim, or what each part of SVDA
    does."""
    if not study.of_variants and (mine := reproduced_data(study.datasets)):
        claims = by_claim(tables_of_pairs(study))
        return [*what_became(reproduction_table(study.datasets), mine), *claims]
    if not study.of_variants:
        return by_claim(tables_of_claims(study))
    several, lines = len([one for one in study.datasets if one.trained]) > 1, []
    for result in study.datasets:
        parts = what_structure_costs(result, dials_of(study.variants, result.alive))
        parts += what_parts_do(result, parts_of(result, study.base, study.variants)) + price_of_low_rank(result)
        parts += [said] if parts and (said := runs_compared(result).strip()) else []
        lines += [f"{result.title}: {line}" if several else line for line in parts]
    return lines


@section("reproduction", where=("study",))
def _reproduction_sections(study: StudyResult) -> list[Section]:
    """Of runs whose histories hold the source's indicators, as those of its recipe do."""
    if not (mine := reproduced_data(study.datasets)):
        return []
    table = reproduction_table(study.datasets)
    lines = what_became(table, mine) if study.of_variants else ()  # else the page says it first
    said = _of_lines("findings_source", "The source's recipe: what was reproduced", [*lines])
    return said + _of_tables(table, *(one for one in map(epochs_table, mine) if one is not None))


@section("claims", where=("study",))
def _claims_sections(study: StudyResult) -> list[Section]:
    if study.of_variants:
        return []
    tables = tables_of_claims(study)
    title = f"The claims of arXiv 2602.10994, judged on {' and '.join(_judged(study)) or 'no model'}"
    overview = Table(name="answers", text=overview_table(tables))
    shown = [Section(name="answers", title=title, blocks=(overview,))] if len(overview.text) else []
    return shown + _of_tables(*tables)


def _judged(study: StudyResult) -> list[str]:
    """The models that claims are judged on, each with what makes it another than the one that was claimed of."""
    found: dict[str, dict[str, list[str]]] = {}  # by model, by what its runs say: on which data
    for result in study.datasets:
        for name in (name for name in result.models("svda") if name in result.trained):
            words = recipe_words(result, name, study.variants.get(name, {}))
            found.setdefault(name, {}).setdefault(words, []).append(result.title)
    said = {
        name: [f"{words} on {', '.join(data)}" if len(by_words) > 1 else words for words, data in by_words.items()]
        for name, by_words in found.items()
    }
    return [f"{name} ({'; '.join(words)})" for name, words in said.items()]


@section("accuracy", where=("study",))
def _accuracy_sections(study: StudyResult) -> list[Section]:
    return [] if study.of_variants else _of_tables(accuracy_table(study.datasets, study.margin))


@section("frontier", where=("study",))
def _frontier_sections(study: StudyResult) -> list[Section]:
    """Of studies whose variants turn dials: what each reaches and costs."""
    made = []
    for result in study.datasets if study.of_variants else ():
        if dials := dials_of(study.variants, result.alive):
            drawn = frontier_pictures(result, dials)
            first, *more = _of_tables(frontier_table(result, dials), equal_rank_table(result, dials))
            made += [dataclasses.replace(first, blocks=(*drawn, *first.blocks)), *more]
    return made


def frontier_pictures(result: DatasetResult, dials: Sequence[Dial]) -> list[Picture]:
    """Accuracy against rank along the dials of one data set."""
    from svda_analysis.figures.registry import pictures  # matplotlib, for those who draw

    found = pictures(frontier_runs(result, dials), "frontier")
    return [dataclasses.replace(one, name=f"{file_word(result.name)}_{one.name}") for one in found]


@section("variants", where=("study",))
def _variants_sections(study: StudyResult) -> list[Section]:
    if not study.of_variants:
        return []
    changed = {name: what_changed(fields) for name, fields in study.variants.items()}
    made = []
    for result in study.datasets:
        against = dict.fromkeys(name for name in (result.control, study.base) if name in result.alive)
        blocked = [blocked_table(result, str(name)) for name in against]
        each = [line for table in blocked if table.numbers is not None for line in who_differs(table.numbers)]
        made += _of_tables(study_table(result, study.base, changed))
        made += _of_lines(f"sides_{file_word(result.name)}", f"{result.title}: which variants differ", each)
        made += _of_tables(*blocked)
    return made


def _of_lines(name: str, title: str, lines: Sequence[str]) -> list[Section]:
    """A section of points, where there are any."""
    return [Section(name=name, title=title, blocks=(Points(tuple(lines)),))] if lines else []


@section("costs", where=("study",))
def _costs_sections(study: StudyResult) -> list[Section]:
    return _of_tables(cost_table(study.datasets))


@section("explorer", where=("study",))
def _explorer_sections(study: StudyResult) -> list[Section]:
    """The explorer of each data set: on a page alone."""
    found = (
        widget_section(result.analysis, name=result.name, of=result.title)
        for result in study.datasets
        if result.trained
    )
    return [one for one in found if one is not None]


@section("indicators", where=("study",))
def _indicators_sections(study: StudyResult) -> list[Section]:
    if study.of_variants:
        return []
    return _of_tables(*(table for result in study.datasets for table in indicator_tables(result, study.margin)))


def _of_tables(*tables: Table) -> list[Section]:
    """A section for each table that has a row."""
    return [Section(name=table.name, title=table.title, blocks=(table,)) for table in tables if len(table.text)]


@section("maps", where=("study",))
def _maps_sections(study: StudyResult) -> list[Section]:
    made = []
    for result in study.datasets:
        if "matching" in result.analysis.maps:
            name = f"maps_{file_word(result.name)}"
            table = Table(name=name, text=matching_table(result.analysis.maps["matching"]))
            title = f"{result.title}: do the heads attend to the same places?"
            made.append(Section(name=name, title=title, blocks=(table,)))
    return made


@section("figures", where=("study",))
def _figures_sections(study: StudyResult) -> list[Section]:
    made = []
    for result in study.datasets:
        if result.trained:
            carried = [Picture(name=name, draw=None, caption=_carried_caption(result, name)) for name in result.carried]
            drawn = study_pictures(result, of_variants=study.of_variants)
            blocks: list[Content] = [*drawn, *carried, *_untraced(result)]
            name, title = f"figures_{file_word(result.name)}", f"{result.title}: figures"
            made.append(Section(name=name, title=title, blocks=tuple(blocks)))
    return made


def study_pictures(result: DatasetResult, *, of_variants: bool) -> list[Picture]:
    """The figures of one data set, each under its name."""
    from svda_analysis.figures.registry import pictures  # matplotlib, for those who draw

    found = pictures(result.analysis, "variants" if of_variants else "study", models=result.trained)
    names = [f"{file_word(result.name)}_{file_word(picture.name)}" for picture in found]
    return [
        dataclasses.replace(picture, name=name, caption=f"{result.title}. {picture.alt}")
        for picture, name in zip(found, names, strict=True)
    ]


def _carried_caption(result: DatasetResult, name: str) -> str:
    """What stands under a figure of an earlier report: the same as under one that is drawn now."""
    from svda_analysis.figures.captions import caption_of  # matplotlib, for those who draw

    shown = caption_of(name.removeprefix(f"{file_word(result.name)}_"), result.analysis)
    return f"{result.title}. {shown}" if shown else spoken(name)


def _untraced(result: DatasetResult) -> list[str]:
    """A line on the models whose checkpoints hold no trace."""
    if not result.untraced:
        return []
    return [
        f"Sigma and maps over the epochs are not drawn for {', '.join(result.untraced)}, whose checkpoints are of a "
        "version that kept no trace of them; the history of each indicator is there."
    ]
