"""The source's log and our runs in one figure."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from study_source_cases import of_the_source

from svda_analysis.errors import InputError
from svda_analysis.figures.registry import pictures
from svda_analysis.figures.reproduction import plot_source_epoch, plot_source_epochs
from svda_analysis.source_numbers import SOURCE_MEASURES, by_epoch, source_epochs


def test_a_panel_draws_each_run_and_the_log():
    history = of_the_source(5, seeds=2).history
    ax = plot_source_epoch(history, measure="effective_rank", ax=plt.figure().gca())
    *ours, log = [line.get_xydata() for line in ax.lines]
    expected = by_epoch(history, SOURCE_MEASURES["effective_rank"])
    assert len(ours) == 2
    for line, column in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(line, np.stack([expected.index, expected[column]], axis=1))
    shown = source_epochs().query("epoch <= 10")
    np.testing.assert_array_equal(log, shown[["epoch", "effective_rank"]])


def test_another_measure_is_refused():
    with pytest.raises(InputError, match=r"measure must be one of spectral_entropy, .*, got 'loss'"):
        plot_source_epoch(of_the_source(2).history, measure="loss")


def test_a_study_draws_all_six_where_they_were_measured():
    study = of_the_source(3)
    drawn = {picture.name: picture for picture in pictures(study.analysis, "study", models=["vit", "svda"])}
    assert "source_epochs" in drawn
    shown = drawn["source_epochs"].draw().axes[0].get_lines()
    assert {line.get_label() for line in shown} == {"svda, our runs", "the source's log"}  # its log is of SVDA
    fig = plot_source_epochs(study.history)
    assert [ax.get_ylabel() for ax in fig.axes] == [
        measure.replace("_", " ").capitalize() for measure in SOURCE_MEASURES
    ]
