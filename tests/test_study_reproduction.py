"""What the source printed, beside what its recipe gives here."""

import dataclasses

import numpy as np
import pytest
from scipy import stats as scipy_stats
from study_cases import result
from study_source_cases import PROTOCOL, beside, by_recipe, of_the_source, said_of

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


def test_the_bound_of_a_model_with_fewer_tokens_is_not_the_sources():
    mine = [of_the_source(6)]
    mine[0].history["high"] = 0.8
    assert not any("uniform" in line for line in what_became(reproduction_table(mine), mine))


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


def doubled(frame):
    return frame.assign(mean=2 * frame["mean"])


def by_number(shown):
    return reproduction_table([shown]).numbers.set_index(["dataset", "model", "measure"]).loc["fashion_mnist"]


def test_all_that_is_said_is_of_the_one_model_by_the_sources_recipe():
    alone = of_the_source(6)
    with_ours = beside(alone, "ours", by_recipe("ours", "svda"), history=doubled)
    changed = beside(with_ours, "changed", by_recipe("source", "svda", lr=0.5), history=doubled)
    assert changed.models("svda") == ["changed", "ours", "svda"]
    assert by_number(changed).equals(by_number(alone))
    assert epochs_table(changed).numbers.equals(epochs_table(alone).numbers)
    assert epochs_table(changed).note.startswith("The source's log of seed 42 / the mean of our 3 runs.")
    said = [list(what_became(reproduction_table([shown]), [shown])) for shown in (alone, changed)]
    assert said[0] == said[1]


def test_models_without_the_sources_indicators_stand_beside_those_that_have_them():
    def without(frame):
        return frame[~frame["indicator"].isin([measure.indicator for measure in SOURCE_MEASURES.values()])]

    shown = beside(of_the_source(6), "ours", by_recipe("ours", "svda"), history=without)
    assert by_number(shown).loc[("svda", "effective_rank"), "runs"] == 3
    lacking = without(shown.history)
    none = dataclasses.replace(shown, analysis=dataclasses.replace(shown.analysis, history=lacking))
    said = said_of(reproduction_table([none]).numbers, "fashion_mnist")
    assert said["svda", "effective_rank"] == (
        "not measured: the source's indicators after each epoch (monitor_indicators)"
    )
    assert epochs_table(none) is None
    assert reproduced_data([none]) == []


def test_a_model_of_another_recipe_is_not_held_against_the_source():
    shown = of_the_source(EPOCHS)
    runs = [by_recipe("ours", "vit"), *(run for run in shown.analysis.runs if run.model == "svda")]
    ours = dataclasses.replace(shown, analysis=dataclasses.replace(shown.analysis, runs=tuple(runs)))
    said = said_of(reproduction_table([ours]).numbers, "fashion_mnist")
    assert said["baseline", "final_accuracy"] == "no run of the baseline by the source's recipe"
    assert said["svda", "final_accuracy"] == "reproduced"


def test_where_something_in_the_recipe_was_changed_nothing_is_decided():
    shown = of_the_source(EPOCHS)
    runs = tuple(dataclasses.replace(run, recipe={**run.recipe, "lr": 0.5}) for run in shown.analysis.runs)
    other = dataclasses.replace(shown, analysis=dataclasses.replace(shown.analysis, runs=runs))
    said = said_of(reproduction_table([other]).numbers, "fashion_mnist")
    assert set(said.values()) == {"not decided: lr 0.5 in place of the source's"}


def test_the_best_epoch_is_sought_where_all_saw_the_same_images():
    shown = of_the_source(10)
    history = shown.history
    history.loc[history["epoch"] < 10, "n"] = 20  # monitor_images
    found = by_number(shown).loc["svda"]
    assert found.loc["best_accuracy", ["runs", "said"]].tolist() == [
        0,
        "not measured: accuracy after each epoch on as many test images as after the last (monitor_images)",
    ]
    assert found.loc["final_accuracy", "mean"] == pytest.approx(0.869)
