"""What a metric of faithfulness is taken of: :class:`Trial`, one batch of images and one ranking of their patches."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from svda_analysis.attribution import RANKINGS, attribute
from svda_analysis.fillers import FILLERS
from svda_analysis.perturbation import areas_under, removal_curves
from svda_analysis.subject import Subject

KINDS = ("method", "ranking", "random")  # whose maps: of a method of attribution, of no model, drawn
SHARES = (10, 20, 30)  # per cent of the patches, in the source's protocol


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One batch and the maps of one method on it, of a ranking that asks no model, or of a random one.

    ``images (B, C, H, W)`` where ``subject`` is, ``maps (B, H, W)``; ``target (B,)`` the classes they speak of,
    ``runner_up (B,)`` the likeliest of the others; ``redrawn`` is its model with the weights shuffled; ``random`` are
    the trials of the random rankings (of these themselves: none). ``counts (S,)`` are the patches changed at the points
    of a curve, from none to all. ``at_once`` images go through the model together where no gradients are needed;
    ``places`` and ``draws`` are arguments of the functions in ``perturbation.py``: where the patches are, and what is
    drawn.
    """

    subject: Subject
    redrawn: Subject
    images: Tensor
    maps: Tensor
    target: Tensor
    runner_up: Tensor
    method: str
    baseline: str
    counts: Tensor
    at_once: int
    places: dict[str, Any]
    draws: dict[str, Any]
    random: tuple[Trial, ...] = ()

    @property
    def kind(self) -> str:
        """One of :data:`KINDS`."""
        return self.method if self.method == "random" else "ranking" if self.method in RANKINGS else "method"

    @functools.cached_property
    def curves(self) -> Tensor:
        """Log-probabilities of target and runner-up along the deletion and the insertion curve, ``(2, B, S, 2)``."""
        return self._curves(torch.stack([self.target, self.runner_up], 1), self.counts, self.baseline)

    @functools.cached_property
    def areas(self) -> tuple[Tensor, Tensor]:
        """The areas under the target's deletion and insertion curve, each ``(B,)``."""
        deletion, insertion = areas_under(self.curves[..., 0].exp(), self.counts)
        return deletion, insertion

    @functools.cached_property
    def others(self) -> dict[str, Trial]:
        """The same under each filler."""

        def under(name: str) -> Trial:
            return dataclasses.replace(self, baseline=name, random=tuple(one.others[name] for one in self.random))

        return {name: self if name == self.baseline else under(name) for name in FILLERS}

    @functools.cached_property
    def at_shares(self) -> Tensor:
        """The target's probability without the heaviest patches and with them alone, black elsewhere: ``(2, B, 4)``, of
        none and of each of :data:`SHARES`, rounded to whole patches (half up; our definition)."""
        P = int(self.counts[-1])
        counts = torch.tensor([0, *((share * P + 50) // 100 for share in SHARES)])
        return self._curves(self.target[:, None], counts, "black")[..., 0].exp()

    def _curves(self, classes: Tensor, counts: Tensor, baseline: str) -> Tensor:
        options: dict[str, Any] = {"baseline": baseline, "batch_size": self.at_once, **self.places}
        return removal_curves(self.subject, self.images, self.maps, classes, counts, **options)

    def by_chance(self, measure: Callable[[Trial], Tensor]) -> Tensor:
        """A measure of the random rankings, their mean image by image, ``(B,)``."""
        return torch.stack([measure(one) for one in self.random]).mean(0)

    def explain(self, subject: Subject, method: str) -> Tensor:
        """The maps ``(B, H, W)`` of a method for the trial's classes, by any model of the same images."""
        return attribute(subject, self.images, method=method, target=self.target, batch_size=len(self.images))
