"""Compressions made by hand: what the tests of their tables, sections and reports share."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from svda_analysis.compression.result import Compression
from svda_analysis.frames import BUDGET_COLUMNS, NORM_COLUMNS, SWEEP_COLUMNS, VERIFICATION_COLUMNS, make_frame


def verification(shift: float = 0.0) -> list[dict[str, Any]]:
    """Rows of one run; ``shift`` moves what differs from run to run."""
    ends = {"ci_low": -0.2 + shift, "ci_high": 0.1 + shift}
    change = {"before": 0.9, "after": 0.85 + shift, "change": -0.05 + shift}
    entropy = {"before": 0.5, "after": 0.4 + shift / 3, "change": -0.1 + shift / 3}
    return [
        {"quantity": "accuracy", **change, **ends, "p": 0.25, "n": 40},
        {"quantity": "agreement", "after": 0.975, "n": 40},
        {"quantity": "map_divergence", "after": 1 / 3000 + shift / 7, "n": 8},
        {"quantity": "parameters", "before": 12345.0, "after": 9876.0 + 100 * shift, "change": 0.8 + shift},
        {"quantity": "seconds_1", "before": 0.01, "after": 0.009, "change": 0.9 + shift, "n": 15},
        {"quantity": "attention_entropy", "source": "attention", **entropy, "n": 8},
    ]


def of_size(criterion: str, budget: float, removed: float, finetuned: float = math.nan) -> dict[str, Any]:
    """A row of accuracy at a budget; the whole model's is 0.9."""
    return {"criterion": criterion, "budget": budget, "whole": 0.9, "removed": removed, "finetuned": finetuned, "n": 40}


def a_run(
    model: str = "svda",
    seed: int | None = 0,
    *,
    swept: bool = True,
    at_budgets: Sequence[dict[str, Any]] = (),
    **meta: Any,
) -> Compression:
    """One run; numbers have more digits than a report shows."""
    shift = (seed or 0) / 70
    ends = {"masked_low": -0.1, "masked_high": 0.1, "removed_low": -0.1, "removed_high": 0.1}
    sizes = {"directions_removed": 2 / 3, "rows_removed": 0.6, "parameters_change": -0.1, "macs_change": -0.09}
    curve = [
        {
            "criterion": criterion,
            **kept,
            **sizes,
            **ends,
            "masked_change": -0.01 + shift,
            "removed_change": -0.02,
            "n": 40,
        }
        for criterion, kept in (
            ("operator", {"budget": 0.4}),
            ("operator", {"energy": 0.9}),
            ("random", {"energy": 0.9}),
        )
    ]
    norms = [
        {"kept": kept, "rows_removed": 0.6, "change": -0.02 - shift, "ci_low": -0.1, "ci_high": 0.1, "n": 40}
        for kept in ("all rows (masked)", "neither")
    ]
    about: dict[str, Any] = {
        **{"model": model, "attention": "dot" if model == "vit" else "svda", "seed": seed, "epoch": 3},
        **{"criterion": "operator", "norm_logit": 1 / 300, "constant": True, "finetune_epochs": 0, "budget": 0.4},
        **{"min_logit": 1 / 30, "directions_removed": 2 / 3 + shift, "rows_removed": 0.6, "warnings": []},
        **{
            "ranked on": "256 of Shoes train",
            "data": "Shoes test, 40 images",
            "versions": {"svda-analysis": "0.1.0", "torch": "2"},
        },
    }
    return Compression(
        verification=make_frame(verification(shift), VERIFICATION_COLUMNS),
        norms=make_frame([] if model == "vit" else norms, NORM_COLUMNS),
        curve=make_frame(curve if swept else [], SWEEP_COLUMNS),
        meta=about | meta,
        budgets=make_frame(at_budgets, BUDGET_COLUMNS),
    )
