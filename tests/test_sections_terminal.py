"""What is printed of an analysis: one model layer by layer, several side by side."""

from __future__ import annotations

import dataclasses
import io

from rich.console import Console
from test_sections_analysis import an_analysis

from svda_analysis.render.terminal import print_document
from svda_analysis.sections import terminal_document
from svda_analysis.sections.terminal import sparkline


def printed(analysis):
    console = Console(file=io.StringIO(), width=80, highlight=False)
    print_document(terminal_document(analysis), console)
    return console.file.getvalue()


def test_of_one_model_all_layers_are_a_line_and_the_first_the_middle_and_the_last_numbers():
    shown = printed(an_analysis(("svda",), seeds=(0,), layers=9))
    first, *rest = shown.splitlines()
    assert first == "data: sample test"
    assert rest[0].startswith("test accuracy, svda: ")
    assert shown.count("Mean over heads, by layer") == 1
    heads = [line.split() for line in rest if line.split()[:1] == ["Indicator"]]
    assert heads == [["Indicator", "by", "layer", *"048", "all"]]
    assert "- rollout: deletion gain +" in shown
    assert max(map(len, rest)) <= 80
    assert "more structured" not in shown


def test_a_line_of_bars_goes_from_the_least_to_the_largest():
    assert sparkline([0.0, 7.0, 3.0, float("nan"), 1.0]) == "▁█▄ ▂"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([]) == ""


def test_several_models_stand_side_by_side():
    shown = printed(an_analysis())
    assert "svda against vit, by training seed, p after Holm" in shown
    assert ["Indicator", "vit", "svda", "Difference", "[95%", "CI]", "p"] in [
        line.split() for line in shown.splitlines()
    ]
    assert "- Attention entropy (attention): svda is more structured" in shown
    assert "- Deletion gain (rollout): " in shown


def test_one_run_each_has_no_p():
    shown = printed(an_analysis(seeds=(0,)))
    assert "svda against vit, one run each" in shown
    assert ["Indicator", "vit", "svda", "Difference", "[95%", "CI]"] in [line.split() for line in shown.splitlines()]


def test_data_and_preprocessing_are_said_once_and_not_read_as_markup():
    analysis = an_analysis(("svda",))
    runs = tuple(dataclasses.replace(run, data="sets [/of] data", preprocessing="crop") for run in analysis.runs)
    shown = printed(dataclasses.replace(analysis, runs=runs))
    assert shown.startswith("data: sets [/of] data\npreprocessing: crop\ntest accuracy, svda: ")
