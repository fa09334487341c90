"""What the source printed, beside what its recipe gives here."""

import dataclasses

import numpy as np
import pytest
from scipy import stats as scipy_stats
from study_cases import result
from study_source_cases import PROTOCOL, of_the_source, said_of

from svda_analysis.results import nothing_measured
from svda_analysis.source_numbers import EPOCHS, SEEDS, SOURCE_MEASURES, source_epochs
from svda_analysis.study.manifest import load_manifest
from svda_analysis.study.reproduction import epochs_table, reproduced_data, reproduction_table, what_became
from svda_analysis.study.result import StudyResult
from svda_analysis.study.sections import study_document


def test_full_runs_reproduce_what_they_equal_and_not_what_they_miss():
    same = said_of(reproduction_table([of_the_source(EPOCHS)]).numbers, "fashion_mnist")
    assert set(same.values()) == {"reproduced"}
    assert len(same) == 4 + len(SOURCE_MEASURES) + 2 * len(PROTOCOL)
    other = said_of(reproduction_table([of_the_source(EPOCHS, off=0.1)]).numbers, "fashion_mnist")
    assert other["svda", "final_accuracy"] == other["svda", "selectivity_index"] == "not reproduced"


def test_the_interval_is_welchs():
    row = reproduction_table([of_the_source(EPOCHS, off=0.01)]).numbers.set_index(["dataset", "model", "measure"])
    found = row.loc[("fashion_mnist", "svda", "final_accuracy")]
    ours = found["source_mean"] + 0.01 + 0.001 * (np.arange(3) - 1)
    theirs = found["source_mean"] + found["source_std"] * np.array([-1.0, 0.0, 1.0])  # of that mean and deviation
    expected = scipy_stats.ttest_ind(ours, theirs, equal_var=False)
    assert len(theirs) == SEEDS
    assert found["difference"] == pytest.approx(ours.mean() - theirs.mean())
    assert (found["ci_low"], found["ci_high"]) == pytest.approx(tuple(expected.confidence_interval()))


def test_short_and_single_runs_decide_nothing_and_what_was_not_run_says_why():
    missing = dataclasses.replace(
        result(1), name="cifar100", analysis=nothing_measured(), missing="not run here: data not at hand"
    )
    numbers = reproduction_table([of_the_source(6), missing]).numbers
    assert said_of(numbers, "fashion_mnist")["svda", "effective_rank"] == f"not decided: 6 of {EPOCHS} epochs were run"
    assert set(said_of(numbers, "cifar100").values()) == {missing.missing}
    assert set(said_of(numbers, "cifar10").values()) == {"not run here: not in the manifest"}
    alone = said_of(reproduction_table([of_the_source(EPOCHS, seeds=1)]).numbers, "fashion_mnist")
    assert alone["svda", "best_accuracy"] == "not decided: one run has no interval"


def test_what_lies_elsewhere_or_was_not_measured_says_so():
    numbers = reproduction_table([of_the_source(EPOCHS, faithful=False)]).numbers
    said = said_of(numbers, "fashion_mnist")
    assert {said[model, name] for model in ("svda", "baseline") for name in PROTOCOL} == {
        "not measured: faithfulness by the metrics source"
    }
    assert set(said_of(numbers, "late_block").values()) == {
        "not in this study: svda train --base SPEC --late-blocks 2 --recipe source"
    }


def test_the_packaged_studies_measure_what_the_source_did():
    for name in ("source", "source_start"):
        options = load_manifest(name).analysis
        assert (options.faithfulness, options.metrics) == (128, ("source",))


def test_best_is_over_the_epochs_and_final_is_the_last():
    numbers = reproduction_table([of_the_source(10)]).numbers.set_index(["dataset", "model", "measure"])["mean"]
    best, final = (numbers["fashion_mnist", "baseline", f"{which}_accuracy"] for which in ("best", "final"))
    assert (best, final) == pytest.approx((0.8671, 0.85837))


def test_epochs_that_both_logged_stand_side_by_side():
    table = epochs_table(of_the_source(6))
    assert sorted(set(table.numbers["epoch"])) == [1, 2, 3, 4, 5, 6]
    assert set(table.numbers["measure"]) == set(SOURCE_MEASURES)
    assert epochs_table(dataclasses.replace(of_the_source(6), name="cifar10")) is None


def test_a_line_says_what_the_selectivity_means():
    mine = [of_the_source(6)]
    lines = list(what_became(reproduction_table(mine), mine))
    assert any("0.97945" in line and "5.5e-04 below 0.98000" in line for line in lines)


def test_what_was_reproduced_is_said_first_with_the_last_epoch_beside_the_log():
    study = StudyResult(title="A study", datasets=(of_the_source(6),), variants={"svda": {"attention": "svda"}})
    first = study_document(study).answer[0]
    log = source_epochs().set_index("epoch").loc[6]
    assert first.startswith("After epoch 6 on FashionMNIST, ours / the source's log: spectral entropy ")
    assert f" / {log['spectral_entropy']:.4f}, effective rank " in first
    assert "no baseline" not in " ".join(study_document(study).answer)


def test_where_there_is_a_baseline_the_claims_are_answered_too():
    variants = {"vit": {"attention": "dot"}, "svda": {"attention": "svda"}}
    said = study_document(StudyResult(title="A study", datasets=(of_the_source(6),), variants=variants)).answer
    assert said[0].startswith("After epoch 6")
    assert [line for line in said if line.startswith("No accuracy is sacrificed (svda against vit; ")]


def test_the_report_has_it_where_the_histories_do():
    def names(*results):
        variants = {"vit": {"attention": "dot"}, "svda": {"attention": "svda"}}
        study = StudyResult(title="A study", datasets=results, variants=variants)
        return [part.name for part in study_document(study).sections]

    assert {"t4_source", "t4_epochs_fashion_mnist"} <= set(names(of_the_source(6)))
    assert "findings_source" not in names(of_the_source(6))  # its answers say it
    assert reproduced_data([result(2)]) == []
    assert "t4_source" not in names(result(2))
