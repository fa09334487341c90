"""Spectral energy retention that really shrinks a model: rows of W_q and W_k are planned away, then left out.

The best substitute of rank r of a head's Sigma (:mod:`svda_analysis.compression.ranking`) has two factors, which are
made orthonormal and absorbed by W_q and W_k. Unit norms do not change under rotation, so for SVDA as well this is
exact: a compressed SVDA model is an SVDA model with fewer directions.

What stands in the way for SVDA is the norm: a row is divided by its length over all D directions. Three means keep it:
norm rows (principal directions of what was removed; they feed the norm alone, where they matter to the logits by
``norm_logit``), a ``constant`` for the mean of the rest, and a training recipe that leaves little length there
(``norm_penalty``). A ``norm_logit`` of 0 keeps the norm whole: that is masking, the upper limit of what removal can
reach.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from svda_analysis.checkpoint import Checkpoint, build_model
from svda_analysis.compact import CompactSelfAttention, OwnAttention
from svda_analysis.compression.keep import MIN_LOGIT, NORM_SHARE, Keep, check_norm_logit, check_share
from svda_analysis.compression.ranking import (
    Counts,
    Ranking,
    keep_energy,
    keep_logit,
    logit_range,
    rank,
)
from svda_analysis.compression.sites import attention_sites, projections, width
from svda_analysis.errors import InputError
from svda_analysis.model import ViT
from svda_analysis.specs import Given, open_model
from svda_analysis.stand_in import OF_TIMM, OF_TORCH, StandIn


def compress(
    checkpoint: Checkpoint, images: Tensor | None = None, *, keep: Keep | None = None, **fields: Any
) -> Checkpoint:
    """A smaller checkpoint, as :func:`compress_model` makes it of the model.

    Its config names the sizes (``score_dims``, ``norm_dims``); it loads, runs, trains and compresses again as any
    other.
    """
    return as_checkpoint(compress_model(build_model(checkpoint), images, keep=keep, **fields), checkpoint)


def compress_model(given: Given, images: Tensor | None = None, *, keep: Keep | None = None, **fields: Any) -> nn.Module:
    """A smaller copy of a model: ours, or a plain ViT of timm or torchvision.

    ``given`` is what :func:`~svda_analysis.specs.open_model` takes: a subject, a module, a path, a spec. What stays is
    said by ``keep``, or by fields of :class:`Keep` as keywords: ``compress_model(model, images, energy=0.9)``.
    ``images`` as for :func:`~svda_analysis.compression.ranking.rank`. Raises :class:`InputError` as these do, and for
    cosine attention, which has no spectrum.
    """
    keep = Keep.of(keep, fields)
    if keep.tolerance is not None:
        raise InputError("tolerance needs held-out images with labels: compress_and_verify takes it")
    subject = open_model(given)
    found, model = rank(subject, images, criterion=keep.criterion), subject.model
    if keep.budget is not None:
        return to_budget(model, found, keep.budget, norm_logit=keep.norm_logit, constant=keep.constant)[1]
    counts = keep_logit(found, keep.min_logit) if keep.energy is None else keep_energy(found, keep.energy)
    return remove(model, found, counts, norm_logit=keep.norm_threshold, constant=keep.constant)


def to_budget(
    model: nn.Module,
    ranking: Ranking,
    budget: float,
    *,
    norm_logit: float | None = None,
    constant: bool = True,
    steps: int = 16,
) -> tuple[float, nn.Module]:
    """The largest model with at most the share ``budget`` in (0, 1] of the rows of W_q and W_k, norm rows counted.

    One threshold on the logits for the whole model, bisected ``steps`` times; ``norm_logit`` None is a tenth of it.
    Returns the threshold and the model. Raises :class:`InputError` when one direction a head is more than the budget.
    """
    least, plan = Planner(ranking, constant=constant).to_budget(budget, norm_logit=norm_logit, steps=steps)
    return least, build_smaller(model, plan)


def kept_share(model: nn.Module) -> float:
    """Share of the rows of W_q and W_k that a model still has, norm rows counted; 1 if it was never compressed."""
    return 1 - removed_shares(model)["rows_removed"]


def removed_shares(model: nn.Module) -> dict[str, float]:
    """``directions_removed`` and ``rows_removed``: shares of what the uncompressed model has, 0 for that itself."""
    modules = [site.module for site in attention_sites(model)]
    whole = sum(width(module) for module in modules)
    score, rows = (
        sum(
            sum(getattr(module, name)) if isinstance(module, CompactSelfAttention) else width(module)
            for module in modules
        )
        for name in ("score_dims", "row_counts")
    )
    return {"directions_removed": 1 - score / whole, "rows_removed": 1 - rows / whole}


def as_checkpoint(model: nn.Module, origin: Checkpoint) -> Checkpoint:
    """The compressed ``model`` of ``origin`` as a checkpoint, without optimizer state. Raises :class:`InputError` for
    a model that is not ours, which no checkpoint can hold."""
    if not isinstance(model, ViT):
        raise InputError(f"model must be a ViT of this package to become a checkpoint, got {type(model).__name__}")
    weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    return dataclasses.replace(origin, config=model.config, model=weights, optimizer=None)


def remove(
    model: nn.Module,
    ranking: Ranking,
    counts: Counts,
    *,
    norm_logit: float = NORM_SHARE * MIN_LOGIT,
    constant: bool = True,
) -> nn.Module:
    """A copy of ``model`` that keeps the first ``counts[layer][head]`` directions of ``ranking``.

    For SVDA further rows of q and of k hold principal directions of the removed part and feed the norm alone: the
    strongest first, as many as there are whose varying share of the squared norm moves the logits by ``norm_logit``
    (root mean square, to first order: half the share's standard deviation times the head's logits). 0 keeps the norm
    whole, so that the logits are those of sigma masked; ``inf`` keeps no norm row. ``constant`` adds the mean squared
    length of what is then still missing; the constant that an earlier compression left stays either way.
    """
    plan = plan_removal(ranking, counts, norm_logit=norm_logit, constant=constant)
    return build_smaller(model, plan)


# --- the plan -------------------------------------------------------------------------------------------------------


class HeadPlan(NamedTuple):
    """What stays of one head: ``weight (2, rows, C)``, ``bias (2, rows)``, ``sigma (kept,)``, ``length (2,)``; float64.

    Rows are of q and of k: those of the scores, then those that feed the norm alone.
    """

    weight: Tensor
    bias: Tensor
    sigma: Tensor
    length: Tensor


class Plan(NamedTuple):
    """What stays of every head, by layer."""

    heads: tuple[tuple[HeadPlan, ...], ...]

    @property
    def score_dims(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(len(head.sigma) for head in layer) for layer in self.heads)

    @property
    def norm_dims(self) -> tuple[tuple[int, ...], ...]:
        return tuple(tuple(head.weight.shape[1] - len(head.sigma) for head in layer) for layer in self.heads)

    @property
    def rows(self) -> int:
        """Rows of W_q that stay in the whole model, as many as of W_k."""
        return sum(head.weight.shape[1] for layer in self.heads for head in layer)


def plan_removal(ranking: Ranking, counts: Counts, *, norm_logit: float, constant: bool) -> Plan:
    """What :func:`remove` leaves of each head, as data; arguments as there."""
    return Planner(ranking, constant=constant).plan(counts, norm_logit)


class Planner:
    """Plans of removal by one ranking, as :func:`plan_removal` makes them: what they have alike is worked out once."""

    def __init__(self, ranking: Ranking, *, constant: bool) -> None:
        self.ranking, self.constant = ranking, constant
        self.is_svda = any(layer.sigma is not None for layer in ranking.layers)
        self._factors = functools.cache(partial(_factors, ranking))
        self._beyond = functools.cache(partial(_beyond, ranking, constant))

    def plan(self, counts: Counts, norm_logit: float) -> Plan:
        """What stays of each head with the first ``counts[layer][head]`` of its directions and its norm rows."""
        check_norm_logit(norm_logit)
        if self.is_svda and self.ranking.layers[0].inputs is None and (norm_logit < math.inf or self.constant):
            raise InputError(
                "images must be given to keep the norm of unit rows; or choose norm_logit inf and no constant"
            )
        return Plan(
            tuple(
                tuple(self._head(layer, head, kept, norm_logit) for head, kept in enumerate(row))
                for layer, row in enumerate(counts)
            )
        )

    def to_budget(self, budget: float, *, norm_logit: float | None = None, steps: int = 16) -> tuple[float, Plan]:
        """The threshold and the plan of :func:`to_budget`."""
        check_share("budget", budget)
        whole = sum(layer.bias[0].numel() for layer in self.ranking.layers)

        def attempt(least: float) -> tuple[float, Plan]:
            norm = NORM_SHARE * least if norm_logit is None else norm_logit
            return least, self.plan(keep_logit(self.ranking, least), norm)

        def share(plan: Plan) -> float:
            return 1 - (1 - plan.rows / whole)  # rounded as in kept_share

        weakest, strongest = logit_range(self.ranking)
        high, low = math.log(2 * strongest), math.log(max(weakest, 1e-6 * strongest)) - 1
        best = attempt(math.exp(high))
        if share(best[1]) > budget:
            raise InputError(f"budget must be at least {share(best[1]):.3f} (one direction a head), got {budget}")
        for _ in range(steps):
            middle = (low + high) / 2
            tried = attempt(math.exp(middle))
            if share(tried[1]) <= budget:
                best, high = tried, middle
            else:
                low = middle
        return best

    def _head(self, layer: int, head: int, kept: int, norm_logit: float) -> HeadPlan:
        source, (bases, sigma) = self.ranking.layers[layer], self._factors(layer, head, kept)
        length = source.length[:, head]
        if source.sigma is None:
            bases = bases * sigma.sqrt()
        elif (self.constant or norm_logit < math.inf) and kept < bases.shape[1]:
            rest = self._beyond(layer, head, kept)
            rows = min(rest.directions.shape[-1], int((rest.moved >= norm_logit).sum()))  # whatever their order
            if self.constant:
                length = (length.square() + rest.squared[:, rows:].sum(-1)).sqrt()
            bases = torch.cat([bases, rest.directions[..., :rows]], dim=-1)
        weight = bases.mT @ source.weight[:, head]  # (2, rows, C)
        return HeadPlan(weight, (bases.mT @ source.bias[:, head, :, None])[..., 0], sigma, length)


def _factors(ranking: Ranking, layer: int, head: int, kept: int) -> tuple[Tensor, Tensor]:
    """``bases (2, D, kept)`` of orthonormal columns, and ``sigma (kept,)``: what stays of a head's Sigma is
    ``bases[0] diag(sigma) bases[1]^T``."""
    (o_q, r_q), (o_k, r_k) = (torch.linalg.qr(x[layer][head][:, :kept]) for x in (ranking.left, ranking.right))
    u, sigma, vh = torch.linalg.svd((r_q * ranking.size[layer][head, :kept]) @ r_k.mT)
    return torch.stack([o_q @ u, o_k @ vh.mT]), sigma


class _Beyond(NamedTuple):
    """What is removed of a head: the principal ``directions (2, D, n)`` of its rows of q and k, the strongest first, as
    far as there are any; how far each of all ``D - kept`` moves the logits, ``moved (D - kept,)``; and the rows' mean
    squared length along each, ``squared (2, D - kept)``."""

    directions: Tensor
    moved: Tensor
    squared: Tensor


def _beyond(ranking: Ranking, constant: bool, layer: int, head: int, kept: int) -> _Beyond:
    bases, sigma = _factors(ranking, layer, head, kept)
    outside = torch.linalg.svd(bases, full_matrices=True).U[..., kept:]  # (2, D, D - kept)
    rows, norms = ranking.layers[layer].rows(head)  # (2, images, T, D), (2, images, T, 1)
    removed = (rows @ outside[:, None]).flatten(1, 2)  # (2, tokens, D - kept)
    shares = removed / norms.flatten(1, 2)
    values, vectors = torch.linalg.eigh(shares.mT @ shares)  # ascending
    principal = vectors.flip(-1)
    present = int((values > 1e-12 * shares.shape[1]).sum(-1).max())  # rows that an earlier compression took are zero
    part = (shares @ principal).square()  # of the squared norm, along each direction
    spread = part.std(1) if constant else part.square().mean(1).sqrt()  # (2, D - kept)
    moved = spread.amax(0) / 2 * _logits(rows / norms, bases, sigma)
    squared = (removed @ principal).square().mean(1)  # (2, D - kept)
    return _Beyond(outside @ principal[..., :present], moved, squared)


def _logits(units: Tensor, bases: Tensor, sigma: Tensor) -> float:
    """Root mean square of a head's logits from its kept directions, about each image's mean key; ``units`` are
    ``(2, images, T, D)``."""
    q, k = units @ bases[:, None]  # (images, T, kept)
    k = (k - k.mean(1, keepdim=True)) * sigma
    q, k = (x.flatten(0, 1) for x in (q, k))
    squared = ((q.mT @ q / len(q)) * (k.mT @ k / len(k))).sum() / units.shape[-1]
    return math.sqrt(max(float(squared), 0.0))


# --- the smaller model ----------------------------------------------------------------------------------------------


def build_smaller(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of ``model`` whose attention has the rows of ``plan`` alone."""
    model = copy.deepcopy(model)
    for site, heads in zip(attention_sites(model), plan.heads, strict=True):
        setattr(site.parent, site.name, _replacement(site.module, heads))
    if isinstance(model, ViT):
        sizes: dict[str, Any] = {"score_dims": plan.score_dims, "norm_dims": plan.norm_dims}
        model.config = dataclasses.replace(model.config, **sizes, sigma_form="linear")
    return model


