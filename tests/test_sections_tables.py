"""Numbers as tables of text: rows in their order, means over heads and runs, intervals within their limits."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from test_sections_analysis import an_analysis

from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.results import Run
from svda_analysis.sections.tables import (
    beside_table,
    comparison_tables,
    layer_table,
    matching_table,
    runs_table,
    summary_table,
)


def test_runs_by_row_with_a_dash_for_what_is_unknown():
    (row,) = runs_table([Run(model="vit", images=3)]).to_dict("records")
    unknown = dict.fromkeys(["Attention", "Epoch"], "-")
    assert row == {"Model": "vit", **unknown, "Runs": "1", "Parameters": "0", "Images": "3", "Data": ""}


def test_runs_that_differ_in_their_seed_alone_are_one_row_and_one_left_out_has_its_own():
    runs = [Run(model="svda", seed=seed, images=3, data="x") for seed in range(3)]
    runs += [Run(model="svda", seed=3, images=9, data="x"), Run(model="svda", seed=4, images=3, broken="layer 1")]
    rows = runs_table(runs)
    assert list(rows["Runs"]) == ["3 (seeds 0, 1, 2)", "seed 3", "seed 4"]
    assert list(rows["Data"]) == ["x", "x", "left out, not finite: layer 1"]


def test_layers_stand_beside_each_other_and_the_mean_over_all_last():
    analysis = an_analysis(layers=3)
    shown = layer_table(analysis.table, "svda")
    assert list(shown.columns) == ["Source", "Indicator", "0", "1", "2", "all"]
    assert list(shown["Source"]) == ["scores", "scores", "attention", "attention", "attention"]
    assert list(shown["Indicator"][:2]) == ["Effective rank", "Spectral entropy"]
    rows = analysis.table.query("model == 'svda' and indicator == 'effective_rank'")
    assert shown["1"][0] == f"{rows[rows['layer'] == 1]['mean'].mean():.3f}"
    assert shown["all"][0] == f"{rows['mean'].mean():.3f}"


def test_a_summary_holds_the_whole_model_alone():
    analysis = an_analysis(("svda",))
    shown = summary_table(analysis.table)
    assert set(shown["Indicator"]) >= {"Accuracy (test)", "Effective rank (scores)"}
    assert len(shown) == analysis.table[["indicator", "source"]].drop_duplicates().shape[0]
    assert (
        summary_table(analysis.table[analysis.table["layer"].notna()])["95 % CI"].str.match(r"\[[\d.]+, [\d.]+]").all()
    )


def test_a_comparison_by_pair_in_the_order_of_the_sources():
    analysis = an_analysis(("vit", "svda", "cosine"))
    tables = comparison_tables(analysis.comparison)
    assert list(tables) == [("svda", "vit"), ("cosine", "vit")]
    shown = tables["svda", "vit"]
    assert list(shown.columns) == [
        *("Source", "Indicator", "vit", "svda", "Difference [95% CI]", "p (Holm)", "Effect", "Runs")
    ]
    sources = ["test", "scores", "scores", "attention", "attention", "attention", "cls_attention", "rollout"]
    assert list(shown["Source"]) == sources
    assert set(shown["Runs"]) == {"3"}
    assert shown["Difference [95% CI]"].str.match(r"[-+]\d\.\d+ \[-?\d\.\d+, -?\d\.\d+]$").all()


def test_one_run_each_has_neither_effect_nor_p():
    (shown,) = comparison_tables(an_analysis(seeds=(0,)).comparison).values()
    assert set(shown["Runs"]) == {"1"}
    assert set(shown["Effect"]) == set(shown["p (Holm)"]) == {"-"}


# --- matched heads ----------------------------------------------------------------------------------------------------


def matching(gains):
    rows = [
        {"gain_over_chance": gain, "gain_over_chance_low": gain - 1, "gain_over_chance_high": gain + 1, "seed": seed}
        for seed, gain in enumerate(gains)
    ]
    common = {"model": "svda", "baseline": "vit", "layer_a": 0, "layer_b": 0, "measure": "js", "images": "same"}
    frame = pd.DataFrame(rows).assign(**common, identity=0.2, matched=0.5, chance=0.3)
    return frame.assign(baseline_seed=frame["seed"])


def test_the_table_takes_the_mean_and_interval_over_pairs_of_runs():
    gains = [0.1, 0.3, 0.2]
    (row,) = matching_table(matching(gains)).to_dict("records")
    low, high = stats.t.interval(0.95, 2, 0.2, stats.sem(gains))
    assert row["Pairs"] == "3"
    assert row["Gain over chance [95% CI]"] == f"+0.200 [{low:.3f}, {high:.3f}]"
    (row,) = matching_table(matching(gains)[:1]).to_dict("records")
    assert row["Gain over chance [95% CI]"] == "+0.100 [-0.900, 1.100]"


@pytest.mark.parametrize("gains", [[0.99, 0.2], [-0.9, 0.1]])
def test_no_interval_of_a_gain_leaves_its_range(gains):
    text = matching_table(matching(gains))["Gain over chance [95% CI]"][0]
    low, high = (float(end) for end in text.partition("[")[2].rstrip("]").split(", "))
    assert -1 <= low < np.mean(gains) < high <= 1


def test_a_model_against_itself_is_another_seed():
    shown = matching_table(matching([0.1, 0.3]).assign(baseline="svda", baseline_seed=[1, 0]))
    assert list(shown["Models"]) == ["svda, other seed"]


def test_what_is_no_headline_stands_in_no_table():
    analysis = an_analysis()
    rows = analysis.table[analysis.table["indicator"] == "accuracy"]
    more = rows.assign(indicator="deletion_auc", source="rollout")
    grown = dataclasses.replace(analysis, table=pd.concat([analysis.table, more], ignore_index=True))
    assert "deletion_auc" in set(grown.comparison["indicator"])
    (shown,) = comparison_tables(grown.comparison).values()
    assert list(shown["Indicator"]) == list(comparison_tables(analysis.comparison)["svda", "vit"]["Indicator"])
    assert summary_table(grown.table).equals(summary_table(analysis.table))


def test_pairs_of_equal_seeds_stand_apart_from_those_of_different_ones():
    same = matching([0.3, 0.5])
    shown = matching_table(pd.concat([same, same.assign(baseline_seed=[1, 0], gain_over_chance=0.1)]))
    assert list(shown["Models"]) == ["svda, vit, same seed", "svda, vit, other seed"]
    assert [cell.partition(" ")[0] for cell in shown["Gain over chance [95% CI]"]] == ["+0.400", "+0.100"]
    unknown = matching_table(same.assign(seed=pd.NA))
    assert list(unknown["Models"]) == ["svda, vit"]


def test_the_sources_number_stands_beside_ours():
    def row(indicator, mean, source="attention", head=0):
        place = {"model": "svda", "attention": "svda", "seed": 0, "epoch": 1, "layer": 0, "head": head}
        return {**place, "indicator": indicator, "source": source, "mean": mean, "std": 0.1, "n": 9}

    measured = [
        row("source_selectivity", 0.96),
        row("source_selectivity", 0.98, head=1),
        row("selectivity_index", 0.02),
    ]
    table = make_frame([*measured, row("source_effective_rank", 20.0, "sigma")], TABLE_COLUMNS)
    shown = beside_table(table).set_index("Indicator")
    selectivity, rank = shown.loc["Selectivity index (attention)"], shown.loc["Effective rank (sigma)"]
    assert (selectivity["The source's"], selectivity["Ours"]) == ("0.970", "0.020")
    assert "runs backwards" in selectivity["The source's, higher"]
    assert selectivity["Ours, higher"] == "more selective"
    assert (rank["The source's"], rank["Ours"]) == ("20.00", "-")
    assert beside_table(table[table["indicator"] == "selectivity_index"]).empty
