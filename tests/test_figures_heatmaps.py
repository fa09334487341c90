"""Heat maps show the cells of one run."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from figure_frames import HEADS, make_table, of

from svda_analysis import figures


def test_heatmap_shows_the_lowest_seed_as_in_the_table():
    table = make_table()
    ax = figures.plot_indicator_heatmap(table, indicator="attention_entropy", model="svda")
    rows = of(table, "svda", "attention_entropy", "attention")
    expected = rows[rows.seed == 0].pivot_table(index="head", columns="layer", values="mean").to_numpy(float)
    np.testing.assert_array_equal(ax.collections[0].get_array(), expected)
    assert ax.get_title() == "svda, seed 0 (1 of 3 runs)"
    assert ax.get_ylim() == (HEADS, 0)  # head 0 on top
    assert [label.get_text() for label in ax.get_yticklabels()] == [str(head) for head in range(HEADS)]
    assert ax.figure.axes[1].get_ylabel() == "Attention entropy"


def test_heatmap_of_a_seed_with_limits_and_label():
    table = make_table()
    fig, ax = plt.subplots()
    options = {"indicator": "effective_rank", "source": "scores", "model": "vit", "seed": 2}
    returned = figures.plot_indicator_heatmap(table, ax=ax, vmin=0, vmax=9, cbar=False, **options)
    assert returned is ax
    assert fig.axes == [ax]
    assert ax.collections[0].get_clim() == (0, 9)
    rows = of(table, "vit", "effective_rank", "scores")
    first = rows[(rows.seed == 2) & (rows.layer == 1) & (rows["head"] == 0)]["mean"].item()
    assert ax.collections[0].get_array()[0, 1] == first


def test_heatmap_leaves_a_missing_head_blank():
    table = make_table(("vit",), 1)
    table = table[~((table.layer == 1) & (table["head"] == 1)).fillna(False)]
    ax = figures.plot_indicator_heatmap(table, indicator="attention_entropy")
    np.testing.assert_array_equal(np.ma.getmaskarray(ax.collections[0].get_array()).nonzero(), [[1], [1]])


def test_heatmaps_share_one_colour_scale():
    table = make_table()
    fig = figures.plot_indicator_heatmaps(table, indicator="attention_entropy")
    first, second, bar = fig.axes
    shown = of(table, "vit", "attention_entropy", "attention"), of(table, "svda", "attention_entropy", "attention")
    values = pd.concat(shown)["mean"]
    assert first.collections[0].get_clim() == second.collections[0].get_clim() == (values.min(), values.max())
    assert [ax.get_title().split(",")[0] for ax in (first, second)] == ["vit", "svda"]
    assert bar.get_ylabel() == "Attention entropy"
    assert fig.get_figwidth() == figures.TWO_COLUMNS


def test_heatmaps_leave_the_baseline_without_sigma_empty():
    fig = figures.plot_indicator_heatmaps(
        make_table(), indicator="effective_rank", source="sigma", models=("vit", "svda")
    )
    empty, shown, _ = fig.axes
    assert not empty.axison
    assert not empty.collections
    assert shown.get_ylabel() == "Head"


def test_all_heatmaps_one_block_for_each_indicator():
    fig = figures.plot_all_heatmaps(make_table(), skip=["attention_entropy"])
    titles = [block.get_suptitle() for block in fig.subfigs]
    assert titles == ["Effective rank (scores)", "Effective rank (sigma)"]
    assert sum(bool(ax.collections) and bool(ax.get_title()) for ax in fig.axes) == 3  # vit has no sigma
    assert fig.get_suptitle() == "one run of each model: seed 0"


@pytest.mark.parametrize(("models", "shown"), [(1, True), (16, False)])
def test_cells_say_their_numbers_where_these_have_room(models, shown):
    table = make_table(tuple(f"m{at}" for at in range(models)))
    fig = figures.plot_all_heatmaps(table, pairs=[("effective_rank", "scores")])
    maps = [ax for ax in fig.axes if ax.get_title()]
    assert len(maps) == models
    assert all(bool(ax.texts) is shown for ax in maps)
