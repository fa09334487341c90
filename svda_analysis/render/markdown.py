"""A document as markdown. No torch here, no files."""

from __future__ import annotations

import pandas as pd

from svda_analysis.document import Content, Document, Picture, Points, Section, Table
from svda_analysis.errors import one_line


def to_markdown(document: Document, *, figures: str = "figures") -> str:
    """The whole document as text; its pictures are the files ``figures/<name>.png`` (``figures`` may be empty)."""
    parts = [f"# {one_line(document.title)}"] if document.title else []
    parts += [f"**Warning: {one_line(line)}**" for line in document.warnings]
    if document.command:
        parts.append(document.made_by.replace("{command}", one_line(document.command)))
    for block in document.lead:
        parts += _markdown_block(block, Section(name="lead"), figures)
    for section in document.sections:
        if section.title:
            parts.append(f"{'#' * section.level} {one_line(section.title)}")
        for block in section.blocks:
            parts += _markdown_block(block, section, figures)
    return "\n\n".join(parts) + "\n"


def _markdown_block(block: Content, section: Section, figures: str) -> list[str]:
    """The paragraphs of a block. The title of a table is a heading below its section's, unless it is the same."""
    if isinstance(block, Table):
        own = block.title and block.title != section.title
        heading = [f"{'#' * (section.level + 1)} {one_line(block.title)}"] if own else []
        return [*heading, markdown_table(block.text), *([block.note] if block.note else [])]
    if isinstance(block, Picture):
        return [f"![{one_line(block.alt)}]({picture_path(block, figures)})"]
    if isinstance(block, Points):
        return ["\n".join(f"- {one_line(line)}" for line in block.lines)] if block.lines else []
    return [block]


def picture_path(picture: Picture, figures: str) -> str:
    """Where the page of a report finds a picture, relative to itself."""
    return f"{figures}/{picture.name}.png" if figures else f"{picture.name}.png"


def markdown_table(frame: pd.DataFrame) -> str:
    """A frame of text as a pipe table."""
    rows = [list(frame.columns), ["---"] * len(frame.columns), *frame.astype(str).to_numpy().tolist()]
    return "\n".join("| " + " | ".join(one_line(cell).replace("|", r"\|") for cell in row) + " |" for row in rows)
