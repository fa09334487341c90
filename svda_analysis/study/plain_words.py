"""What all studies below a folder found, in plain words on one page: each answer with its number and file. No torch.

Nothing is decided here: the verdicts are those of each study's own tables.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from svda_analysis.errors import InputError
from svda_analysis.formatting import MISSING, capital, counted
from svda_analysis.render.markdown import markdown_escape
from svda_analysis.results import META, read_own_meta
from svda_analysis.study.claims import NUMBER, RULE_OF_ACCURACY, as_told, remark_on, tables_of_pairs
from svda_analysis.study.report import KIND, read_study
from svda_analysis.study.reproduction import reproduced_data, reproduction_table, what_became
from svda_analysis.study.result import StudyResult
from svda_analysis.study.sections import first_answers, training_length
from svda_analysis.verdicts import EQUIVALENT, INCONCLUSIVE, OPPOSED, SUPPORTED, UNIFORM, rule_with

PAGE = "README.md"
_WRITTEN_BY = "<!-- written by svda gallery -->"
_QUESTIONS = {  # by claim
    "more interpretable attention": "is attention more interpretable, as far as selectivity says it",
    "sparser attention": "is attention sparser",
    "spectrally structured attention": "do fewer directions make up the scores",
    "no accuracy is sacrificed": "is it at most {margin:g} points less accurate",
    "more accurate": "is it more accurate",
}
_THE_RULE = rule_with("half a point of accuracy where a study names no other")
_OF_VARIANTS = """Where variants of a recipe stand beside each other, training seeds are blocks, p is adjusted over all
that is asked there, and a difference is shown where that p is below 0.05.""".replace("\n", " ")
_INTRO = """Written by `svda gallery` from the reports in this folder. Each answer follows from its numbers by the rule
at the end; each comes with its number, and the file that holds it.""".replace("\n", " ")
_JUDGING = ("", "## How it was judged", "", f"{_THE_RULE} {RULE_OF_ACCURACY} {_OF_VARIANTS}")
_ANSWERS = {
    SUPPORTED: "yes",
    OPPOSED: "no, the contrary is shown",
    EQUIVALENT: "no, the same within the margin",
    INCONCLUSIVE: "not decided",
    UNIFORM: "no answer, its attention is all but uniform",
}


def write_plain_words(folder: str | os.PathLike[str]) -> Path | None:
    """Write ``README.md`` over the studies below ``folder`` and return it; None where there is no study, or the folder
    has a page of that name that is not ours."""
    place = Path(folder)
    page = place / PAGE
    if os.path.lexists(page) and (page.is_symlink() or not page.is_file() or not _is_ours(page)):
        return None
    studies = [found for meta in sorted(place.rglob(META)) if (found := _found_in(meta.parent))]
    studies.sort(key=lambda found: found[1].of_variants)  # what became of claims comes first
    parts = [line for where, study in studies for line in _lines_of(study, where.relative_to(place).as_posix())]
    if not parts:
        return None
    page.write_text(
        "\n".join([_WRITTEN_BY, "# What was found, in plain words", "", _INTRO, *parts, *_JUDGING, ""]), "utf-8"
    )
    return page


def _is_ours(page: Path) -> bool:
    return page.read_bytes().startswith(_WRITTEN_BY.encode())


def _found_in(folder: Path) -> tuple[Path, StudyResult] | None:
    """A folder with the study whose report it holds; None where it holds none, or a damaged one."""
    if (read_own_meta(folder / META) or {}).get("kind") != KIND:
        return None
    try:
        return folder, read_study(folder)[0]
    except InputError:
        return None


def _lines_of(study: StudyResult, name: str) -> Iterator[str]:
    """The lines on one study, whose report lies in the folder ``name``."""
    lines = (
        [*_of_variants(study), *_of_source(study)] if study.of_variants else [*_of_source(study), *_of_claims(study)]
    )
    if lines:
        yield from ("", f"## {markdown_escape(study.title)}", "", _who(study, name), "")
        for file, line, *further in lines:
            yield f"- {line} ([{file}]({name}/{file}))"
            yield from (f"  - {one}" for one in further)


def _who(study: StudyResult, name: str) -> str:
    runs = [
        f"{markdown_escape(one.title)}, {counted(len(one.table[['model', 'seed']].drop_duplicates()), 'training run')}"
        + (f" of {length}" if (length := training_length(one)) else "")
        for one in study.datasets
        if one.trained
    ]
    return f"On {'; '.join(runs)}. [The whole report]({name}/README.md)."


def _of_claims(study: StudyResult) -> Iterator[tuple[str, ...]]:
    """A line for each claim on the first pair of models; for each further pair one, and a line below it for each."""
    for one in as_told(tables_of_pairs(study)):
        file, models = f"tables/{one.table}.csv", markdown_escape(one.models)
        asked = [(_QUESTIONS[claim].format(margin=study.margin), rows) for claim, rows in one.claims.items()]
        if one.title:
            said = [f"{capital(question)}? {capital(_on_each_data_set(rows))}." for question, rows in asked]
            yield file, f"**{one.title} ({models}).**", *said
        else:
            yield file, *(f"**{models}: {question}?** {_on_each_data_set(rows)}." for question, rows in asked)


def _on_each_data_set(rows: pd.DataFrame) -> str:
    """What a claim came to on each data set."""
    said = []
    for row in rows.to_dict("records"):
        numbers = f"{row[NUMBER]}, p {row['p (Holm)']}" if row[NUMBER] != MISSING else ""
        beside = "; ".join(part for part in (numbers, remark_on(row)) if part)
        said.append(f"{_ANSWERS[row['Verdict']]} on {row['Data']} ({beside})")
    return "; ".join(map(markdown_escape, said))


def _of_variants(study: StudyResult) -> Iterator[tuple[str, ...]]:
    yield from (("README.md", markdown_escape(line)) for line in first_answers(study))


def _of_source(study: StudyResult) -> Iterator[tuple[str, ...]]:
    if mine := reproduced_data(study.datasets):
        table = reproduction_table(study.datasets)
        for line in what_became(table, mine):
            yield f"tables/{table.name}.csv", markdown_escape(line)
