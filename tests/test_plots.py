"""Figures are tested by what is plotted (the arrays on the Axes), never by their pixels."""

from __future__ import annotations

import subprocess
import sys

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_hex, to_rgb
from PIL import Image
from scipy import stats

from svda_analysis import plots
from svda_analysis.errors import InputError
from svda_analysis.results import SPECTRA_COLUMNS, TABLE_COLUMNS, Examples, Trace, make_frame

LAYERS, HEADS, DIM = 3, 2, 8
KINDS = (("effective_rank", "sigma"), ("effective_rank", "scores"), ("attention_entropy", "attention"))


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def make_table(models=("vit", "svda"), seeds=3, epochs=(4,)) -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for model in models:
        attention = "dot" if model.startswith("vit") else "svda"
        for seed in range(seeds):
            for epoch in epochs:
                run = {"model": model, "attention": attention, "seed": seed, "dataset": "toy", "epoch": epoch}
                for name, source, mean in [("loss", "train", 2.0), ("loss", "test", 2.2), ("accuracy", "test", 0.5)]:
                    rows.append({**run, "indicator": name, "source": source, "mean": mean + rng.random() / 10, "n": 9})
                for indicator, source in KINDS:
                    if source == "sigma" and attention == "dot":
                        continue
                    for layer in range(LAYERS):
                        for head in range(HEADS):
                            cell = {"layer": layer, "head": head, "indicator": indicator, "source": source}
                            mean, half = rng.random() + 1, 0.01 + rng.random() / 10
                            interval = {"mean": mean, "ci_low": mean - half, "ci_high": mean + half, "n": 9}
                            rows.append({**run, **cell, **interval})
    return make_frame(rows, TABLE_COLUMNS)


def make_spectra(models=("vit", "svda"), seeds=2) -> pd.DataFrame:
    rng, rows = np.random.default_rng(1), []
    for model in models:
        for seed in range(seeds):
            for layer in range(LAYERS):
                for head in range(HEADS):
                    run = {"model": model, "attention": "dot" if model == "vit" else "svda", "seed": seed, "epoch": 4}
                    for source in ("scores",) if model == "vit" else ("scores", "sigma"):
                        for rank, value in enumerate(np.sort(rng.random(DIM) * 5)[::-1], start=1):
                            cell = {"layer": layer, "head": head, "source": source, "rank": rank, "value": value}
                            rows.append({**run, **cell})
    return make_frame(rows, SPECTRA_COLUMNS)


def make_examples(prefix=1, layers=LAYERS, channels=1) -> Examples:
    rng, grid = np.random.default_rng(2), (2, 3)
    tokens = prefix + 6
    maps = rng.random((2, layers, HEADS, tokens, tokens))
    maps /= maps.sum(-1, keepdims=True)
    images = rng.integers(0, 256, (2, 8, 12, channels), dtype=np.uint8)
    labels, predictions = np.array([0, 1]), np.array([0, 0])
    return Examples(images, labels, predictions, maps.astype(np.float16), grid, prefix, ("cat", "a_very_long_dog, pet"))


def make_comparison(unit="seeds") -> pd.DataFrame:
    rows = [
        # indicator, source, layer, baseline_mean, difference, ci_low, ci_high, p_adjusted
        ("effective_rank", "scores", pd.NA, 20.0, 5.0, 2.0, 8.0, 0.01),
        ("effective_rank", "attention", pd.NA, -4.0, 1.0, -1.0, 3.0, 0.3),
        ("selectivity_index", "attention", pd.NA, 0.0, 0.1, 0.05, 0.2, 0.02),
        ("effective_rank", "scores", 1, 10.0, -5.0, -6.0, -4.0, 0.01),
    ]
    columns = ["indicator", "source", "layer", "baseline_mean", "difference", "ci_low", "ci_high", "p_adjusted"]
    frame = pd.DataFrame(rows, columns=columns).assign(model="svda", baseline="vit", unit=unit)
    return frame.assign(p_adjusted=np.nan) if unit == "images" else frame


