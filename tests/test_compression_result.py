"""Several runs as one, and how they are kept in a folder."""

from __future__ import annotations

import json
import math

import numpy as np
import pandas as pd
import pytest
from compression_cases import a_run, of_size
from scipy import stats

from svda_analysis.compression.result import Compressions, over_runs
from svda_analysis.errors import InputError
from svda_analysis.frames import VERIFICATION_COLUMNS, make_frame
from svda_analysis.vocabulary import quantity


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


# --- in a folder ------------------------------------------------------------------------------------------------------


def test_every_digit_comes_back(tmp_path):
    held = {"before": 0.9, "change": 1 / 3, "ci_low": -1 / 7, "ci_high": math.nan, "n": 200}
    runs = (
        a_run(seed=0, norm_logit=math.inf, tolerance=0.1, held_out=held),
        a_run(seed=1),
        a_run("nan", None),
        a_run("b", 2, swept=False, at_budgets=[of_size("sigma", 1 / 3, 2 / 3)]),
    )
    saved = Compressions(runs)
    written = saved.save(tmp_path, command="c")
    assert [path.name for path in written] == ["compression.json", "compression.csv"]
    loaded = Compressions.load(tmp_path)
    for was, now in zip(saved.runs, loaded.runs, strict=True):
        for name in ("verification", "norms", "curve", "budgets"):
            pd.testing.assert_frame_equal(getattr(was, name), getattr(now, name), check_exact=True)
        assert (was.model, was.seed) == (now.model, now.seed)
        assert {**now.meta, "held_out": 0} == {**was.meta, "held_out": 0}
    assert math.isnan(loaded.runs[0].meta["held_out"].pop("ci_high"))
    assert held.pop("ci_high") is not None
    assert loaded.runs[0].meta["held_out"] == held
    assert json.loads((tmp_path / "compression.json").read_text())["kind"] == "compression"


def test_without_a_sweep_a_csv_that_lies_there_is_not_read(tmp_path):
    Compressions((a_run(),)).save(tmp_path)
    Compressions((a_run(swept=False),)).save(tmp_path)
    assert (tmp_path / "compression.csv").is_file()
    assert Compressions.load(tmp_path).curves == {}


def test_the_same_run_twice_is_refused_and_none_too():
    with pytest.raises(InputError, match="runs must hold different runs, got svda seed 0 twice"):
        Compressions((a_run(), a_run()))
    with pytest.raises(InputError, match="at least one compression, got none"):
        Compressions(())


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (None, "holds no compression: there is no compression.json in it"),
        ("{", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
        ("[]", "is not of a compression of this version"),
        ('{"kind": "analysis", "runs": []}', "is not of a compression of this version"),
        ('{"format": 9, "runs": []}', "is not of a compression of this version"),
        ('{"runs": [{"model": "svda"}]}', "is damaged, or of no compression: KeyError"),
        ('{"runs": [3]}', "is damaged, or of no compression"),
    ],
)
def test_what_is_no_compression_is_one_line(text, complaint, tmp_path):
    if text is not None:
        (tmp_path / "compression.json").write_text(text)
    with pytest.raises(InputError, match=complaint) as found:
        Compressions.load(tmp_path)
    assert "\n" not in str(found.value)


def test_a_sweep_that_is_missing_or_damaged_is_named(tmp_path):
    Compressions((a_run(),)).save(tmp_path)
    (tmp_path / "compression.csv").write_text("model,seed\nsvda,0\n")
    with pytest.raises(InputError, match=r"compression\.csv is damaged"):
        Compressions.load(tmp_path)
    (tmp_path / "compression.csv").unlink()
    with pytest.raises(InputError, match=r"no such file: .*compression\.csv"):
        Compressions.load(tmp_path)


def test_no_change_over_runs_leaves_what_the_quantity_can_change():
    frames = [
        pd.DataFrame({"quantity": ["attention_entropy"], "change": [x], "ci_low": x, "ci_high": x}) for x in (0.0, 0.4)
    ]
    quantity("attention_entropy")  # known where it was measured, and where a report of it is read
    pooled = over_runs(frames, keys=["quantity"]).iloc[0]
    assert (pooled["ci_low"], pooled["ci_high"]) == (-1.0, 1.0)
    assert pooled["change"] == pytest.approx(0.2)


def test_means_over_runs_of_what_changes_by_a_ratio_divide_to_the_ratio():
    seconds = ((1.0, 3.0), (4.0, 2.0), (2.0, 9.0))
    rows = [{"quantity": "seconds_1", "before": b, "after": a, "change": a / b, "n": 1} for b, a in seconds]
    frames = [make_frame([row], VERIFICATION_COLUMNS) for row in rows]
    row = over_runs(frames, ["quantity", "source"]).iloc[0]
    assert row["before"] == pytest.approx(2.0)
    assert row["after"] / row["before"] == pytest.approx(row["change"])
