"""By which recipe the runs of a study were trained, as each of them says itself. No torch until one is asked for."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from svda_analysis.errors import InputError
from svda_analysis.results import Run
from svda_analysis.sections.likeness import unlike_runs
from svda_analysis.study.result import DatasetResult, StudyResult
from svda_analysis.study.tables import what_changed

_NAMED = {  # of recipe.RECIPES: what it is, and what it is not
    "ours": ("the recipe of this toolkit", ", not the one of the paper"),
    "source": ("the recipe of the source's public code", ""),
}
# what leaves the weights as they are, and how long a run is, which is said beside
_NOT_OF_A_RECIPE = ("dataset", "seed", "epochs", "probe_images", "monitor_images", "monitor_indicators")
_NO_SIZES = ("sigma_form", "sigma_start", "sigma_noise", "norm", "positions", "init", "dropout", "attention_dropout")
_MOST_FIELDS = 6  # that a sentence names


class Recipe(NamedTuple):
    """One of ``recipe.RECIPES``, and the fields in which a run differs from it, with the run's values."""

    name: str
    changed: dict[str, Any]


def recipe_of(run: Run, dataset: str) -> Recipe | None:
    """The recipe that is nearest to a run's own, of those for its data set; None where the run does not say.

    Of the model count how its blocks are made, not how large they are; of the source's, which says both, both. A run
    whose report does not hold its model's fields is told by its recipe alone.
    """
    if not run.recipe:
        return None
    from svda_analysis.recipe import RECIPES  # slow to import

    known, found = _known(run), []
    for name in RECIPES:
        with contextlib.suppress(InputError):  # a recipe that is not for this data set
            expected = _fields_of(name, dataset)
            found.append(Recipe(name, {k: known[k] for k, v in expected.items() if k in known and known[k] != v}))
    return min(found, key=lambda one: len(one.changed))


def recipes_of(result: DatasetResult) -> dict[str, Recipe]:
    """The recipe of each model of a data set whose runs say one: those of one model share it."""
    first = {run.model: run for run in reversed(result.analysis.runs) if run.recipe}
    return {model: made for model, run in first.items() if (made := recipe_of(run, result.name)) is not None}


def recipe_words(result: DatasetResult, model: str, variant: Mapping[str, Any]) -> str:
    """What a model's runs say of their recipe: what a manifest's ``variant`` changes where they are that and nothing
    else, or else the recipe by name and all in which they differ from it."""
    run = next((run for run in result.analysis.runs if run.model == model and run.recipe), None)
    planned = dict(variant) if run is None else _as_planned(run, variant)
    made = None if run is None else recipe_of(run, result.name)
    if made is None:
        return what_changed(planned) or "of a recipe that is not known"
    others = {key: value for key, value in planned.items() if key != "attention"}
    if others and not made.changed.keys() - others.keys():
        return what_changed(planned)
    named, not_named = _NAMED[made.name]
    different = f" but for {first_of_changed({**others, **made.changed})}" if made.changed else ""
    return f"{named}{different}{not_named}"


def first_of_changed(fields: Mapping[str, Any]) -> str:
    """:func:`~svda_analysis.study.tables.what_changed` of the first few fields, and how many more there are."""
    more = f" and {len(fields) - _MOST_FIELDS} more" if len(fields) > _MOST_FIELDS else ""
    return what_changed(dict(itertools.islice(fields.items(), _MOST_FIELDS))) + more


def unlike_trainings(study: StudyResult) -> Iterator[str]:
    """A line for each thing in which the runs on one data set are not trained alike, beside what the manifest has its
    variants change: that is what is compared."""
    for result in study.datasets:
        runs = [_less_the_variant(run, study.variants.get(run.model, {})) for run in result.analysis.runs]
        yield from (f"{result.title}: {line}" for line in unlike_runs(runs))


def _less_the_variant(run: Run, variant: Mapping[str, Any]) -> Run:
    planned = _as_planned(run, variant) if run.recipe else {}
    recipe = {key: value for key, value in run.recipe.items() if key not in planned}
    return dataclasses.replace(run, recipe=recipe, epoch=None if "epochs" in planned else run.epoch)


def _as_planned(run: Run, variant: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a variant that a run has as the manifest says, as far as it tells."""
    known = {**_config_of(run), **run.recipe}
    return {key: value for key, value in variant.items() if known.get(key, value) == value}


def _config_of(run: Run) -> dict[str, Any]:
    return run.settings.get("config") or {}


def _known(run: Run) -> dict[str, Any]:
    from svda_analysis.recipe import with_all_fields

    return {**_config_of(run), **with_all_fields(run.recipe)}


@functools.cache
def _fields_of(name: str, dataset: str) -> dict[str, Any]:
    """The fields of a recipe by name on a data set."""
    from svda_analysis.model import ViTConfig
    from svda_analysis.recipe import TrainConfig, named_recipe

    of_model, of_recipe = named_recipe(name, dataset)
    usual = {key: getattr(ViTConfig, key) for key in _NO_SIZES}
    fields = {**usual, **dataclasses.asdict(TrainConfig()), **of_model, **of_recipe}
    return {key: value for key, value in fields.items() if key not in _NOT_OF_A_RECIPE}
