"""A document as markdown. No torch here, no files."""

from __future__ import annotations

import re
from html import escape

import pandas as pd

from svda_analysis.document import Content, Document, Picture, Points, Section, Table, Widget
from svda_analysis.errors import printable
from svda_analysis.formatting import prose
from svda_analysis.render.glosses import gloss_markdown

_TAG = re.compile(r"<(?=[A-Za-z/!?])")  # where HTML would begin
_MARKS = (  # what markdown reads as its own: in a name it is text
    (re.compile(r"&(?=#?\w+;)"), "&amp;"),
    (re.compile(r"([\\`*$|])"), r"\\\1"),
    (re.compile(r"((?<![^\W_])_|_(?![^\W_])|~~)"), r"\\\1"),
    (re.compile(r"\](?=[(\[])"), r"\]"),
)


def to_markdown(document: Document, *, figures: str = "figures") -> str:
    """The whole document as text; its pictures are the files ``figures/<name>.png`` (``figures`` may be empty)."""
    parts = [f"# {markdown_escape(document.title)}"] if document.title else []
    parts += [f"**Warning: {markdown_escape(line)}**" for line in document.warnings]
    if document.answer:
        parts.append("\n".join(f"- {_without_tags(prose(line))}" for line in document.answer))
    if document.command:
        parts.append(document.made_by.replace("`{command}`", _code(document.command)))
    for block in document.lead:
        parts += _markdown_block(block, Section(name="lead"), figures)
    for section in document.sections:
        inner = [part for block in section.blocks for part in _markdown_block(block, section, figures)]
        if section.folded and section.title:
            parts += [f"<details><summary>{_summary(section.title)}</summary>", *inner, "</details>"]
            continue
        if section.title:
            parts.append(f"{'#' * section.level} {markdown_escape(section.title)}")
        parts += inner
    return gloss_markdown(printable("\n\n".join(parts) + "\n"))


def _markdown_block(block: Content, section: Section, figures: str) -> list[str]:
    """The paragraphs of a block. The title of a table is a heading below its section's, unless it is the same."""
    if isinstance(block, Table):
        own = block.title and block.title != section.title
        heading = [f"{'#' * (section.level + 1)} {markdown_escape(block.title)}"] if own else []
        return [*heading, markdown_table(block.text), *([_without_tags(block.note)] if block.note else [])]
    if isinstance(block, Picture):
        return [f"![{markdown_escape(block.alt)}]({picture_path(block, figures)})"]
    if isinstance(block, Points):
        return ["\n".join(f"- {_without_tags(prose(line))}" for line in block.lines)] if block.lines else []
    return [] if isinstance(block, Widget) else [_without_tags(block)]


def _summary(title: str) -> str:
    """A title inside of a tag of HTML, where no markdown is read."""
    return escape(prose(title))


def picture_path(picture: Picture, figures: str) -> str:
    """Where the page of a report finds a picture, relative to itself."""
    return f"{figures}/{picture.name}.png" if figures else f"{picture.name}.png"


def markdown_table(frame: pd.DataFrame) -> str:
    """A frame of text as a pipe table."""
    rows = [list(frame.columns), ["---"] * len(frame.columns), *frame.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(map(markdown_escape, row)) + " |" for row in rows)


def markdown_escape(text: object) -> str:
    """A name or a cell on one line, every character in it meant as it stands: no tag, link, formula or emphasis."""
    found = prose(text)
    for pattern, written in _MARKS:
        found = pattern.sub(written, found)
    return _without_tags(found)


def _without_tags(text: str) -> str:
    """A text whose markdown counts, and whose HTML does not."""
    return _TAG.sub("&lt;", text)


def _code(text: str) -> str:
    """A code span of a text, with more backticks around it than stand in it."""
    said = prose(text)
    longest = max(map(len, re.findall("`+", said)), default=0)
    marks, space = "`" * (longest + 1), " " if longest else ""
    return f"{marks}{space}{said}{space}{marks}"
