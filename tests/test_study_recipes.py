"""By which recipe runs were trained, as they say themselves."""

import dataclasses

import pytest
from study_cases import result
from study_source_cases import by_recipe

from svda_analysis.recipe import RECIPES
from svda_analysis.results import Run
from svda_analysis.study.recipes import Recipe, recipe_of, recipe_words, recipes_of, unlike_trainings
from svda_analysis.study.result import StudyResult


def with_runs(*runs):
    shown = result(1)
    return dataclasses.replace(shown, name="fashion_mnist", analysis=dataclasses.replace(shown.analysis, runs=runs))


@pytest.mark.parametrize("name", RECIPES)
def test_a_run_is_of_the_recipe_it_was_trained_by_with_what_was_changed(name):
    for changed in ({}, {"lr": 0.25}, {"batch_size": 8, "validation_images": 100}):
        run = by_recipe(name, "svda", **changed)
        assert recipe_of(run, "fashion_mnist") == Recipe(name, changed)
        assert recipe_words(with_runs(run), "svda", {}).startswith("the recipe of th")


def test_what_leaves_the_weights_as_they_are_and_the_length_change_no_recipe():
    run = by_recipe("source", "svda", 7, epochs=6, monitor_images=10, probe_images=2, monitor_indicators="default")
    assert recipe_of(run, "fashion_mnist") == Recipe("source", {})


def test_blocks_count_and_of_the_source_sizes_too():
    for name, key, value, counts in (
        ("ours", "norm", "post", True),
        ("ours", "depth", 1, False),
        ("source", "depth", 1, True),
    ):
        run = by_recipe(name, "svda")
        run.settings["config"][key] = value
        assert recipe_of(run, "fashion_mnist") == Recipe(name, {key: value} if counts else {})


def test_a_run_of_an_older_version_is_told_by_what_it_says():
    kept = {"seed": 0, "lr": 1e-3, "epochs": 17}
    assert recipe_of(Run(model="svda", recipe=kept), "fashion_mnist") == Recipe("ours", {})
    assert recipe_of(Run(model="svda"), "fashion_mnist") is None
    assert recipes_of(with_runs(Run(model="vit"), Run(model="svda", recipe=kept))) == {"svda": Recipe("ours", {})}


def test_data_that_the_source_did_not_have_are_of_our_recipe():
    run = by_recipe("source", "svda")
    assert recipe_of(run, "sample").name == "ours"


def test_words_of_a_variant_hold_where_its_runs_are_that():
    variant = {"attention": "svda", "norm_penalty": 0.0}
    planned = with_runs(by_recipe("ours", "svda", norm_penalty=0.0))
    assert recipe_words(planned, "svda", variant) == "norm_penalty 0.0"
    other = with_runs(by_recipe("ours", "svda", norm_penalty=0.5))
    said = "the recipe of this toolkit but for norm_penalty 0.5, not the one of the paper"
    assert recipe_words(other, "svda", variant) == said
    assert recipe_words(with_runs(), "svda", {}) == "of a recipe that is not known"


def test_of_many_fields_a_sentence_names_the_first():
    many = {"lr": 0.5, "beta2": 0.5, "rotation": 1.0, "flip": False, "sigma_l1": 1.0, "batch_size": 8, "clip_norm": 2.0}
    said = recipe_words(with_runs(by_recipe("ours", "svda", **many)), "svda", {"attention": "svda"})
    assert said.endswith(", not the one of the paper")
    assert said.count(",") == 6
    assert " and 1 more, " in said


def test_what_a_variant_changes_is_no_unlikeness_and_anything_else_is():
    variants = {"vit": {"attention": "dot"}, "svda": {"attention": "svda", "norm_penalty": 0.0}}

    def lines(**changed):
        shown = with_runs(by_recipe("ours", "vit"), by_recipe("ours", "svda", **changed))
        return list(unlike_trainings(StudyResult(title="", datasets=(shown,), variants=variants)))

    assert lines(norm_penalty=0.0) == []
    said = "X: models were not trained by one recipe: norm_penalty 0.3 in vit, 0.5 in svda"
    assert lines(norm_penalty=0.5) == [said]


@pytest.mark.parametrize(("planned", "lines"), [({"epochs": 5}, 0), ({}, 1)])
def test_a_variant_may_be_of_another_length(planned, lines):
    runs = [dataclasses.replace(by_recipe("ours", name, epochs=n), epoch=n) for name, n in (("vit", 3), ("svda", 5))]
    variants = {"vit": {"attention": "dot"}, "svda": {"attention": "svda", **planned}}
    study = StudyResult(title="", datasets=(with_runs(*runs),), variants=variants)
    assert len(list(unlike_trainings(study))) == lines
