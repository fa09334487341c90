"""In what runs of a comparison differ."""

import pytest

from svda_analysis.results import Run
from svda_analysis.sections.likeness import unlike_runs

RECIPE = {"seed": 0, "lr": 1e-3, "epochs": 3}


def a_run(model, **more):
    return Run(**{"model": model, "path": f"{model}.pt", "epoch": 3, "dataset": "x", "recipe": RECIPE, **more})


def test_runs_of_one_recipe_have_nothing_said_of_them():
    assert unlike_runs([a_run("vit"), a_run("svda", recipe={**RECIPE, "seed": 1}), Run(model="timm")]) == ()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"path": "vit.pt"}, "vit.pt was given 2 times: it counts as as many runs"),
        ({"epoch": 1}, "models were trained for different numbers of epochs: 3 in vit, 1 in svda"),
        ({"dataset": "y"}, "models were measured on different data: x in vit, y in svda"),
        ({"recipe": {**RECIPE, "lr": 0.5}}, "models were not trained by one recipe: lr 0.001 in vit, 0.5 in svda"),
    ],
)
def test_what_differs_is_said(other, said):
    assert unlike_runs([a_run("vit"), a_run("svda", **other)]) == (said,)
    assert unlike_runs([a_run("vit"), a_run("svda", broken="layer 0", **other)]) == ()


def test_every_value_of_a_model_is_said_and_none_that_a_run_does_not_say():
    runs = [Run(model="vit", recipe=RECIPE), Run(model="old", recipe={"epochs": 3})]
    runs += [Run(model="svda", recipe={**RECIPE, "lr": lr}) for lr in (0.5, 1e-3)]
    said = "models were not trained by one recipe: lr 0.001 in vit, 0.5 and 0.001 in svda"
    assert unlike_runs(runs) == (said,)
