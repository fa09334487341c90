"""A document as markdown: every block, headings below their section's, cells that cannot break the table."""

from __future__ import annotations

import pandas as pd
import pytest

from svda_analysis.document import Document, Picture, Points, Section, Table
from svda_analysis.render.markdown import markdown_escape, markdown_table, to_markdown


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


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("<script>alert(1)</script>", "&lt;script>alert(1)&lt;/script>"),
        ("<0.001 & [0.1, 0.2] cls_attention", "<0.001 & [0.1, 0.2] cls_attention"),  # what is harmless stays
        ("a&lt;b &#60;", "a&amp;lt;b &amp;#60;"),
        (r"a\|b `c` *d* $e$", r"a\\\|b \`c\` \*d\* \$e\$"),
        ("_a_ __b__ ~~c~~", r"\_a\_ \_\_b\_\_ \~~c\~~"),
        ("[a](http://x) ![b](c)", r"[a\](http://x) ![b\](c)"),
        ("a\x1b[2J\nb\u202ec\udc80", r"a\\x1b[2J b\\u202ec\\udc80"),
    ],
)
def test_a_name_means_what_it_says(name, written):
    assert markdown_escape(name) == written
    frame = pd.DataFrame({name: [name]})
    assert markdown_table(frame) == f"| {written} |\n| --- |\n| {written} |"
    section = Section(name="s", title=name, blocks=(a_table(title=f"{name}!"),))
    page = to_markdown(Document(title=name, sections=(section,), warnings=(name,)))
    assert page.startswith(f"# {written}\n\n**Warning: {written}**\n\n## {written}\n")
    page.encode()


def test_our_own_text_keeps_its_marks_and_holds_no_tags():
    section = Section(name="s", blocks=(Points(("`code` and <img src=x>",)), "**bold** <b>", a_table(note="<i> *so*")))
    page = to_markdown(Document(title="", sections=(section,)))
    assert "- `code` and &lt;img src=x>" in page
    assert "**bold** &lt;b>" in page
    assert "&lt;i> *so*" in page


def test_what_a_report_says_is_cut_nowhere():
    said = " ".join(f"word{i}" for i in range(500))
    section = Section(name="a", title="A", blocks=(Points((said,)), Picture(name="p", draw=None, caption=said)))
    assert to_markdown(Document(title="T", sections=(section,), answer=(said,))).count(said) == 3


def test_a_command_with_backticks_stays_in_its_span():
    made = to_markdown(Document(title="", sections=(), command="svda `rm` x\ny"))
    assert made == "Made by `` svda `rm` x y ``.\n"


def test_nothing_breaks_out_of_a_row_or_a_heading():
    frame = pd.DataFrame({"a|b": ["c|d\ne"], "n": [1]})
    assert markdown_table(frame) == "| a\\|b | n |\n| --- | --- |\n| c\\|d e | 1 |"
    assert to_markdown(Document(title="a\n# b", sections=(), warnings=("c\nd",))) == "# a # b\n\n**Warning: c d**\n"
