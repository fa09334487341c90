"""The registry of sections: which there are, and which a report shows. No torch here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from svda_analysis.document import Section
from svda_analysis.errors import InputError
from svda_analysis.results import Analysis

Found = Section | Iterable[Section] | None  # a section, one for each model, or nothing to say
Build = Callable[[Analysis], Found]


class RegisteredSection(NamedTuple):
    """A function that makes a section, and the reports that show it."""

    build: Build
    where: tuple[str, ...]


SECTIONS: dict[str, RegisteredSection] = {}


def section(name: str, where: Sequence[str] = ("analysis",)) -> Callable[[Build], Build]:
    """Decorator: enter a function in :data:`SECTIONS` under ``name`` (in the place of one of that name), unchanged.

    It gets the analysis and returns a :class:`~svda_analysis.document.Section`, several, or None where it has nothing
    to say. ``where`` names the reports that show it: ``analysis`` (the folder that ``svda analyze`` writes),
    ``terminal`` (what it prints), or any other that asks :func:`sections_of` for its name.
    """
    if isinstance(where, str) or not where:
        raise InputError(f"where must be a sequence of names of reports, got {where!r}")

    def enter(build: Build) -> Build:
        SECTIONS[name] = RegisteredSection(build, tuple(where))
        return build

    return enter


def sections_of(analysis: Analysis, where: str = "analysis") -> tuple[Section, ...]:
    """The sections that a report shows, in the order in which they were registered; those with nothing to say left
    out."""
    made: list[Section] = []
    for registered in list(SECTIONS.values()):
        if where in registered.where:
            found = registered.build(analysis)
            made += [] if found is None else [found] if isinstance(found, Section) else list(found)
    return tuple(made)
