"""What the explorer and the heat maps of heads are given: the analysis's own numbers, each where it belongs."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from test_sections_analysis import an_analysis

from svda_analysis.frames import MAP_COLUMNS, TABLE_COLUMNS, make_frame
from svda_analysis.render.packing import MOST_LOST, unpack_rows
from svda_analysis.results import Examples, Trace
from svda_analysis.sections.explorer import explorer_data, explorer_widget, heads_data, widget_section

LAYERS, HEADS, GRID = 3, 2, (2, 3)
N = 1 + 6


def some_examples(seed=0, count=2, **fields):
    rng = np.random.default_rng(seed)
    scores = np.exp(rng.standard_normal((count, LAYERS, HEADS, N, N)))
    maps = (scores / scores.sum(-1, keepdims=True)).astype(np.float16)
    images = np.random.default_rng(1).integers(0, 256, (count, 8, 12, 1), dtype=np.uint8)
    known = {"grid": GRID, "prefix": 1, "classes": ("boot", "coat"), **fields}
    return Examples(images, np.array([0, -1][:count]), np.array([1, 5][:count]), maps, **known)


def shown_analysis(**fields):
    found = {"vit": some_examples(1), "svda": some_examples(2, rollout=np.tile(np.eye(N, dtype=np.float32), (2, 1, 1)))}
    return an_analysis(examples=found, **fields)


def test_every_layer_of_every_image_is_the_analysis_s_own():
    analysis = shown_analysis()
    data = explorer_data(analysis)
    json.dumps(data, allow_nan=False)
    assert [model["name"] for model in data["models"]] == analysis.models == ["vit", "svda"]
    for model in data["models"]:
        exact = analysis.examples[model["name"]].maps.astype(np.float32)
        assert (model["layers"], model["heads"], model["tokens"]) == (LAYERS, HEADS, N)
        for image, shown in zip(exact, model["images"], strict=True):
            for layer, packed in zip(image, shown["layers"], strict=True):
                assert np.abs(unpack_rows(packed) - layer).max() < 0.01


def test_images_that_models_share_are_there_once_and_classes_have_names():
    data = explorer_data(shown_analysis())
    assert len(data["pictures"]) == 2
    first, second = data["models"][0]["images"]
    assert (first["label"], first["prediction"], second["label"], second["prediction"]) == (
        "boot",
        "coat",
        "",
        "class 5",
    )
    assert [image["picture"] for image in data["models"][1]["images"]] == [0, 1]


def test_what_flows_through_the_layers_is_there_where_it_was_measured():
    vit, svda = (model["images"][0] for model in explorer_data(shown_analysis())["models"])
    assert "rollout" not in vit
    np.testing.assert_allclose(unpack_rows(svda["rollout"])[0], np.eye(N), atol=1e-6)


def test_a_first_token_that_is_no_class_token_is_called_none():
    for held, told in ((None, True), (0, False)):
        (model,) = explorer_data(an_analysis(examples={"vit": some_examples(class_token=held)}))["models"]
        assert model["class_token"] == told


@pytest.mark.parametrize(("trained_on", "there"), [("sample", True), ("cifar10", False)])
def test_epochs_are_those_of_the_images_that_are_shown(trained_on, there):
    maps = np.random.default_rng(0).random((4, 3, LAYERS, 6)).astype(np.float16)
    analysis = shown_analysis(traces={"svda": Trace(np.arange(1, 5), None, maps)})
    runs = tuple(dataclasses.replace(run, recipe={"dataset": trained_on}) for run in analysis.runs)
    vit, svda = explorer_data(dataclasses.replace(analysis, runs=runs))["models"]
    assert vit["trace"] is None
    assert (svda["trace"] is not None) == there
    if there:
        assert (svda["trace"]["epochs"], svda["trace"]["images"]) == ([1, 2, 3, 4], 2)
        moved = np.abs(unpack_rows(svda["trace"]["rows"]) - maps[:, :2]).sum(-1) / (
            2 * maps[:, :2].astype(float).sum(-1)
        )
        assert moved.max() <= MOST_LOST


def test_matched_heads_are_those_of_the_runs_that_are_shown():
    who = {"model": "svda", "baseline": "vit", "images": "same", "measure": "js", "layer_a": 1, "layer_b": 1}
    pairs = [
        {**who, "seed": 0, "baseline_seed": 0, "head_a": 0, "head_b": 1},
        {**who, "seed": 0, "baseline_seed": 0, "head_a": 1, "head_b": None},
        {**who, "seed": 1, "baseline_seed": 0, "head_a": 0, "head_b": 0},
        {**who, "seed": 0, "baseline_seed": 0, "head_a": 1, "head_b": 0, "images": "other"},
    ]
    analysis = shown_analysis(maps={"heads": make_frame(pairs, MAP_COLUMNS["heads"])})
    assert explorer_data(analysis)["matched"] == [{"model": "svda", "baseline": "vit", "layers": {"1": {"0": 1}}}]


def test_heat_maps_are_means_over_runs_of_the_last_epoch():
    analysis = an_analysis()
    early = analysis.table.assign(epoch=1, mean=99.0)
    maps = {one["label"]: one["values"] for one in heads_data(pd.concat([early, analysis.table]))["maps"]}
    rows = analysis.table[(analysis.table["indicator"] == "effective_rank") & (analysis.table["model"] == "svda")]
    for (layer, head), of_head in rows.groupby(["layer", "head"]):
        assert maps["Effective rank (scores)"]["svda"][layer][head] == pytest.approx(of_head["mean"].mean(), rel=1e-5)


def test_heads_that_were_not_measured_are_empty_and_what_all_models_have_comes_first():
    row = {"attention": "svda", "seed": 0, "epoch": 1, "layer": 0, "head": 1, "mean": 0.5}
    rows = [
        {**row, "model": "svda", "indicator": "spectral_entropy", "source": "sigma"},
        *(
            {**row, "model": model, "indicator": "attention_entropy", "source": "attention"}
            for model in ("svda", "vit")
        ),
        {**row, "model": "vit", "indicator": "accuracy", "source": "test", "layer": None, "head": None},
    ]
    first, second = heads_data(make_frame(rows, TABLE_COLUMNS))["maps"]
    assert (first["label"], second["label"]) == ("Attention entropy (attention)", "Spectral entropy (sigma)")
    assert second["values"] == {"svda": [[None, 0.5]]}


def test_there_is_no_explorer_without_maps():
    assert explorer_widget(an_analysis()) is None
    assert [widget.name for widget in widget_section(an_analysis()).blocks] == ["heads"]
    assert [widget.name for widget in widget_section(shown_analysis()).blocks] == ["explorer", "heads"]
