"""Analyses joined, and kept in a folder: nothing lost, every digit, one line for what is damaged."""

from __future__ import annotations

import dataclasses
import json
import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from svda_analysis.errors import InputError
from svda_analysis.frames import MAP_COLUMNS, SPECTRA_COLUMNS, TABLE_COLUMNS, make_frame
from svda_analysis.results import Analysis, Examples, Run, Trace
from svda_analysis.vocabulary import QUANTITIES, Quantity, quantity, register


def analysis(model="svda", seed=0, mean=0.5, **changes):
    row = {"model": model, "attention": "svda", "seed": seed, "epoch": 3, "layer": 0, "head": 0}
    table = make_frame([{**row, "indicator": "mass_90", "source": "attention", "mean": mean, "n": 9}], TABLE_COLUMNS)
    rng = np.random.default_rng(seed)
    made = Analysis(
        table=table,
        spectra=make_frame([{**row, "source": "scores", "rank": 1, "value": mean / 3}], SPECTRA_COLUMNS),
        history=table.assign(epoch=1).astype(TABLE_COLUMNS),
        examples={
            model: Examples(
                rng.integers(0, 255, (2, 4, 4, 1), np.uint8),
                np.array([1, -1]),
                np.array([1, 0]),
                rng.random((2, 1, 2, 5, 5)).astype(np.float16),
                (2, 2),
                1,
                ("shoe", "NA"),
                class_token=0 if seed else None,
            )
        },
        traces={model: Trace(np.array([1, 2]), None, rng.random((2, 1, 1, 4)).astype(np.float16))},
        maps={
            name: make_frame([{"model": model, "baseline": model, "seed": seed, "layer_a": 0}], columns)
            for name, columns in MAP_COLUMNS.items()
        },
        runs=(Run(model=model, seed=seed, settings={"noise": 0.1 + seed}, recipe={"lr": 1e-3}),),
        warnings=(f"warning of {model}",),
        versions={"torch": "2"},
    )
    return dataclasses.replace(made, **changes)


def assert_same(a: Analysis, b: Analysis) -> None:
    for name in ("table", "spectra", "history"):
        pd.testing.assert_frame_equal(getattr(a, name), getattr(b, name))
    assert a.maps.keys() == b.maps.keys()
    for name in a.maps:
        pd.testing.assert_frame_equal(a.maps[name], b.maps[name])
    for field in ("examples", "traces"):
        assert getattr(a, field).keys() == getattr(b, field).keys()
        for name, one in getattr(a, field).items():
            for each in dataclasses.fields(one):
                x, y = getattr(one, each.name), getattr(getattr(b, field)[name], each.name)
                assert type(x) is type(y)
                np.testing.assert_array_equal(x, y)
    for name in ("runs", "warnings", "versions", "baseline"):
        assert getattr(a, name) == getattr(b, name)


# --- in a folder ----------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    model=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8).filter(lambda x: x.strip()),
    mean=st.floats(allow_nan=False),
)
def test_what_is_saved_is_loaded_to_the_last_digit(tmp_path, model, mean):
    made = analysis(model, mean=mean)
    made.save(tmp_path)
    assert_same(Analysis.load(tmp_path), made)


@pytest.mark.parametrize("model", ["NA", "null", "a/b", "a,b", 'say "x"', "1", "nan"])
def test_names_that_look_like_something_else_stay_names(tmp_path, model):
    made = Analysis.join([analysis(model), analysis("other")])
    made.save(tmp_path)
    assert_same(Analysis.load(tmp_path), made)


def test_limits_without_an_end_and_numbers_that_are_missing_survive(tmp_path):
    made = analysis()
    table = made.table.assign(low=-math.inf, high=math.inf, std=math.nan, seed=pd.NA, attention=pd.NA)
    made = dataclasses.replace(made, table=table.astype(TABLE_COLUMNS))
    made.save(tmp_path, command="svda analyze")
    assert_same(Analysis.load(tmp_path), made)
    assert json.loads((tmp_path / "meta.json").read_text())["command"] == "svda analyze"


