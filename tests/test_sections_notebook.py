"""An analysis in a notebook: a summary and an explorer, both escaped, and a short representation."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from test_sections_analysis import an_analysis
from test_sections_explorer import shown_analysis, some_examples

from svda_analysis.errors import InputError

EVIL = "<script>alert(1)</script>"


def test_the_summary_is_the_first_screen():
    shown = an_analysis(warnings=("few images",))._repr_html_()
    assert "Test accuracy, svda" in shown
    assert "Warning: few images" in shown
    assert "<script" not in an_analysis(models=("vit", EVIL))._repr_html_()


def test_a_representation_is_one_short_line():
    said = repr(shown_analysis())
    assert said.startswith("Analysis of vit, svda: ")
    assert len(said) < 120


def test_the_explorer_is_a_page_in_a_frame(tmp_path):
    shown = shown_analysis().explore()
    found = []

    class Frame(HTMLParser):
        def handle_starttag(self, tag, attributes):
            found.append((tag, dict(attributes)))

    Frame().feed(shown._repr_html_())
    ((tag, attributes),) = found
    assert (tag, attributes["srcdoc"]) == ("iframe", shown.html)
    assert shown.save(tmp_path / "page.html").read_text(encoding="utf-8") == shown.html
    assert len(repr(shown)) < 100
    with pytest.raises(InputError, match=r"path .* cannot be written"):
        shown.save(tmp_path)


def test_names_in_its_data_begin_no_tag():
    shown = an_analysis(models=(EVIL,), examples={EVIL: some_examples()}).explore()
    assert EVIL not in shown.html
    assert "\\u003cscript>alert(1)" in shown.html


def test_without_images_there_is_nothing_to_explore():
    with pytest.raises(InputError, match="must hold example images"):
        an_analysis().explore()
