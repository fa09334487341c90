"""How many of a head's directions hold most of the energy of its scores, by sigma and as the data weigh them."""

from __future__ import annotations

import pandas as pd
import torch
from torch import Tensor

from svda_analysis.errors import InputError
from svda_analysis.forward import for_model
from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.sources import ImageSource
from svda_analysis.subject import Subject
from svda_analysis.tap import AttentionRecord, capture
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
    )
)


def direction_shares(subject: Subject, source: ImageSource, images: int, share: float = 0.9) -> pd.DataFrame:
    """Rows of ``frames.TABLE_COLUMNS``: the share of a head's D directions that hold ``share`` of the energy.

    Source ``sigma``: direction i has the energy ``sigma_i^2`` (SVDA alone). Source ``data``: it has
    ``sigma_i^2 E[q_i^2] E[k_i^2]``, means over ``images`` test images and their tokens, with sigma 1 where there is
    none (our definitions). Indicator ``directions_90`` for a share of 0.9.
    """
    energy: dict[int, list[Tensor]] = {}
    sigmas: dict[int, Tensor] = {}
    seen = 0

    def add(record: AttentionRecord) -> None:
        if record.q is None or record.k is None:
            raise InputError(f"{subject.name} multiplies its maps by hand: its queries and keys are not seen")
        now = torch.stack([x.double().square().mean(2).sum(0).cpu() for x in (record.q, record.k)])  # (2, H, D)
        energy.setdefault(record.layer, []).append(now)
        if record.sigma is not None:
            sigmas[record.layer] = record.sigma.double().cpu()

    with subject.running() as model, torch.no_grad(), capture(model, add):
        for batch, _ in source.batches(64, images, 0):
            model(for_model(batch, model))
            seen += len(batch)
    rows = []
    for layer, parts in energy.items():
        q, k = torch.stack(parts).sum(0) / seen  # each (H, D)
        sigma = sigmas.get(layer)
        kinds = {"data": q * k} if sigma is None else {"sigma": sigma**2, "data": sigma**2 * q * k}
        for name, values in kinds.items():
            place = {"layer": layer, "indicator": f"directions_{100 * share:.0f}", "source": name}
            about = {**place, "n": 1 if name == "sigma" else seen, "low": 0.0, "high": 1.0}
            rows += [{**about, "head": h, "mean": x} for h, x in enumerate(_share_needed(values, share).tolist())]
    return make_frame([{**subject.identity, "dataset": source.name, **row} for row in rows], TABLE_COLUMNS)


def _share_needed(energy: Tensor, share: float) -> Tensor:
    """How many of the D largest entries of ``energy (H, D)`` reach ``share`` of the sum, over D; ``(H,)``."""
    summed = energy.sort(dim=-1, descending=True)[0].cumsum(-1)
    needed = 1 + (summed < share * summed[:, -1:]).sum(-1)
    return needed.clamp_max(energy.shape[-1]) / energy.shape[-1]
