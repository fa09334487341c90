"""Lines against layer."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
from figure_frames import LAYERS, line, make_table, of
from matplotlib.colors import to_hex

from svda_analysis import figures
from svda_analysis.comparison import summarise
from svda_analysis.figures import layers
from svda_analysis.stats import interval_over


def test_by_layer_mean_and_t_interval_over_seeds():
    table = make_table()
    ax = figures.plot_indicator_by_layer(table, indicator="effective_rank", source="scores")
    for number, model in enumerate(("vit", "svda")):
        rows = of(table, model, "effective_rank", "scores")
        by_seed = np.array(
            [[rows[(rows.seed == s) & (rows.layer == i)]["mean"].mean() for s in range(3)] for i in range(3)]
        )
        drawn = line(ax, model)
        np.testing.assert_allclose(drawn.get_ydata(), by_seed.mean(1), rtol=1e-12)
        bars = np.array([segment[:, 1] for segment in ax.collections[number].get_segments()])
        np.testing.assert_allclose(bars, [interval_over(runs, low=1.0) for runs in by_seed], rtol=1e-9)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["vit (3 seeds)", "svda (3 seeds)"]
    assert ax.get_ylabel() == "Effective rank (scores)"


def test_by_layer_models_stand_beside_each_other():
    ax = figures.plot_indicator_by_layer(make_table(), indicator="attention_entropy")
    vit, svda = line(ax, "vit").get_xdata(), line(ax, "svda").get_xdata()
    assert (vit < svda).all()
    np.testing.assert_allclose((vit + svda) / 2, range(LAYERS), atol=1e-12)


def test_by_layer_of_one_run_shows_heads_and_the_interval_over_images():
    table = make_table(("svda",), seeds=1)
    ax = figures.plot_indicator_by_layer(table, indicator="attention_entropy")
    rows = of(table, "svda", "attention_entropy", "attention")
    ends = summarise(rows).dropna(subset="layer")[["ci_low", "ci_high"]]
    bars = np.array([segment[:, 1] for segment in ax.collections[0].get_segments()])
    np.testing.assert_allclose(bars, ends, rtol=1e-12)
    (dots,) = [drawn for drawn in ax.lines if drawn.get_linestyle() == "None"]
    np.testing.assert_array_equal(dots.get_ydata(), rows["mean"])
    assert line(ax, "svda").get_label() == "svda (images of 1 run)"


def test_by_layer_nothing_missing_is_averaged_away():
    table = make_table(("vit",))
    hit = (table.indicator == "attention_entropy") & (table.layer == 1) & (table["head"] == 0) & (table.seed == 2)
    table.loc[hit.fillna(False), "mean"] = np.nan
    y = line(figures.plot_indicator_by_layer(table, indicator="attention_entropy"), "vit").get_ydata()
    assert np.isnan(y).tolist() == [False, True, False]


def test_by_layer_takes_the_last_epoch_of_each_run():
    history = make_table(("vit",), seeds=2, epochs=(1, 2))
    last = history[history.epoch == 2]
    ours = figures.plot_indicator_by_layer(history, indicator="attention_entropy")
    expected = figures.plot_indicator_by_layer(last, indicator="attention_entropy", ax=plt.figure().add_subplot())
    np.testing.assert_array_equal(line(ours, "vit").get_ydata(), line(expected, "vit").get_ydata())


def test_constant_values_are_not_blown_up():
    table = make_table(("vit",))
    table["mean"] = 16 + 1e-9 * table["mean"]
    low, high = figures.plot_indicator_by_layer(table, indicator="attention_entropy").get_ylim()
    assert high - low > 0.1
    fig = figures.plot_indicator_heatmaps(table, indicator="attention_entropy")
    low, high = fig.axes[0].collections[0].get_clim()
    assert high - low > 0.1


def test_overview_shows_rank_selectivity_and_the_accuracy_of_each_model():
    table = make_table().replace({"indicator": {"attention_entropy": "selectivity_index"}})
    fig = figures.plot_overview(table)
    assert [ax.get_title() for ax in fig.axes] == ["Effective rank (scores)", "Selectivity index", "Test accuracy (%)"]
    rank, _, accuracy = fig.axes
    alone = figures.plot_indicator_by_layer(
        table, indicator="effective_rank", source="scores", ax=plt.figure().add_subplot()
    )
    np.testing.assert_array_equal(line(rank, "svda").get_ydata(), line(alone, "svda").get_ydata())
    runs = [100 * of(table, model, "accuracy", "test")["mean"].to_numpy() for model in ("vit", "svda")]
    means = [drawn.get_xdata()[0] for drawn in accuracy.lines if len(drawn.get_xdata()) == 1]
    np.testing.assert_allclose(means, [mean.mean() for mean in runs])
    ends = [bar.get_segments()[0][:, 0] for bar in accuracy.collections]
    np.testing.assert_allclose(ends, [interval_over(run, low=0.0, high=100.0) for run in runs], rtol=1e-9)


def test_a_panel_without_variation_says_so():
    table = make_table(("vit",))
    table.loc[table["indicator"] == "attention_entropy", "mean"] = 1.0
    fig = figures.plot_all_by_layer(table)
    said = {ax.get_title(): [text.get_text() for text in ax.texts] for ax in fig.axes if ax.get_visible()}
    assert said["Attention entropy"] == ["constant at 1.000"]
    assert said["Effective rank"] == []


def test_a_panel_whose_intervals_have_a_width_is_not_called_constant():
    table = make_table(("vit",), seeds=1)
    at = table["indicator"] == "attention_entropy"
    table.loc[at, "mean"] = 0.5
    for std, said in ((0.0, ["constant at 0.500"]), (0.1, [])):
        table.loc[at, "std"] = std
        fig = figures.plot_all_by_layer(table)
        (panel,) = [ax for ax in fig.axes if ax.get_title() == "Attention entropy"]
        assert [text.get_text() for text in panel.texts] == said


def test_rows_are_indicators_and_columns_spectra():
    pairs = [(name, source) for name in ("effective_rank", "spectral_entropy") for source in ("scores", "sigma")]
    pairs += [("attention_rank", "attention"), ("spectral_entropy", "attention"), ("attention_entropy", "attention")]
    ordered = layers.by_spectrum(pairs)
    assert ordered[:3] == [("effective_rank", "sigma"), ("effective_rank", "scores"), ("attention_rank", "attention")]
    assert [source for _, source in ordered[3:6]] == ["sigma", "scores", "attention"]
    assert sorted(ordered) == sorted(pairs)


def test_all_by_layer_one_panel_each_and_one_legend():
    fig = figures.plot_all_by_layer(make_table())
    shown = [ax for ax in fig.axes if ax.get_visible()]
    titles = [ax.get_title() for ax in shown]
    assert titles == ["Effective rank (scores)", "Effective rank (sigma)", "Attention entropy"]
    assert not any(ax.get_legend() for ax in shown)
    (legend,) = fig.legends
    assert [text.get_text() for text in legend.get_texts()] == ["vit (3 seeds)", "svda (3 seeds)", "95 % interval"]
    colors = {to_hex(line(ax, "svda").get_color()) for ax in shown}
    assert len(colors) == 1
