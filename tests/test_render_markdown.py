"""A document as markdown: every block, headings below their section's, cells that cannot break the table."""

from __future__ import annotations

import pandas as pd

from svda_analysis.document import Document, Picture, Points, Section, Table
from svda_analysis.render.markdown import markdown_table, to_markdown


def a_table(**fields):
    return Table(**{"name": "numbers", "text": pd.DataFrame({"Indicator": ["Loss"], "Mean": ["0.3"]}), **fields})


def test_every_block_stands_in_its_place():
    document = Document(
        title="Report",
        warnings=("made of little",),
        command="svda analyze a.pt",
        lead=("What was measured.", a_table()),
        sections=(
            Section(
                name="one", title="One", blocks=(Points(("first", "second")), a_table(title="a and b", note="Note."))
            ),
            Section(name="part", title="Part", level=3, blocks=(a_table(title="deeper"),)),
            Section(name="more", blocks=(Picture(name="curve", draw=lambda: None, caption="A curve"),)),
        ),
    )
    rows = "| Indicator | Mean |\n| --- | --- |\n| Loss | 0.3 |"
    assert to_markdown(document).split("\n\n") == [
        "# Report",
        "**Warning: made of little**",
        "Made by `svda analyze a.pt`.",
        "What was measured.",
        rows,
        "## One",
        "- first\n- second",
        "### a and b",
        rows,
        "Note.",
        "### Part",
        "#### deeper",
        rows,
        "![A curve](figures/curve.png)\n",
    ]


def test_a_tables_title_is_not_said_twice():
    section = Section(name="one", title="One", blocks=(a_table(title="One"),))
    assert to_markdown(Document(title="", sections=(section,))).startswith("## One\n\n| Indicator |")


def test_pictures_may_lie_beside_the_page():
    section = Section(name="one", blocks=(Picture(name="curve", draw=lambda: None),))
    assert to_markdown(Document(title="", sections=(section,)), figures="") == "![curve](curve.png)\n"


def test_the_sentence_that_says_what_made_it_may_be_another():
    document = Document(title="", sections=(), command="svda {x}", made_by="By `{command}`; see `tables/`.")
    assert to_markdown(document) == "By `svda {x}`; see `tables/`.\n"


def test_a_list_without_lines_is_nothing():
    assert to_markdown(Document(title="T", sections=(Section(name="one", blocks=(Points(()),)),))) == "# T\n"


def test_nothing_breaks_out_of_a_row_or_a_heading():
    frame = pd.DataFrame({"a|b": ["c|d\ne"], "n": [1]})
    assert markdown_table(frame) == "| a\\|b | n |\n| --- | --- |\n| c\\|d e | 1 |"
    assert to_markdown(Document(title="a\n# b", sections=(), warnings=("c\nd",))) == "# a # b\n\n**Warning: c d**\n"
