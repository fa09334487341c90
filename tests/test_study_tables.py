"""The tables of a study, and the order of its models."""

from __future__ import annotations

import pandas as pd
import pytest
from scipy import stats
from study_cases import result, some_runs, with_frames

from svda_analysis.stats import tost
from svda_analysis.study.tables import accuracy_table, indicator_tables, study_table


def test_the_table_of_indicators_holds_what_only_one_model_has():
    shown = result(3)
    own = shown.table[(shown.table["model"] == "svda") & (shown.table["indicator"] == "effective_rank")]
    table = pd.concat([shown.table, own.assign(source="sigma", mean=7.0)], ignore_index=True)
    (against, *_) = indicator_tables(with_frames(shown, table=table), 0.5)
    row = against.text[against.text["Source"] == "sigma"].iloc[0]
    assert (row["svda"], row["vit"], row["Difference [95% CI]"], row["Runs"]) == ("7.000", "-", "-", "3")


def test_accuracy_table_pairs_by_seed_and_tests_equivalence():
    shown = result(4)
    row = accuracy_table([shown], 0.5).numbers.set_index("model").loc["svda"]
    by_model = shown.table[shown.table["indicator"] == "accuracy"].pivot_table(
        index="seed", columns="model", values="mean"
    )
    difference = by_model["svda"] - by_model["vit"]
    assert row["difference"] == pytest.approx(difference.mean())
    assert row["p"] == pytest.approx(stats.ttest_rel(by_model["svda"], by_model["vit"]).pvalue)
    assert row["p_equivalent"] == pytest.approx(tost(difference, 0.005).p)
    assert row["std"] == pytest.approx(by_model["svda"].std())


def test_study_table_has_a_row_for_each_variant():
    table = study_table(result(3), "svda", {"cosine": "attention cosine"})
    assert list(table.text["Model"]) == ["vit", "svda", "cosine"]
    without = study_table(some_runs(result(3), cosine=0), "svda", {}).text.set_index("Model")
    assert without.loc["cosine", "Accuracy (%)"] == "no finished run"
    assert table.text["From svda (points) [95% CI]"].iloc[1] == "-"
    assert table.numbers["effective_rank_scores"].iloc[1] == pytest.approx(9, abs=0.1)


def test_study_table_says_on_how_many_runs_a_difference_rests():
    assert "fewer runs" not in study_table(result(5), "svda", {}).note
    few = study_table(some_runs(result(5), svda=3), "svda", {})
    assert "Of fewer runs than the means are the differences of 3 of vit, 3 of cosine." in few.note
    alone = study_table(some_runs(result(5), cosine=1), "svda", {})
    assert alone.note.endswith("The intervals of cosine are over images: they speak of one pair of checkpoints alone.")
