"""Where attention goes whatever the image shows: CLS, registers, sinks, fixed places. In the group ``field``."""

from __future__ import annotations

import torch
from torch import Tensor

from svda_analysis.errors import InputError
from svda_analysis.indicators.blocks import Mean, over_queries, patches_among
from svda_analysis.indicators.numerics import double, of_patches, or_one, row_weights, wide_dtype
from svda_analysis.indicators.registry import indicator


def _patch_rows(a: Tensor, first: int, prefix: int, suffix: int) -> Tensor:
    """The rows of those queries of a block that are patches, each of sum 1."""
    rows = row_weights(a)
    return rows.narrow(-2, *patches_among(rows.shape[-2], first, rows.shape[-1], prefix, suffix))


def _on_class(a: Tensor, prefix: int, suffix: int = 0, class_token: bool = True, first: int = 0) -> Mean | None:
    if not (prefix and class_token):
        return None
    rows = _patch_rows(a, first, prefix, suffix)
    return over_queries(rows[..., 0], rows)


@indicator(
    rows=_on_class,
    group="field",
    label="Mass on CLS",
    sources=("attention",),
    low=0.0,
    high=1.0,
    higher_means="patches attend more to the class token",
    reference="after Darcet et al. 2024",
    question="How much of the patches' attention goes to the class token?",
    not_said="what the class token itself attends to",
)
def class_mass(a: Tensor, prefix: int, suffix: int = 0, class_token: bool = True) -> Tensor | None:
    """``mean_i a_i0`` over patch queries i, in [0, 1]: the mass on the class token, the first. None where there is
    none: no prefix tokens, or registers alone (``class_token`` False).

    After Darcet et al. 2024, fig. 1 and sec. 2.

    Rounding in float32: 2e-7.
    """
    found = _on_class(a, prefix, suffix, class_token)
    return None if found is None else found.value().clamp(0, 1)


def _on_registers(a: Tensor, prefix: int, suffix: int = 0, class_token: bool = True, first: int = 0) -> Mean | None:
    begin = int(class_token)
    if max(prefix - begin, 0) + suffix == 0:
        return None
    rows = _patch_rows(a, first, prefix, suffix)
    return over_queries(rows[..., begin:prefix].sum(-1) + rows[..., rows.shape[-1] - suffix :].sum(-1), rows)


@indicator(
    rows=_on_registers,
    group="field",
    label="Mass on registers",
    sources=("attention",),
    low=0.0,
    high=1.0,
    higher_means="patches attend more to registers",
    reference="after Darcet et al. 2024",
    question="How much of the patches' attention goes to registers?",
    not_said="whether the model needs them; a distillation token counts as one",
)
def register_mass(a: Tensor, prefix: int, suffix: int = 0, class_token: bool = True) -> Tensor | None:
    """``mean_i sum_r a_ir`` over patch queries i and the tokens r that are neither the class token, the first of the
    prefix (``class_token`` False: there is none), nor patches, in [0, 1]. None where there are none. After Darcet et
    al. 2024.

    Rounding in float32: 2e-7.
    """
    found = _on_registers(a, prefix, suffix, class_token)
    return None if found is None else found.value().clamp(0, 1)


def _on_patches(a: Tensor, prefix: int, suffix: int = 0) -> Mean:
    """What each patch gets, ``(B, H, P)``, over all queries that attend."""
    rows = row_weights(a)
    return Mean(of_patches(rows.mT, prefix, suffix).sum(-1), (rows.sum(-1) != 0).sum(-1, keepdim=True))


def _of_largest(masses: Tensor) -> Tensor:
    return masses.amax(-1).clamp(0, 1)


@indicator(
    rows=_on_patches,
    finish=_of_largest,
    group="field",
    label="Mass on the largest sink",
    sources=("attention",),
    low=0.0,
    high=1.0,
    higher_means="one patch draws more of all attention",
    reference="after Darcet et al. 2024 and Xiao et al. 2024 (attention sinks)",
    question="Is there a patch that all others look at?",
    not_said="whether that patch matters: sinks are often patches of background",
)
def sink_mass(a: Tensor, prefix: int, suffix: int = 0) -> Tensor:
    """``max_j mean_i a_ij`` over patch keys j and all queries i, in [0, 1]; 1/N for uniform attention.

    The mean attention that the most attended patch gets (our definition; after Darcet et al. 2024, Xiao et al. 2024).

    Rounding in float32: 2e-7.
    """
    return _of_largest(_on_patches(a, prefix, suffix).value())


@indicator(
    group="field",
    label="Explained by position",
    sources=("attention",),
    low=0.0,
    high=1.0,
    higher_means="looks at the same places in every image",
    reference="after d'Ascoli et al. 2021 (positional against content attention); our definition",
    question="Does a head look at the same places whatever the image shows?",
    not_said="which places; and it sees positions that do not move with the image, not offsets alone",
    needs_living=True,
)
def position_share(a: Tensor, position_map: Tensor) -> Tensor:
    """``<A - u, M - u>^2 / (||A - u||^2 ||M - u||^2)`` with u = 1/N, in [0, 1]; 0 where one of the two is uniform.

    The share of a map's deviation from uniform attention that the best multiple of the position map ``M`` explains;
    ``position_map (B, H, N, N)``, or ``(1, H, N, N)`` for all: the mean map of other images (here: those of the first
    batch). After d'Ascoli et al. 2021, who part positional from content attention in the model (our definition). Few
    images make M noisy and the share too low. Raises :class:`InputError` for a map of another size.

    Rounding in float32: 2e-7, of maps that are not uniform within it.
    """
    if a.shape[1:] != position_map.shape[1:] or len(position_map) not in (1, len(a)):
        raise InputError(f"position_map must suit a {tuple(a.shape)}, got {tuple(position_map.shape)}")
    deviation, fixed = (row_weights(double(x)) - 1 / a.shape[-1] for x in (a, position_map))
    product, ours, theirs = ((x * y).sum((-2, -1)) for x, y in _pairs(deviation, fixed))
    floor = torch.finfo(wide_dtype(a)).eps ** 2  # what rounding leaves of a uniform map, squared
    sizes = ours * theirs
    share = product.square() / or_one(sizes)
    return torch.where((ours <= floor) | (theirs <= floor), 0 * share, share).clamp(0, 1).to(a.device, wide_dtype(a))


def _pairs(x: Tensor, y: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    return (x, y), (x, x), (y, y)
