"""A document as one HTML page: well formed, all text escaped, nothing from elsewhere."""

from __future__ import annotations

from html.parser import HTMLParser

import pandas as pd

from svda_analysis.document import Document, Picture, Points, Section, Table
from svda_analysis.render.html import to_html

_VOID = {"meta", "img"}


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
    assert page.text["h2"] == ["svda"]
    assert page.text["strong"] == ["bold"]
    assert page.text["code"] == ["svda svda", "code"]
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
    assert page.all("script") == []
    assert page.text["h2"] == [EVIL]
    assert page.text["li"] == [EVIL, "two", EVIL, "second"]
    assert page.text["th"] == ["Source", EVIL]
    assert page.all("img")[0]["alt"] == f"The curve of {EVIL}"
    assert f"svda {EVIL}" in page.text["code"]


def test_nothing_comes_from_elsewhere():
    text = to_html(a_document("svda"))
    assert "http" not in text
    assert "url(" not in text
    assert Page(text).all("link") == []


def test_every_anchor_is_one_word_and_there_once():
    sections = tuple(Section(name=name, title="T") for name in ("a b", "a b", "a-b", "c"))
    page = Page(to_html(Document(title="T", sections=sections)))
    assert [attributes.get("id") for attributes in page.all("h2")] == ["a-b", None, None, "c"]


def test_pictures_may_lie_beside_the_page():
    section = Section(name="one", blocks=(Picture(name="curve", draw=lambda: None),))
    assert Page(to_html(Document(title="", sections=(section,)), figures="")).all("img")[0]["src"] == "curve.png"
