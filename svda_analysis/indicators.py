"""Attention indicators as pure tensor functions, with their registry :data:`INDICATORS`.

A function's parameter names say what it needs, and one name means the same thing everywhere:

- ``spectrum (..., R)``: non-negative singular values in any order, from :func:`sigma_spectrum`,
  :func:`score_spectrum` or :func:`attention_spectrum`; the result has the leading shape ``(...)``;
- ``a, a_noisy, a_pixel_noisy (B, H, N, N)``: attention after softmax, queries in rows, of the images and of noisy
  copies of them; ``q, k (B, H, N, D)``; results are ``(B, H)``;
- ``grid``: (rows, columns) of patches, row by row; ``prefix``: tokens before the first patch (CLS and the like).

Half precision is computed and returned in float32, float64 stays float64. Rows of a map are read as weights: they are
divided by their sum, so rounding of half-precision rows does not count as attention. NaN in, NaN out. A mean over
queries is one over those that attend: an all-zero row (a mask left its query no key) is left out, and where all are the
mean is 0. An all-zero spectrum counts as a single direction (entropy 0, effective rank 1, sparsity 1), and so does a
spectrum or row of length 1, where ``log 1 = 0`` leaves the definitions open. Call outside ``torch.autocast``, which
would lower products.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from svda_analysis.errors import InputError
from svda_analysis.vocabulary import Quantity, register, register_all

SOURCES = ("sigma", "scores", "attention")


# --- registry -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Indicator(Quantity):
    """A quantity that a function computes from a record. Its name is the function's, ``needs`` its parameter names.

    Those of a ``group`` are measured only when they, or their group, are asked for (:func:`choose_indicators`).
    """

    function: Callable[..., Tensor]
    needs: tuple[str, ...]
    group: str = ""


INDICATORS: dict[str, Indicator] = {}
Function = TypeVar("Function", bound=Callable[..., Tensor])


def indicator(
    *,
    label: str,
    sources: tuple[str, ...],
    low: float | str,
    high: float | str,
    higher_means: str,
    reference: str,
    **more: Any,
) -> Callable[[Function], Function]:
    """Decorator: enter the function in :data:`INDICATORS` and in the vocabulary under its own name, and return it
    unchanged. Arguments as for :class:`~svda_analysis.vocabulary.Quantity`, and ``group``."""

    def enter(function: Function) -> Function:
        name, needs = function.__name__, tuple(inspect.signature(function).parameters)
        about: dict[str, Any] = {"label": label, "sources": sources, "low": low, "high": high}
        made = Indicator(
            name=name,
            function=function,
            needs=needs,
            higher_means=higher_means,
            reference=reference,
            **about,
            **more,
        )
        INDICATORS[name] = made
        register(made)
        return function

    return enter


def choose_indicators(names: Sequence[str] | None = None, *, argument: str = "indicators") -> list[Indicator]:
    """The indicators of these names, each once; the name of a group stands for all of it. None: those of no group.

    Raises :class:`InputError`, which speaks of ``argument``, for a name that is neither.
    """
    if names is None:
        return [one for one in INDICATORS.values() if not one.group]
    if not set(names) <= INDICATORS.keys():
        register_all()
    chosen: dict[str, Indicator] = {}
    for name in names:
        found = [one for one in INDICATORS.values() if name == one.name or (one.group and name == one.group)]
        if not found:
            allowed = [*INDICATORS, *indicator_groups()]
            raise InputError(f"{argument} must be among {', '.join(allowed)}, got {name!r}")
        chosen |= {one.name: one for one in found}
    return list(chosen.values())


def indicator_groups() -> list[str]:
    """The names of the groups that are registered."""
    return list(dict.fromkeys(one.group for one in INDICATORS.values() if one.group))


# --- spectra --------------------------------------------------------------------------------------------------------


def sigma_spectrum(sigma: Tensor) -> Tensor:
    """``|sigma|`` in descending order, same shape ``(..., D)``."""
    return widen(sigma).abs().sort(dim=-1, descending=True).values


def score_spectrum(q: Tensor, k: Tensor, scale: float, sigma: Tensor | None = None) -> Tensor:
    """Singular values of ``q diag(sigma) k^T * scale`` in descending order: the spectrum of the scores before softmax.

    ``q, k (B, H, N, D)``, ``sigma (H, D)`` or None for the identity; returns ``(B, H, min(N, D))``. With thin factors
    ``q = Q_q R_q`` and ``k = Q_k R_k`` they are the singular values of ``R_q diag(sigma) R_k^T``: O(N D^2), and the
    ``N x N`` matrix is never formed. Computed in float64, see :func:`attention_spectrum`.
    """
    r_q, r_k = (torch.linalg.qr(_double(x), mode="r").R for x in (q, k))  # (B, H, min(N, D), D)
    if sigma is not None:
        r_q = r_q * _double(sigma).unsqueeze(-2)
    return (_singular_values(r_q @ r_k.mT) * abs(scale)).to(q.device, _wide_dtype(q))


def attention_spectrum(a: Tensor) -> Tensor:
    """Singular values of each map ``a (B, H, N, N)`` in descending order, ``(B, H, N)``.

    Computed in float64 whatever comes in: a float32 decomposition leaves a floor of about 1e-8 under each of the N
    values, which moves the effective rank of a nearly uniform map by 5e-4 (relative), and costs only a fifth less.
    """
    return _singular_values(_double(a)).to(a.device, _wide_dtype(a))


def _double(x: Tensor) -> Tensor:
    return (x.cpu() if x.device.type == "mps" else x).double()  # which has no float64


def _singular_values(x: Tensor) -> Tensor:
    """Of the last two dimensions; NaN for a matrix with an entry that is no number, where LAPACK would stop."""
    sound = x.isfinite().all(-1, keepdim=True).all(-2, keepdim=True)
    values = torch.linalg.svdvals(torch.where(sound, x, 0))
    return torch.where(sound.squeeze(-1), values, math.nan)


# --- indicators of a spectrum ---------------------------------------------------------------------------------------


@indicator(
    label="Spectral entropy",
    sources=("sigma", "scores", "attention"),
    low=0.0,
    high=1.0,
    higher_means="flatter spectrum",
    reference="our definition (Shannon entropy over its maximum; the name is from arXiv 2602.10994)",
)
def spectral_entropy(spectrum: Tensor) -> Tensor:
    """``-sum p log p / log R`` with ``p = s / sum(s)``, in [0, 1] (our definition).

    Computed in float64: off by 1e-6 of itself from 1e-5 on, and by less than 1e-14 in all below.
    """
    return (_spectrum_entropy(spectrum) / _log_size(spectrum)).clamp(0, 1)


@indicator(
    label="Effective rank",
    sources=("sigma", "scores"),
    low=1.0,
    high="D",
    higher_means="more directions in use",
    reference="Roy & Vetterli 2007, definition of the effective rank",
    direction={"scores": -1},
)
def effective_rank(spectrum: Tensor) -> Tensor:
    """``exp(-sum p log p)`` with ``p = s / sum(s)``, in [1, R] (Roy & Vetterli 2007).

    The entropy is computed in float64: off by 1e-6 of itself in float32.
    """
    return _spectrum_entropy(spectrum).exp().clamp(1, spectrum.shape[-1])


@indicator(
    label="Spectral sparsity",
    sources=("sigma", "scores", "attention"),
    low=0.0,
    high=1.0,
    higher_means="fewer dominant directions",
    reference="Hoyer 2004, sparseness, applied to the spectrum",
)
def spectral_sparsity(spectrum: Tensor) -> Tensor:
    """``(sqrt R - ||s||_1 / ||s||_2) / (sqrt R - 1)``, in [0, 1] (Hoyer 2004, sparseness).

    Computed in float64: off by 1e-6 of itself from 1e-8 on, and by less than 1e-13 in all below.
    """
    sparsity = _hoyer(_scale_to_one(_double(spectrum))).clamp(0, 1)
    return sparsity.to(spectrum.device, _wide_dtype(spectrum))


@indicator(
    label="Attention rank",
    sources=("attention",),
    low=1.0,
    high="N",
    higher_means="more distinct rows of attention",
    reference="Roy & Vetterli 2007, effective rank, applied to the attention map",
)
def attention_rank(spectrum: Tensor) -> Tensor:
    """:func:`effective_rank` of the map from its singular values, in [1, N] (Roy & Vetterli 2007)."""
    return effective_rank(spectrum)


# --- indicators of queries and keys ---------------------------------------------------------------------------------


@indicator(
    label="Angular alignment",
    sources=("scores",),
    low=0.0,
    high=1.0,
    higher_means="attended keys point along their queries",
    reference="our definition (the name is from arXiv 2602.10994)",
)
def angular_alignment(q: Tensor, k: Tensor, a: Tensor) -> Tensor:
    """``(1 + mean_i sum_j a_ij cos(q_i, k_j)) / 2``, in [0, 1]; 0.5 is orthogonal (our definition).

    A zero query or key counts as orthogonal.
    """
    attended = _weights(a) @ _unit_rows(k)  # (B, H, N, D)
    return _cosine_share(_mean_over_queries((_unit_rows(q) * attended).sum(-1), a))


@indicator(
    label="Mean alignment",
    sources=("scores",),
    low=0.0,
    high=1.0,
    higher_means="queries and keys point the same way",
    reference="our definition (angular alignment under uniform attention)",
)
def mean_alignment(q: Tensor, k: Tensor) -> Tensor:
    """``(1 + mean_ij cos(q_i, k_j)) / 2``, in [0, 1]; 0.5 is orthogonal (our definition).

    The mean over all pairs is the product of the two mean unit vectors: O(N D), no ``N x N`` matrix.
    """
    return _cosine_share((_unit_rows(q).mean(-2) * _unit_rows(k).mean(-2)).sum(-1))


# --- indicators of the map ------------------------------------------------------------------------------------------


@indicator(
    label="Attention entropy",
    sources=("attention",),
    low=0.0,
    high=1.0,
    higher_means="more diffuse",
    reference="our definition (Shannon entropy of a row over its maximum)",
    direction={"attention": -1},
)
def attention_entropy(a: Tensor) -> Tensor:
    """``-sum_j a_ij log a_ij / log N``, mean over queries i, in [0, 1] (our definition)."""
    return _mean_over_queries(_entropy(widen(a)) / _log_size(a), a).clamp(0, 1)


@indicator(
    label="Selectivity index",
    sources=("attention",),
    low=0.0,
    high=1.0,
    higher_means="more selective",
    reference="our definition (the name is from arXiv 2602.10994)",
    direction={"attention": +1},
)
def selectivity_index(a: Tensor) -> Tensor:
    """``1 - H(a_i) / log N``, mean over queries i, in [0, 1]: one minus :func:`attention_entropy` (our definition)."""
    return 1 - attention_entropy(a)


@indicator(
    label="Attention sparsity",
    sources=("attention",),
    low=0.0,
    high=1.0,
    higher_means="sparser rows of attention",
    reference="Hoyer 2004, sparseness, applied to each row",
    direction={"attention": +1},
)
def attention_sparsity(a: Tensor) -> Tensor:
    """``(sqrt N - ||a_i||_1 / ||a_i||_2) / (sqrt N - 1)``, mean over queries i, in [0, 1] (Hoyer 2004, sparseness)."""
    return _mean_over_queries(_hoyer(widen(a)), a).clamp(0, 1)


@indicator(
    label="Keys for 90 % of mass",
    sources=("attention",),
    low=0.0,
    high=1.0,
    higher_means="more diffuse",
    reference="our definition",
)
def mass_90(a: Tensor) -> Tensor:
    """Smallest number of keys that carry 90 % of a row's mass, over N, mean over queries, in [0, 1] (our definition).

    A sum within ``N`` rounding steps of 90 % has reached it, so that nine of ten equal keys do.
    """
    N = a.shape[-1]
    carried = widen(a).sort(dim=-1, descending=True).values.cumsum(-1)  # (B, H, N, N)
    total = carried[..., -1:]
    short = carried < (0.9 - N * torch.finfo(carried.dtype).eps) * total
    keys = short.sum(-1) + 1 + 0 * total.squeeze(-1)  # 0 * total carries a NaN over, which no comparison does
    return _mean_over_queries(keys / N, a).clamp(0, 1)


@indicator(
    label="Attention distance",
    sources=("attention",),
    low=0.0,
    high="grid",
    higher_means="attends farther",
    reference="Dosovitskiy et al. 2021, fig. 7 (here in patches, prefix tokens left out)",
)
def attention_distance(a: Tensor, grid: tuple[int, int], prefix: int, suffix: int = 0, frames: int = 1) -> Tensor:
    """``sum_j a_ij ||x_i - x_j||`` over patches j, mean over patches i: the mean attended distance, in patches.

    After Dosovitskiy et al. 2021, fig. 7. Tokens before and behind the patches are left out as queries and as keys, and
    what remains of each row is renormalised; a row that gives the patches nothing has no distance and is left out of
    the mean (0 if all are). A step in time counts as one patch (our definition). At most the distance between opposite
    corners, ``hypot(rows - 1, columns - 1)`` for one frame. Raises :class:`InputError` unless
    ``N = prefix + frames * rows * columns + suffix``.
    """
    if a.shape[-1] != prefix + frames * grid[0] * grid[1] + suffix:
        tokens = f"N={a.shape[-1]}, {prefix=}, {grid=}, {frames=}, {suffix=}"
        raise InputError(f"a must have prefix + frames * rows * columns + suffix tokens, got {tokens}")
    P, sides = a.shape[-1] - prefix - suffix, (frames, *grid)
    patches = widen(a).narrow(-2, prefix, P).narrow(-1, prefix, P)  # (B, H, P, P)
    mass = patches.sum(-1)  # (B, H, P)
    distance = (patches * _patch_distances(sides, patches)).sum(-1) / _or_one(mass)
    return _mean_over_queries(distance, patches).clamp(0, _diagonal(sides))


@indicator(
    label="Perturbation robustness",
    sources=("attention",),
    low=0.0,
    high=1.0,
    higher_means="steadier under input noise",
    reference="our definition (the name is from arXiv 2602.10994)",
)
def perturbation_robustness(a: Tensor, a_noisy: Tensor) -> Tensor:
    """``1 - mean_i TV(a_i, a'_i)`` with total variation ``TV(p, p') = sum_j |p_j - p'_j| / 2``, in [0, 1].

    Our definition; ``a_noisy`` is the map for the same images with noise added. A row that is all zero in either map is
    left out. Raises :class:`InputError` when the shapes differ.
    """
    if a.shape != a_noisy.shape:
        raise InputError(f"a_noisy must have the shape of a {tuple(a.shape)}, got {tuple(a_noisy.shape)}")
    distance = (_weights(a) - _weights(a_noisy)).abs().sum(-1) / 2  # (B, H, N)
    return (1 - _mean_over_queries(distance, a, a_noisy)).clamp(0, 1)


# --- shared pieces --------------------------------------------------------------------------------------------------


def _wide_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def widen(x: Tensor) -> Tensor:
    """``x`` in float32 at least: half precision becomes float32, float64 stays."""
    return x.to(_wide_dtype(x))


def _or_one(total: Tensor) -> Tensor:
    """A divisor: ``total``, or 1 where it is 0."""
    return torch.where(total == 0, 1, total)


def _mean_over_queries(values: Tensor, *maps: Tensor) -> Tensor:
    """Mean of ``values (B, H, N)`` over the queries whose rows are not all zero in any of ``maps (B, H, N, N)``."""
    attends = torch.stack([a.sum(-1) != 0 for a in maps]).all(0)  # (B, H, N); true of NaN, which is carried over
    return torch.where(attends, values, 0).sum(-1) / _or_one(attends.sum(-1))


def _scale_to_one(x: Tensor) -> Tensor:
    """``x`` over its largest magnitude along the last dimension (zeros stay): neither sums nor squares can overflow."""
    x = widen(x)
    return x / _or_one(x.abs().amax(-1, keepdim=True))


def _unit_rows(x: Tensor) -> Tensor:
    x = _scale_to_one(x)
    return x / _or_one(torch.linalg.vector_norm(x, dim=-1, keepdim=True))


def _weights(a: Tensor) -> Tensor:
    """Rows of ``a`` with sum 1; a zero row stays zero."""
    a = widen(a)
    return a / _or_one(a.sum(-1, keepdim=True))


def _entropy(weights: Tensor) -> Tensor:
    """Entropy in nats of ``p = w / sum(w)`` over the last dimension, as ``sum(-w log w) / sum(w) + log sum(w)``.

    Near 0, where one weight has it all, the two terms all but cancel: float32 is then off by 1e-7 in all, which is 1 %
    of an entropy of 1e-5. Give float64 where that matters.
    """
    total = _or_one(weights.sum(-1))
    return torch.special.entr(weights).sum(-1) / total + total.log()


def _spectrum_entropy(spectrum: Tensor) -> Tensor:
    """:func:`_entropy` of a spectrum in float64, which costs nothing beside what made it; in the dtype that it has."""
    return _entropy(_scale_to_one(_double(spectrum))).to(spectrum.device, _wide_dtype(spectrum))


def _log_size(x: Tensor) -> float:
    """The largest entropy over the last dimension; 1 for a single entry, whose entropy is 0 anyway."""
    return math.log(x.shape[-1]) or 1.0


def _hoyer(weights: Tensor) -> Tensor:
    """``(sqrt n - ratio) / (sqrt n - 1)`` in the form that is exactly 1 where one weight has it all."""
    root, norm = math.sqrt(weights.shape[-1]), torch.linalg.vector_norm(weights, dim=-1)
    ratio = torch.where(norm == 0, 1, weights.sum(-1) / norm)
    return 1 - (ratio - 1) / (root - 1) if root > 1 else ratio


def _cosine_share(cosine: Tensor) -> Tensor:
    return ((1 + cosine) / 2).clamp(0, 1)


def _diagonal(sides: tuple[int, ...]) -> float:
    return math.hypot(*(side - 1 for side in sides))


def _patch_distances(sides: tuple[int, ...], like: Tensor) -> Tensor:
    """Euclidean distances between the patches of a grid, ``(P, P)``, exactly 0 on the diagonal."""
    axes = [torch.arange(side, dtype=like.dtype, device=like.device) for side in sides]
    at = torch.cartesian_prod(*axes)  # (P, axes)
    return torch.linalg.vector_norm(at[:, None] - at, dim=-1)
