"""A document in a terminal: text as it stands, tables under headings, nothing read as markup."""

from __future__ import annotations

import io

import pandas as pd
import pytest
from rich.console import Console

from svda_analysis.document import Document, Picture, Points, Section, Table
from svda_analysis.render.terminal import print_document, terminal_table


def printed(document, width=80):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    print_document(document, console)
    return console.file.getvalue()


def a_table(**fields):
    text = pd.DataFrame({"Source": ["sigma", "sigma", "[/]"], "Indicator": ["a", "[b]", "c"], "svda": ["1", "22", "3"]})
    return Table(**{"name": "numbers", "text": text, "group": "Source", **fields})


def test_a_column_becomes_headings_between_the_rows():
    lines = [line.split() for line in printed(Document(title="", sections=(), lead=(a_table(),))).splitlines()]
    assert [line for line in lines if line and not line[0].startswith("─")] == [
        ["Indicator", "svda"],
        ["sigma"],
        ["a", "1"],
        ["[b]", "22"],
        ["[/]"],
        ["c", "3"],
    ]


def test_without_a_group_every_column_stays():
    table = terminal_table(a_table(group=""))
    assert [column.header for column in table.columns] == ["Source", r"Indicator", "svda"]
    assert table.row_count == 3


def test_sections_titles_and_lists():
    picture = Picture(name="curve", draw=lambda: None)
    section = Section(name="one", title="One [b]", blocks=("Text [/of].", Points(("first", "second")), picture))
    document = Document(title="Title", sections=(section,), warnings=("careful",), command="svda")
    assert printed(document) == "Title\nwarning: careful\n\nOne [b]\nText [/of].\n- first\n- second\n"


def test_a_tables_title_and_note_stand_around_it():
    shown = printed(Document(title="", sections=(Section(name="s", blocks=(a_table(title="[x] y", note="Note."),)),)))
    assert shown.startswith("[x] y")
    assert shown.endswith("Note.\n")
    twice = printed(Document(title="", sections=(Section(name="s", title="Same", blocks=(a_table(title="Same"),)),)))
    assert twice.count("Same") == 1


def test_no_name_commands_the_terminal():
    """Escape sequences, bells, carriage returns and marks that turn the writing are shown, not obeyed."""
    bad = "a\x1b[2J\x1b]0;t\x07b\rc\x9b31m\u202ed\udc80"
    table = Table(name="t", text=pd.DataFrame({bad: [bad], "x": [bad]}), title=bad, note=bad, group="x")
    section = Section(name="s", title=bad + "!", blocks=(table, Points((bad,)), bad))
    shown = printed(Document(title=bad, sections=(section,), warnings=(bad,)), width=400)
    assert not set(shown) & set("\x1b\x07\r\x9b\u202e\udc80")
    assert shown.count(r"a\x1b[2J\x1b]0;t\x07b") == 10


def test_a_reader_that_has_left_is_an_error_and_no_end_of_the_process(monkeypatch):
    class Left(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Left())
    with pytest.raises(BrokenPipeError):
        print_document(Document(title="Title", sections=()))
