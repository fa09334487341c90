"""The claims of the abstract of arXiv 2602.10994, each with its number and verdict. No torch here.

Each claim has one measure and one rule, those of :data:`CLAIMS` and of ``verdicts.py``; a verdict follows from the
numbers by that rule alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from svda_analysis.document import Table
from svda_analysis.formatting import MISSING, capital, estimate, p_value, points
from svda_analysis.stats import Equivalence, holm
from svda_analysis.study.result import (
    WITHOUT_PENALTIES,
    DatasetResult,
    StudyResult,
    accuracy_difference,
    compare_pair,
    equivalence,
    svda_but_for,
    whole_model_row,
)
from svda_analysis.verdicts import (
    EQUIVALENT,
    INCONCLUSIVE,
    LEVEL_OF_TESTS,
    OPPOSED,
    RULE,
    SUPPORTED,
    UNIFORM,
    Verdict,
    judge,
    rule_with,
)
from svda_analysis.vocabulary import label


class Claim(NamedTuple):
    """A claim about structure: the indicator that tests it, like for like, and the direction that was claimed."""

    text: str
    indicator: str
    source: str
    direction: int


CLAIMS = (
    Claim("more interpretable attention", "selectivity_index", "attention", +1),
    Claim("sparser attention", "attention_sparsity", "attention", +1),
    Claim("spectrally structured attention", "effective_rank", "scores", -1),
)
NUMBER = "Number [95% CI]"
_CLAIMS_NAME, _SAME_CLAIMS = "t3_claims", "The same claims"
_ACCURACY = "no accuracy is sacrificed"
RULE_OF_ACCURACY = f"""That no accuracy is sacrificed is {SUPPORTED} where a one-sided test, its p adjusted with those
of the other claims, shows the loss to be smaller than the margin, and {OPPOSED} where the opposite test, at
{LEVEL_OF_TESTS / 2:g} and not adjusted, shows it to be larger.""".replace("\n", " ")
_CLAIMS_NOTE = f"""p is adjusted over the claims of a model on a data set. {RULE_OF_ACCURACY} Runs: the pairs of
equal seed that a row rests on; where two models share no two seeds, the runs of the one that has fewer.
Interpretability itself is not measured here: selectivity stands for it, and a selective map is not thereby a better
explanation. Selectivity and sparsity both grow where few keys take most of the mass: the two claims are nearly one. The
structure of sigma is trained for by a penalty."""
_BY_THE_RULE = "By the rule of the claims; p is adjusted over the rows of a model on a data set."
_SVDA_NOTE = f"""SVDA beside cosine attention, which has the normalisation and a temperature but no spectrum: what is
left is what Sigma adds, together with the penalties that it was trained with. {_BY_THE_RULE}"""
_SIGMA_NOTE = f"""SVDA that was trained without the two penalties that shape its sigma, beside cosine attention: what is
left is what Sigma adds by itself. {_BY_THE_RULE}"""
_PENALTIES_NOTE = f"""SVDA beside SVDA that was trained without the two penalties that shape its sigma: what is left is
what they add. {_BY_THE_RULE}"""


class _Tested(NamedTuple):
    """One row before its p is adjusted: what was measured, on how many runs of each model (pairs, where these share
    seeds; 0: none), its p, and the verdict as a function of the adjusted p."""

    claim: str
    measure: str
    number: str
    runs: int
    p: float
    judged: Callable[[float], Verdict]


def _rule_at(margin: float) -> str:
    """The rule of verdicts with a study's own margin, in points."""
    return RULE if margin == StudyResult.margin else rule_with(f"{margin:g} points of accuracy")


def claims_table(results: Sequence[DatasetResult], margin: float) -> Table:
    """T3: one row for each claim, each model with SVDA and each data set that was run."""
    rows: list[dict[str, str]] = []
    for result, model in _models(results):
        against = result.baseline
        tested = [_structure(result, claim, model, against, margin) for claim in CLAIMS]
        rows += _rows_of(result, model, against, [*tested, _accuracy(result, model, against, margin)])
    return _table(_CLAIMS_NAME, "Each claim with its number", f"{_rule_at(margin)} {_CLAIMS_NOTE}", rows)


