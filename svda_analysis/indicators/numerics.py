"""Entropy, sparseness and rows as weights, in one precision: the pieces that several indicators share."""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections import ChainMap
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

_local = threading.local()
_LONG_ROW = 1024


@contextlib.contextmanager
def sharing() -> Iterator[None]:
    """Inside, in this thread, what is :func:`shared` is computed once of each tensor, which nothing may change then.

    One inside another finds what the outer one has, and takes its own along at its end.
    """
    outer = getattr(_local, "found", None)
    _local.found = ChainMap({}) if outer is None else outer.new_child()
    try:
        yield
    finally:
        _local.found = outer


def shared(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Decorator: inside :func:`sharing`, several indicators read one result of ``function`` of one tensor."""

    @functools.wraps(function)
    def once(x: Tensor) -> Tensor:
        found = getattr(_local, "found", None)
        if found is None:
            return function(x)
        key = function, id(x)
        if key not in found:
            found[key] = function(x), x  # which keeps the tensor, and so its id
        return found[key][0]

    return once


def wide_dtype(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def double(x: Tensor) -> Tensor:
    return (x.cpu() if x.device.type == "mps" else x).double()  # which has no float64


def widen(x: Tensor) -> Tensor:
    """``x`` in float32 at least: half precision becomes float32, float64 stays."""
    return x.to(wide_dtype(x))


def or_one(total: Tensor) -> Tensor:
    """A divisor: ``total``, or 1 where it is 0."""
    return torch.where(total == 0, 1, total)


@shared
def row_sums(a: Tensor) -> Tensor:
    """``sum_j a_ij``, ``(..., N, M) -> (..., N)``."""
    return a.sum(-1)


@shared
def row_entropies(a: Tensor) -> Tensor:
    """:func:`entropy_of` each row of a map."""
    return entropy_of(a)


def row_products(x: Tensor, y: Tensor) -> Tensor:
    """``sum_j x_ij y_ij``, ``(..., N, M) -> (..., N)``: of short rows on the CPU in one pass, where torch makes two.

    Long rows are added up in pairs, which rounds less.
    """
    if x.device.type != "cpu" or x.requires_grad or y.requires_grad or x.shape[-1] > _LONG_ROW:
        return (x * y).sum(-1)
    return torch.from_numpy(np.asarray(np.einsum("...j,...j->...", x.numpy(), y.numpy())))


def of_patches(x: Tensor, prefix: int, suffix: int) -> Tensor:
    """``(..., N, C) -> (..., P, C)``: without the tokens before and behind the patches."""
    return x.narrow(-2, prefix, x.shape[-2] - prefix - suffix)


def scale_to_one(x: Tensor) -> Tensor:
    """``x`` over its largest magnitude along the last dimension (zeros stay): neither sums nor squares can overflow."""
    x = widen(x)
    return x / or_one(x.abs().amax(-1, keepdim=True))


def row_weights(a: Tensor) -> Tensor:
    """Rows of ``a`` with sum 1; a zero row stays zero."""
    a = widen(a)
    return a / or_one(row_sums(a)).unsqueeze(-1)


def entropy_of(weights: Tensor) -> Tensor:
    """Entropy in nats of ``p = w / sum(w)`` over the last dimension, as ``sum(-w log w) / sum(w) + log sum(w)``.

    Near 0, where one weight has it all, the two terms all but cancel: float32 is then off by 1e-7 in all, which is 1 %
    of an entropy of 1e-5. Give float64 where that matters.
    """
    total = or_one(row_sums(weights))
    logarithms = weights.clamp_min(torch.finfo(weights.dtype).tiny).log_()  # of 0 it counts for nothing
    return total.log() - row_products(logarithms, weights) / total


def spectrum_entropy(spectrum: Tensor) -> Tensor:
    """:func:`entropy_of` of a spectrum, computed in float64, which costs nothing beside what made it."""
    return entropy_of(scale_to_one(double(spectrum))).to(spectrum.device, wide_dtype(spectrum))


def largest_entropy(x: Tensor) -> float:
    """The largest entropy over the last dimension; 1 for a single entry, whose entropy is 0 anyway."""
    return math.log(x.shape[-1]) or 1.0


def hoyer_of(weights: Tensor) -> Tensor:
    """``(sqrt n - ratio) / (sqrt n - 1)`` in the form that is exactly 1 where one weight has it all."""
    root, norm = math.sqrt(weights.shape[-1]), torch.linalg.vector_norm(weights, dim=-1)
    ratio = torch.where(norm == 0, 1, row_sums(weights) / norm)
    return 1 - (ratio - 1) / (root - 1) if root > 1 else ratio
