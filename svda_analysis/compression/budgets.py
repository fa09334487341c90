"""How accurate models of equal size are: SVDA and plain attention at the same shares of the rows, fine-tuned alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from torch import Tensor

from svda_analysis.checkpoint import Checkpoint, build_model
from svda_analysis.compression.keep import Keep
from svda_analysis.compression.ranking import rank
from svda_analysis.compression.removal import Planner, as_checkpoint, build_smaller, removed_shares
from svda_analysis.compression.verification import Whole
from svda_analysis.errors import InputError
from svda_analysis.frames import BUDGET_COLUMNS, make_frame

OPERATOR, WEIGHTS = "operator", "sigma"  # of plain attention the latter is the decomposition of its weights alone


def accuracy_at_budgets(
    whole: Whole,
    images: Tensor,
    budgets: Sequence[float],
    *,
    keep: Keep | None = None,
    finetuned: Callable[[Checkpoint], Checkpoint] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Accuracy with at most each of the shares ``budgets`` of the rows of W_q and W_k: rows of ``BUDGET_COLUMNS``.

    Directions are ranked by the criterion ``operator`` on ``images (B, C, H, W)``, and where attention is plain by the
    singular values of its weights as well (criterion ``sigma``), the baseline that looks at no image. One threshold for
    the whole model meets a budget (:func:`~svda_analysis.compression.removal.to_budget`); one that is less than a
    direction a head is left out. ``finetuned`` makes the fine-tuned checkpoint of a smaller one (None: without). Of
    ``keep`` only ``norm_logit`` and ``constant`` count. ``progress`` is called with (points done, in all).
    """
    keep, origin = keep or Keep(), whole.subject.checkpoint
    if origin is None:
        raise InputError(f"{whole.subject.spec} must be a checkpoint of svda train")
    criteria = (OPERATOR,) if whole.subject.attention == "svda" else (OPERATOR, WEIGHTS)
    rows: list[dict[str, Any]] = []
    for at, criterion in enumerate(criteria):
        planner = Planner(rank(whole.subject, images, criterion=criterion), constant=keep.constant)
        for done, budget in enumerate(budgets, start=1 + at * len(budgets)):
            try:
                _, plan = planner.to_budget(budget, norm_logit=keep.norm_logit)
            except InputError:  # less than one direction a head
                continue
            smaller = build_smaller(whole.subject.model, plan)
            row = {"criterion": criterion, "budget": budget, "rows_removed": removed_shares(smaller)["rows_removed"]}
            row |= _accuracy_of(whole, "removed", smaller)
            if finetuned:
                row |= _accuracy_of(whole, "finetuned", build_model(finetuned(as_checkpoint(smaller, origin))))
            rows.append(row)
            if progress:
                progress(done, len(criteria) * len(budgets))
    return make_frame(rows, BUDGET_COLUMNS)


def _accuracy_of(whole: Whole, when: str, smaller: Any) -> dict[str, Any]:
    change = whole.change(smaller)
    ends = {f"{when}_low": change.ci_low, f"{when}_high": change.ci_high, f"{when}_change": change.change}
    return {"whole": change.before, when: change.after, **ends, "n": change.n}
