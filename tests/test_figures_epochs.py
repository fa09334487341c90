"""Lines against epoch."""

from __future__ import annotations

import numpy as np
import pytest
from figure_frames import LAYERS, line, make_table, of

from svda_analysis import figures
from svda_analysis.comparison import summarise
from svda_analysis.errors import InputError
from svda_analysis.stats import interval_over


def test_over_epochs_thin_runs_and_thick_mean():
    history = make_table(("vit",), seeds=2, epochs=(1, 2, 3))
    ax = figures.plot_indicator_over_epochs(history, indicator="attention_entropy")
    rows = of(history, "vit", "attention_entropy", "attention")
    runs = np.array([[rows[(rows.seed == s) & (rows.epoch == e)]["mean"].mean() for e in (1, 2, 3)] for s in (0, 1)])
    thin = [drawn.get_ydata() for drawn in ax.lines if drawn.get_linewidth() < 1]
    np.testing.assert_allclose(thin, runs, rtol=1e-12)
    np.testing.assert_allclose(line(ax, "vit").get_ydata(), runs.mean(0), rtol=1e-12)
    np.testing.assert_array_equal(line(ax, "vit").get_xdata(), [1, 2, 3])


def test_over_epochs_mean_stops_with_the_first_run():
    history = make_table(("vit",), seeds=2, epochs=(1, 2, 3))
    history = history[~((history.seed == 1) & (history.epoch == 3))]
    ax = figures.plot_indicator_over_epochs(history, indicator="accuracy")
    np.testing.assert_array_equal(line(ax, "vit").get_xdata(), [1, 2])


def test_one_legend_names_a_model_once_though_not_all_runs_have_all_indicators():
    history = make_table(seeds=3, epochs=(1, 2))
    late = (history.indicator == "attention_entropy") & (history.seed == 0) & (history.model == "svda")
    fig = figures.plot_all_over_epochs(history[~late])
    names = [text.get_text() for text in fig.legends[0].get_texts()]
    assert names == ["vit (3 seeds)", "svda (2 to 3 seeds)", "single runs"]


def test_training_curves_mean_and_band():
    history = make_table(seeds=3, epochs=(1, 2))
    fig = figures.plot_training_curves(history)
    loss, accuracy = fig.axes
    rows = of(history, "svda", "accuracy", "test")
    by_seed = rows.pivot_table(index="epoch", columns="seed", values="mean").to_numpy(float)
    np.testing.assert_allclose(line(accuracy, "svda").get_ydata(), by_seed.mean(1), rtol=1e-12)
    band = accuracy.collections[1].get_paths()[0].vertices
    at_first = band[band[:, 0] == 1, 1]
    expected = interval_over(by_seed[0], low=0.0, high=1.0)
    np.testing.assert_allclose([at_first.min(), at_first.max()], expected, rtol=1e-9)
    assert sum(drawn.get_linestyle() == "--" for drawn in loss.lines) == 2
    names = [text.get_text() for text in fig.legends[0].get_texts()]
    assert names == ["vit (3 seeds)", "svda (3 seeds)", "test", "train"]


def test_training_curves_draw_what_there_is():
    history = make_table(("vit",), 1, epochs=(1, 2))
    fig = figures.plot_training_curves(history[history.indicator != "loss"])
    assert [ax.get_ylabel() for ax in fig.axes] == ["Accuracy (test)"]
    with pytest.raises(InputError, match="loss"):
        figures.plot_training_curves(history[history.layer.notna()])


def test_training_curves_of_one_run_have_no_band():
    fig = figures.plot_training_curves(make_table(("vit",), 1, epochs=(1, 2)).assign(std=0.1))
    assert not any(np.isfinite(path.vertices).any() for path in fig.axes[1].collections[0].get_paths())


def test_layers_over_epochs_show_the_interval_over_runs():
    history = make_table(("svda",), seeds=3, epochs=(1, 2))
    ax = figures.plot_layers_over_epochs(history, indicator="attention_entropy")
    expected = summarise(of(history, "svda", "attention_entropy", "attention"), epochs="each")
    for layer in range(LAYERS):
        mine = expected[(expected["layer"] == layer).fillna(False)]
        np.testing.assert_allclose(line(ax, f"Layer {layer}").get_ydata(), mine["mean"])
        band = ax.collections[layer].get_paths()[0].vertices[:, 1]
        np.testing.assert_allclose([band.min(), band.max()], [mine["ci_low"].min(), mine["ci_high"].max()])
    fig = figures.plot_epochs_by_layer(make_table(epochs=(1, 2)))
    assert [ax.get_title() for ax in fig.axes if ax.get_title()] == ["vit", "svda"]
