"""An analysis in a notebook: a summary and an explorer, both escaped, and a short representation."""

from __future__ import annotations

from html.parser import HTMLParser

import matplotlib.pyplot as plt
import pytest
from test_sections_analysis import an_analysis
from test_sections_explorer import shown_analysis, some_examples

from svda_analysis.comparison import summarise
from svda_analysis.errors import InputError
from svda_analysis.figures import pictures
from svda_analysis.vocabulary import quantity

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


def test_a_summary_is_a_short_frame_of_the_whole_model():
    analysis = an_analysis(models=("vit", "svda"))
    found = analysis.summary()
    assert list(found) == ["model", "indicator", "source", "mean", "ci_low", "ci_high", "n_seeds", "unit"]
    assert set(found["model"]) == {"vit", "svda"}
    whole = summarise(analysis.table)
    for row in found.itertuples():
        same = (whole["model"] == row.model) & (whole["indicator"] == row.indicator) & (whole["source"] == row.source)
        assert whole[same & whole["layer"].isna()]["mean"].item() == row.mean
    assert not found.duplicated(["model", "indicator", "source"]).any()
    assert all(quantity(name).headline for name in found["indicator"])


def test_a_figure_is_drawn_by_its_name(monkeypatch):
    analysis = an_analysis(models=("vit", "svda"))
    names = [picture.name for picture in pictures(analysis)]
    for name in (None, "heatmaps"):
        figure = analysis.plot(name)
        assert figure.axes
        assert plt.fignum_exists(figure.number)
        plt.close(figure)
    monkeypatch.setattr("svda_analysis.sections.notebook.in_notebook", lambda: True)
    assert not plt.fignum_exists(analysis.plot("heatmaps").number)  # a notebook shows it once
    with pytest.raises(InputError, match=f"name must be one of {names[0]}, .*, got 'heatmap'"):
        analysis.plot("heatmap")
    with pytest.raises(InputError, match="got 'map_similarity', which needs two models and svda-analyze --maps N"):
        analysis.plot("map_similarity")
