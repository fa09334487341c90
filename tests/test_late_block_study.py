"""What ``benchmarks/late_blocks.py`` makes of its runs: numbers, differences, and which images are taken."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.source_numbers import source_results

PATH = Path(__file__).resolve().parents[1] / "benchmarks" / "late_blocks.py"
FINAL = {"dot": (0.80, 0.82, 0.81), "svda_one": (0.77, 0.78, 0.79), "svda": (0.80, 0.83, 0.80)}


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("late_blocks", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def history(seed, final, rank):
    """Three epochs, the second of the highest accuracy; of twelve layers the last two have a sigma of this rank."""
    who = {"model": "m", "seed": seed, "source": "test", "indicator": "accuracy"}
    rows = [{**who, "epoch": epoch, "mean": mean} for epoch, mean in ((3, final), (1, 0.1), (2, final + 0.05))]
    for layer in (3, 10, 11):
        of_layer = {"source": "sigma", "indicator": "source_effective_rank", "epoch": 3, "layer": layer, "head": 0}
        rows.append({"model": "m", "seed": seed, **of_layer, "mean": 99.0 if layer == 3 else rank + layer})
    return make_frame(rows, TABLE_COLUMNS)


@pytest.fixture
def found(study):
    sigma = np.array([1.0, 3.0])
    return {
        name: [
            study.Trained(history(seed, final, seed), sigma if name != "dot" else sigma[:0])
            for seed, final in enumerate(finals)
        ]
        for name, finals in FINAL.items()
    }


def test_differences_are_paired_by_seed(study, found):
    rows = study.rows_of(found).set_index(["arm", "measure"])
    row = rows.loc[("svda_one", "final_accuracy")]
    ours, dot = (np.array(FINAL[name]) for name in ("svda_one", "dot"))
    expected = scipy_stats.ttest_rel(ours, dot)
    assert row["difference"] == pytest.approx((ours - dot).mean())
    ends = tuple(expected.confidence_interval())
    assert (row["difference_low"], row["difference_high"], row["p"]) == pytest.approx((*ends, expected.pvalue))
    assert (row["mean"], row["std"]) == pytest.approx((ours.mean(), ours.std(ddof=1)))
    assert np.isnan(rows.loc[("dot", "final_accuracy"), "difference"])


def test_best_is_over_epochs_and_indicators_are_of_the_replaced_layers(study, found):
    rows = study.rows_of(found).set_index(["arm", "measure"])["mean"]
    assert rows["dot", "best_accuracy"] == pytest.approx(rows["dot", "final_accuracy"] + 0.05)
    assert rows["svda", "effective_rank"] == pytest.approx(np.mean([10.5, 11.5, 12.5]))


def test_the_source_stands_beside_the_arm_that_began_as_it_did(study, found):
    rows = study.rows_of(found).set_index(["arm", "measure"])
    theirs = (
        source_results().query("dataset == 'late_block' and measure == 'final_accuracy'").set_index("model")["mean"]
    )
    assert rows.loc[("svda_one", "final_accuracy"), "source_mean"] == theirs["svda"]
    assert rows.loc[("dot", "final_accuracy"), "source_mean"] == theirs["baseline"]
    assert np.isnan(rows.loc[("svda", "final_accuracy"), "source_mean"])
    assert study.their_difference().difference == pytest.approx(theirs["svda"] - theirs["baseline"])


def test_where_sigma_ended_is_said_of_those_that_have_one(study, found):
    said = study.sigma_said(found)
    assert said.count("from 1 to 3") == 2
    assert "dot" not in said


def test_the_first_images_of_each_class_are_linked(study, tmp_path):
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "data" / part / name
            folder.mkdir(parents=True)
            for at in range(5):
                (folder / f"{at}.jpg").write_text(f"{part} {name} {at}")
    made = study.some_of(tmp_path / "data", tmp_path / "runs", 3, 2)
    assert study.some_of(tmp_path / "data", tmp_path / "runs", 3, 2) == made  # again
    found = sorted(path.relative_to(made).as_posix() for path in made.rglob("*.jpg"))
    assert found == sorted(
        f"{part}/{name}/{at}.jpg"
        for part, n in (("train", 3), ("test", 2))
        for name in ("cat", "dog")
        for at in range(n)
    )
    assert (made / "test" / "dog" / "1.jpg").read_text() == "test dog 1"
