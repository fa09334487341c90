"""Theme and styles."""

from __future__ import annotations

import subprocess
import sys

import matplotlib as mpl
import pandas as pd
import pytest
from figure_frames import make_comparison, make_table
from hypothesis import given
from hypothesis import strategies as st

from svda_analysis import figures
from svda_analysis.errors import InputError
from svda_analysis.figures import style


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


def test_each_kind_of_attention_has_one_look_whoever_stands_beside_it():
    kinds = {"vit": "dot", "svda": "svda", "cosine": "cosine", "svda2": "svda", "deit": None}
    every = style.Drawn(["deit", "cosine", "svda", "svda2", "vit"], kinds).styles
    assert [every[name].color for name in ("vit", "svda", "cosine")] == list(style.COLORS[:3])
    assert len({(look.color, look.marker) for look in every.values()}) == 5
    assert style.Drawn(["cosine"], kinds).styles["cosine"] == every["cosine"]
    frame = pd.DataFrame({"model": list(kinds), "attention": list(kinds.values())})
    assert list(figures.model_styles(frame)) == ["vit", "svda", "svda2", "cosine", "deit"]


@pytest.mark.parametrize("width", [3.4, 5.5])
def test_figures_are_as_wide_as_the_page_and_in_its_font(width):
    with figures.on_page(width, "serif"):
        fig = figures.plot_all_by_layer(make_table(seeds=1))
        fig.draw_without_rendering()
        assert fig.get_figwidth() == width
        assert {text.get_fontfamily()[0] for text in fig.findobj(mpl.text.Text) if text.get_text()} == {"STIXGeneral"}
    assert figures.plot_all_by_layer(make_table(seeds=1)).get_figwidth() == figures.TWO_COLUMNS
    for wrong, said in (({"width": 1.0}, "width must be 2.5 to 12 inches"), ({"font": "comic"}, "font must be one of")):
        with pytest.raises(InputError, match=said), figures.on_page(**wrong):
            pass


@given(st.integers(1, 20))
def test_models_differ_in_colour_and_marker(count):
    frame = pd.DataFrame({"model": [f"m{i:02}" for i in range(count)], "attention": "svda"})
    styles = figures.model_styles(frame).values()
    assert len({(style.color, style.marker) for style in styles}) == count