def line(ax, start: str):
    """The one line on ``ax`` whose label starts so."""
    (found,) = [drawn for drawn in ax.lines if str(drawn.get_label()).startswith(start)]
    return found


def of(table, model, indicator, source):
    return table[(table.model == model) & (table.indicator == indicator) & (table.source == source)]


# --- theme and styles ---


def test_theme_applies_inside_the_block_only():
    before = dict(mpl.rcParams)
    with plots.theme():
        assert mpl.rcParams["pdf.fonttype"] == 42
        assert mpl.rcParams["font.size"] in (7, 8)
    assert dict(mpl.rcParams) == before


def test_import_changes_no_settings_and_loads_no_torch():
    code = (
        "import sys, matplotlib as mpl; before = dict(mpl.rcParams); import svda_analysis.plots; "
        "after = dict(mpl.rcParams); assert before == after; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_baseline_comes_first_and_svda_looks_the_same_without_it():
    both, alone = make_table(("svda", "vit"), 1), make_table(("svda",), 1)
    assert list(plots.model_styles(both)) == ["vit", "svda"]
    assert plots.model_styles(both)["svda"] == plots.model_styles(alone)["svda"]
    assert list(plots.model_styles(make_comparison())) == ["svda"]
    assert plots.model_styles(make_comparison())["svda"] == plots.model_styles(both)["svda"]


@given(st.integers(1, 20))
def test_models_differ_in_colour_and_marker(count):
    frame = pd.DataFrame({"model": [f"m{i:02}" for i in range(count)], "attention": "svda"})
    styles = plots.model_styles(frame).values()
    assert len({(style.color, style.marker) for style in styles}) == count


# --- heat maps ---


def test_heatmap_shows_the_lowest_seed_as_in_the_table():
    table = make_table()
    ax = plots.plot_indicator_heatmap(table, indicator="attention_entropy", model="svda")
    rows = of(table, "svda", "attention_entropy", "attention")
    expected = rows[rows.seed == 0].pivot_table(index="head", columns="layer", values="mean").to_numpy(float)
    np.testing.assert_array_equal(ax.collections[0].get_array(), expected)
    assert ax.get_title() == "svda, seed 0 (1 of 3 runs)"
    assert ax.get_ylim() == (HEADS - 0.5, -0.5)
    assert ax.figure.axes[1].get_ylabel() == "Attention entropy"


def test_heatmap_of_a_seed_with_limits_and_label():
    table = make_table()
    fig, ax = plt.subplots()
    options = {"indicator": "effective_rank", "source": "scores", "model": "vit", "seed": 2}
    returned = plots.plot_indicator_heatmap(table, ax=ax, vmin=0, vmax=9, cbar=False, **options)
    assert returned is ax
    assert fig.axes == [ax]
    assert ax.collections[0].get_clim() == (0, 9)
    rows = of(table, "vit", "effective_rank", "scores")
    first = rows[(rows.seed == 2) & (rows.layer == 1) & (rows["head"] == 0)]["mean"].item()
    assert ax.collections[0].get_array()[0, 1] == first


def test_heatmap_leaves_a_missing_head_blank():
    table = make_table(("vit",), 1)
    table = table[~((table.layer == 1) & (table["head"] == 1)).fillna(False)]
    ax = plots.plot_indicator_heatmap(table, indicator="attention_entropy")
    np.testing.assert_array_equal(np.ma.getmaskarray(ax.collections[0].get_array()).nonzero(), [[1], [1]])


def test_heatmaps_share_one_colour_scale():
    table = make_table()
    fig = plots.plot_indicator_heatmaps(table, indicator="attention_entropy", labels={"attention_entropy": "H / log N"})
    first, second, bar = fig.axes
    shown = of(table, "vit", "attention_entropy", "attention"), of(table, "svda", "attention_entropy", "attention")
    values = pd.concat(shown)["mean"]
    assert first.collections[0].get_clim() == second.collections[0].get_clim() == (values.min(), values.max())
    assert [ax.get_title().split(",")[0] for ax in (first, second)] == ["vit", "svda"]
    assert bar.get_ylabel() == "H / log N"
    assert fig.get_figwidth() == plots.TWO_COLUMNS


def test_heatmaps_leave_the_baseline_without_sigma_empty():
    fig = plots.plot_indicator_heatmaps(
        make_table(), indicator="effective_rank", source="sigma", models=("vit", "svda")
    )
    empty, shown, _ = fig.axes
    assert not empty.axison
    assert not empty.collections
    assert shown.get_ylabel() == "Head"


def test_all_heatmaps_one_block_for_each_indicator():
    fig = plots.plot_all_heatmaps(make_table(), skip=["attention_entropy"])
    titles = [ax.get_title(loc="left").strip() for ax in fig.axes if ax.get_title(loc="left")]
    assert titles == ["Effective rank (scores)", "Effective rank (sigma)"]
    assert sum(bool(ax.collections) and bool(ax.get_title()) for ax in fig.axes) == 3  # vit has no sigma
    assert fig.get_suptitle() == "one run of each model: seed 0"


# --- by layer ---


def test_by_layer_mean_and_t_interval_over_seeds():
    table = make_table()
    ax = plots.plot_indicator_by_layer(table, indicator="effective_rank", source="scores")
    for number, model in enumerate(("vit", "svda")):
        rows = of(table, model, "effective_rank", "scores")
        by_seed = np.array(
            [[rows[(rows.seed == s) & (rows.layer == i)]["mean"].mean() for s in range(3)] for i in range(3)]
        )
        drawn = line(ax, model)
        np.testing.assert_allclose(drawn.get_ydata(), by_seed.mean(1), rtol=1e-12)
        bars = np.array([segment[:, 1] for segment in ax.collections[number].get_segments()])
        low, high = stats.t.interval(0.95, 2, loc=by_seed.mean(1), scale=stats.sem(by_seed, axis=1))
        np.testing.assert_allclose(bars, np.column_stack([low, high]), rtol=1e-9)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["vit (3 seeds)", "svda (3 seeds)"]
    assert ax.get_ylabel() == "Effective rank (scores)"


def test_by_layer_models_stand_beside_each_other():
    ax = plots.plot_indicator_by_layer(make_table(), indicator="attention_entropy")
    vit, svda = line(ax, "vit").get_xdata(), line(ax, "svda").get_xdata()
    assert (vit < svda).all()
    np.testing.assert_allclose((vit + svda) / 2, range(LAYERS), atol=1e-12)


def test_by_layer_of_one_run_shows_heads_and_the_interval_over_images():
    table = make_table(("svda",), seeds=1)
    ax = plots.plot_indicator_by_layer(table, indicator="attention_entropy")
    rows = of(table, "svda", "attention_entropy", "attention")
    ends = rows.groupby("layer")[["ci_low", "ci_high"]].mean().to_numpy()
    bars = np.array([segment[:, 1] for segment in ax.collections[0].get_segments()])
    np.testing.assert_allclose(bars, ends, rtol=1e-12)
    (dots,) = [drawn for drawn in ax.lines if drawn.get_linestyle() == "None"]
    np.testing.assert_array_equal(dots.get_ydata(), rows["mean"])
    assert line(ax, "svda").get_label() == "svda (images of 1 run)"


def test_by_layer_nothing_missing_is_averaged_away():
    table = make_table(("vit",))
    hit = (table.indicator == "attention_entropy") & (table.layer == 1) & (table["head"] == 0) & (table.seed == 2)
    table.loc[hit.fillna(False), "mean"] = np.nan
    y = line(plots.plot_indicator_by_layer(table, indicator="attention_entropy"), "vit").get_ydata()
    assert np.isnan(y).tolist() == [False, True, False]


def test_by_layer_takes_the_last_epoch_of_each_run():
    history = make_table(("vit",), seeds=2, epochs=(1, 2))
    last = history[history.epoch == 2]
    ours = plots.plot_indicator_by_layer(history, indicator="attention_entropy")
    expected = plots.plot_indicator_by_layer(last, indicator="attention_entropy", ax=plt.figure().add_subplot())
    np.testing.assert_array_equal(line(ours, "vit").get_ydata(), line(expected, "vit").get_ydata())


def test_constant_values_are_not_blown_up():
    table = make_table(("vit",))
    table["mean"] = 16 + 1e-9 * table["mean"]
    low, high = plots.plot_indicator_by_layer(table, indicator="attention_entropy").get_ylim()
    assert high - low > 0.1
    fig = plots.plot_indicator_heatmaps(table, indicator="attention_entropy")
    low, high = fig.axes[0].collections[0].get_clim()
    assert high - low > 0.1


def test_all_by_layer_one_panel_each_and_one_legend():
    fig = plots.plot_all_by_layer(make_table(), labels={"effective_rank": "Rank"})
    shown = [ax for ax in fig.axes if ax.get_visible()]
    assert [ax.get_title() for ax in shown] == ["Rank (scores)", "Rank (sigma)", "Attention entropy"]
    assert not any(ax.get_legend() for ax in shown)
    (legend,) = fig.legends
    assert [text.get_text() for text in legend.get_texts()] == ["vit (3 seeds)", "svda (3 seeds)", "95 % interval"]
    colors = {to_hex(line(ax, "svda").get_color()) for ax in shown}
    assert len(colors) == 1


# --- over epochs ---


def test_over_epochs_thin_runs_and_thick_mean():
    history = make_table(("vit",), seeds=2, epochs=(1, 2, 3))
    ax = plots.plot_indicator_over_epochs(history, indicator="attention_entropy")
    rows = of(history, "vit", "attention_entropy", "attention")
    runs = np.array([[rows[(rows.seed == s) & (rows.epoch == e)]["mean"].mean() for e in (1, 2, 3)] for s in (0, 1)])
    thin = [drawn.get_ydata() for drawn in ax.lines if drawn.get_linewidth() < 1]
    np.testing.assert_allclose(thin, runs, rtol=1e-12)
    np.testing.assert_allclose(line(ax, "vit").get_ydata(), runs.mean(0), rtol=1e-12)
    np.testing.assert_array_equal(line(ax, "vit").get_xdata(), [1, 2, 3])


def test_over_epochs_mean_stops_with_the_first_run():
    history = make_table(("vit",), seeds=2, epochs=(1, 2, 3))
    history = history[~((history.seed == 1) & (history.epoch == 3))]
    ax = plots.plot_indicator_over_epochs(history, indicator="accuracy")
    np.testing.assert_array_equal(line(ax, "vit").get_xdata(), [1, 2])


def test_training_curves_mean_and_band():
    history = make_table(seeds=3, epochs=(1, 2))
    fig = plots.plot_training_curves(history)
    loss, accuracy = fig.axes
    rows = of(history, "svda", "accuracy", "test")
    by_seed = rows.pivot_table(index="epoch", columns="seed", values="mean").to_numpy(float)
    np.testing.assert_allclose(line(accuracy, "svda").get_ydata(), by_seed.mean(1), rtol=1e-12)
    band = accuracy.collections[1].get_paths()[0].vertices
    low, high = stats.t.interval(0.95, 2, loc=by_seed.mean(1), scale=stats.sem(by_seed, axis=1))
    at_first = band[band[:, 0] == 1, 1]
    np.testing.assert_allclose([at_first.min(), at_first.max()], [low[0], high[0]], rtol=1e-9)
    assert sum(drawn.get_linestyle() == "--" for drawn in loss.lines) == 2
    names = [text.get_text() for text in fig.legends[0].get_texts()]
    assert names == ["vit (3 seeds)", "svda (3 seeds)", "test", "train"]


def test_training_curves_draw_what_there_is():
    history = make_table(("vit",), 1, epochs=(1, 2))
    fig = plots.plot_training_curves(history[history.indicator != "loss"])
    assert [ax.get_ylabel() for ax in fig.axes] == ["Accuracy (test)"]
    with pytest.raises(InputError, match="loss"):
        plots.plot_training_curves(history[history.layer.notna()])


# --- spectra ---


def test_spectra_are_shares_of_the_largest():
    spectra = make_spectra()
    fig = plots.plot_spectra(spectra, source="scores")
    assert [ax.get_title() for ax in fig.axes if ax.get_visible()] == [f"Layer {i}" for i in range(LAYERS)]
    rows = spectra[(spectra.model == "svda") & (spectra.layer == 1) & (spectra.source == "scores")]
    heads = rows.pivot_table(index="rank", columns=["seed", "head"], values="value").to_numpy(float)
    shares = heads / heads.max(0)
    drawn = line(fig.axes[1], "svda")
    np.testing.assert_array_equal(drawn.get_xdata(), range(1, DIM + 1))
    np.testing.assert_allclose(drawn.get_ydata(), shares.mean(1), rtol=1e-12)
    faint = [segment[:, 1] for segment in fig.axes[1].collections[1].get_segments()]
    np.testing.assert_allclose(faint, shares.T, rtol=1e-12)


def test_spectra_scale_follows_their_range():
    spectra = make_spectra(("svda",), 1)
    flat = spectra.assign(value=10.0 - 0.1 * spectra["rank"].astype(float))
    assert plots.plot_spectra(flat).axes[0].get_yscale() == "linear"
    steep = spectra.assign(value=10.0 ** -spectra["rank"].astype(float))
    ax = plots.plot_spectra(steep).axes[0]
    assert (ax.get_yscale(), ax.get_ylim()[0]) == ("log", 1e-3)


# --- attention maps ---


def test_attention_maps_rows_are_models_and_columns_layers():
    examples = {"vit": make_examples(), "svda": make_examples(layers=2)}
    fig = plots.plot_attention_maps(examples, images=[1])
    first = [ax for ax in fig.axes if ax.get_title().startswith(("layer", "mean"))]
    assert [ax.get_title() for ax in first] == ["layer 0", "layer 1", "layer 2", "mean"]
    maps = examples["vit"].maps[1].astype(np.float64)
    paid = maps.mean(1)[:, 0, 1:].reshape(LAYERS, 2, 3)
    for ax, values in zip(first, [*paid, paid.mean(0)], strict=True):
        np.testing.assert_allclose(ax.images[0].get_array(), values / values.max(), rtol=1e-5)
        assert ax.images[0].get_clim() == (0, 1)
    labels = [ax.get_ylabel() for ax in fig.axes if "\n" in ax.get_ylabel()]
    assert labels == ["vit\ncat ✗", "svda\ncat ✗"]
    assert "own maximum" in fig.axes[-1].get_xlabel()
    assert "class token" in fig.axes[-1].get_xlabel()


def test_attention_maps_show_the_image_once_with_its_label():
    shown = make_examples(channels=3)
    fig = plots.plot_attention_maps({"vit": shown, "svda": shown})
    titles = [ax.get_title() for ax in fig.axes]
    assert titles.count("cat") == 1
    np.testing.assert_array_equal(fig.axes[titles.index("cat")].images[0].get_array(), shown.images[0])
    (long,) = [title for title in titles if title.startswith("a very")]
    assert long.endswith("…")


def test_attention_maps_without_class_token_average_the_queries():
    shown = make_examples(prefix=0)
    fig = plots.plot_attention_maps({"swin": shown}, images=[0])
    (ax,) = [ax for ax in fig.axes if ax.get_title() == "layer 0"]
    values = shown.maps[0, 0].astype(np.float64).mean(0).mean(0).reshape(2, 3)
    np.testing.assert_allclose(ax.images[0].get_array(), values / values.max(), rtol=1e-5)
    assert "average token" in fig.axes[-1].get_xlabel()


def test_attention_maps_name_what_is_wrong():
    shown = make_examples()
    other = Examples(**{**vars(shown), "labels": np.array([1, 1])})
    with pytest.raises(InputError, match="at least one model"):
        plots.plot_attention_maps({})
    with pytest.raises(InputError, match=r"images must be indices in \[0, 2\), got \[2\]"):
        plots.plot_attention_maps({"vit": shown}, images=[2])
    with pytest.raises(InputError, match=r"same images.*svda"):
        plots.plot_attention_maps({"vit": shown, "svda": other})


# --- over epochs ---


def make_trace(sigma=True, epochs=(1, 2, 3)) -> Trace:
    rng, E = np.random.default_rng(1), len(epochs)
    values = rng.normal(size=(E, 2, 3, 8)).astype(np.float32) if sigma else None
    return Trace(np.array(epochs), values, rng.random((E, 4, 2, 16)).astype(np.float16))


def test_sigma_over_epochs_is_sorted_relative_and_averaged_over_heads():
    trace = make_trace()
    fig = plots.plot_sigma_over_epochs(trace)
    for layer in range(2):
        lines = fig.axes[layer].get_lines()
        assert len(lines) == 3
        for epoch, drawn in enumerate(lines):
            heads = [sorted(np.abs(head) / np.abs(head).max(), reverse=True) for head in trace.sigma[epoch, layer]]
            np.testing.assert_allclose(drawn.get_ydata(), np.mean(heads, axis=0), rtol=1e-5)
    with pytest.raises(InputError, match="trace must be of a model with a sigma"):
        plots.plot_sigma_over_epochs(make_trace(sigma=False))


def test_maps_over_epochs_are_those_of_the_epochs_that_all_have():
    traces = {"vit": make_trace(False, (1, 2, 3)), "svda": make_trace(True, (2, 3, 4))}
    fig = plots.plot_maps_over_epochs(traces, np.zeros((2, 8, 8, 1), np.uint8))
    drawn = [ax for ax in fig.axes if ax.images and ax.images[0].get_array().shape == (4, 4)]
    assert len(drawn) == 2 * 2 * 2  # images, models, epochs 2 and 3
    assert [ax.get_title() for ax in drawn if ax.get_title()] == ["epoch 2", "epoch 3"]
    first = traces["vit"].maps[1, 0, -1].astype(float)
    np.testing.assert_allclose(drawn[0].images[0].get_array().ravel(), first / first.max(), rtol=1e-3)
    with pytest.raises(InputError, match="traces must share an epoch"):
        plots.plot_maps_over_epochs(
            {"a": make_trace(epochs=(1,)), "b": make_trace(epochs=(2,))}, np.zeros((1, 8, 8, 1))
        )


# --- faithfulness ---


def make_gains() -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for model in ("vit", "svda"):
        for seed in range(3):
            for indicator in ("deletion_gain", "insertion_gain"):
                for source in ("rollout", "relevance"):
                    key = {"model": model, "seed": seed, "indicator": indicator, "source": source}
                    rows.append({**key, "mean": rng.normal(), "ci_low": -1.0, "ci_high": 1.0})
    attention = {"vit": "dot", "svda": "svda"}
    return pd.DataFrame(rows).assign(attention=lambda frame: frame["model"].map(attention))


def test_faithfulness_shows_means_over_runs_with_their_t_interval():
    table = make_gains()
    fig = plots.plot_faithfulness(table)
    assert [ax.get_title() for ax in fig.axes] == ["Deletion gain", "Insertion gain"]
    for ax, indicator in zip(fig.axes, ("deletion_gain", "insertion_gain"), strict=True):
        of_measure = table[table["indicator"] == indicator]
        wanted = []
        for model in ("vit", "svda"):
            for source in ("rollout", "relevance"):
                rows = of_measure[(of_measure["model"] == model) & (of_measure["source"] == source)]
                values = rows["mean"]
                wanted.append((values.mean(), *stats.t.interval(0.95, 2, values.mean(), stats.sem(values))))
        means = [drawn.get_ydata()[0] for drawn in ax.lines if len(drawn.get_ydata()) == 1]
        ends = [bar.get_segments()[0][:, 1] for bar in ax.collections]
        np.testing.assert_allclose(means, [mean for mean, _, _ in wanted])
        np.testing.assert_allclose(ends, [(low, high) for _, low, high in wanted])
    with pytest.raises(InputError, match="deletion_gain and insertion_gain"):
        plots.plot_faithfulness(make_table())


def test_the_comparison_of_a_report_leaves_faithfulness_to_its_own_figure():
    extra = make_comparison().iloc[:1].assign(indicator="deletion_auc", source="rollout")
    both = pd.concat([make_comparison(), extra], ignore_index=True)
    drawn = dict(plots.figures(make_table(), comparison=both))
    names = [tick.get_text() for tick in drawn["comparison"].axes[0].get_yticklabels()]
    assert not any("eletion" in name for name in names)


# --- comparison ---


def test_comparison_is_relative_to_the_size_of_the_baseline():
    ax = plots.plot_comparison(make_comparison(), labels={"effective_rank": "Rank"})
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert names == ["Rank (scores)", "Rank (attention)", "Selectivity index"]
    bars, points = ax.collections
    np.testing.assert_allclose(np.ma.filled(points.get_offsets(), np.nan)[:, 0], [25, 25, np.nan])
    ends = [segment[:, 0] for segment in bars.get_segments()[:2]]  # the third, relative to 0, is not drawn
    np.testing.assert_allclose(ends, [[10, 40], [-25, 75]])
    assert ax.get_xlabel() == "Difference from vit (% of its value)"


@pytest.mark.parametrize(("unit", "said"), [("seeds", "adjusted p < 0.05"), ("images", "interval without 0")])
def test_comparison_fills_what_is_clear_and_says_so(unit, said):
    ax = plots.plot_comparison(make_comparison(unit))
    faces = [tuple(face[:3]) for face in ax.collections[1].get_facecolors()]
    assert [face == to_rgb("white") for face in faces] == [False, True, False]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["svda", said, "otherwise"]


def test_comparison_of_one_layer():
    ax = plots.plot_comparison(make_comparison(), layer=1)
    np.testing.assert_allclose(ax.collections[1].get_offsets()[:, 0], [-50])
    with pytest.raises(InputError, match="layer 7"):
        plots.plot_comparison(make_comparison(), layer=7)


# --- bad input ---

SINGLE = (plots.plot_indicator_heatmap, plots.plot_indicator_by_layer, plots.plot_indicator_over_epochs)


@pytest.mark.parametrize("plot", [*SINGLE, plots.plot_indicator_heatmaps])
def test_indicator_plots_name_what_is_wrong(plot):
    table = make_table(("svda",), 1)
    with pytest.raises(InputError, match="lacks the columns indicator, mean"):
        plot(table.drop(columns=["indicator", "mean"]), indicator="effective_rank", source="scores")
    with pytest.raises(InputError, match="no rows"):
        plot(table.iloc[:0], indicator="effective_rank")
    with pytest.raises(InputError, match=r"indicator must be one of .*effective_rank, attention_entropy, got 'typo'"):
        plot(table, indicator="typo")
    with pytest.raises(InputError, match="source of effective_rank must be one of sigma, scores, got None"):
        plot(table, indicator="effective_rank")
    with pytest.raises(InputError, match="got several"):
        plot(pd.concat([table, table.assign(dataset="other")]), indicator="attention_entropy")


def test_other_plots_name_missing_columns():
    with pytest.raises(InputError, match="spectra lacks the columns value"):
        plots.plot_spectra(make_spectra().drop(columns="value"))
    with pytest.raises(InputError, match="source must be one of scores, sigma, got 'attention'"):
        plots.plot_spectra(make_spectra(), source="attention")
    with pytest.raises(InputError, match="comparison lacks the columns p_adjusted"):
        plots.plot_comparison(make_comparison().drop(columns="p_adjusted"))
    with pytest.raises(InputError, match="history lacks the columns indicator"):
        plots.plot_training_curves(make_table().drop(columns="indicator"))
    for plot in (plots.plot_all_heatmaps, plots.plot_all_by_layer, plots.plot_all_over_epochs):
        with pytest.raises(InputError, match="lacks the columns layer"):
            plot(make_table().drop(columns="layer"))


def test_unknown_model_and_seed():
    table = make_table(seeds=2)
    with pytest.raises(InputError, match="model must be one of vit, svda, got None"):
        plots.plot_indicator_heatmap(table, indicator="attention_entropy")
    with pytest.raises(InputError, match="seed must be one of 0, 1, got 7"):
        plots.plot_indicator_heatmap(table, indicator="attention_entropy", model="vit", seed=7)
    with pytest.raises(InputError, match="models must hold at least one of vit, svda, got deit"):
        plots.plot_indicator_by_layer(table, indicator="attention_entropy", models=["deit"])


def test_plots_leave_their_input_alone():
    table, spectra, comparison = make_table(epochs=(1, 2)), make_spectra(), make_comparison()
    before = [frame.copy() for frame in (table, spectra, comparison)]
    for _, fig in plots.figures(table, spectra, {"vit": make_examples()}, table, comparison):
        plt.close(fig)
    for frame, copy in zip((table, spectra, comparison), before, strict=True):
        pd.testing.assert_frame_equal(frame, copy)


# --- everything, and saving ---


def test_figures_yields_every_figure_once_and_none_without_its_data():
    table, history = make_table(seeds=1), make_table(seeds=1, epochs=(1, 2))
    examples = {"svda": make_examples(), "vit": make_examples()}
    settings = dict(mpl.rcParams)
    names = []
    for name, fig in plots.figures(table, make_spectra(), examples, history, make_comparison()):
        names.append(name)
        assert dict(mpl.rcParams) == settings
        plt.close(fig)
    expected = ["comparison", "by_layer", "heatmaps", "spectra_scores", "spectra_sigma", "attention_maps", "training"]
    assert names == [*expected, "epochs"]
    skipped = [indicator for indicator, _ in KINDS]
    assert [name for name, _ in plots.figures(table, skip=skipped)] == []


def test_figures_of_chosen_models_only():
    drawn = dict(plots.figures(make_table(seeds=1), make_spectra(), {"svda": make_examples()}, models=["vit"]))
    assert list(drawn) == ["by_layer", "heatmaps", "spectra_scores"]
    labels = {text.get_text() for fig in drawn.values() for legend in fig.legends for text in legend.get_texts()}
    assert labels == {"vit", "vit (images of 1 run)", "95 % interval"}


def test_figures_survive_a_diverged_run():
    table = make_table(seeds=2, epochs=(1, 2))
    table.loc[table.seed == 1, ["mean", "ci_low", "ci_high"]] = np.nan
    table.loc[(table.seed == 0) & (table.indicator == "loss"), "mean"] = np.inf
    for _, fig in plots.figures(table, history=table):
        fig.draw_without_rendering()
        plt.close(fig)


def test_save_writes_the_same_bytes_again(tmp_path):
    def draw():
        return plots.plot_indicator_heatmaps(make_table(), indicator="attention_entropy")

    fig = draw()
    written = plots.save(fig, tmp_path / "a" / "b", "map")
    assert [path.name for path in written] == ["map.pdf", "map.png"]
    first = [path.read_bytes() for path in written]
    assert [path.read_bytes() for path in plots.save(fig, tmp_path, "map")] == first
    assert [path.read_bytes() for path in plots.save(draw(), tmp_path, "map")] == first
    assert b"CreationDate" not in first[0]
    with Image.open(written[1]) as image:
        assert image.size == (1400, 380)  # 7 x 1.9 inches at 200 dpi
        assert image.mode == "P"
        assert "Software" not in image.info
        assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)


def test_save_keeps_the_colours_of_photographs(tmp_path):
    fig = plt.figure(figsize=(2, 2))
    fig.figimage(np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8))
    _, png = plots.save(fig, tmp_path, "photo")
    with Image.open(png) as image:
        assert image.mode == "RGB"


@pytest.mark.parametrize("name", ["", "../up", "a/b"])
def test_save_refuses_a_path_for_a_name(tmp_path, name):
    with pytest.raises(InputError, match="name must be a file name"):
        plots.save(plt.figure(), tmp_path, name)
