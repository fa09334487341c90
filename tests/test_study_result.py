"""What a study found, and two of its models compared."""

import dataclasses

import pytest
from scipy import stats
from study_cases import result, some_runs, with_frames

from svda_analysis.comparison import compare
from svda_analysis.results import nothing_measured
from svda_analysis.stats import tost
from svda_analysis.study.costs import Size
from svda_analysis.study.result import (
    StudyResult,
    accuracy_difference,
    compare_pair,
    equivalence,
    whole_model_row,
)


def accuracies(shown, model):
    rows = shown.table[(shown.table["model"] == model) & (shown.table["indicator"] == "accuracy")]
    return rows.sort_values("seed")["mean"].to_numpy()


def test_models_go_by_their_kind_and_their_part():
    shown = result(2)
    assert (shown.baseline, shown.control, shown.trained) == ("vit", "cosine", ["vit", "svda", "cosine"])
    assert (shown.models("svda"), shown.in_role("studied")) == (["svda"], ["svda"])
    planned = dataclasses.replace(shown, sizes={"early": Size("dot", 1, 1), **shown.sizes})
    assert planned.models("dot") == ["early", "vit"]
    assert planned.baseline == "vit"  # one that was trained
    empty = dataclasses.replace(shown, analysis=nothing_measured())
    assert (empty.trained, empty.baseline, empty.control) == ([], None, None)


def test_a_pair_is_compared_as_if_it_were_alone():
    shown = result(3)
    found = compare_pair(shown, "svda", "vit")
    alone = compare(shown.table[shown.table["model"] != "cosine"], "vit")
    assert found.equals(alone)
    assert set(compare_pair(shown, "svda", "vit", "accuracy")["indicator"]) == {"accuracy"}
    without = with_frames(shown, table=shown.table[shown.table["model"] != "svda"])
    assert compare_pair(without, "svda", "vit").empty
    assert whole_model_row(compare_pair(without, "svda", "vit"), "accuracy", "test") is None
    assert whole_model_row(found, "effective_rank", "scores").difference == pytest.approx(-3, abs=0.1)


def test_a_difference_of_accuracy_is_scipys_paired_test():
    shown = result(4)
    found, test = (
        accuracy_difference(shown, "svda", "vit"),
        stats.ttest_rel(accuracies(shown, "svda"), accuracies(shown, "vit")),
    )
    low, high = test.confidence_interval(0.95)
    assert (found["p"], found["ci_low"], found["ci_high"]) == pytest.approx((test.pvalue, low, high))
    assert (found["unit"], found["n_seeds"]) == ("seeds", 4)


def test_equivalence_pairs_what_both_models_have_and_reads_points():
    shown = some_runs(result(4), svda=3)
    difference = accuracies(shown, "svda") - accuracies(shown, "vit")[:3]
    assert equivalence(shown, "svda", "vit", 0.5) == pytest.approx(tost(difference, 0.005))
    assert equivalence(some_runs(shown, svda=1), "svda", "vit", 0.5) is None


def test_a_study_of_variants_is_built_on_the_first_with_svda():
    manifest = {"title": "T", "variants": {"a": {"attention": "dot"}, "b": {"attention": "svda"}}, "study": True}
    study = StudyResult.of({**manifest, "analysis": {"margin": 0.3}}, [result(2)])
    assert (study.base, study.of_variants, study.margin, len(study.datasets)) == ("b", True, 0.3, 1)
    plain = dataclasses.replace(study, variants={"a": {"attention": "dot"}, "c": {"attention": "cosine"}})
    assert plain.base == "a"
