"""Theme and styles."""

from __future__ import annotations

import subprocess
import sys

import matplotlib as mpl
import pandas as pd
from figure_frames import (
    close_figures,  # noqa: F401  # it closes the figures of each test by itself
    make_comparison,
    make_table,
)
from hypothesis import given
from hypothesis import strategies as st

from svda_analysis import figures


def test_theme_applies_inside_the_block_only():
    before = dict(mpl.rcParams)
    with figures.theme():
        assert mpl.rcParams["pdf.fonttype"] == 42
        assert mpl.rcParams["font.size"] in (7, 8)
    assert dict(mpl.rcParams) == before


def test_import_changes_no_settings_and_loads_no_torch():
    code = (
        "import sys, matplotlib as mpl; before = dict(mpl.rcParams); import svda_analysis.figures; "
        "after = dict(mpl.rcParams); assert before == after; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_baseline_comes_first_and_svda_looks_the_same_without_it():
    both, alone = make_table(("svda", "vit"), 1), make_table(("svda",), 1)
    assert list(figures.model_styles(both)) == ["vit", "svda"]
    assert figures.model_styles(both)["svda"] == figures.model_styles(alone)["svda"]
    assert list(figures.model_styles(make_comparison())) == ["svda"]
    assert figures.model_styles(make_comparison())["svda"] == figures.model_styles(both)["svda"]


@given(st.integers(1, 20))
def test_models_differ_in_colour_and_marker(count):
    frame = pd.DataFrame({"model": [f"m{i:02}" for i in range(count)], "attention": "svda"})
    styles = figures.model_styles(frame).values()
    assert len({(style.color, style.marker) for style in styles}) == count