def tables_of_parts(study: StudyResult) -> tuple[Table, Table, Table]:
    """T3, further parts: the same measures of what SVDA adds to the control, and, where it was trained without its
    penalties too, of what Sigma adds by itself and the penalties add to that."""
    with_all: list[dict[str, str]] = []
    by_itself: list[dict[str, str]] = []
    beside: list[dict[str, str]] = []
    for result, model in _models(study.datasets):
        bare = svda_but_for(WITHOUT_PENALTIES, study.variants, result.trained)
        if control := result.control:
            (by_itself if model == bare else with_all).extend(_what_is_left(result, model, control, study.margin))
        if bare and model == study.base:
            beside += _what_is_left(result, model, bare, study.margin)
    return (
        _table("t3_svda", "What SVDA adds to normalisation", _SVDA_NOTE, with_all),
        _table("t3_sigma", "What Sigma adds by itself", _SIGMA_NOTE, by_itself),
        _table("t3_penalties", "What the penalties add to Sigma", _PENALTIES_NOTE, beside),
    )


def tables_of_claims(study: StudyResult) -> tuple[Table, ...]:
    """All parts of T3."""
    return claims_table(study.datasets, study.margin), *tables_of_parts(study)


def tables_of_pairs(study: StudyResult) -> tuple[Table, ...]:
    """All parts of T3, of the data sets on which a baseline or the control was run."""
    paired = tuple(one for one in study.datasets if one.baseline or one.control)
    return tables_of_claims(dataclasses.replace(study, datasets=paired))


class Told(NamedTuple):
    """What is said at once of two ``models``: of one claim, or under a ``title`` of all claims of a table. ``claims``
    holds the rows of each, one for each data set."""

    table: str
    models: str
    title: str
    claims: dict[str, pd.DataFrame]


def as_told(tables: Iterable[Table]) -> Iterator[Told]:
    """Each claim on the first pair of models, which the study is about, by itself; then each further pair at once."""
    first = True
    for table in (table for table in tables if len(table.text)):
        title = _SAME_CLAIMS if table.name == _CLAIMS_NAME else table.title
        for models, rows in table.text.groupby("Models", sort=False):
            claims = {str(claim): found for claim, found in rows.groupby("Claim", sort=False)}
            if first:
                yield from (Told(table.name, str(models), "", {claim: found}) for claim, found in claims.items())
            else:
                yield Told(table.name, str(models), title, claims)
            first = False


def by_claim(tables: Iterable[Table]) -> list[str]:
    """A line for all that is told: of the first pair the verdict on each data set, with its number and interval; of
    further pairs the verdicts alone."""
    lines = []
    for one in as_told(tables):
        if one.title:
            lines.append(f"{one.title} ({one.models}). {' '.join(_by_verdict(one.claims))}")
        else:
            for claim, rows in one.claims.items():
                lines.append(f"{capital(claim)} ({one.models}; {rows['Measure'].iloc[0]}): {_on_each(rows)}.")
    return lines


def _by_verdict(claims: Mapping[str, pd.DataFrame]) -> Iterator[str]:
    """A sentence for each verdict with the claims that came to it, and on which data sets where not on all."""
    for verdict in (SUPPORTED, OPPOSED, EQUIVALENT, UNIFORM, INCONCLUSIVE):
        found = []
        for claim, rows in claims.items():
            where = list(rows.loc[rows["Verdict"] == verdict, "Data"])
            if where:
                found.append(claim if len(where) == len(rows) else f"{claim} on {' and '.join(where)}")
        if found:
            yield f"**{capital(verdict)}**: {'; '.join(found)}."


def _on_each(rows: pd.DataFrame) -> str:
    """The verdict on each data set, with its number and interval."""
    said = []
    for row in rows.to_dict("records"):
        remark = f" ({why})" if (why := remark_on(row)) else ""
        said.append(
            f"**{row['Verdict']}** on {row['Data']}" + (f", {row[NUMBER]}" if row[NUMBER] != MISSING else "") + remark
        )
    return "; ".join(said)


def remark_on(row: Mapping[Any, str]) -> str:
    """Why a row of T3 has its verdict, where the rule with number and p does not say so; else empty."""
    own_rule = row["Claim"] == _ACCURACY or row["Verdict"] == EQUIVALENT
    return row["Why"] if own_rule or row[NUMBER] == MISSING else ""


