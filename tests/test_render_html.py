"""A document as one HTML page: well formed, all text escaped, nothing from elsewhere."""

from __future__ import annotations

import json
from html.parser import HTMLParser

import pandas as pd

from svda_analysis.document import Document, Picture, Points, Section, Table, Widget
from svda_analysis.render.html import to_html
from svda_analysis.vocabulary import Quantity

_VOID = {"meta", "img"}
_OURS = {"type": "module"}  # the script of the page itself


class Page(HTMLParser):
    """The tags of a page in order, its text by tag; complains about a tag that is not closed in its turn."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text = [], [], {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in _VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and data.strip():
            self.text.setdefault(self.open[-1], []).append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


EVIL = "<script>alert('\"&')</script>"


def a_document(word):
    text = pd.DataFrame({"Source": ["sigma", "scores"], word: ["0.1", "<0.001"]})
    blocks = (
        f"A **bold** word, `code` and {word}.",
        f"- {word}\n- two",
        Points((word, "second")),
        Table(name="t", text=text, title=f"{word} against vit", note=f"Of {word}."),
        Picture(name="curve", draw=lambda: None, caption=f"The curve of {word}"),
    )
    return Document(
        title=f"Report of {word}",
        command=f"svda {word}",
        warnings=(word,),
        sections=(Section(name=f"first {word}", title=word, blocks=blocks), Section(name="last", blocks=("End.",))),
    )


def test_the_page_holds_all_that_the_document_says():
    page = Page(to_html(a_document("svda")))
    assert page.text["h1"] == page.text["title"] == ["Report of svda"]
    assert page.text["h2"] == ["svda", "How this was made"]
    assert page.text["strong"] == ["bold"]
    assert page.text["code"] == ["code", "svda svda"]
    assert page.text["li"] == ["svda", "two", "svda", "second"]
    assert page.text["caption"] == ["svda against vit"]
    assert page.text["th"] == ["Source", "svda"]
    assert page.text["td"] == ["sigma", "0.1", "scores", "<0.001"]
    assert page.all("td")[:2] == [{}, {"class": "number"}]
    (picture,) = page.all("img")
    assert (picture["src"], picture["alt"]) == ("figures/curve.png", "The curve of svda")
    assert "Warning: svda" in page.text["p"]


def test_a_model_named_as_a_script_does_no_harm():
    page = Page(to_html(a_document(EVIL)))
    assert page.all("script") == [_OURS]
    assert page.text["h2"] == [EVIL, "How this was made"]
    assert page.text["li"] == [EVIL, "two", EVIL, "second"]
    assert page.text["th"] == ["Source", EVIL]
    assert page.all("img")[0]["alt"] == f"The curve of {EVIL}"
    assert f"svda {EVIL}" in page.text["code"]


def test_nothing_comes_from_elsewhere():
    text = to_html(a_document("svda"))
    assert "http" not in text
    assert "url(" not in text
    page = Page(text)
    assert page.all("link") == []
    assert not [
        attributes for _, attributes in page.tags if "src" in attributes and "figures/" not in attributes["src"]
    ]


def test_every_anchor_is_one_word_and_there_once():
    sections = tuple(Section(name=name, title="T") for name in ("a b", "a b", "a-b", "c"))
    page = Page(to_html(Document(title="T", sections=sections)))
    assert [attributes.get("id") for attributes in page.all("h2")] == ["a-b", None, None, "c"]


def test_pictures_may_lie_beside_the_page():
    section = Section(name="one", blocks=(Picture(name="curve", draw=lambda: None),))
    assert Page(to_html(Document(title="", sections=(section,)), figures="")).all("img")[0]["src"] == "curve.png"


def a_page(**fields):
    known = {"title": "T", "sections": ()}
    return Page(to_html(Document(**{**known, **fields})))


def test_the_first_screen_says_what_was_looked_at_and_found_before_all_else():
    page = a_page(
        about=(("Data", f"of {EVIL}"),), answer=("It is 0.1 [0, 0.2].",), warnings=("few",), lead=("Then this.",)
    )
    assert page.text["dt"] == ["Data"]
    assert page.text["dd"] == [f"of {EVIL}"]
    order = [tag for tag, _ in page.tags if tag in ("h1", "dl", "ul", "main")]
    assert order == ["h1", "dl", "ul", "main"]


def test_the_end_says_the_command_the_versions_and_how_to_cite():
    page = a_page(command="svda x", versions={"torch": "2"}, cite="@software{x}")
    assert page.text["h2"] == ["How this was made", "How to cite"]
    assert (page.text["dt"], page.text["dd"], page.text["pre"]) == (["torch"], ["2"], ["@software{x}"])


def test_words_of_tables_lead_to_what_they_say_and_what_not():
    one = Quantity(name="a_b", label="A b", higher_means="more", question="How much?", not_said="why", reference="Me")
    text = pd.DataFrame({"Indicator": ["A b", "A b (scores)", "other"], "x": ["1", "2", "A b"]})
    page = a_page(
        sections=(Section(name="s", blocks=(Table(name="t", text=text),)),), terms=(one, Quantity(name="c", label="C"))
    )
    links = page.all("a")
    assert links == 2 * [{"class": "term", "href": "#term-A-b"}]
    assert page.all("dt") == [{"id": "term-A-b"}]
    assert page.text["p"] == ["Higher: more.", "Asks: How much?", "Does not say: why.", "Reference: Me."]


def test_the_contents_list_sections_and_widgets_in_their_order():
    widget = Widget(name="w", kind="heads", data=lambda: {"maps": []}, title="Between")
    sections = (
        Section(name="a", title="First", blocks=(widget,)),
        Section(name="part", title="Part", level=3),
        Section(name="b", title="Last"),
    )
    page = a_page(sections=sections)
    assert [link["href"] for link in page.all("a")] == ["#a", "#w", "#b"]
    assert a_page(sections=sections[2:]).all("nav") == []


def test_a_widgets_data_begin_no_tag_and_its_script_is_there_once():
    widgets = [Widget(name=name, kind="heads", data=lambda: {"maps": [EVIL]}, title=EVIL) for name in ("one", "two")]
    page = a_page(sections=(Section(name="s", blocks=tuple(widgets)),))
    data = [attributes for attributes in page.all("script") if attributes != _OURS]
    assert [attributes["data-of"] for attributes in data] == ["one", "two"]
    scripts = page.text["script"]
    assert json.loads(scripts[0]) == {"maps": [EVIL]}
    assert scripts[-1].count("drawers.heads =") == 1
