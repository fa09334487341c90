"""One layer's map a block of queries at a time: what is made of its rows never needs the whole ``N x N``."""

from __future__ import annotations

import functools
import math
from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from svda_analysis.indicators import Indicator, attention_spectrum
from svda_analysis.indicators.blocks import OfQueries
from svda_analysis.indicators.numerics import row_sums, sharing
from svda_analysis.maps import ImageMap
from svda_analysis.soundness import NotFiniteError

BLOCK_BYTES = {"cpu": 2**23}  # of a map's rows: enough for what each call costs
_OTHER_BLOCK_BYTES = 2**28  # where a call costs more than its memory
_HELD_AN_ENTRY = 8  # float64 numbers for each entry of a map: the map, its decomposition, what indicators make of it


class Batch(NamedTuple):
    """A forward of so many ``images`` with noisy copies behind them, ``in_forward`` in all: copies of the images
    ``few`` (None: of all) for each name of ``noisy``."""

    images: int
    in_forward: int
    few: Tensor | None = None
    noisy: tuple[str, ...] = ()


class LayerMap:
    """The map ``(X, H, N, N)`` of a record: of images (or of the windows of each), then of their noisy copies.

    ``memory``: at most so many bytes are held of maps, and of what is made of them (None: no limit). ``class_token``:
    as of :class:`~svda_analysis.tokens.Layout`.
    """

    def __init__(self, found: ImageMap, batch: Batch, memory: int | None = None, *, class_token: bool = True) -> None:
        self.found, self.batch, self.memory, self.class_token = found, batch, memory, class_token
        self._map = None if found.record.rows is not None else found.arranged(found.record.a)
        self.shape = tuple(found.arranged(found.record.a).shape) if self._map is None else tuple(self._map.shape)
        self.windows = self.shape[0] // batch.in_forward
        self.part = self.windows * batch.images  # maps of images

    @functools.cached_property
    def few(self) -> Tensor | None:
        """Which maps costly indicators see, ``(X,)``; None: all."""
        chosen = self.batch.few
        if chosen is None:
            return None
        return (chosen[:, None] * self.windows + torch.arange(self.windows, device=chosen.device)).flatten()

    @functools.cached_property
    def at_hand(self) -> dict[str, Any]:
        """What indicators may need beside the map, by name, of all images."""
        record, layout, found = self.found.record, self.found.layout, dict[str, Any]()
        if layout is not None:
            found |= {"grid": layout.grid, "prefix": layout.prefix, "suffix": layout.suffix, "frames": layout.frames}
            found["class_token"] = self.class_token
        if record.q is not None and record.k is not None:
            found |= {name: self.found.arranged(x)[: self.part] for name, x in (("q", record.q), ("k", record.k))}
            found["sigma"] = record.q.new_ones(self.shape[1], record.q.shape[-1])
            found["sigma"] = found["sigma"] if record.sigma is None else record.sigma
        if self.found.tokens is not None:
            found["tokens"] = self.found.tokens[: self.part]
        return found

    @property
    def sizes(self) -> dict[str, Any]:
        """The sizes that ranges of indicators depend on."""
        layout, q = self.found.layout, self.at_hand.get("q")
        return {
            "D": 1 if q is None else q.shape[-1],
            "N": self.shape[-1],
            "grid": layout.extent if layout else (1, 1),
        }

    def of_few(self, name: str) -> Tensor:
        """What is at hand by this name, of the images that costly indicators see."""
        every: Tensor = self.at_hand[name]
        return every if self.few is None else every[self.few]

    # --- whole ------------------------------------------------------------------------------------------------------

    def fits(self, maps: int | None = None) -> bool:
        """Whether so many whole maps of one head (None: all) may be held, with what is computed of them."""
        number = math.prod(self.shape[:2]) if maps is None else maps
        return self.memory is None or number * self.shape[-1] ** 2 * 8 * _HELD_AN_ENTRY <= self.memory

    def whole(self) -> Tensor:
        """The whole map, which is kept."""
        made = self.found.record.rows
        if self._map is None:
            self._map = self.found.arranged(made(0, self.shape[-2]) if made else self.found.record.a)
        return self._map

    def spectrum(self) -> Tensor:
        """:func:`~svda_analysis.indicators.attention_spectrum` of the images that costly indicators see, ``(X, H,
        N)``; where the whole map does not fit, of as many heads at a time as do."""
        if self._map is not None:
            return attention_spectrum(self._map[: self.part] if self.few is None else self._map[self.few])
        H, N = self.shape[1], self.shape[-1]
        device = self.found.record.v.device
        at = torch.arange(self.part, device=device) if self.few is None else self.few
        pairs = (at[:, None] * H + torch.arange(H, device=device)).flatten()
        together = len(pairs) if self.memory is None else max(self.memory // (N * N * 8 * _HELD_AN_ENTRY), 1)
        return torch.cat([attention_spectrum(self._maps_of(some)) for some in pairs.split(together)]).view(-1, H, N)

    def _maps_of(self, pairs: Tensor) -> Tensor:
        """Whole maps of some pairs of image and head, ``(pairs, N, N)``."""
        maps = self.found.record.v.new_empty(len(pairs), *self.shape[-2:], dtype=self.found.record.a.dtype)
        for first, rows in self.blocks():
            maps[:, first : first + rows.shape[-2]] = rows.flatten(0, 1)[pairs]
        return maps

    # --- by rows ----------------------------------------------------------------------------------------------------

    def rows(self, first: int, last: int) -> Tensor:
        """``(X, H, last - first, N)``."""
        made = self.found.record.rows
        if self._map is not None or made is None:
            return self.whole()[..., first:last, :]
        return self.found.arranged(made(first, last))

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """All rows in their order: the number of the first query of each block, and its rows."""
        N, most = self.shape[-2], BLOCK_BYTES.get(self.found.record.v.device.type, _OTHER_BLOCK_BYTES)
        if self.memory is not None:
            most = min(most, self.memory // _HELD_AN_ENTRY)
        row = math.prod(self.shape) // N * 4  # bytes, of all maps
        count = min(math.ceil(row * N / max(most, 1)), N)
        size = math.ceil(N / count)
        for first in range(0, N, size):
            yield first, self.rows(first, min(first + size, N))

    def over_rows(self, indicators: Collection[Indicator]) -> dict[str, OfQueries]:
        """What all rows together give to each of some indicators, by its name; it is missing where it lacks what it
        needs. Raises :class:`~svda_analysis.soundness.NotFiniteError` for a map that is not finite."""
        found, total = dict[str, OfQueries](), torch.zeros((), device=self.found.record.v.device)
        for first, rows in self.blocks():
            given, of_few = self._given(first, rows)
            with sharing():
                total = total + row_sums(given["a"]).sum() + rows[self.part :].sum()
                for one in indicators:
                    _join(found, one, of_few if one.is_costly else given)
        if not bool(total.isfinite()):
            raise NotFiniteError
        return found

    def _given(self, first: int, rows: Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
        """What is at hand for the queries of a block: of all images, and of those that costly indicators see."""
        given = {**self.at_hand, "a": rows[: self.part], "first": first}
        if "q" in given and rows.shape[-2] < self.shape[-2]:  # else it is the same, and what is shared of it
            given["q"] = given["q"][..., first : first + rows.shape[-2], :]
        if not self.batch.noisy:
            return given, {}
        copies = dict(zip(self.batch.noisy, rows[self.part :].chunk(len(self.batch.noisy)), strict=True))
        if self.few is None:
            return given, {**given, **copies}
        return given, {**given, **{x: given[x][self.few] for x in ("a", "q", "k") if x in given}, **copies}


def _join(found: dict[str, OfQueries], one: Indicator, given: dict[str, Any]) -> None:
    """Add to ``found`` what rows of a map give to an indicator, if all that it needs is given."""
    if one.rows is None or any(given.get(need) is None for need in one.needs):
        return
    block = one.rows(**{need: given[need] for need in one.row_needs if need in given})
    if block is not None:
        known = found.get(one.name)
        found[one.name] = block if known is None else known.joined(block)