def overview_table(tables: Iterable[Table]) -> pd.DataFrame:
    """The verdicts as text: a row for each pair of models and claim, a column for each data set, which holds the
    verdict and its number."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for table in (table for table in tables if len(table.text)):
        for row in table.text.to_dict("records"):
            said = row["Verdict"] if row[NUMBER] == MISSING else f"{row['Verdict']}, {row[NUMBER]}"
            rows.setdefault((row["Models"], row["Claim"]), {})[row["Data"]] = said
    made = [{"Models": models, "Claim": claim, **cells} for (models, claim), cells in rows.items()]
    return pd.DataFrame(made).fillna(MISSING)


def _models(results: Sequence[DatasetResult]) -> Iterator[tuple[DatasetResult, str]]:
    """Each data set with each of its models with SVDA that was trained."""
    return ((result, model) for result in results for model in result.models("svda") if model in result.trained)


def _table(name: str, title: str, note: str, rows: list[dict[str, str]]) -> Table:
    text = pd.DataFrame(rows)
    return Table(name=name, title=title, note=note.replace("\n", " "), numbers=text, text=text)


def _rows_of(
    result: DatasetResult, model: str, against: str | None, tested: Sequence[_Tested]
) -> Iterator[dict[str, str]]:
    """The rows of one family, with Holm's p and the verdicts that follow."""
    who = f"{model} against {against or 'no baseline'}"
    for one, p in zip(tested, holm([one.p for one in tested]), strict=True):
        said, why = one.judged(p)
        found = {"Claim": one.claim, "Measure": one.measure, NUMBER: one.number, "Runs": str(one.runs or MISSING)}
        yield {"Data": result.title, "Models": who, **found, "p (Holm)": p_value(p), "Verdict": said, "Why": why}


def _structure(result: DatasetResult, claim: Claim, model: str, against: str | None, margin: float) -> _Tested:
    measure = f"{label(claim.indicator, claim.source)}, {'higher' if claim.direction > 0 else 'lower'}"
    row = _measured(result, claim, model, against, margin)
    if row is None:
        return _untested(claim.text, measure, _missing(against))
    percent = claim.indicator == "accuracy"
    number = (
        points(row.difference, row.ci_low, row.ci_high) + " points"
        if percent
        else estimate(row.difference, row.ci_low, row.ci_high)
    )

    def judged(p: float) -> Verdict:
        about: dict[str, Any] = {"unit": row.unit, "runs": row.n_seeds, "p_equivalent": row.p_equivalent}
        said = None if pd.isna(row.verdict) else row.verdict  # a quantity without a direction has none
        return judge(row.difference, p, claim.direction, alive=said != UNIFORM, **about)

    return _Tested(claim.text, measure, number, int(row.n_seeds), float(row.p), judged)


def _what_is_left(result: DatasetResult, model: str, other: str, margin: float) -> Iterator[dict[str, str]]:
    """The rows on what a model has that ``other`` lacks: the claims about structure, then accuracy as one of them."""
    claims = (*CLAIMS, Claim("more accurate", "accuracy", "test", +1))
    return _rows_of(result, model, other, [_structure(result, claim, model, other, margin) for claim in claims])


def _measured(result: DatasetResult, claim: Claim, model: str, against: str | None, margin: float) -> Any | None:
    if against is None:
        return None
    return whole_model_row(compare_pair(result, model, against, margin=margin), claim.indicator, claim.source)


def _missing(against: str | None) -> str:
    """Why a claim has no number."""
    return "no finished run of a baseline" if against is None else "not measured"


def _untested(claim: str, measure: str, why: str) -> _Tested:
    return _Tested(claim, measure, MISSING, 0, math.nan, lambda _p: Verdict(INCONCLUSIVE, why))


def _accuracy(result: DatasetResult, model: str, against: str | None, margin: float) -> _Tested:
    measure = f"Test accuracy, at most {margin:g} points lower"
    if against is None:
        return _untested(_ACCURACY, measure, _missing(against))
    row, same = accuracy_difference(result, model, against), equivalence(result, model, against, margin)
    number = f"{points(row['difference'], row['ci_low'], row['ci_high'])} points"
    if same is None or math.isnan(same.p_lower):
        few = "one training run each" if row["unit"] != "seeds" else "no two runs of equal seeds that differ in spread"
        return _untested(_ACCURACY, measure, few)._replace(number=number, runs=int(row["n_seeds"]))
    return _Tested(_ACCURACY, measure, number, same.n, same.p_lower, lambda p: _no_loss(p, same, float(row["p"])))


def _no_loss(p: float, same: Equivalence, p_differs: float) -> Verdict:
    """The verdict of the one-sided tests against a loss of the margin; ``p`` is adjusted, ``p_differs`` that of any
    difference, not adjusted."""
    if p < LEVEL_OF_TESTS:
        why = "equivalent within the margin" if same.p < LEVEL_OF_TESTS else "loss below the margin"
        return Verdict(SUPPORTED, why)
    if 1 - same.p_lower < LEVEL_OF_TESTS / 2:
        return Verdict(OPPOSED, "loss above the margin")
    if same.mean < 0 and p_differs < LEVEL_OF_TESTS:
        less = f"less accurate, p {p_value(p_differs)} unadjusted; on which side of the margin is not shown"
        return Verdict(INCONCLUSIVE, less)
    return Verdict(INCONCLUSIVE, "neither a loss above the margin nor its absence is shown")
