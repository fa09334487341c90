"""The registry of sections: order, reports, and a section that a user adds."""

from __future__ import annotations

import io

import pandas as pd
import pytest
from rich.console import Console
from test_sections_analysis import an_analysis

from svda_analysis.document import Document, Points, Section, Table
from svda_analysis.errors import InputError
from svda_analysis.render.html import to_html
from svda_analysis.render.markdown import to_markdown
from svda_analysis.render.terminal import print_document
from svda_analysis.sections import SECTIONS, analysis_document, section, sections_of, terminal_document


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """The sections as they are now come back afterwards; none draws a figure."""
    monkeypatch.setattr("svda_analysis.sections.analysis._pictures", lambda analysis: [])
    before = dict(SECTIONS)
    yield
    SECTIONS.clear()
    SECTIONS.update(before)


def printed(document):
    console = Console(file=io.StringIO(), width=100, highlight=False)
    print_document(document, console)
    return console.file.getvalue()


def test_a_section_of_ones_own_stands_in_every_report_that_it_names():
    @section("smallest", where=("analysis", "terminal"))
    def smallest(analysis):
        table = Table(name="smallest", text=pd.DataFrame({"Model": analysis.models, "Smallest": ["0.1", "0.2"]}))
        return Section(name="smallest", title="The smallest numbers", blocks=(Points(("none is zero",)), table))

    analysis = an_analysis()
    document = analysis_document(analysis, title="R")
    for shown in (to_markdown(document), to_html(document), printed(document), printed(terminal_document(analysis))):
        for text in ("The smallest numbers", "none is zero", "Smallest", "0.2"):
            assert text in shown
    assert "The smallest numbers" not in to_markdown(Document(title="", sections=sections_of(analysis, "elsewhere")))


def test_sections_come_in_the_order_of_registration_and_may_be_several_or_none():
    SECTIONS.clear()
    section("b", where=("here",))(lambda analysis: Section(name="b"))
    section("none", where=("here",))(lambda analysis: None)
    section("a", where=("here", "there"))(lambda analysis: (Section(name=f"a-{name}") for name in analysis.models))
    section("other", where=("there",))(lambda analysis: Section(name="other"))
    assert [made.name for made in sections_of(an_analysis(), "here")] == ["b", "a-vit", "a-svda"]
    section("b", where=("here",))(lambda analysis: Section(name="B"))
    assert [made.name for made in sections_of(an_analysis(), "here")] == ["B", "a-vit", "a-svda"]


def test_documents_may_have_sections_of_one_name():
    SECTIONS.clear()
    section("numbers", where=("here", "elsewhere"))(lambda found: Section(name=f"here {found}"))
    section("numbers", where=("there",))(lambda found: Section(name=f"there {found}"))
    for place in ("here", "there"):
        assert [made.name for made in sections_of(7, place)] == [f"{place} 7"]
    section("numbers", where=("elsewhere",))(lambda found: None)
    assert [len(sections_of(7, place)) for place in ("here", "elsewhere", "there")] == [1, 0, 1]


def test_where_is_a_sequence_of_names():
    with pytest.raises(InputError, match="where must be a sequence of names of reports, got 'analysis'"):
        section("x", where="analysis")
