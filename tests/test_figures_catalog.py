"""Every figure of a report, once."""

from __future__ import annotations

import dataclasses

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from figure_frames import HEADS, make_examples, make_gains, make_spectra, make_table, make_trace

from svda_analysis import figures
from svda_analysis.errors import InputError
from svda_analysis.frames import MAP_COLUMNS, SPECTRA_COLUMNS, TABLE_COLUMNS, make_frame
from svda_analysis.results import Analysis, Run


def whole(table=None, **more) -> Analysis:
    """An analysis of both models, with everything that a figure can show."""
    table = make_table(seeds=1) if table is None else table
    return Analysis(**{"table": table, "spectra": make_frame([], SPECTRA_COLUMNS), **more})


def everything() -> Analysis:
    pairs = {"measure": "js", "images": "same", "model": "svda", "baseline": "vit", "seed": 0, "baseline_seed": 0}
    heads = [{**pairs, "layer_a": 0, "layer_b": 0, "head_a": h, "head_b": h, "similarity": 0.5} for h in range(HEADS)]
    similarity = [{**pairs, "layer_a": i, "layer_b": j, "similarity": 0.5} for i in range(2) for j in range(2)]
    structure = make_table(seeds=1).replace({"indicator": {"attention_entropy": "selectivity_index"}})
    return whole(
        pd.concat([make_table(seeds=1), structure[structure["indicator"] == "selectivity_index"], gains()]),
        spectra=make_spectra(),
        history=make_table(seeds=1, epochs=(1, 2)),
        examples={"svda": make_examples(), "vit": make_examples()},
        traces={"svda": make_trace(), "vit": make_trace(sigma=False)},
        maps={
            "heads": make_frame(heads, MAP_COLUMNS["heads"]),
            "similarity": make_frame(similarity, MAP_COLUMNS["similarity"]),
        },
        runs=(Run(model="svda", seed=0), Run(model="vit", seed=0)),
    )


def gains() -> pd.DataFrame:
    table = make_gains()
    return table[table["seed"] == 0].assign(epoch=4)


def names(analysis, *where, **options) -> list[str]:
    return [picture.name for picture in figures.pictures(analysis, *where, **options)]


REPORT = [
    "overview",
    "comparison",
    "faithfulness",
    "by_layer",
    "distributions",
    "heatmaps",
    "spectra_scores",
    "spectra_sigma",
]
REPORT += ["attention_maps", "training", "epochs", "map_similarity", "matched_heads_svda_vit"]
OVER_EPOCHS = ["sigma_over_epochs_svda", "maps_over_epochs", "map_similarity"]


def test_pictures_are_those_of_their_place_in_their_order():
    analysis = everything()
    assert names(analysis) == REPORT
    models = [name for name in REPORT[:-2] if name != "distributions"]
    assert names(analysis, "study") == ["overview", "accuracy_structure", *models[1:], "epochs_by_layer", *OVER_EPOCHS]
    assert names(analysis, "variants") == ["accuracy_structure", *OVER_EPOCHS]
    with pytest.raises(InputError, match=r"where must be one of analysis, study, .*, explanations, got 'paper'"):
        figures.pictures(analysis, "paper")


def test_pictures_are_drawn_when_asked_for_and_leave_settings_and_frames_alone():
    analysis, settings = everything(), dict(mpl.rcParams)
    frames = {"table": analysis.table.copy(), "spectra": analysis.spectra.copy(), "history": analysis.history.copy()}
    found = {p.name: p for place in ("analysis", "study") for p in figures.pictures(analysis, place)}
    assert plt.get_fignums() == []
    for picture in found.values():
        picture.draw().draw_without_rendering()
        plt.close("all")
    assert dict(mpl.rcParams) == settings
    for name, frame in frames.items():
        pd.testing.assert_frame_equal(getattr(analysis, name), frame)


def test_names_are_written_as_they_are_and_never_read_as_mathematics():
    new = {"vit": "v$_{$", "svda": "s$^{$"}  # neither of them is mathematics
    analysis = everything()
    frames = {name: getattr(analysis, name).replace({"model": new}) for name in ("table", "spectra", "history")}
    named = dataclasses.replace(
        analysis,
        **frames,
        examples={new[name]: dataclasses.replace(x, classes=("c$_{$", "d$")) for name, x in analysis.examples.items()},
        traces={new[name]: held for name, held in analysis.traces.items()},
        maps={key: frame.replace({"model": new, "baseline": new}) for key, frame in analysis.maps.items()},
        runs=tuple(dataclasses.replace(run, model=new[run.model]) for run in analysis.runs),
    )
    found = {p.name: p for place in ("analysis", "study", "variants") for p in figures.pictures(named, place)}
    assert len(found) == len(
        {p.name for at in ("analysis", "study", "variants") for p in figures.pictures(analysis, at)}
    )
    for picture in found.values():
        picture.draw().draw_without_rendering()
        plt.close("all")


def test_no_picture_without_its_data():
    table = make_table(("vit",), seeds=1)
    assert names(whole(table[table["indicator"] == "accuracy"])) == []
    assert names(whole(make_frame([], TABLE_COLUMNS))) == []


def test_the_comparison_of_a_report_leaves_faithfulness_to_its_own_figure():
    drawn = {picture.name: picture for picture in figures.pictures(everything())}["comparison"].draw()
    labels = [tick.get_text() for tick in drawn.axes[0].get_yticklabels()]
    assert "Attention entropy" in labels
    assert not any("eletion" in label for label in labels)


def test_pictures_of_chosen_models_only():
    analysis = whole(spectra=make_spectra(), examples={"svda": make_examples()})
    found = figures.pictures(analysis, models=["vit"])
    assert [picture.name for picture in found] == [
        "overview",
        "by_layer",
        "distributions",
        "heatmaps",
        "spectra_scores",
    ]
    legends = [legend for picture in found for legend in picture.draw().legends]
    labels = {text.get_text() for legend in legends for text in legend.get_texts()}
    assert labels == {"vit", "vit (images of 1 run)", "95 % interval", "a head of a single run"}


def test_pictures_survive_a_diverged_run():
    table = make_table(seeds=2, epochs=(1, 2))
    table.loc[table.seed == 1, ["mean", "ci_low", "ci_high"]] = np.nan
    table.loc[(table.seed == 0) & (table.indicator == "loss"), "mean"] = np.inf
    for picture in figures.pictures(whole(table, history=table)):
        fig = picture.draw()
        fig.draw_without_rendering()
        plt.close(fig)


def test_over_epochs_the_indicators_that_were_asked_for_are_drawn():
    whole = make_table(seeds=1, epochs=(1, 2))
    chosen = whole[whole["indicator"].isin(["attention_entropy", "accuracy"])]
    analysis = Analysis(table=chosen, spectra=make_frame([], SPECTRA_COLUMNS), history=whole)
    (epochs,) = [picture for picture in figures.pictures(analysis) if picture.name == "epochs"]
    titles = [ax.get_title() for ax in epochs.draw().axes if ax.get_title()]
    assert titles == ["Attention entropy"]
    other = dataclasses.replace(analysis, history=whole[whole["indicator"] == "effective_rank"])
    assert "epochs" not in [picture.name for picture in figures.pictures(other)]
