"""Score directions of attention heads, ranked by what they do to the logits.

The scores of a head are ``q^T Sigma k / sqrt(D)`` of rows q and k (unit rows for SVDA; Sigma is the identity for dot
product). With second moments ``G_q`` of the queries and ``G_k`` of the keys, the best rank-r substitute of Sigma is a
truncated singular value decomposition of ``G_q^(1/2) Sigma G_k^(1/2)`` (``score_operator.py``), taken back through the
roots (our derivation).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from svda_analysis.compact import CompactSelfAttention, OwnAttention
from svda_analysis.compression.keep import check_criterion, check_min_logit, check_share
from svda_analysis.compression.sites import attention_sites, inputs_of, projections
from svda_analysis.errors import InputError
from svda_analysis.score_operator import operator_basis, row_moments, symmetric_root
from svda_analysis.soundness import NOT_FINITE, NotFiniteError, is_finite
from svda_analysis.specs import Given, open_model

Counts = list[list[int]]  # directions to keep, by layer and head


class Ranking(NamedTuple):
    """The score directions of every head, the strongest first; a list entry is one layer.

    ``energy (H, D)``: what a direction contributes to the logits, squared (see :func:`rank`). ``Sigma`` is
    ``left diag(size) right^T``, with ``left, right (H, D, D)`` and ``size (H, D)``. float64.
    """

    energy: list[Tensor]
    left: list[Tensor]
    size: list[Tensor]
    right: list[Tensor]
    layers: list[Layer]


class Layer(NamedTuple):
    """An attention layer as two projections, rows of heads that were compressed before padded with zeros to D.

    ``weight (2, H, D, C)``, ``bias (2, H, D)`` of q and k; ``sigma (H, D)`` or None; ``length (2, H)`` along rows that
    are gone; all float64. ``inputs (images, T, C)`` float32: what the layer saw, or None.
    """

    weight: Tensor
    bias: Tensor
    sigma: Tensor | None
    length: Tensor
    inputs: Tensor | None

    def live(self) -> Tensor:
        """Directions ``(H,)`` that each head has: where neither the row of q, nor that of k, nor sigma is zero."""
        rows = ((self.weight != 0).any(-1) | (self.bias != 0)).all(0)  # (H, D)
        return (rows if self.sigma is None else rows & (self.sigma != 0)).sum(-1)

    def rows(self, head: int) -> tuple[Tensor, Tensor]:
        """q and k of one head ``(2, images, T, D)``, and their norms ``(2, images, T, 1)`` (1 for dot)."""
        if self.inputs is None:
            raise InputError("images must be given: without them nothing is known of the rows of q and k")
        x = self.inputs.double()
        rows = torch.stack([nn.functional.linear(x, self.weight[i, head], self.bias[i, head]) for i in (0, 1)])
        if self.sigma is None:
            return rows, torch.ones_like(rows[..., :1])
        squared = rows.square().sum(-1, keepdim=True) + self.length[:, head].square()[:, None, None, None]
        return rows, squared.clamp_min(1e-300).sqrt()


def rank(given: Given, images: Tensor | None = None, *, criterion: str = "operator", seed: int = 0) -> Ranking:
    """Rank the score directions of every head of a model by the energy that ``criterion`` gives them.

    ``given`` is what :func:`~svda_analysis.specs.open_model` takes: a subject, a module, a checkpoint's path, a spec.
    ``operator``: singular directions of ``G_q^(1/2) Sigma G_k^(1/2)`` on ``images (B, C, H, W)`` (training images,
    preprocessed; some hundred): the energy is the mean squared logit of the direction. ``G_k`` is taken about each
    image's mean key, since the softmax does not see what all keys share. ``data``: the same along the learned axes of
    SVDA, ``sigma_i^2 E[q_i^2] Var[k_i] / D`` (off-diagonal moments left out); for dot product, whose axes mean
    nothing, it is ``operator``. ``sigma``: from the weights alone: ``sigma_i^2 / D`` (arXiv 2609.24370); for dot
    product the singular values of ``[W_q b_q]^T [W_k b_k]``. ``random``: the control, directions of ``sigma`` in random
    order (``seed``), as many as ``operator`` would keep.

    Raises :class:`InputError` for an unknown criterion, a model whose attention cannot be changed, missing images.
    """
    check_criterion(criterion)
    if images is None and criterion != "sigma":
        raise InputError(f"images must be given for criterion {criterion}: it weighs directions by what the data do")
    with open_model(given).running() as model:
        layers = read_layers(model, images)
    _check_finite(layers)
    parts = [_directions(layer, "operator" if criterion == "random" else criterion) for layer in layers]
    energy = [size.square() / size.shape[-1] for _, size, _ in parts]
    if criterion == "random":
        generator = torch.Generator().manual_seed(seed)
        parts = [_shuffled(_directions(layer, "sigma"), generator) for layer in layers]
    left, size, right = (list(x) for x in zip(*parts, strict=True))
    return Ranking(energy, left, size, right, layers)


def _check_finite(layers: Sequence[Layer]) -> None:
    """Directions of NaN or inf have no order: say where they begin."""
    for at, layer in enumerate(layers):
        found = {"its weights": (layer.weight, layer.bias, layer.sigma), "what it sees of the images": (layer.inputs,)}
        for what, tensors in found.items():
            if not all(is_finite(values) for values in tensors if values is not None):
                raise NotFiniteError(f"model {NOT_FINITE}: the first are in attention layer {at}, {what}")


def direction_energy(given: Given, images: Tensor | None = None, *, criterion: str = "operator") -> list[Tensor]:
    """Energies ``(H, D)`` float64 of each layer's score directions, descending. Arguments as for :func:`rank`."""
    return rank(given, images, criterion=criterion).energy


