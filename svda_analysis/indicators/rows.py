"""What is read off the rows of a map: how selective, how far, how steady attention is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from svda_analysis.errors import InputError
from svda_analysis.indicators.blocks import Mean, over_queries, patches_among
from svda_analysis.indicators.numerics import (
    hoyer_of,
    largest_entropy,
    or_one,
    row_entropies,
    row_products,
    row_weights,
    widen,
)
from svda_analysis.indicators.registry import indicator
from svda_analysis.vocabulary import ALIVE_FROM


def _entropies(a: Tensor) -> Mean:
    return over_queries(row_entropies(widen(a)) / largest_entropy(a), a)


@indicator(
    rows=_entropies,
    label="Attention entropy",
    sources=("attention",),
    low=0.0,
    high=1.0,
    higher_means="more diffuse",
    reference="our definition (Shannon entropy of a row over its maximum)",
    direction={"attention": -1},
    question="How diffuse is attention?",
    not_said="where it looks, or whether what it looks at matters",
)
def attention_entropy(a: Tensor) -> Tensor:
    """``-sum_j a_ij log a_ij / log N``, mean over queries i, in [0, 1] (our definition).

    Rounding in float32: 3e-7.
    """
    return _entropies(a).value().clamp(0, 1)


def _selectivity(entropies: Tensor) -> Tensor:
    return 1 - entropies.clamp(0, 1)


@indicator(
    rows=_entropies,
    finish=_selectivity,
    label="Selectivity index",
    sources=("attention",),
    low=0.0,
    high=1.0,
    higher_means="more selective",
    reference="our definition (the name is from arXiv 2602.10994)",
    direction={"attention": +1},
    restates="attention_entropy",
    question="How selective is attention?",
    not_said="that what is selected explains the decision: measure faithfulness for that",
)
def selectivity_index(a: Tensor) -> Tensor:
    """``1 - H(a_i) / log N``, mean over queries i, in [0, 1]: one minus :func:`attention_entropy` (our definition).

    Rounding in float32: 3e-7.
    """
    return _selectivity(_entropies(a).value())


def _alive(entropies: Tensor) -> Tensor:
    selectivity = _selectivity(entropies)
    return (selectivity >= ALIVE_FROM) + 0 * selectivity  # 0 * carries a NaN over, which no comparison does


@indicator(
    rows=_entropies,
    finish=_alive,
    label="Living maps",
    sources=("attention",),
    low=0.0,
    high=1.0,
    higher_means="fewer maps are all but uniform",
    reference="our definition (selectivity index of at least 0.05)",
    is_share=True,
    family="liveness",
    question="Is attention switched on at all?",
    not_said="how selective it is beyond that",
)
def living_maps(a: Tensor) -> Tensor:
    """1 for a map whose :func:`selectivity_index` is at least 0.05, else 0: its mean over images is the share of maps
    that are alive (our definition; the threshold is :data:`~svda_analysis.vocabulary.ALIVE_FROM`).

    Below it a row spreads over at least ``N^0.95`` keys (perplexity): such a map is all but uniform, and its low rank
    and its steadiness say that it is switched off, not that it is structured or robust.

    Rounding in float32: 0, but at the threshold itself.
    """
    return _alive(_entropies(a).value())


def _sparsenesses(a: Tensor) -> Mean:
    return over_queries(hoyer_of(widen(a)), a)


@indicator(
    rows=_sparsenesses,
    label="Attention sparsity",
    sources=("attention",),
    low=0.0,
    high=1.0,
    higher_means="sparser rows of attention",
    reference="Hoyer 2004, sparseness, applied to each row",
    direction={"attention": +1},
    question="Do a few keys have most of a row?",
    not_said="which keys they are; a sink makes rows sparse too",
)
def attention_sparsity(a: Tensor) -> Tensor:
    """``(sqrt N - ||a_i||_1 / ||a_i||_2) / (sqrt N - 1)``, mean over queries i, in [0, 1] (Hoyer 2004, sparseness).

    Rounding in float32: 5e-7.
    """
    return _sparsenesses(a).value().clamp(0, 1)


def _keys_for_90(a: Tensor) -> Mean:
    N = a.shape[-1]
    rest = _ascending(widen(a)).cumsum_(-1)  # (B, H, n, N), of the smallest keys
    total = rest[..., -1:]
    spare = ((0.1 + N * torch.finfo(rest.dtype).eps) * total).contiguous()
    without = torch.searchsorted(rest, spare, right=True)  # how many keys are not needed
    keys = (N - without + 0 * total).squeeze(-1)  # 0 * total carries a NaN over, which no comparison does
    return over_queries(keys / N, a)


@indicator(
    rows=_keys_for_90,
    label="Keys for 90 % of mass",
    sources=("attention",),
    low=0.0,
    high=1.0,
    higher_means="more diffuse",
    reference="our definition",
    question="How many keys must I look at to see 90 % of a row?",
    not_said="which keys they are",
)
def mass_90(a: Tensor) -> Tensor:
    """Smallest number of keys that carry 90 % of a row's mass, over N, mean over queries, in [0, 1] (our definition).

    A sum within ``N`` rounding steps of 90 % has reached it, so that nine of ten equal keys do.

    Rounding in float32: 1e-3, where 90 % falls between two keys, 1/N of one row for each.
    """
    return _keys_for_90(a).value().clamp(0, 1)


def _distances_of(
    a: Tensor, grid: tuple[int, int], prefix: int, suffix: int = 0, frames: int = 1, first: int = 0
) -> Mean:
    """Of the queries of a block, of which the first is number ``first``."""
    if a.shape[-1] != prefix + frames * grid[0] * grid[1] + suffix:
        tokens = f"N={a.shape[-1]}, {prefix=}, {grid=}, {frames=}, {suffix=}"
        raise InputError(f"a must have prefix + frames * rows * columns + suffix tokens, got {tokens}")
    P, sides = a.shape[-1] - prefix - suffix, (frames, *grid)
    begin, count = patches_among(a.shape[-2], first, a.shape[-1], prefix, suffix)
    patches = widen(a).narrow(-2, begin, count).narrow(-1, prefix, P)  # (B, H, n, P)
    mass = patches.sum(-1)  # (B, H, n)
    apart = _patch_distances(sides, patches, first + begin - prefix, count)
    return over_queries(row_products(patches, apart) / or_one(mass), patches)


@indicator(
    rows=_distances_of,
    label="Attention distance",
    sources=("attention",),
    low=0.0,
    high="grid",
    higher_means="attends farther",
    reference="Dosovitskiy et al. 2021, fig. 7 (here in patches, prefix tokens left out)",
    question="Does a head look near or far?",
    not_said="in which direction; nor anything of the class token",
    varies_with=("token order",),
)
def attention_distance(a: Tensor, grid: tuple[int, int], prefix: int, suffix: int = 0, frames: int = 1) -> Tensor:
    """``sum_j a_ij ||x_i - x_j||`` over patches j, mean over patches i: the mean attended distance, in patches.

    After Dosovitskiy et al. 2021, fig. 7. Tokens before and behind the patches are left out as queries and as keys, and
    what remains of each row is renormalised; a row that gives the patches nothing has no distance and is left out of
    the mean (0 if all are). A step in time counts as one patch (our definition). At most the distance between opposite
    corners, ``hypot(rows - 1, columns - 1)`` for one frame. Raises :class:`InputError` unless
    ``N = prefix + frames * rows * columns + suffix``.

    Rounding in float32: 5e-7.
    """
    return _distances_of(a, grid, prefix, suffix, frames).value().clamp(0, _diagonal((frames, *grid)))


def _moves(a: Tensor, a_noisy: Tensor) -> Mean:
    if a.shape != a_noisy.shape:
        raise InputError(f"a_noisy must have the shape of a {tuple(a.shape)}, got {tuple(a_noisy.shape)}")
    distance = row_weights(a).sub_(row_weights(a_noisy)).abs_().sum(-1) / 2  # (B, H, n)
    return over_queries(distance, a, a_noisy)


def _steady(distances: Tensor) -> Tensor:
    return (1 - distances).clamp(0, 1)


@indicator(
    rows=_moves,
    finish=_steady,
    label="Perturbation robustness",
    sources=("attention",),
    low=0.0,
    high=1.0,
    higher_means="steadier under input noise",
    reference="our definition (the name is from arXiv 2602.10994)",
    question="Does attention stay put under input noise?",
    not_said="whether the prediction does; a uniform map cannot move and is perfectly steady",
    needs_living=True,
)
def perturbation_robustness(a: Tensor, a_noisy: Tensor) -> Tensor:
    """``1 - mean_i TV(a_i, a'_i)`` with total variation ``TV(p, p') = sum_j |p_j - p'_j| / 2``, in [0, 1].

    Our definition; ``a_noisy`` is the map for the same images with noise added. A row that is all zero in either map is
    left out. Raises :class:`InputError` when the shapes differ.

    Rounding in float32: 2e-7.
    """
    return _steady(_moves(a, a_noisy).value())


def _ascending(a: Tensor) -> Tensor:
    """Each row in ascending order, a copy: by numpy on the CPU, whose sort is 20 times as fast as torch's there."""
    if a.device.type != "cpu":
        return a.sort(dim=-1).values
    rows = a.detach().clone(memory_format=torch.contiguous_format)
    rows.numpy().sort(axis=-1)
    return rows


def _diagonal(sides: tuple[int, ...]) -> float:
    return math.hypot(*(side - 1 for side in sides))


def _patch_distances(sides: tuple[int, ...], like: Tensor, first: int, count: int) -> Tensor:
    """Euclidean distances between so many patches of a grid from the first on and all, ``(count, P)``, exactly 0 from a
    patch to itself."""
    axes = [torch.arange(side, dtype=like.dtype, device=like.device) for side in sides]
    at = torch.cartesian_prod(*axes)  # (P, axes)
    return torch.linalg.vector_norm(at.narrow(0, first if count else 0, count)[:, None] - at, dim=-1)
