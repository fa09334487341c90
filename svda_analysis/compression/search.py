"""Which size? Sweeps over budgets and energies, and the smallest model within a tolerance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from svda_analysis.compression.keep import CRITERIA, Keep
from svda_analysis.compression.ranking import Counts, Ranking, keep_energy, keep_logit, logit_range, rank
from svda_analysis.compression.removal import Planner, build_smaller, removed_shares
from svda_analysis.compression.verification import Change, Whole, accuracy_change, count_parameters, macs
from svda_analysis.errors import InputError
from svda_analysis.frames import SWEEP_COLUMNS, make_frame
from svda_analysis.sources import ImageFeed
from svda_analysis.specs import Given, open_model
from svda_analysis.stats import adjusted_wald

ENERGIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
BUDGETS = (0.5, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15)


class _Trials(NamedTuple):
    """What every point of a sweep is held against: the whole model's predictions, size and work."""

    whole: Whole
    keep: Keep
    image: Tensor  # one, to count the work on

    def cost(self, planner: Planner, counts: Counts, norm: float) -> dict[str, Any]:
        """What keeping ``counts`` of the directions costs, masked and removed: columns of ``SWEEP_COLUMNS``."""
        model = self.whole.subject.model
        row: dict[str, Any] = {"n": len(self.whole.labels)}
        for name, least in (("removed", norm), ("masked", 0.0)):
            smaller = build_smaller(model, planner.plan(counts, least))
            change = self.whole.change(smaller)
            row |= {f"{name}_change": change.change, f"{name}_low": change.ci_low, f"{name}_high": change.ci_high}
            if name == "removed":
                row |= removed_shares(smaller)
                row["parameters_change"] = count_parameters(smaller) / count_parameters(model) - 1
                row["macs_change"] = macs(smaller, self.image) / macs(model, self.image) - 1
            if not planner.is_svda:  # no norm stands between masking and removing
                row |= {f"masked_{end}": row[f"removed_{end}"] for end in ("change", "low", "high")}
                break
        return row


def sweep(
    given: Given,
    images: Tensor,
    feed: ImageFeed,
    *,
    budgets: Sequence[float] = BUDGETS,
    energies: Sequence[float] = ENERGIES,
    criteria: Sequence[str] = CRITERIA,
    keep: Keep | None = None,
    test_images: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """What removing costs in accuracy, masked and removed: a frame with :data:`SWEEP_COLUMNS`.

    ``given`` is what :func:`~svda_analysis.specs.open_model` takes. To each of ``budgets``
    (:func:`~svda_analysis.compression.removal.to_budget`; those that are less than one direction a head are left out),
    and by each of ``energies`` a head for each criterion. ``images`` are training images to rank by, ``feed`` gives
    the test images. ``random`` is the control: as many directions of each head as ``operator`` keeps, chosen at random.
    Of ``keep`` only ``norm_logit`` and ``constant`` count here; ``norm_logit`` None: a tenth of the threshold that
    meets a budget; at each energy, for all criteria, a tenth of what the weakest direction that ``operator`` keeps
    moves the logits by (root mean square over heads). ``progress`` is called with (points done, in all).
    """
    if not all(0 < budget <= 1 for budget in budgets):
        raise InputError(f"budgets must lie in (0, 1], got {', '.join(map(str, budgets))}")
    keep, subject = keep or Keep(), open_model(given)
    trials = _Trials(Whole(subject, feed, test_images, seed), keep, images[:1])
    total = len(budgets) + len(criteria) * len(energies)
    logits = rank(subject, images)
    by_logits = Planner(logits, constant=keep.constant)
    rows: list[dict[str, Any]] = []

    def add(point: dict[str, Any], planner: Planner, counts: Counts, norm: float) -> None:
        rows.append({**point, **trials.cost(planner, counts, norm)})
        if progress:
            progress(len(rows), total)

    for budget in budgets:
        try:
            least, _ = by_logits.to_budget(budget, norm_logit=keep.norm_logit)
        except InputError:
            continue
        add({"criterion": "operator", "budget": budget}, by_logits, keep_logit(logits, least), keep.norm_at(least))
    for criterion in criteria if energies else ():
        planner = Planner(rank(subject, images, criterion=criterion, seed=seed), constant=keep.constant)
        for energy in energies:
            norm = keep.norm_at(_weakest(logits, energy))
            add({"criterion": criterion, "energy": energy}, planner, keep_energy(planner.ranking, energy), norm)
    return make_frame(rows, SWEEP_COLUMNS)


def _weakest(ranking: Ranking, energy: float) -> float:
    counts = keep_energy(ranking, energy)
    kept = [layer[h, n - 1] for layer, row in zip(ranking.energy, counts, strict=True) for h, n in enumerate(row)]
    return math.sqrt(float(torch.stack(kept).mean()))


def smallest(
    given: Given,
    ranking: Ranking,
    held_out: ImageFeed,
    *,
    keep: Keep | None = None,
    steps: int = 8,
    **fields: Any,
) -> tuple[float, nn.Module, Change]:
    """The smallest model whose accuracy falls by less than a ``tolerance`` (a share, 0.01 is one point).

    ``given`` is what :func:`~svda_analysis.specs.open_model` takes; the tolerance, and what stays of the norm, are said
    by ``keep``, or by fields of :class:`Keep` as keywords: ``smallest(model, ranking, held_out, tolerance=0.01)``.

    One threshold on the logits that a direction moves (:func:`~svda_analysis.compression.ranking.keep_logit`) for all
    heads and layers, bisected ``steps`` times on ``held_out`` images, which must be neither test images nor those of
    the ``ranking``. A model passes if the whole 95 % interval of its accuracy change lies above ``-tolerance``, by
    :func:`~svda_analysis.stats.adjusted_wald`: few images give a wide interval and a cautious choice. Returns the
    threshold, the model, and its change on ``held_out`` with that interval. Raises :class:`InputError` when none
    passes.

    The held-out images are training images, which the model has learned from, and the search looks at them
    ``steps + 1`` times: the interval guides the choice and promises nothing. The test images have the last word.
    """
    keep = Keep.of(keep, fields)
    if (tolerance := keep.tolerance) is None:
        raise InputError("tolerance must be given: how much accuracy may fall")
    whole = Whole(open_model(given), held_out)
    guesses, labels = whole.guesses, whole.labels
    right, planner = guesses == labels, Planner(ranking, constant=keep.constant)

    def attempt(least: float) -> tuple[float, nn.Module, Change]:
        plan = planner.plan(keep_logit(ranking, least), keep.norm_at(least))
        smaller = build_smaller(whole.subject.model, plan)
        after = whole.guesses_of(smaller)
        still = after == labels
        low, high = adjusted_wald(int((right & ~still).sum()), int((~right & still).sum()), len(labels))
        return least, smaller, dataclasses.replace(accuracy_change(guesses, after, labels), ci_low=low, ci_high=high)

    weakest, strongest = logit_range(ranking)
    high = math.log(strongest)
    low = max(math.log(weakest), high - math.log(1e4))
    best = attempt(math.exp(low))
    if best[2].ci_low < -tolerance:
        raise InputError(
            f"tolerance {tolerance} cannot be met: with hardly anything removed the change in accuracy on "
            f"{len(labels)} images is in [{best[2].ci_low:.4f}, {best[2].ci_high:.4f}]; give more images or a lower "
            "norm_logit"
        )
    for _ in range(steps):
        middle = (low + high) / 2
        tried = attempt(math.exp(middle))
        if tried[2].ci_low >= -tolerance:
            best, low = tried, middle
        else:
            high = middle
    return best
