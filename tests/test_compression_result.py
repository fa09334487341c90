"""Several runs as one."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from svda_analysis.compression.result import over_runs


def test_runs_are_pooled_by_the_t_interval_of_their_changes():
    changes, ratios = np.array([0.01, -0.02, 0.03]), np.array([0.5, 0.6, 0.9])
    frames = [
        pd.DataFrame(
            {
                "quantity": ["accuracy", "macs"],
                "source": pd.array([None, None], dtype="string"),
                "before": [0.9, 100.0],
                "after": [0.9 + change, 100 * ratio],
                "change": [change, ratio],
                "ci_low": math.nan,
                "ci_high": math.nan,
                "p": math.nan,
                "n": pd.array([100, None], dtype="Int64"),
            }
        )
        for change, ratio in zip(changes, ratios, strict=True)
    ]
    pooled = over_runs(frames, ["quantity", "source"]).set_index("quantity")
    low, high = stats.t.interval(0.95, 2, changes.mean(), stats.sem(changes))
    found = pooled.loc["accuracy", ["change", "ci_low", "ci_high", "p"]].to_list()
    assert found == pytest.approx([changes.mean(), low, high, stats.ttest_1samp(changes, 0).pvalue])
    logs = np.log(ratios)
    low, high = np.exp(stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs)))
    found = pooled.loc["macs", ["change", "ci_low", "ci_high"]].to_list()
    assert found == pytest.approx([stats.gmean(ratios), low, high])
    assert list(pooled["n"]) == [3, 3]
    assert over_runs(frames[:1], ["quantity", "source"]) is frames[0]


def test_equal_changes_show_no_spread_whatever_their_rounding():
    changes = (-0.006, 0.294 - 0.3, 0.694 - 0.7)
    assert len(set(changes)) > 1  # they differ in their last digits
    known = {"quantity": "accuracy", "source": "", "before": 0.7, "ci_low": -0.1, "ci_high": 0.1, "p": 0.5, "n": 9}
    frames = [pd.DataFrame([{**known, "after": 0.7 + x, "change": x}]).astype({"n": "Int64"}) for x in changes]
    row = over_runs(frames, ["quantity", "source"]).iloc[0]
    assert row["change"] == pytest.approx(-0.006)
    assert math.isnan(row["ci_low"])
    assert math.isnan(row["p"])


@pytest.mark.parametrize("quantity", ["accuracy", "before_finetuning", "finetuning"])
def test_an_accuracy_changes_by_no_more_than_all_of_it(quantity):
    changes = np.array([-0.05, 0.35])
    assert stats.t.interval(0.95, 1, changes.mean(), stats.sem(changes))[1] > 1
    known = {"quantity": quantity, "source": "", "before": 0.5, "ci_low": -0.1, "ci_high": 0.1, "p": 0.5, "n": 9}
    frames = [pd.DataFrame([{**known, "after": 0.5 + x, "change": x}]).astype({"n": "Int64"}) for x in changes]
    row = over_runs(frames, ["quantity", "source"]).iloc[0]
    assert (row["ci_low"], row["ci_high"]) == (-1, 1)
    assert row["p"] == pytest.approx(stats.ttest_1samp(changes, 0).pvalue)
