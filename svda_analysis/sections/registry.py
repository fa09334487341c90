"""The registry of sections: which there are, and which a document shows. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from svda_analysis.document import Section
from svda_analysis.errors import InputError

Found = Section | Iterable[Section] | None  # a section, one for each model, or nothing to say
Build = TypeVar("Build", bound=Callable[[Any], Found])

SECTIONS: dict[tuple[str, str], Callable[[Any], Found]] = {}  # by document and name


def section(name: str, where: Sequence[str] = ("analysis",)) -> Callable[[Build], Build]:
    """Decorator: enter a function in :data:`SECTIONS` under ``name`` (in the place of one of that name), unchanged.

    It gets what its document is about and returns a :class:`~svda_analysis.document.Section`, several, or None where it
    has nothing to say. ``where`` names the documents that show it, which say what the function gets:

    - ``analysis`` (the folder that ``svda analyze`` writes), ``terminal`` (what it prints): an
      :class:`~svda_analysis.results.Analysis`;
    - ``compression``, ``compression terminal`` (of ``svda compress``): a
      :class:`~svda_analysis.compression.result.Compressions`;
    - ``study`` (of ``svda paper``): a :class:`~svda_analysis.study.result.StudyResult`;
    - any other that asks :func:`sections_of` for its name.

    The package enters its own when ``sections``, ``compression.sections`` and ``study.sections`` are imported: import
    them before taking the place of one.
    """
    if isinstance(where, str) or not where:
        raise InputError(f"where must be a sequence of names of reports, got {where!r}")

    def enter(build: Build) -> Build:
        SECTIONS.update({(document, name): build for document in where})
        return build

    return enter


def sections_of(found: Any, where: str = "analysis") -> tuple[Section, ...]:
    """The sections that a document shows of what was ``found``, in the order in which they were registered; those with
    nothing to say left out."""
    made: list[Section] = []
    for (document, _), build in list(SECTIONS.items()):
        if document == where:
            part = build(found)
            made += [] if part is None else [part] if isinstance(part, Section) else list(part)
    return tuple(made)
