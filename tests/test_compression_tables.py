"""What compressions changed, as text: units, intervals over runs or images, what is missing."""

from __future__ import annotations

import math

import numpy as np
import pytest
from committed import REPORTS, text_of
from compression_cases import a_run, of_size
from scipy import stats

from svda_analysis.compression.result import Compressions
from svda_analysis.compression.sections import compression_document
from svda_analysis.compression.tables import (
    at_budgets,
    budget_differences,
    budget_table,
    compression_table,
    contrasts_at_budgets,
    norms_table,
    verification_table,
)


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


SVDA, OPERATOR, WEIGHTS = np.array([[0.89, 0.88, 0.86], [0.9, 0.9, 0.89], [0.85, 0.84, 0.85]])  # by seed, at 20 %


def of_equal_size(seeds: int = 3, **more: float) -> Compressions:
    runs = [a_run("svda", seed, at_budgets=[of_size("operator", 0.2, SVDA[seed], **more)]) for seed in range(seeds)]
    for seed in range(seeds):
        rows = [of_size("operator", 0.2, OPERATOR[seed], **more), of_size("sigma", 0.2, WEIGHTS[seed], **more)]
        runs.append(a_run("vit", seed, at_budgets=[*rows, of_size("sigma", 0.15, 0.7)]))
    return Compressions(tuple(runs))


def test_accuracy_at_equal_size_is_absolute():
    shown = budget_table(at_budgets(of_equal_size())).set_index("Accuracy (%), rows kept:")
    assert list(shown.columns) == ["all", "20%", "15%"]
    assert list(shown.index) == ["svda", "vit, operator SVD", "vit, weight SVD"]
    for name, values in zip(shown.index, (SVDA, OPERATOR, WEIGHTS), strict=True):
        assert shown.loc[name, "20%"] == f"{100 * values.mean():.2f} ± {100 * values.std(ddof=1):.2f}"
    assert shown.loc["svda", "15%"] == "-"
    assert shown.loc["vit, weight SVD", ["all", "15%"]].to_list() == ["90.00 ± 0.00", "70.00 ± 0.00"]
    tuned = budget_table(at_budgets(of_equal_size(finetuned=0.875))).set_index("Accuracy (%), rows kept:")
    assert tuned.loc["vit, operator SVD, fine-tuned", ["all", "20%"]].to_list() == ["-", "87.50 ± 0.00"]
    assert budget_table(at_budgets(of_equal_size(1)))["20%"].to_list() == ["89.00", "90.00", "85.00"]


def test_models_of_equal_size_are_paired_by_seed():
    shown = budget_differences(at_budgets(of_equal_size())).set_index("Points, rows kept:")
    for name, plain in {"svda - vit, operator SVD": OPERATOR, "svda - vit, weight SVD": WEIGHTS}.items():
        low, high = stats.ttest_rel(SVDA, plain).confidence_interval()
        assert shown.loc[name, "20%"] == f"{100 * (SVDA - plain).mean():+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"
    assert budget_differences(at_budgets(of_equal_size(1))).empty
    assert at_budgets(Compressions((a_run(),))).empty


def test_the_answer_says_who_is_more_accurate_at_the_same_size():
    found = of_equal_size()
    contrasts = contrasts_at_budgets(at_budgets(found))
    low, high = stats.ttest_rel(SVDA, WEIGHTS).confidence_interval()
    one = contrasts["svda - vit, weight SVD", 0.2]
    np.testing.assert_allclose([one.difference, *one.interval], [(SVDA - WEIGHTS).mean(), low, high], rtol=1e-9)
    assert len(contrasts) == 2
    first = compression_document(found).answer[0]
    least, most = 100 * (SVDA - OPERATOR).mean(), 100 * (SVDA - WEIGHTS).mean()
    assert "(20 % of the rows" in first
    assert f"{least:+.2f} to {most:+.2f} points in 2 comparisons" in first
    assert "0 of the 95 % intervals lie below 0, 0 above" in first
    alone = Compressions(tuple(run for run in found.runs if run.meta["attention"] == "svda"))
    assert not any("same size" in line for line in compression_document(alone).answer)


@pytest.mark.parametrize("name", ["fashion_mnist", "cifar10"])
def test_what_the_readme_says_of_equal_size_follows_from_the_committed_runs(name):
    """The plain baseline is the more accurate in all that was compared, mostly with an interval that holds 0."""
    found = Compressions.load(REPORTS / f"{name}_equal_size")
    contrasts = contrasts_at_budgets(at_budgets(found)).values()
    assert len(contrasts) == 5 * 4
    assert max(one.difference for one in contrasts) < 0
    assert sum(one.interval.high < 0 for one in contrasts) < len(contrasts) / 2
    first = compression_document(found).answer[0]
    assert first in text_of(f"{name}_equal_size/compression.md")
