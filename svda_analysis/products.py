"""Products of two tensors by the names of their dimensions: matrix products and einsum alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from svda_analysis.places import mixed

_MATRIX = {"matmul", "__matmul__", "bmm", "mm", "linalg_matmul"}
_WITH_SUM = {"baddbmm", "addmm", "addbmm"}


class Contraction(NamedTuple):
    """``out = scale * sum a * b`` over the dimensions that ``out`` does not name: a name for each dimension."""

    a: Tensor
    b: Tensor
    of_a: tuple[str, ...]
    of_b: tuple[str, ...]
    out: tuple[str, ...]
    scale: float = 1.0

    def swapped(self) -> Contraction:
        return Contraction(self.b, self.a, self.of_b, self.of_a, self.out, self.scale)

    def b_transposed(self) -> Contraction:
        """The same product, with the last two dimensions of ``b`` in the other order."""
        return self._replace(b=self.b.transpose(-2, -1), of_b=(*self.of_b[:-2], self.of_b[-1], self.of_b[-2]))

    @property
    def summed(self) -> set[str]:
        return (set(self.of_a) & set(self.of_b)) - set(self.out)


def contraction(name: str, args: Sequence[Any], *, alpha: float = 1.0) -> Contraction | None:
    """What the function ``name`` multiplies (``alpha``: that of ``baddbmm``); None where it is no product of two.

    Both factors must have two dimensions or more.
    """
    if name == "einsum":
        return _of_einsum(args)
    pair = list(args[1:3] if name in _WITH_SUM else args[:2]) if name in _MATRIX | _WITH_SUM else []
    if name == "__rmatmul__":
        pair = [args[1], args[0]]
    if len(pair) != 2 or not all(isinstance(x, Tensor) and x.ndim > 1 for x in pair):
        return None
    a, b = pair
    batch = [f"batch{i}" for i in range(max(a.ndim, b.ndim) - 2)]
    of_a, of_b = ((*batch[len(batch) - x.ndim + 2 :],) for x in (a, b))
    return Contraction(a, b, (*of_a, "i", "k"), (*of_b, "k", "j"), (*batch, "i", "j"), float(alpha))


def _of_einsum(args: Sequence[Any]) -> Contraction | None:
    if not args or not isinstance(args[0], str):
        return None
    factors = args[1] if len(args) == 2 and isinstance(args[1], list | tuple) else args[1:]
    given, arrow, out = args[0].replace(" ", "").partition("->")
    names = given.split(",")
    if not arrow or len(names) != 2 or len(factors) != 2:
        return None
    spread = max(x.ndim - len(n.replace("...", "")) for x, n in zip(factors, names, strict=True))

    def spelled(text: str, ndim: int | None) -> tuple[str, ...]:
        before, dots, behind = text.partition("...")
        count = spread if ndim is None else ndim - len(before) - len(behind)
        return (*before, *([f"batch{i}" for i in range(spread)][spread - count :] if dots else ()), *behind)

    of_a, of_b = (spelled(n, x.ndim) for x, n in zip(factors, names, strict=True))
    return Contraction(factors[0], factors[1], of_a, of_b, spelled(out, None))


def to_names(places: Tensor, own: tuple[str, ...], out: tuple[str, ...], shape: Sequence[int]) -> Tensor:
    """Places of a factor as those of the product: what is summed over gives its mean, what is not there is spread."""
    gone = [d for d, name in enumerate(own) if name not in out]
    kept = mixed(places, gone).amax(gone) if gone else places  # of one entry each
    names = [name for name in own if name in out]
    kept = kept.permute([names.index(name) for name in out if name in names])
    for d, name in enumerate(out):
        if name not in names:
            kept = kept.unsqueeze(d)
    return kept.expand(tuple(shape))


def as_scores(found: Contraction) -> tuple[Tensor, Tensor] | None:
    """The factors as queries ``(..., N, D)`` and keys ``(..., M, D)``; None where they are not of that form."""
    batch = [name for name in found.out if name in found.of_a and name in found.of_b]
    queries = [name for name in found.of_a if name in found.out and name not in batch]
    keys = [name for name in found.of_b if name in found.out and name not in batch]
    summed = list(found.summed)
    if len(queries) != 1 or len(keys) != 1 or len(summed) != 1:
        return None
    orders = ((found.of_a, (*batch, queries[0], summed[0])), (found.of_b, (*batch, keys[0], summed[0])))
    if any(set(own) != set(order) for own, order in orders):
        return None
    q, k = (
        x.permute([own.index(n) for n in order]) for x, (own, order) in zip((found.a, found.b), orders, strict=True)
    )
    return q, k


def as_weighing(found: Contraction) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """For a map ``a`` over keys, its last dimension: the orders of dimensions in which it is ``(..., N, M)`` and ``b``
    the values ``(..., M, Dv)``; None where the product is not of that form."""
    key = found.of_a[-1]
    queries = [name for name in found.of_a if name not in found.of_b]
    if key not in found.summed or len(found.summed) != 1 or len(queries) != 1:
        return None
    batch = [name for name in found.of_a if name not in (queries[0], key)]
    features = [name for name in found.of_b if name not in (*batch, key)]
    if len(features) != 1 or any(name not in found.of_b for name in batch):
        return None
    order_a = tuple(found.of_a.index(name) for name in (*batch, queries[0], key))
    return order_a, tuple(found.of_b.index(name) for name in (*batch, key, features[0]))


def why_no_map(weights: Tensor) -> str:
    """Why weights ``(..., N, M)`` of N queries are no map; empty where they are.

    In a map each query shares out 1 among its keys, or less (what a mask behind the softmax leaves of it; nothing where
    it may see no key), and nothing is negative, all as far as rounding allows. What is not finite is told elsewhere.
    """
    with torch.no_grad():
        total = weights.sum(-1)
        if not total.numel() or not bool(total.isfinite().all()):
            return ""
        if bool(weights.min() < -torch.finfo(weights.dtype).eps * weights.max()):
            return "whose weights are negative in part"
        return "whose weights add up to more than 1 for a query" if bool(total.max() > 1.01) else ""


def sums_to_one(x: Tensor, dim: int) -> bool:
    """Whether it is a distribution along a dimension, as far as rounding allows."""
    with torch.no_grad():
        return bool((x.sum(dim) - 1).abs().max() < 1e-2 and x.min() > -1e-3)
