"""What stands under figures."""

from __future__ import annotations

from figure_frames import make_table

from svda_analysis.figures.captions import caption_of, found_of
from svda_analysis.figures.registry import FIGURES
from svda_analysis.formatting import estimate, number
from svda_analysis.frames import SPECTRA_COLUMNS, make_frame
from svda_analysis.results import Analysis


def both(models=("vit", "svda")):
    return Analysis(table=make_table(models), spectra=make_frame([], SPECTRA_COLUMNS))


def test_every_figure_of_an_analysis_says_what_it_shows():
    shown = [one.name for one in FIGURES.values() if {"analysis", "study"} & set(one.where)]
    assert all(caption_of(name, both()) for name in shown)
    assert caption_of("mine", both()) == ""


def test_findings_are_the_rows_of_the_comparison():
    analysis = both()
    rows = analysis.comparison
    row = rows[(rows["indicator"] == "effective_rank") & (rows["source"] == "scores") & rows["layer"].isna()].iloc[0]
    (said,) = found_of(analysis, [("effective_rank", "scores")])
    assert said == (
        f"Effective rank (scores): {number(row.model_mean)} in svda against {number(row.baseline_mean)} in vit "
        f"(difference {estimate(row.difference, row.ci_low, row.ci_high)}, {row.verdict})."
    )
    assert said in caption_of("overview", analysis)
    assert said in caption_of("spectra_scores", analysis)
    assert "inconclusive" in caption_of("comparison", analysis)


def test_a_single_model_has_no_findings():
    assert found_of(both(("svda",)), [("effective_rank", "scores")]) == []
    assert caption_of("overview", both(("svda",))).endswith("else over images.")
