"""What a study of variants found, in a few sentences that follow from its numbers. No torch here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from svda_analysis.comparison import contrast_blocked
from svda_analysis.earlier import UNCENTRED
from svda_analysis.formatting import capital, estimate, p_value, points
from svda_analysis.frames import each_row
from svda_analysis.stats import holm
from svda_analysis.study.dials import dials_of
from svda_analysis.study.result import WITHOUT_PENALTIES, DatasetResult, compare_variants, svda_but_for
from svda_analysis.verdicts import LEVEL_OF_TESTS
from svda_analysis.vocabulary import label

ACCURACY, RANK = ("accuracy", "test"), ("effective_rank", "scores")
BEFORE = ("effective_rank", UNCENTRED)  # what earlier versions measured in the place of the rank
ASKED = {  # of each part
    ("selectivity_index", "attention"): "selectivity",
    RANK: "rank of scores",
    BEFORE: "rank of uncentred scores",
    ACCURACY: "accuracy",
}


class Part(NamedTuple):
    """What is asked: what ``what`` does, seen in ``model`` beside ``other``, which lacks it alone."""

    what: str
    model: str
    other: str


def parts_of(result: DatasetResult, base: str, variants: Mapping[str, Mapping[str, Any]]) -> list[Part]:
    """Each dial of a study turned from its loosest setting to its tightest, then the parts that SVDA is made of, as far
    as the living models tell them apart; ``base`` is the model that the ``variants`` (fields that each changes) are
    variants of."""
    alive = result.alive
    baseline, control = (result.first_of(role, alive) for role in ("baseline", "control"))
    bare, direct = (svda_but_for(fields, variants, alive) for fields in (WITHOUT_PENALTIES, {"sigma_form": "linear"}))
    asked = [
        ("Unit rows and a temperature", control, baseline),
        ("Sigma by itself, without penalties", bare, control),
        ("Sigma by itself, learned directly", direct, control),
        ("The penalties", base if base in alive else None, bare),
        ("All of it", base if base in alive else None, baseline),
    ]
    turned = [Part(dial.opening, dial.models[-1], dial.models[0]) for dial in dials_of(variants, alive)]
    return [*turned, *(Part(what, model, other) for what, model, other in asked if model and other)]


def what_parts_do(result: DatasetResult, parts: Sequence[Part]) -> list[str]:
    """A line for each part: selectivity, rank and accuracy with it and without, training seeds as blocks; p adjusted by
    Holm's method over all that is asked here."""
    found = [(part, name, row) for part in parts for name in ASKED if (row := _row(result, part, name)) is not None]
    adjusted = holm([row.p for _, _, row in found])
    lines: dict[Part, list[str]] = {}
    for (part, name, row), p in zip(found, adjusted, strict=True):
        written, unit = (points, " points") if name == ACCURACY else (estimate, "")
        numbers = f" ({written(row.difference, row.ci_low, row.ci_high)}{unit}, p {p_value(p)})"
        said = f"{ASKED[name]} {side(row.difference, p)}{'' if math.isnan(row.difference) else numbers}"
        lines.setdefault(part, []).append(said)
    return [f"{part.what} ({part.model} against {part.other}): {'; '.join(said)}." for part, said in lines.items()]


def _row(result: DatasetResult, part: Part, name: tuple[str, str]) -> Any | None:
    if not _all_have(result.living, [part.model, part.other], name):
        return None
    found = compare_variants(result, *name, part.other)
    return next(each_row(found[found["model"] == part.model]), None)


def side(difference: float, p: float) -> str:
    """``higher`` or ``lower``, where p says so."""
    if math.isnan(difference):
        return "not compared, for want of shared seeds"
    if not p < LEVEL_OF_TESTS:
        return "no difference shown"
    return "higher" if difference > 0 else "lower"


def price_of_low_rank(result: DatasetResult) -> list[str]:
    """A line on what low rank costs: the accuracy of the living models whose scores have a lower rank than the
    control's, by the adjusted p, against the other living ones. None where there are none of one sort, or the baseline
    is of low rank too: then the control stands apart, not the low rank."""
    alive = result.alive
    control, table = result.first_of("control", alive), result.living
    rank = next((key for key in (RANK, BEFORE) if _all_have(table, alive, key)), None)
    if control is None or rank is None or not _all_have(table, alive, ACCURACY):
        return []
    ranks = compare_variants(result, *rank, control)
    low = list(ranks.loc[(ranks["p_adjusted"] < LEVEL_OF_TESTS) & (ranks["difference"] < 0), "model"])
    others = [control, *ranks.loc[ranks["difference"].notna() & ~ranks["model"].isin(low), "model"]]
    others = [name for name in alive if name in others]
    if not low or result.baseline in low:
        return []
    weights = dict.fromkeys(low, 1 / len(low)) | dict.fromkeys(others, -1 / len(others))
    found = contrast_blocked(table, *ACCURACY, weights)
    numbers = f"{points(found.difference, *found.interval)} points, p {p_value(found.p)}"
    return [
        f"What low rank costs: accuracy {side(found.difference, found.p)} ({numbers}) of the variants with a lower "
        f"{ASKED[rank]} than {control}, taken together ({', '.join(low)}), against the others whose attention is not "
        f"all but uniform ({', '.join(others)})."
    ]


def _all_have(table: pd.DataFrame, models: Sequence[str], key: tuple[str, str]) -> bool:
    rows = table[(table["indicator"] == key[0]) & (table["source"] == key[1])]
    return set(models) <= set(rows["model"])


def who_differs(blocked: pd.DataFrame) -> Iterator[str]:
    """A line for each quantity of a frame of ``BLOCKED_COLUMNS``: which variants have more, which less, of which
    neither is shown, by the adjusted p."""
    for (indicator, source, against), rows in blocked.groupby(["indicator", "source", "baseline"], sort=False):
        found: dict[str, list[str]] = {}
        for row in each_row(rows):
            found.setdefault(side(row.difference, row.p_adjusted), []).append(row.model)
        said = "; ".join(f"{which}: {', '.join(models)}" for which, models in sorted(found.items()))
        yield f"{label(str(indicator), str(source))} against {against}. {capital(said)}."
