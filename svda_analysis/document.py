"""A document as data: sections of text, tables and pictures, that every renderer reads. No torch, no files.

A report is a list of sections, each a function of what was measured; markdown, LaTeX, the terminal and HTML are ways to
show the same document (``render/``).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from svda_analysis.vocabulary import Quantity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """A table: ``text`` for reading (all cells are text), ``numbers`` behind it for csv (None: there are none).

    ``name`` is that of its files. ``title`` stands over it and ``note`` under it (either may be empty). ``group`` names
    a column whose value is a heading between the rows where there is little room (the terminal).
    """

    name: str
    text: pd.DataFrame
    title: str = ""
    note: str = ""
    numbers: pd.DataFrame | None = None
    group: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picture:
    """A figure: ``draw()`` makes it (a matplotlib Figure; None: its files are there already), ``name`` is that of its
    files, ``caption`` says what it shows, also to those who cannot see it (default: its name)."""

    name: str
    draw: Callable[[], Any] | None
    caption: str = ""

    @property
    def alt(self) -> str:
        return self.caption or self.name


@dataclasses.dataclass(frozen=True)
class Points:
    """A list of one-line statements."""

    lines: tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Widget:
    """What only a page can show, because it answers to the reader: ``kind`` names the script that draws it (a file of
    ``render/template/``), ``data()`` is what that is given, as plain values of JSON. Other ways to show a document
    leave it out, its ``title`` too."""

    name: str
    kind: str
    data: Callable[[], Mapping[str, Any]]
    title: str = ""


Content = str | Points | Table | Picture | Widget  # a str is a paragraph, in markdown


@dataclasses.dataclass(frozen=True, kw_only=True)
class Section:
    """Blocks under a heading; ``level`` 2 is a section of the document, 3 a part of one. An empty title continues what
    stands before. ``name`` is what a section is known by in its registry and in links. Markdown folds what is
    ``folded``: details for those who look for them."""

    name: str
    title: str = ""
    blocks: tuple[Content, ...] = ()
    level: int = 2
    folded: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Document:
    """A whole report. ``warnings`` come first, then ``command``, what made it, then the ``lead``, then the sections.

    ``answer``, what was found, comes before all of these. A page also shows ``about``, what was looked at; what each of
    the ``terms`` in it says; and at its end the ``versions`` of what the numbers depend on, and how to ``cite`` it.
    """

    title: str
    sections: tuple[Section, ...]
    lead: tuple[Content, ...] = ()
    command: str = ""
    made_by: str = "Made by `{command}`."
    warnings: tuple[str, ...] = ()
    about: tuple[tuple[str, str], ...] = ()
    answer: tuple[str, ...] = ()
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    terms: tuple[Quantity, ...] = ()
    cite: str = ""

    def blocks(self) -> list[Content]:
        """All blocks, in the order of reading."""
        return [*self.lead, *(block for section in self.sections for block in section.blocks)]

    @property
    def tables(self) -> list[Table]:
        return [block for block in self.blocks() if isinstance(block, Table)]

    @property
    def pictures(self) -> list[Picture]:
        return [block for block in self.blocks() if isinstance(block, Picture)]
