"""One decorator enters a figure."""

from __future__ import annotations

import matplotlib.pyplot as plt
import pytest
from figure_frames import make_table

from svda_analysis import figures
from svda_analysis.document import Picture
from svda_analysis.errors import InputError
from svda_analysis.figures import registry
from svda_analysis.frames import SPECTRA_COLUMNS, make_frame
from svda_analysis.results import Analysis


def test_a_figure_added_at_run_time_is_drawn_with_the_others(monkeypatch):
    monkeypatch.setattr(registry, "FIGURES", dict(registry.FIGURES))
    seen = []

    @figures.figure("mine", where=("study",))
    def mine(analysis):
        seen.append(analysis.models)
        yield Picture(name="mine", draw=plt.figure)

    analysis = Analysis(table=make_table(("svda", "vit", "a"), 1), spectra=make_frame([], SPECTRA_COLUMNS))
    assert [picture.name for picture in figures.pictures(analysis, "study")][-1] == "mine"
    assert "mine" not in [picture.name for picture in figures.pictures(analysis)]
    figures.pictures(analysis, "study", models=["svda", "vit"])
    assert seen == [["vit", "a", "svda"], ["svda", "vit"]]


def test_models_without_the_baseline_have_their_figures():
    analysis = Analysis(
        table=make_table(("svda", "vit", "a"), 1), spectra=make_frame([], SPECTRA_COLUMNS), baseline="vit"
    )
    names = [picture.name for picture in figures.pictures(analysis, models=["svda", "a"])]
    assert "comparison" in names


def test_a_place_that_does_not_exist_is_named():
    with pytest.raises(InputError, match=r"where must hold only analysis, study, .*, explanations, got paper"):
        figures.figure("mine", where=("analysis", "paper"))


def test_every_figure_says_what_it_is_drawn_from():
    for one in figures.FIGURES.values():
        assert one.needs or one.name == "mine", one.name
