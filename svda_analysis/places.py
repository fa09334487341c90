"""Where a number comes from: what a model computes of an image, followed back to the pixels it stands for.

While a model runs under the tap, every tensor that comes of its images has *places*: int64 of its shape, for each entry
the image, the frame, the row and the column it stands for (:func:`decode`), or :data:`NOWHERE` (a class token, a query
that was learned) or :data:`PADDING`. What moves numbers (views, permutations, windows, gathers, flips) moves their
places alike; what mixes numbers gives the mean of their places (a convolution: the middle of its window). So the grid
of a patch embedding, tokens before and behind it, windows, frames in time and patches that were dropped are seen, not
guessed.

Scores, the product of two such tensors, have two: the places of their rows (queries) and of their columns (keys). A
softmax over their last dimension that then weighs values is attention multiplied by hand (``tracker.Product``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

NOWHERE, PADDING = -1, -2
_FIELDS = ((16, 1, 0), (11, 4, 32), (18, 8, 4096), (18, 8, 4096))  # bits, steps in a unit, the place of zero
WITHIN_IMAGE = (1 << sum(bits for bits, *_ in _FIELDS[1:])) - 1  # the bits of a place that are not the image's number


def encode(parts: Iterable[Tensor]) -> Tensor:
    """Image, frame, row and column, float64 of one shape or that broadcast to one, as places; NaN is
    :data:`NOWHERE`."""
    code, lost = torch.zeros((), dtype=torch.int64), None
    for part, (bits, steps, zero) in zip(parts, _FIELDS, strict=True):
        value = ((part + zero) * steps).round()
        bad = ~((value >= 0) & (value < 1 << bits))
        code = (code.to(part.device) << bits) | value.masked_fill(bad, 0).long()
        if bool(bad.any()):
            lost = bad if lost is None else lost | bad
    return code if lost is None else code.masked_fill(lost, NOWHERE)


def decode(places: Tensor) -> Tensor:
    """``(...) -> (4, ...)`` float64: the image's number, the frame, the row and the column in pixels; NaN: nowhere."""
    parts, code = [], places
    for bits, steps, zero in reversed(_FIELDS):
        parts.append((code & ((1 << bits) - 1)).double() / steps - zero)
        code = code >> bits
    return torch.stack(parts[::-1]).masked_fill(places < 0, math.nan)


def tried(change: Callable[[Tensor], Tensor], places: Tensor, shape: Sequence[int]) -> Tensor | None:
    try:
        found = change(places)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError):  # what the shadow cannot follow is lost
        return None
    return found if isinstance(found, Tensor) and found.shape == tuple(shape) else None


def mixed(places: Tensor, dims: Sequence[int]) -> Tensor:
    """The mean place over ``dims``, which stay with one entry; what is nowhere does not count."""
    over = []
    for dim in dims:
        first = places.narrow(dim, 0, 1)
        if places.stride(dim) == 0 or bool((places == first).all()):
            places = first
        if places.shape[dim] > 1:
            over.append(dim % places.ndim + 1)
    return encode(decode(places).nanmean(over, keepdim=True)) if over else places


def along(places: Tensor, dim: int, centres: Tensor) -> Tensor:
    """Places at ``centres``, positions along ``dim`` between the entries or, in a straight line, beyond them."""
    n = places.shape[dim]
    if n == 1 or places.stride(dim) == 0:
        return places.narrow(dim, 0, 1).expand([len(centres) if d == dim else -1 for d in range(places.ndim)])
    centres = centres.to(places.device)
    first = centres.floor().clamp(0, n - 2).long()
    low, high = (decode(places.index_select(dim, at)) for at in (first, first + 1))
    share = (centres - first).view([-1 if d == dim else 1 for d in range(places.ndim)])
    return encode(low + share * (high - low))


def padded(places: Tensor, dim: int, low: int, high: int) -> Tensor:
    """Places with ``low`` and ``high`` more entries at the ends of ``dim`` (fewer where negative).

    Along an even line they go on beyond the edge, as pixels around an image do; else they are :data:`PADDING`.
    """
    n = places.shape[dim]
    line = torch.arange(-low, n + high, dtype=torch.float64)
    if places.stride(dim) == 0 or n < 3 or _even(places, dim):
        return along(places, dim, line)
    whole = [n + low + high if d == dim else places.shape[d] for d in range(places.ndim)]
    for d in range(places.ndim):  # what is one entry stays one
        places = places.narrow(d, 0, 1) if places.stride(d) == 0 else places
    kept = places.narrow(dim, max(-low, 0), n + min(low, 0) + min(high, 0))
    sizes = [[size if d == dim else kept.shape[d] for d in range(kept.ndim)] for size in (max(low, 0), max(high, 0))]
    ends = [places.new_full(size, PADDING) for size in sizes]
    return torch.cat([ends[0], kept, ends[1]], dim).expand(whole)


def _even(places: Tensor, dim: int) -> bool:
    """Whether neighbours along ``dim`` are equally far from each other."""
    one = places.movedim(dim, -1)
    for _ in range(places.ndim - 1):
        one = one[0]
    steps = decode(one).diff(dim=-1)
    return bool((steps == steps[:, :1]).all())
