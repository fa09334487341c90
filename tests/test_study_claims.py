"""Verdicts follow from the numbers, by rules that were fixed before."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from study_cases import result, some_runs, with_frames

from svda_analysis.results import nothing_measured
from svda_analysis.study.claims import NOT_SUPPORTED, NOT_TESTED, SUPPORTED, claims_table, verdict
from svda_analysis.study.costs import Size
from svda_analysis.study.result import NOT_AT_HAND, DatasetResult
from svda_analysis.study.tables import accuracy_table, cost_table


@pytest.mark.parametrize(
    ("low", "high", "direction", "unit", "runs", "said"),
    [
        (0.1, 0.3, +1, "seeds", 3, SUPPORTED),
        (0.1, 0.3, -1, "seeds", 3, NOT_SUPPORTED),
        (-0.3, -0.1, -1, "seeds", 3, SUPPORTED),
        (-0.3, -0.1, +1, "seeds", 3, NOT_SUPPORTED),
        (-0.1, 0.3, +1, "seeds", 3, NOT_SUPPORTED),
        (0.0, 0.3, +1, "seeds", 3, NOT_SUPPORTED),
        (0.1, 0.3, +1, "images", 1, NOT_TESTED),
        (math.nan, math.nan, +1, "seeds", 3, NOT_TESTED),
        (math.nan, math.nan, +1, "seeds", 1, NOT_TESTED),  # one run against several
    ],
)
def test_a_verdict_follows_from_the_interval(low, high, direction, unit, runs, said):
    assert verdict(low, high, direction, unit, runs)[0] == said


def verdicts(*results: DatasetResult) -> dict[str, str]:
    text = claims_table(results, 0.5).text
    return dict(zip(text["Claim"], text["Verdict"], strict=True))


def test_claims_are_judged_by_their_numbers_alone():
    said = verdicts(result(5))
    assert said["more interpretable attention"] == SUPPORTED
    assert said["sparser attention"] == NOT_SUPPORTED  # it fell
    assert said["spectrally structured attention"] == SUPPORTED
    assert said["no accuracy is sacrificed"] == SUPPORTED  # 0.1 points lower, within the margin
    assert said["indicators are monitored during training"] == SUPPORTED
    assert said["less than 0.04 % more parameters"] == SUPPORTED  # 0.03 %
    assert said["Sigma, beyond normalisation: spectrally structured attention"] == SUPPORTED


def test_one_run_each_tests_nothing_but_what_is_counted():
    said = verdicts(result(1))
    counted = {"indicators are monitored during training", "less than 0.04 % more parameters"}
    assert {claim for claim, verdict in said.items() if verdict != NOT_TESTED} == counted


def test_noise_supports_nothing():
    said = verdicts(result(3, spread=0.5))
    assert said["no accuracy is sacrificed"] == NOT_SUPPORTED
    assert said["sparser attention"] == NOT_SUPPORTED


def test_a_data_set_that_was_not_run_says_so_in_every_table():
    sizes = {"vit": Size("dot", 10_000, 5), "svda": Size("svda", 10_005, 5)}
    missing = DatasetResult(name="y", title="Y", analysis=nothing_measured(), sizes=sizes, missing=NOT_AT_HAND)
    claims = claims_table([missing], 0.5).text
    assert set(claims.loc[claims["Claim"] != "less than 0.04 % more parameters", "Verdict"]) == {NOT_TESTED}
    assert NOT_AT_HAND in set(claims["Why"])
    assert list(accuracy_table([missing], 0.5).text["Accuracy (%)"]) == [NOT_AT_HAND]
    assert list(cost_table([missing]).text["More than baseline (%)"]) == ["-", "+0.050"]
    assert claims.query("Claim == 'less than 0.04 % more parameters'")["Verdict"].item() == NOT_SUPPORTED


def test_models_with_other_seeds_say_how_many_runs_are_compared():
    text = accuracy_table([some_runs(result(5), svda=3)], 0.5).text.set_index("Model")
    assert list(text["Runs"]) == ["5", "3", "5"]
    assert list(text["Runs compared"]) == ["-", "3", "5"]
    table = claims_table([some_runs(result(5), svda=1)], 0.5).text.set_index("Claim")
    assert table.loc["sparser attention", "Verdict"] == NOT_TESTED
    assert "one training run" in table.loc["sparser attention", "Why"]


def test_a_small_loss_of_accuracy_is_named_even_where_it_is_within_the_margin():
    row = claims_table([result(5, spread=1e-5)], 0.5).text.set_index("Claim").loc["no accuracy is sacrificed"]
    assert row["Verdict"] == SUPPORTED
    assert row["Why"] == "accuracy is lower; interval above minus the margin"


def test_without_a_control_the_rows_on_sigma_say_so():
    text = claims_table([result(3, models=("vit", "svda"))], 0.5).text
    rows = text[text["Claim"].str.startswith("Sigma")]
    assert len(rows) == 4
    assert set(rows["Verdict"]) == {NOT_TESTED}
    assert set(rows["Why"]) == {"no finished run of the cosine control"}
    assert rows["Measure"].str.endswith("than the cosine control").all()


@pytest.mark.parametrize("head", [0, 1])
def test_an_indicator_that_lacks_a_number_was_not_monitored(head):
    shown = result(2)
    history = pd.concat([shown.history, shown.history.assign(head=1)]).reset_index(drop=True)
    wrong = (history["model"] == "svda") & (history["indicator"] == "effective_rank") & (history["head"] == head)
    history.loc[wrong & (history["seed"] == 1), "mean"] = math.nan
    row = claims_table([with_frames(shown, history=history)], 0.5).text.set_index("Claim")
    row = row.loc["indicators are monitored during training"]
    assert row["Number"].startswith("2 of 3 over 2 epochs of 2 runs")
    assert row["Verdict"] == NOT_SUPPORTED
