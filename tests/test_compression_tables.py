"""What compressions changed, as text: units, intervals over runs or images, what is missing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from compression_cases import a_run
from scipy import stats

from svda_analysis.compression.tables import compression_table, norms_table, verification_table


def test_one_run_has_intervals_over_images_and_says_how_many():
    shown = verification_table([a_run()]).set_index("Quantity")
    accuracy = ["90.00%", "85.00%", "-5.00 points", "[-20.000, 10.000]", "0.250", "40"]
    assert shown.loc["Accuracy"].to_list() == accuracy
    assert shown.loc["Predictions that agree"].to_list() == ["-", "97.50%", "-", "-", "-", "40"]
    assert shown.loc["Parameters"].to_list() == ["12,345", "9,876", "x 0.800", "-", "-", "-"]
    assert shown.loc["Seconds for one image", "Images"] == "-"  # its number is of rounds
    assert shown.loc["Attention entropy (attention)"].to_list() == ["0.500", "0.400", "-0.100", "-", "-", "8"]


def test_several_runs_have_means_and_intervals_over_runs():
    runs = [a_run(seed=seed) for seed in (0, 1, 2)]
    shown = verification_table(runs).set_index("Quantity")
    assert "Images" not in shown
    changes = np.array([-0.05, -0.05 + 1 / 70, -0.05 + 2 / 70])
    low, high = 100 * np.array(stats.t.interval(0.95, 2, changes.mean(), stats.sem(changes)))
    assert shown.loc["Accuracy", "Change"] == f"{100 * changes.mean():+.2f} points"
    assert shown.loc["Accuracy", "95 % interval"] == f"[{low:.3f}, {high:.3f}]"
    assert shown.loc["Accuracy", "p"] == f"{stats.ttest_1samp(changes, 0).pvalue:.3f}"
    ratios = np.array([0.8, 0.8 + 1 / 70, 0.8 + 2 / 70])
    assert shown.loc["Parameters", "Change"] == f"x {stats.gmean(ratios):.3f}"


def test_indicators_are_left_out_where_there_is_no_room():
    every, few = (verification_table([a_run()], indicators=wanted)["Quantity"] for wanted in (True, False))
    assert set(every) - set(few) == {"Attention entropy (attention)"}


def test_means_for_the_norm():
    shown = norms_table([a_run()])
    assert shown.to_dict("list") == {
        "What keeps the norm": ["all rows (masked)", "neither"],
        "Rows removed": ["60.0%"] * 2,
        "Accuracy (points)": ["-2.00 [-10.00, +10.00]"] * 2,
    }


@pytest.mark.parametrize(
    ("part", "first"), [("budget", {"Budget": "40%"}), ("energy", {"Criterion": "operator", "Energy": "0.9"})]
)
def test_a_sweep_says_what_was_asked_for_first(part, first):
    curve = a_run().curve
    row = compression_table(curve[curve[part].notna()]).iloc[0].to_dict()
    assert dict(list(row.items())[: len(first)]) == first
    assert (row["Directions removed"], row["Rows removed"]) == ("66.7%", "60.0%")
    assert (row["Parameters"], row["MACs"]) == ("-10.0%", "-9.0%")
    assert row["Accuracy, masked (points)"] == "-1.00 [-10.00, +10.00]"
    assert row["Accuracy, removed (points)"] == "-2.00 [-10.00, +10.00]"


def test_an_interval_that_does_not_exist_leaves_the_number_alone():
    curve = a_run().curve.assign(removed_low=math.nan, removed_high=math.nan)
    assert set(compression_table(curve[:1])["Accuracy, removed (points)"]) == {"-2.00"}
