"""How much of each head is to stay: :class:`Keep`, in the place of seven arguments. No torch here."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from svda_analysis.errors import InputError

CRITERIA = ("operator", "data", "sigma", "random")
MIN_LOGIT = 0.05
NORM_SHARE = 0.1  # of min_logit: what a norm row must move the logits by to stay


@dataclasses.dataclass(frozen=True, kw_only=True)
class Keep:
    """Which score directions stay, and what stays of the norm.

    Directions that move the logits by ``min_logit`` (root mean square), one threshold for all heads; or, one at most:
    those that hold the share ``energy`` of each head's total; as many as leave the share ``budget`` of the rows of W_q
    and W_k; as few as cost less than the share ``tolerance`` of accuracy on held-out images. ``criterion`` ranks them
    (:func:`~svda_analysis.compression.ranking.rank`). ``norm_logit`` (None: a tenth of the threshold on the logits) and
    ``constant`` keep the norm of SVDA's unit rows (:func:`~svda_analysis.compression.removal.remove`). Raises
    :class:`InputError` for numbers out of range.
    """

    min_logit: float = MIN_LOGIT
    energy: float | None = None
    budget: float | None = None
    tolerance: float | None = None
    criterion: str = "operator"
    norm_logit: float | None = None
    constant: bool = True

    def __post_init__(self) -> None:
        if sum(given is not None for given in (self.energy, self.budget, self.tolerance)) > 1:
            raise InputError("energy, budget and tolerance exclude each other: give one")
        check_criterion(self.criterion)
        check_min_logit(self.min_logit)
        if self.energy is not None:
            check_share("energy", self.energy)
        if self.budget is not None:
            check_share("budget", self.budget)
        if self.tolerance is not None:
            check_tolerance(self.tolerance)
        if self.norm_logit is not None:
            check_norm_logit(self.norm_logit)

    @classmethod
    def of(cls, keep: Keep | None, fields: dict[str, Any]) -> Keep:
        """``keep`` itself, or one of ``fields``. Raises :class:`InputError` for both."""
        if keep is None:
            return cls(**fields)
        if fields:
            raise InputError(f"keep says it all: give it or {', '.join(fields)}")
        return keep

    @property
    def threshold(self) -> float:
        """What a direction must move the logits by, where no energy, budget or tolerance says otherwise."""
        return MIN_LOGIT if self.energy is not None else self.min_logit

    @property
    def norm_threshold(self) -> float:
        """What a norm row must move the logits by to stay, at :attr:`threshold`."""
        return self.norm_at(self.threshold)

    def norm_at(self, least: float) -> float:
        """What a norm row must move the logits by to stay, where ``least`` is the threshold for directions."""
        return NORM_SHARE * least if self.norm_logit is None else self.norm_logit


def check_criterion(criterion: str) -> None:
    if criterion not in CRITERIA:
        raise InputError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}")


def check_min_logit(least: float) -> None:
    if not 0 <= least < math.inf:
        raise InputError(f"min_logit must be a number of at least 0, got {least}")


def check_norm_logit(least: float) -> None:
    if not least >= 0:
        raise InputError(f"norm_logit must be at least 0, got {least}")


def check_share(name: str, share: float) -> None:
    if not 0 < share <= 1:
        raise InputError(f"{name} must lie in (0, 1], got {share}")


def check_tolerance(tolerance: float) -> None:
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance must lie between 0 and 1, got {tolerance}")
