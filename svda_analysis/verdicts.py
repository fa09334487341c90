"""One rule for every verdict on a difference between models; what is written follows from it alone. No torch here."""

from __future__ import annotations

import math
from typing import NamedTuple

from svda_analysis.formatting import p_value
from svda_analysis.vocabulary import ALIVE_FROM

SUPPORTED, OPPOSED, EQUIVALENT, INCONCLUSIVE = "supported", "opposed", "equivalent", "inconclusive"
UNIFORM = "uniform attention"
LEVEL_OF_TESTS = 0.05
_RULE = f"""A difference is {SUPPORTED} where it lies on the claimed side of 0 and its p over training runs, adjusted by
Holm's method, is below {LEVEL_OF_TESTS:g}; {OPPOSED} where it lies on the other side with such a p; {EQUIVALENT} where
neither holds and two one-sided tests, their p not adjusted, show at {LEVEL_OF_TESTS:g} that it is smaller than a margin
({{accuracy}}, 2 % of the range of any other quantity; only of runs that are paired by seed); else
{INCONCLUSIVE}, which says that the numbers do not decide it. Intervals are not adjusted. One training run each decides
nothing. Of a quantity that uniform attention reaches too (ranks, robustness) the verdict is {UNIFORM} where the
selectivity of either model is below {ALIVE_FROM:g}.""".replace("\n", " ")


def rule_with(margin: str) -> str:
    """The rule of verdicts in words, as it is where accuracy has the ``margin`` that is said."""
    return _RULE.format(accuracy=margin)


RULE = rule_with("half a point of accuracy")


class Verdict(NamedTuple):
    """One of the words above, and why in a few words."""

    word: str
    why: str


def judge(
    difference: float,
    p: float,
    direction: int,
    *,
    unit: str,
    runs: int,
    p_equivalent: float = math.nan,
    alive: bool = True,
) -> Verdict:
    """The verdict of :data:`RULE` on ``difference`` (model minus baseline), of which ``direction`` (+1, -1) is claimed.

    ``p`` is two-sided and adjusted, ``p_equivalent`` that of the two one-sided tests (NaN: none); ``unit`` and ``runs``
    are those of :func:`~svda_analysis.comparison.compare`; ``alive``: the maps of both models are, where that counts.
    """
    if not alive:
        return Verdict(UNIFORM, f"selectivity below {ALIVE_FROM:g}")
    if unit != "seeds" or runs < 2:
        return Verdict(INCONCLUSIVE, "one training run each" if unit != "seeds" else "one training run of one of them")
    if p < LEVEL_OF_TESTS:
        return Verdict(SUPPORTED if difference * direction > 0 else OPPOSED, "by the adjusted p")
    if p_equivalent < LEVEL_OF_TESTS:
        return Verdict(EQUIVALENT, f"smaller than the margin, p {p_value(p_equivalent)}")
    if math.isnan(p):
        return Verdict(INCONCLUSIVE, "no difference, or no spread over the runs, beyond rounding")
    return Verdict(INCONCLUSIVE, "neither a difference nor its absence is shown")
