"""The report of an analysis: which sections, in which order, what they say."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from svda_analysis.document import Picture
from svda_analysis.frames import MAP_COLUMNS, SPECTRA_COLUMNS, TABLE_COLUMNS, make_frame
from svda_analysis.render.latex import to_latex
from svda_analysis.render.markdown import to_markdown
from svda_analysis.results import Analysis, Run
from svda_analysis.sections.analysis import analysis_document, latex_tables

QUANTITIES = {  # by (indicator, source): the baseline's number and what SVDA adds
    ("attention_entropy", "attention"): (0.6, -0.2),
    ("attention_sparsity", "attention"): (0.5, 0.1),
    ("effective_rank", "scores"): (6.0, -3.0),
    ("selectivity_index", "attention"): (0.4, 0.1),
    ("spectral_entropy", "scores"): (0.5, -0.1),
}
GAIN = {("deletion_gain", "rollout"): (0.2, 0.1), ("deletion_gain", "cls_attention"): (0.1, 0.2)}


def some_rows(model, seed, rng, layers):
    shared = {"model": model, "attention": "dot" if model == "vit" else "svda", "seed": seed, "epoch": 3, "n": 50}
    shared |= {"dataset": "sample", "std": 0.05}
    for (indicator, source), (base, more) in QUANTITIES.items():
        for layer in range(layers):
            for head in range(2):
                mean = base + (model != "vit") * more + 0.01 * layer + 0.005 * rng.standard_normal()
                known = {"indicator": indicator, "source": source, "layer": layer, "head": head, "mean": mean}
                yield {**shared, **known}
    for (indicator, source), (base, more) in {("accuracy", "test"): (0.8, 0.05), **GAIN}.items():
        mean = base + (model != "vit") * more + 0.01 * rng.standard_normal()
        yield {**shared, "indicator": indicator, "source": source, "mean": mean}


def an_analysis(models=("vit", "svda"), seeds=(0, 1, 2), layers=2, **fields):
    """An analysis with numbers drawn at random; the models that are not ``vit`` are more structured and faithful."""
    rng = np.random.default_rng(0)
    every = [(model, seed) for model in models for seed in seeds]
    table = make_frame((row for run in every for row in some_rows(*run, rng, layers)), TABLE_COLUMNS)
    known = {"parameters": 1234, "images": 50, "epoch": 3, "data": "sample test", "dataset": "sample"}
    runs = [
        Run(model=model, attention="dot" if model == "vit" else "svda", seed=seed, **known) for model, seed in every
    ]
    return Analysis(table=table, spectra=make_frame([], SPECTRA_COLUMNS), runs=tuple(runs), **fields)


def some_maps():
    who = {"images": "same", "model": "svda", "baseline": "vit", "layer_a": 0, "layer_b": 0, "measure": "js"}
    numbers = {"identity": 0.2, "matched": 0.4, "chance": 0.3, "n": 8}
    rows = [{**who, **numbers, "seed": s, "baseline_seed": s, "gain_over_chance": 0.1 + 0.01 * s} for s in range(3)]
    heads = [{**who, "head_a": h, "head_b": h if h else None, "stable": [None, True, False][h]} for h in range(3)]
    known = {"matching": rows, "heads": heads}
    return {name: make_frame(known.get(name, []), columns) for name, columns in MAP_COLUMNS.items()}


@pytest.fixture(autouse=True)
def _pictures(monkeypatch):
    found = [Picture(name="by_layer", draw=lambda: None), Picture(name="heatmaps", draw=lambda: None)]
    monkeypatch.setattr("svda_analysis.sections.analysis._pictures", lambda analysis: found)


def headings(analysis):
    page = to_markdown(analysis_document(analysis, title="Attention analysis: out", command="svda-analyze a.pt"))
    return [line for line in page.splitlines() if line.startswith("#")], page


def test_two_models_stand_side_by_side():
    found, page = headings(an_analysis(maps=some_maps(), warnings=("few images",)))
    assert found == [
        "# Attention analysis: out",
        "## Which attention is more structured?",
        "## Whose maps are more faithful?",
        "## Comparison over the whole model",
        "### svda against vit",
        "## Do the heads attend to the same places?",
        "## Figures",
        "## How to read this",
    ]
    blocks = page.split("\n\n")
    assert blocks[1] == "**Warning: few images**"
    assert blocks[2].startswith("- Test accuracy, vit: ")
    assert blocks[3] == "Made by `svda-analyze a.pt`."
    assert blocks[4].startswith("| Model | Attention | Runs | Epoch | Parameters | Images | Data |\n| --- |")
    assert blocks[4].count("\n") == 1 + 2  # a row for the runs of a model
    assert "<details><summary>svda, layer by layer</summary>\n\n| Source |" in page
    assert "![by_layer](figures/by_layer.png)\n\n![heatmaps](figures/heatmaps.png)\n\n## How" in page
    assert "confident a model is.\n\n[^" in page  # then the words that were used


def test_a_single_model_is_compared_with_none():
    found, page = headings(an_analysis(("svda",), seeds=(None,)))
    assert found[1:] == ["## Do its maps tell what it decides by?", "## Figures", "## How to read this"]
    assert "| svda | svda | 1 | 3 | 1234 | 50 | sample test |" in page
    assert "over images of one run" in page


def test_a_model_without_labels_has_no_accuracy():
    analysis = an_analysis(("svda",))
    _, page = headings(dataclasses.replace(analysis, table=analysis.table[analysis.table["indicator"] != "accuracy"]))
    assert "Test accuracy" not in page


def test_the_baseline_may_be_another():
    found, _ = headings(an_analysis(baseline="svda"))
    assert "### vit against svda" in found


def test_the_latex_table_is_the_comparison_or_of_one_model_its_numbers():
    two, one = an_analysis(("vit", "a{b}", "svda")), an_analysis(("svda",), warnings=("few images",))
    tables = latex_tables(two)
    assert [table.title for table in tables] == ["a{b} against vit", "svda against vit"]
    assert r"Source & Indicator & vit & a\{b\} & Difference" in to_latex(tables)
    text = to_latex(latex_tables(one), one.warnings)
    assert text.startswith("% WARNING: few images\n% needs")
    assert "Effective rank (scores) & 3." in text
    assert pd.notna(one.table["mean"]).all()


def test_of_random_weights_there_is_no_verdict():
    whole = an_analysis(models=("vit", "svda"))
    assert whole.comparison["verdict"].notna().any()
    runs = tuple(dataclasses.replace(run, untrained=run.model == "svda") for run in whole.runs)
    random = dataclasses.replace(whole, runs=runs)
    assert random.comparison["verdict"].isna().all()
    text = to_markdown(analysis_document(random, title="x"))
    assert "erdicts over the whole model" in to_markdown(analysis_document(whole, title="x"))
    for word in ("erdicts over the whole model", "## Which attention is more structured?", ": inconclusive"):
        assert word not in text
    pd.testing.assert_frame_equal(random.comparison.drop(columns="verdict"), whole.comparison.drop(columns="verdict"))
