"""In what the runs of a comparison differ beside what is compared: said before it is read. No torch here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from svda_analysis.results import Run

_OF_A_RUN = ("seed",)  # fields of a recipe in which runs of one comparison may differ


def unlike_runs(runs: Sequence[Run]) -> tuple[str, ...]:
    """A line for each thing that makes runs no runs of one recipe on the same images; none where they are."""
    sound = [run for run in runs if not run.broken]
    given = Counter(run.path for run in sound if run.path)
    twice = [(path, count) for path, count in given.items() if count > 1]
    lines = [f"{path} was given {count} times: it counts as as many runs" for path, count in twice]
    epochs = [(run.model, run.epoch) for run in sound if run.epoch is not None]
    if len({epoch for _, epoch in epochs}) > 1:
        lines.append(f"models were trained for different numbers of epochs: {_listed(epochs)}")
    data = [(run.model, run.dataset) for run in sound]
    if len({dataset for _, dataset in data if dataset}) > 1:
        lines.append(f"models were measured on different data: {_listed(data)}")
    return (*lines, *_other_recipes(sound))


def _other_recipes(runs: Sequence[Run]) -> list[str]:
    """A line on the fields in which recipes differ, where several are known."""
    known = [run for run in runs if run.recipe]
    fields = dict.fromkeys(key for run in known for key in run.recipe)
    differing = [
        key
        for key in fields
        if key not in (*_OF_A_RUN, "epochs") and len({repr(run.recipe[key]) for run in known if key in run.recipe}) > 1
    ]
    if not differing:
        return []
    values = {key: [(run.model, run.recipe[key]) for run in known if key in run.recipe] for key in differing[:4]}
    told = "; ".join(f"{key} {_listed(found)}" for key, found in values.items())
    more = f"; and {len(differing) - 4} more" if len(differing) > 4 else ""
    return [f"models were not trained by one recipe: {told}{more}"]


def _listed(values: Sequence[tuple[str, object]]) -> str:
    """Every value of each model, such as ``1 and 2 in vit, 1 in svda``."""
    by_model: dict[str, list[str]] = {}
    for model, value in values:
        by_model.setdefault(model, []).append(str(value))
    return ", ".join(f"{' and '.join(dict.fromkeys(found))} in {model}" for model, found in by_model.items())
