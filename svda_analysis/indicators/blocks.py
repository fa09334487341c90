"""What the queries of one block give to an indicator, such that blocks add up to the whole map.

A function of rows of a map, ``a (B, H, n, N)`` of the n queries from number ``first`` on, returns one of these; the
indicator is its value over all of them. See ``rows`` of :func:`~svda_analysis.indicators.registry.indicator`.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Protocol, Self

import torch
from torch import Tensor

from svda_analysis.indicators.numerics import double, or_one, row_sums


class OfQueries(Protocol):
    """What some queries give: joined with that of others, it has the value of all."""

    def joined(self, other: Self) -> Self: ...

    def value(self) -> Tensor: ...


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean over queries: ``total`` over ``count`` of them, of any shape ``(..., B, H)`` or ``(B, H, ...)``."""

    total: Tensor
    count: Tensor

    def joined(self, other: Mean) -> Mean:
        """With the queries of another block; sums over blocks are kept in float64."""
        return Mean(double(self.total) + double(other.total), self.count + other.count)

    def value(self) -> Tensor:
        """The mean; 0 where nothing was counted."""
        return self.total / or_one(self.count)


@dataclasses.dataclass(frozen=True)
class Total:
    """A sum over queries."""

    total: Tensor

    def joined(self, other: Total) -> Total:
        return Total(double(self.total) + double(other.total))

    def value(self) -> Tensor:
        return self.total


@dataclasses.dataclass(frozen=True)
class Largest:
    """The largest of all queries."""

    largest: Tensor

    def joined(self, other: Largest) -> Largest:
        return Largest(torch.maximum(self.largest, other.largest))

    def value(self) -> Tensor:
        return self.largest


def over_queries(values: Tensor, *maps: Tensor) -> Mean:
    """The mean of ``values (B, H, n)`` over the queries whose rows are not all zero in any of ``maps (B, H, n, N)``."""
    attends = functools.reduce(torch.logical_and, [row_sums(a) != 0 for a in maps])  # (B, H, n); true of NaN
    return Mean(torch.where(attends, values, 0).sum(-1), attends.sum(-1))


def patches_among(rows: int, first: int, tokens: int, prefix: int, suffix: int) -> tuple[int, int]:
    """Of queries ``first`` to ``first + rows - 1`` of so many tokens: where those that are patches begin among them,
    and how many there are."""
    begin = min(max(prefix - first, 0), rows)
    return begin, max(min(tokens - suffix - first, rows) - begin, 0)