def keep_energy(ranking: Ranking, energy: float) -> Counts:
    """For each head the fewest directions that hold the share ``energy`` in (0, 1] of its total; at least one."""
    check_share("energy", energy)

    def fewest(values: Tensor) -> int:
        short = values.cumsum(0) < energy * values.sum() * (1 - 1e-12)
        return min(int(short.sum()) + 1, len(values))

    return [[fewest(head) for head in layer] for layer in ranking.energy]


def keep_logit(ranking: Ranking, least: float) -> Counts:
    """Directions that move the logits by at least ``least`` (root mean square), at least one a head.

    One threshold for the whole model: energies of ``operator`` and ``data`` are in squared logits everywhere, so heads
    and layers compare, and a head that says little may go nearly whole. Directions of no energy, such as those that
    an earlier compression took, never stay.
    """
    check_min_logit(least)

    def count(values: Tensor) -> int:
        return max(1, int(((values >= least**2) & (values > 0)).sum()))

    return [[count(head) for head in layer] for layer in ranking.energy]


def logit_range(ranking: Ranking) -> tuple[float, float]:
    """The least and the largest root mean square that a direction moves the logits by; above 0 for dead heads too."""
    values = torch.cat([layer.flatten() for layer in ranking.energy]).sqrt().clamp_min(1e-150)
    return float(values.min()), float(values.max())


def _directions(layer: Layer, criterion: str) -> tuple[Tensor, Tensor, Tensor]:
    roots = _moment_roots(layer, criterion)
    sigma = torch.ones_like(layer.bias[0]) if layer.sigma is None else layer.sigma  # (H, D)
    u, size, v = operator_basis(roots, sigma)
    over = 1 / size[:, None].clamp_min((1e-12 * size.amax()).clamp_min(1e-300))
    left = sigma[..., None] * (roots[1] @ v) * over  # G_q^(-1/2) u, without the inverse
    right = sigma[..., None] * (roots[0] @ u) * over
    return left, torch.where(torch.arange(size.shape[-1]) < layer.live()[:, None], size, 0), right


def _moment_roots(layer: Layer, criterion: str) -> Tensor:
    """``(2, H, D, D)``: square roots of the metrics in which q and k are measured."""
    D = layer.bias.shape[-1]
    if criterion == "sigma" and layer.sigma is not None:
        return torch.eye(D, dtype=torch.float64).expand(*layer.bias.shape, D)
    if criterion == "sigma":
        augmented = torch.cat([layer.weight, layer.bias[..., None]], dim=-1)
        return symmetric_root(augmented @ augmented.mT)
    moments = torch.stack([_moments(layer, head) for head in range(layer.bias.shape[1])], dim=1)  # (2, H, D, D)
    if criterion == "data" and layer.sigma is not None:
        return torch.diag_embed(moments.diagonal(dim1=-2, dim2=-1).sqrt())
    return symmetric_root(moments)


def _moments(layer: Layer, head: int) -> Tensor:
    rows, norms = layer.rows(head)
    q, k = rows / norms  # (images, T, D)
    return row_moments(q[:, None], k[:, None])[:, 0]


def _shuffled(parts: tuple[Tensor, Tensor, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    left, size, right = parts
    order = (torch.rand(size.shape, generator=generator) + (size == 0)).argsort(-1)  # (H, D), what is gone at the end
    wide = order[:, None].expand_as(left)
    return left.gather(2, wide), size.gather(1, order), right.gather(2, wide)


# --- layers as they are ---------------------------------------------------------------------------------------------


def read_layers(model: nn.Module, images: Tensor | None) -> list[Layer]:
    """The attention layers of ``model`` as projections, with what they see of ``images``, if there are any."""
    sites = attention_sites(model)
    inputs: list[Tensor | None] = [None] * len(sites) if images is None else list(inputs_of(model, sites, images))
    return [_read_layer(site.module, x) for site, x in zip(sites, inputs, strict=True)]


def _read_layer(module: Any, inputs: Tensor | None) -> Layer:
    weight, bias = (x.detach().cpu().double() for x in projections(module))
    own = isinstance(module, OwnAttention)
    heads = module.heads if own else module.num_heads
    sigma = module.sigma.detach().cpu().double() if own and module.kind == "svda" else None
    length = torch.zeros(2, heads, dtype=torch.float64)
    if isinstance(module, CompactSelfAttention):
        weight, bias = _padded_rows(module, weight, bias)
        if sigma is not None:
            length = module.norm_length.detach().cpu().double()
    else:
        weight, bias = weight.view(3, heads, -1, weight.shape[-1])[:2], bias.view(3, heads, -1)[:2]
    return Layer(weight, bias, sigma, length, inputs)


def _padded_rows(module: CompactSelfAttention, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of q and k of all heads, zeros behind those that were kept: ``(2, H, D, C)`` and ``(2, H, D)``."""
    R, widest = sum(module.row_counts), max(module.row_counts)
    slots = module.row_slots[: 2 * R].cpu()
    weight, bias = (
        x.new_zeros(2 * module.heads * widest, *x.shape[1:]).index_copy(0, slots, x[: 2 * R]) for x in (weight, bias)
    )
    missing = module.head_dim - widest
    weight = nn.functional.pad(weight.view(2, module.heads, widest, -1), (0, 0, 0, missing))
    return weight, nn.functional.pad(bias.view(2, module.heads, widest), (0, missing))
