"""Which size? Sweeps over budgets and energies, and the smallest model within a tolerance."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from svda_analysis.compression.keep import CRITERIA, NORM_SHARE, check_tolerance
from svda_analysis.compression.ranking import Counts, Ranking, keep_energy, keep_logit, logit_range, rank
from svda_analysis.compression.removal import remove, removed_shares, to_budget
from svda_analysis.compression.verification import Change, accuracy_change, count_parameters, macs, predictions
from svda_analysis.errors import InputError
from svda_analysis.frames import SWEEP_COLUMNS, make_frame
from svda_analysis.sources import ImageSource
from svda_analysis.stats import adjusted_wald

ENERGIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
BUDGETS = (0.5, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15)


class _Trials(NamedTuple):
    """What every point of a sweep is held against: the whole model's predictions, size and work."""

    model: nn.Module
    source: ImageSource
    test_images: int | None
    seed: int
    constant: bool
    image: Tensor  # one, to count the work on
    guesses: Tensor
    labels: Tensor

    def cost(self, found: Ranking, counts: Counts, norm: float) -> dict[str, Any]:
        """What keeping ``counts`` of the directions costs, masked and removed: columns of ``SWEEP_COLUMNS``."""
        row: dict[str, Any] = {"n": len(self.labels)}
        for name, least in (("removed", norm), ("masked", 0.0)):
            smaller = remove(self.model, found, counts, norm_logit=least, constant=self.constant)
            after, _ = predictions(smaller, self.source, images=self.test_images, seed=self.seed)
            change = accuracy_change(self.guesses, after, self.labels)
            row |= {f"{name}_change": change.change, f"{name}_low": change.ci_low, f"{name}_high": change.ci_high}
            if name == "removed":
                row |= removed_shares(smaller)
                row["parameters_change"] = count_parameters(smaller) / count_parameters(self.model) - 1
                row["macs_change"] = macs(smaller, self.image) / macs(self.model, self.image) - 1
            if found.layers[0].sigma is None:  # no norm stands between masking and removing
                row |= {f"masked_{end}": row[f"removed_{end}"] for end in ("change", "low", "high")}
                break
        return row


def sweep(
    model: nn.Module,
    images: Tensor,
    source: ImageSource,
    *,
    budgets: Sequence[float] = BUDGETS,
    energies: Sequence[float] = ENERGIES,
    criteria: Sequence[str] = CRITERIA,
    norm_logit: float | None = None,
    constant: bool = True,
    test_images: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """What removing costs in accuracy, masked and removed: a frame with :data:`SWEEP_COLUMNS`.

    To each of ``budgets`` (:func:`to_budget`; those that are less than one direction a head
    are left out), and by each of ``energies`` a head for each criterion. ``images`` are training images to rank by,
    ``source`` gives the test images. ``random`` is the control: as many directions of each head as ``operator`` keeps,
    chosen at random. ``norm_logit`` None: a tenth of the threshold that meets a budget; at each energy, for all
    criteria, a tenth of what the weakest direction that ``operator`` keeps moves the logits by (root mean square over
    heads). ``progress`` is called with (points done, in all).
    """
    if not all(0 < budget <= 1 for budget in budgets):
        raise InputError(f"budgets must lie in (0, 1], got {', '.join(map(str, budgets))}")
    guesses, labels = predictions(model, source, images=test_images, seed=seed)
    trials = _Trials(model, source, test_images, seed, constant, images[:1], guesses, labels)
    logits, total = rank(model, images), len(budgets) + len(criteria) * len(energies)
    rows: list[dict[str, Any]] = []

    def add(point: dict[str, Any], found: Ranking, counts: Counts, norm: float) -> None:
        rows.append({**point, **trials.cost(found, counts, norm)})
        if progress:
            progress(len(rows), total)

    for budget in budgets:
        try:
            least, _ = to_budget(model, logits, budget, norm_logit=norm_logit, constant=constant)
        except InputError:
            continue
        norm = NORM_SHARE * least if norm_logit is None else norm_logit
        add({"criterion": "operator", "budget": budget}, logits, keep_logit(logits, least), norm)
    for criterion in criteria if energies else ():
        found = rank(model, images, criterion=criterion, seed=seed)
        for energy in energies:
            norm = NORM_SHARE * _weakest(logits, energy) if norm_logit is None else norm_logit
            add({"criterion": criterion, "energy": energy}, found, keep_energy(found, energy), norm)
    return make_frame(rows, SWEEP_COLUMNS)


def _weakest(ranking: Ranking, energy: float) -> float:
    counts = keep_energy(ranking, energy)
    kept = [layer[h, n - 1] for layer, row in zip(ranking.energy, counts, strict=True) for h, n in enumerate(row)]
    return math.sqrt(float(torch.stack(kept).mean()))


def smallest(
    model: nn.Module,
    ranking: Ranking,
    held_out: ImageSource,
    *,
    tolerance: float,
    norm_logit: float | None = None,
    constant: bool = True,
    steps: int = 8,
) -> tuple[float, nn.Module, Change]:
    """The smallest model whose accuracy falls by less than ``tolerance`` (a share, 0.01 is one point).

    One threshold on the logits that a direction moves (:func:`keep_logit`) for all heads and layers, bisected ``steps``
    times on ``held_out`` images, which must be neither test images nor those of the ``ranking``. A model passes if
    the whole 95 % interval of its accuracy change lies above ``-tolerance``, by :func:`adjusted_wald`: few images give
    a wide interval and a cautious choice. Returns the threshold, the model, and its change on ``held_out`` with that
    interval. Raises :class:`InputError` when none passes.

    The held-out images are training images, which the model has learned from, and the search looks at them
    ``steps + 1`` times: the interval guides the choice and promises nothing. The test images have the last word.
    """
    check_tolerance(tolerance)
    guesses, labels = predictions(model, held_out)
    right = guesses == labels

    def attempt(least: float) -> tuple[float, nn.Module, Change]:
        norm = NORM_SHARE * least if norm_logit is None else norm_logit
        smaller = remove(model, ranking, keep_logit(ranking, least), norm_logit=norm, constant=constant)
        after = predictions(smaller, held_out)[0]
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
