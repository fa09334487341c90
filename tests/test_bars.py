"""Bars in a terminal and in a notebook, and nothing where there is neither."""

import io
import sys
from types import ModuleType, SimpleNamespace

import pytest

from svda_analysis.bars import bars, bars_unless, in_notebook


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Cell:
    """What a notebook shows."""

    def __init__(self):
        self.pages = []

    def display(self, page, display_id):
        assert display_id
        self.pages.append(page)
        return SimpleNamespace(update=self.pages.append)


@pytest.fixture
def notebook(monkeypatch):
    cell, shell, shown = Cell(), ModuleType("IPython"), ModuleType("IPython.display")
    shell.get_ipython = lambda: SimpleNamespace(kernel=object())
    shown.HTML, shown.display = str, cell.display
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", shown)
    return cell


def test_a_terminal_gets_a_bar_for_each_label_as_it_is(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with bars("images") as advance:
        advance("one [/b]", 1, 2)  # what could be read as markup
        advance("two", 0, 4)
        advance.note("a [line]")
        advance("one [/b]", 2, 2)
    drawn = sys.stderr.getvalue()
    for said in ("one [/b]", "2/2", "0/4", "images", "a [line]"):
        assert said in drawn


@pytest.mark.parametrize("given", [False, lambda *_: None])
def test_who_follows_the_progress_or_wants_none_gets_no_bars(given, monkeypatch, notebook):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with bars_unless(given) as advance:
        advance("one", 1, 2)
        advance.note("line")
    assert sys.stderr.getvalue() == ""
    assert notebook.pages == []


def test_elsewhere_nothing_is_shown(capsys, monkeypatch):
    assert not in_notebook()
    with bars_unless(None) as advance:
        advance("one", 1, 2)
    monkeypatch.setattr(sys, "stderr", None)  # closed
    with bars() as advance:
        advance("one", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_a_notebook_shows_all_bars_in_one_cell(notebook, capsys):
    with bars("images") as advance:
        advance("<b>", 0, 4)
        for done in (1, 2, 3, 4):  # faster than anybody sees
            advance("<b>", done, 4)
        advance.note("a & b")
    first, last = notebook.pages[0], notebook.pages[-1]
    assert len(notebook.pages) == 3  # the first, the end, the note
    assert '<progress value="0" max="4">' in first
    assert last.startswith('<div>a &amp; b</div><div>&lt;b&gt; <progress value="4" max="4">')
    assert capsys.readouterr() == ("", "")