def test_a_quantity_of_ones_own_comes_back_with_the_folder(tmp_path):
    register(Quantity(name="glow", label="Glow of the map", unit="lm", low=0.0, high="N", direction={"*": -1}))
    made = analysis()
    made = dataclasses.replace(made, table=made.table.assign(indicator="glow").astype(TABLE_COLUMNS))
    made.save(tmp_path)
    known = QUANTITIES.pop("glow")
    try:
        Analysis.load(tmp_path)
        assert quantity("glow") == known
    finally:
        QUANTITIES.pop("glow", None)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("meta.json", None, "holds no analysis"),
        ("meta.json", "{", "cannot be read"),
        ("meta.json", "{}", "not of an analysis of this version"),
        ("indicators.csv", None, "no such file"),
        ("indicators.csv", "a,b\n1,2\n", "damaged, or no table of this kind"),
        ("spectra.csv", "", "is empty, expected a table"),
        ("examples.npz", "PK", "damaged"),
        ("traces.npz", "", "is empty, expected arrays"),
        *((file, None, "no such file") for file in ("history.csv", "examples.npz", "traces.npz", "maps_heads.csv")),
        ("maps_heads.csv", "x", "damaged, or no table of this kind"),
    ],
)
def test_what_is_missing_or_damaged_is_named(tmp_path, file, text, message):
    analysis().save(tmp_path)
    (tmp_path / file).unlink()
    if text is not None:
        (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match=message) as error:
        Analysis.load(tmp_path)
    assert "\n" not in str(error.value)


def test_what_another_analysis_left_in_the_folder_is_not_read(tmp_path):
    analysis().save(tmp_path)
    made = dataclasses.replace(analysis(), history=make_frame([], TABLE_COLUMNS), examples={}, traces={}, maps={})
    made.save(tmp_path)
    assert_same(Analysis.load(tmp_path), made)


# --- joined ---------------------------------------------------------------------------------------------------------


def test_joining_keeps_maps_settings_warnings_and_the_first_examples():
    parts = [analysis("vit", 0), analysis("vit", 1), analysis("svda", 0)]
    whole = Analysis.join(parts)
    assert whole.models == ["vit", "svda"]
    assert [run.settings["noise"] for run in whole.runs] == [0.1, 1.1, 0.1]
    assert {name: len(frame) for name, frame in whole.maps.items()} == dict.fromkeys(MAP_COLUMNS, 3)
    assert whole.warnings == ("warning of vit", "warning of svda")
    np.testing.assert_array_equal(whole.examples["vit"].images, parts[0].examples["vit"].images)
    assert set(whole.traces) == {"vit", "svda"}


def test_joining_is_joining_whatever_the_order_of_brackets():
    a, b, c = analysis("vit", 0), analysis("vit", 1), analysis("svda", 0)
    assert_same(Analysis.join([Analysis.join([a, b]), c]), Analysis.join([a, Analysis.join([b, c])]))
    assert_same(Analysis.join([a]), a)


def test_the_same_run_twice_or_two_baselines_do_not_join():
    with pytest.raises(InputError, match="different runs, got vit seed 0 twice"):
        Analysis.join([analysis("vit"), analysis("vit")])
    with pytest.raises(InputError, match="one baseline, got vit, svda"):
        Analysis.join([analysis("vit", baseline="vit"), analysis("svda", baseline="svda")])
    with pytest.raises(InputError, match="at least one analysis"):
        Analysis.join([])


def test_a_model_is_renamed_everywhere():
    before = analysis("svda", baseline="svda")
    before.maps["heads"].loc[0, "baseline"] = "third"  # another's name stays
    renamed = before.renamed("other")
    assert renamed.baseline == "other"
    assert {str(frame["model"].iloc[0]) for frame in renamed.maps.values()} == {"other"}
    baselines = {key: frame["baseline"].iloc[0] for key, frame in renamed.maps.items()}
    assert baselines == {**dict.fromkeys(MAP_COLUMNS, "other"), "heads": "third"}
    assert all(frame.dtypes.equals(before.maps[key].dtypes) for key, frame in renamed.maps.items())
    assert analysis("svda", baseline="third").renamed("other").baseline == "third"
    assert {*renamed.table["model"], *renamed.spectra["model"], *renamed.history["model"]} == {"other"}
    assert renamed.runs[0].model == "other"
    assert list(renamed.examples) == list(renamed.traces) == ["other"]
    with pytest.raises(InputError, match="only the analysis of one model"):
        Analysis.join([analysis("vit"), analysis("svda")]).renamed("x")


def test_what_an_earlier_version_wrote_of_a_quantity_takes_the_place_of_nothing_known(tmp_path):
    """Read in a process that has imported no indicator yet."""
    analysis().save(tmp_path)
    meta = json.loads((tmp_path / "meta.json").read_text())
    told = {"label": "Old", "low": "0.0", "high": "1.0", "direction": {"attention": -1}}
    meta["quantities"] = [{"name": name, **told} for name in ("selectivity_index", "of_ones_own")]
    (tmp_path / "meta.json").write_text(json.dumps(meta))
    code = (
        "import sys\n"
        "from svda_analysis.results import Analysis\n"
        "from svda_analysis.vocabulary import quantity\n"
        "Analysis.load(sys.argv[1])\n"
        "assert quantity('selectivity_index').restates == 'attention_entropy'\n"
        "assert quantity('of_ones_own').label == 'Old'\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
