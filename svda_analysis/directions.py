"""How many of a head's directions hold most of the energy of its scores, in their operator's own basis and by sigma."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from svda_analysis.calls import AttentionRecord
from svda_analysis.errors import InputError
from svda_analysis.forward import call_model
from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.score_operator import operator_basis, row_moments, symmetric_root
from svda_analysis.sources import ImageFeed
from svda_analysis.subject import Subject
from svda_analysis.tap import capture
from svda_analysis.team import ALONE, Team
from svda_analysis.vocabulary import Quantity, register

register(
    Quantity(
        name="directions_90",
        label="Directions for 90 %",
        sources=("sigma", "data"),
        low=0.0,
        high=1.0,
        higher_means="more directions in use",
        reference="our definition",
        question="How few of a head's directions make most of its scores?",
        not_said="whether the map is selective; nor what leaving the others out would cost: compress and measure that",
        needs_living=True,
    )
)


def direction_shares(
    subject: Subject, feed: ImageFeed, images: int, share: float = 0.9, team: Team = ALONE
) -> pd.DataFrame:
    """Rows of ``frames.TABLE_COLUMNS``: the share of a head's D directions that hold ``share`` of the energy.

    Source ``data``: the directions are those of the scores' operator in its own basis, whatever axes q and k have
    (``score_operator.py``), over ``images`` test images and their tokens: the energies are the squared singular values
    of ``C_q^(1/2) diag(sigma) C_k^(1/2)``, keys centred, with sigma 1 where there is none. Source ``sigma``: direction
    i has the energy ``sigma_i^2`` (SVDA alone, whose axes sigma fixes). Our definitions. Indicator ``directions_90``
    for a share of 0.9. Of a ``team`` of processes each looks at its batches, and all get the whole.
    """
    sums: dict[int, tuple[int, Tensor]] = {}  # by layer: images, and their moments added up
    sigmas: dict[int, Tensor] = {}

    def add(record: AttentionRecord) -> None:
        if record.q is None or record.k is None or record.q.ndim != 4:
            raise InputError(f"{subject.name} multiplies its maps by hand: its queries and keys are not seen")
        _add(sums, record.layer, len(record.q), row_moments(record.q, record.k).cpu() * len(record.q))
        if record.sigma is not None:
            sigmas[record.layer] = record.sigma.double().cpu()

    done = 0
    with subject.running() as model, torch.no_grad(), capture(model, add):
        for _, batch, _labels in feed.dealt(64, images, 0, team):
            call_model(model, batch)
            done += len(batch)
    parts = team.gather((sums, sigmas, done))
    done, whole = sum(part[2] for part in parts), dict[int, tuple[int, Tensor]]()
    for found, known, _ in parts:
        sigmas |= known
        for layer, (count, summed) in found.items():
            _add(whole, layer, count, summed)
    rows = []
    for layer, (count, summed) in whole.items():
        sigma = sigmas.get(layer)
        energies = {"data": operator_basis(symmetric_root(summed / count), sigma).size.square()}
        if sigma is not None:
            energies["sigma"] = sigma.square()
        for name, energy in energies.items():
            place = {"layer": layer, "indicator": f"directions_{100 * share:.0f}", "source": name}
            about = {**place, "n": 1 if name == "sigma" else done, "low": 0.0, "high": 1.0}
            rows += [{**about, "head": h, "mean": x} for h, x in enumerate(_share_needed(energy, share).tolist())]
    return make_frame([{**subject.identity, "dataset": feed.name, **row} for row in rows], TABLE_COLUMNS)


def _add(sums: dict[int, tuple[int, Tensor]], layer: int, count: int, summed: Tensor) -> None:
    before = sums.get(layer)
    sums[layer] = (count, summed) if before is None else (before[0] + count, before[1] + summed)


def _share_needed(energy: Tensor, share: float) -> Tensor:
    """How many of the D largest entries of ``energy (H, D)`` reach ``share`` of the sum, over D; ``(H,)``."""
    summed = energy.sort(dim=-1, descending=True)[0].cumsum(-1)
    needed = 1 + (summed < share * summed[:, -1:]).sum(-1)
    return needed.clamp_max(energy.shape[-1]) / energy.shape[-1]
