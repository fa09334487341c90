"""How far the logits of a head spread, and how much of them the softmax does not see. In the group ``field``."""

from __future__ import annotations

import torch
from torch import Tensor

from svda_analysis.indicators.blocks import Largest, Mean, over_queries
from svda_analysis.indicators.numerics import or_one, scale_to_one, widen
from svda_analysis.indicators.registry import indicator
from svda_analysis.score_operator import centred_keys


def _spreads(a: Tensor) -> Mean:
    logits, seen = centred_logits(a)
    return over_queries((logits.square().sum(-1) / or_one(seen.sum(-1))).sqrt(), a)


@indicator(
    rows=_spreads,
    group="field",
    label="Logit spread",
    sources=("attention",),
    low=0.0,
    high=float("inf"),
    higher_means="logits further apart",
    reference="after Zhai et al. 2023 (growth of the attention logits), logits centred",
    question="Do the logits grow towards saturation, or shrink towards uniform attention?",
    not_said="which keys they favour; how peaked rows are at the end is the attention entropy",
)
def logit_spread(a: Tensor) -> Tensor:
    """``mean_i sqrt(mean_j l_ij^2)`` with centred logits ``l_ij = log a_ij - mean_j log a_ij``, in nats, at least 0.

    The logits are read off the map, so that masks and position biases count and what all keys share does not; keys of
    weight 0 (masked, or below what the precision holds) are left out. After Zhai et al. 2023, sec. 3.

    Rounding in float32: 1e-6.
    """
    return _spreads(a).value()


def _largest(a: Tensor) -> Largest:
    return Largest(centred_logits(a)[0].amax((-2, -1)))


@indicator(
    rows=_largest,
    group="field",
    label="Largest logit",
    sources=("attention",),
    low=0.0,
    high=float("inf"),
    higher_means="nearer to saturation",
    reference="after Zhai et al. 2023 (largest attention logit), logits centred",
    question="How large does the largest logit get: is attention about to saturate?",
    not_said="how common such logits are: that is the logit spread",
)
def largest_logit(a: Tensor) -> Tensor:
    """``max_ij l_ij`` of the centred logits of :func:`logit_spread`, in nats, at least 0. After Zhai et al. 2023.

    Rounding in float32: 2e-6.
    """
    return _largest(a).value()


@indicator(
    group="field",
    label="Invisible energy",
    sources=("scores",),
    low=0.0,
    high=1.0,
    higher_means="more of the scores is dropped by the softmax",
    reference="our definition",
    question="How much of what q and k compute is lost on the softmax?",
    not_said="anything of the map: it speaks of how the scores are written, not of what they do",
    varies_with=("row constants",),
)
def invisible_energy(q: Tensor, k: Tensor, sigma: Tensor) -> Tensor:
    """``1 - ||S_c||^2 / ||S||^2`` with scores ``S = q diag(sigma) k^T`` and ``S_c`` those of centred keys, in [0, 1].

    The share of the scores' energy that adds the same to a whole row, which the softmax drops (our definition). 0 where
    all scores are 0. From ``D x D`` moments: ``||q diag(sigma) k^T||^2 = tr(M_q M_k)``, O(N D^2).

    Rounding in float32: 3e-7.
    """
    q, k = (_scaled(x).double() for x in (widen(q) * widen(sigma).unsqueeze(-2), k))
    queries = q.mT @ q  # (B, H, D, D)
    whole, seen = ((queries * (keys.mT @ keys)).sum((-2, -1)) for keys in (k, centred_keys(k)))
    return torch.where(whole == 0, 0, 1 - seen / or_one(whole)).clamp(0, 1).to(widen(sigma).dtype)


def centred_logits(a: Tensor) -> tuple[Tensor, Tensor]:
    """``log a_ij`` about its mean over the keys that row i sees, 0 for the others, and which keys it sees."""
    a = widen(a)
    seen = a != 0  # NaN is seen
    logits = torch.where(seen, a, 1).log()
    mean = logits.sum(-1, keepdim=True) / or_one(seen.sum(-1, keepdim=True))
    return torch.where(seen, logits - mean, 0), seen


def _scaled(x: Tensor) -> Tensor:
    return scale_to_one(x.flatten(-2)).view(x.shape)