def _replacement(module: Any, heads: Sequence[HeadPlan]) -> nn.Module:
    """The smaller layer with the rows of ``heads``, v and the last projection of ``module``."""
    new = _empty(module, heads)
    weight, bias = projections(module)
    C = weight.shape[1]
    out = module.out_proj if isinstance(module, nn.MultiheadAttention) else module.proj
    with torch.no_grad():
        new.qkv.weight.copy_(torch.cat([*(head.weight[i] for i in (0, 1) for head in heads), weight[-C:].cpu()]))
        new.qkv.bias.copy_(torch.cat([*(head.bias[i] for i in (0, 1) for head in heads), bias[-C:].cpu()]))
        new.proj.weight.copy_(out.weight)
        new.proj.bias.copy_(torch.zeros(C) if out.bias is None else out.bias)
        if new.kind == "svda":
            new.sigma_linear.copy_(torch.cat([head.sigma for head in heads]))
            new.norm_length.copy_(torch.stack([head.length for head in heads], dim=1))
    new.train(module.training)
    if isinstance(module, OwnAttention):
        new.track_row_energy = module.track_row_energy
        return new
    pair = isinstance(module, nn.MultiheadAttention)
    return StandIn(new, nn.Identity() if pair else module.proj_drop, pair, OF_TORCH if pair else OF_TIMM)


def _empty(module: Any, heads: Sequence[HeadPlan]) -> CompactSelfAttention:
    """A layer of the sizes of ``heads`` in the place of ``module``, on its device and of its dtype."""
    weight, _ = projections(module)
    return CompactSelfAttention(
        weight.shape[1],
        len(heads),
        kind=module.kind if isinstance(module, OwnAttention) else "dot",
        score_dims=[len(head.sigma) for head in heads],
        norm_dims=[head.weight.shape[1] - len(head.sigma) for head in heads],
        dropout=module.attn_drop.p if hasattr(module, "attn_drop") else module.dropout,
    ).to(weight.device, weight.dtype)
