"""A document in a terminal, by rich. No torch here; rich is imported when something is printed."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from svda_analysis.document import Content, Document, Picture, Points, Section, Table, Widget
from svda_analysis.errors import printable
from svda_analysis.formatting import prose

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text


def print_document(document: Document, console: Console | None = None) -> None:
    """Print the document: titles, text, tables; pictures are left out, and so is the command that made it.

    Text is printed as it stands: nothing in it is read as rich's markup.
    """
    console = console or _stdout()
    if document.title:
        console.print(printable(document.title), style="bold", markup=False)
    for line in document.warnings:
        console.print(f"warning: {prose(line)}", markup=False)
    for block in document.lead:
        _print_block(block, Section(name="lead"), console)
    for section in document.sections:
        if section.title:
            console.print(f"\n{prose(section.title)}", style="bold", markup=False)
        for block in section.blocks:
            _print_block(block, section, console)


def _stdout() -> Console:
    """Rich's, which ends the process with 1 where the reader has left, without that: what it is, is told."""
    from rich.console import Console

    class Telling(Console):
        def on_broken_pipe(self) -> None:
            raise  # what rich handles while it calls this

    return Telling(highlight=False)


def _print_block(block: Content, section: Section, console: Console) -> None:
    if isinstance(block, Table):
        console.print(terminal_table(block, title=block.title != section.title))
        if block.note:
            console.print(printable(block.note), markup=False)
    elif isinstance(block, Points):
        for line in block.lines:
            console.print(_point(prose(line), console.width))
    elif not isinstance(block, Picture | Widget):
        console.print(printable(block), markup=False)


_COLOURS = {"supported": "bold green", "opposed": "bold red", "equivalent": "bold blue", "inconclusive": "bold"}


def _point(line: str, width: int) -> Text:
    """A line of a list, indented under its mark, what it says of the numbers in bold and in colour."""
    from rich.text import Text

    wrapped = textwrap.wrap(line, max(20, width - 1), initial_indent="- ", subsequent_indent="  ")
    text = Text("\n".join(wrapped), no_wrap=True)
    for word, style in _COLOURS.items():
        text.highlight_words([word], style)
    text.highlight_regex(r"(\S+) is more (structured|faithful)", "bold green")
    return text


def terminal_table(table: Table, *, title: bool = True) -> RichTable:
    """A table of text for a terminal; the column named by ``table.group`` becomes headings between the rows."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table as Made

    above = escape(prose(table.title)) if title and table.title else None
    made = Made(title=above, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    shown = table.text.drop(columns=table.group) if table.group else table.text
    for at, column in enumerate(shown.columns):
        made.add_column(escape(prose(column)), justify="left" if at == 0 else "right", no_wrap=at > 0)
    heading = None
    for at, row in enumerate(shown.itertuples(index=False)):
        if table.group and table.text[table.group].iloc[at] != heading:
            heading = table.text[table.group].iloc[at]
            made.add_row(f"[italic]{escape(prose(heading))}[/]")
        made.add_row(*(escape(prose(cell)) for cell in row))
    return made
