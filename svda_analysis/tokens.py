"""How the tokens of an image lie, and what is read off a map with it: the words of :class:`Layout`. No torch here."""

from __future__ import annotations

import bisect
import dataclasses
import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple, TypedDict

from svda_analysis.errors import InputError


@dataclasses.dataclass(frozen=True)
class Layout:
    """``N = prefix + frames * rows * columns + suffix`` tokens: frame by frame, row by row.

    ``grid`` = (rows, columns) of patches; ``prefix`` = tokens before the first patch (CLS and the like), ``suffix`` =
    tokens behind the last one (registers, detection tokens, padding); ``frames`` = steps in time of a video, or the
    slices of a volume. ``centres`` = where the rows and the columns have their middles, in pixels of the image (None:
    it is not known, and they part the image evenly). ``class_token`` = whether the first token of the prefix, where
    there is one, is the class token (else it is a register like the others).
    """

    grid: tuple[int, int]
    prefix: int = 0
    suffix: int = 0
    frames: int = 1
    centres: tuple[tuple[float, ...], tuple[float, ...]] | None = dataclasses.field(default=None, compare=False)
    class_token: bool = dataclasses.field(default=True, compare=False)

    @property
    def patches(self) -> int:
        return self.frames * self.grid[0] * self.grid[1]

    @property
    def tokens(self) -> int:
        return self.prefix + self.patches + self.suffix

    @property
    def has_class_token(self) -> bool:
        return self.prefix > 0 and self.class_token

    def of_model(self, model: Any) -> Layout:
        """The same, in a model that may have no class token (:func:`says_class_token`)."""
        return dataclasses.replace(self, class_token=says_class_token(model))

    @property
    def extent(self) -> tuple[int, ...]:
        """The sides of the grid, with its frames where there are several."""
        return (self.frames, *self.grid) if self.frames > 1 else self.grid

    @property
    def picture(self) -> tuple[int, int]:
        """Rows and columns of patches with the frames side by side, as they are drawn."""
        return self.grid[0], self.frames * self.grid[1]

    def of_patches(self, values: Any) -> Any:
        """``(..., N) -> (..., patches)``: without the tokens before and behind them."""
        return values[..., self.prefix : self.prefix + self.patches]

    def class_row(self, a: Any) -> Any:
        """What the class token, the first, pays to the patches, ``(..., N, N) -> (..., patches)``.

        A model without one has no such row, and the mean over all queries takes its place.
        """
        return self.of_patches(a[..., 0, :] if self.has_class_token else a.mean(-2))

    def drawn(self, values: Any) -> Any:
        """``(..., patches) -> (..., rows, frames * columns)``: a picture, frames side by side."""
        rows, columns = self.grid
        parts = values.reshape(*values.shape[:-1], self.frames, rows, columns)
        return parts.swapaxes(-3, -2).reshape(*values.shape[:-1], *self.picture)

    def cells(self, size: Sequence[int]) -> tuple[list[int], list[int]]:
        """The patch of each pixel of an image of ``size`` = (height, width): a row for each, and a column for each.

        The patch whose middle is nearest: pixels that no patch reaches, at the edge, go to the last one.
        """
        found = []
        for axis, (length, count) in enumerate(zip(size, self.grid, strict=True)):
            if self.centres is None:
                found.append([pixel * count // length for pixel in range(length)])
                continue
            borders = [(a + b) / 2 for a, b in itertools.pairwise(self.centres[axis])]
            found.append([bisect.bisect_left(borders, pixel) for pixel in range(length)])
        return found[0], found[1]

    def __str__(self) -> str:
        frames = f"{self.frames} frames of " if self.frames > 1 else ""
        ends = [f"{n} {where}" for n, where in ((self.prefix, "before"), (self.suffix, "behind")) if n]
        return f"{frames}{self.grid[0]} x {self.grid[1]} patches" + (f", {' and '.join(ends)} them" if ends else "")


def says_class_token(model: Any) -> bool:
    """Whether a torch module has a class token: False where the parts that name one (``cls_token``, as timm's and
    Hugging Face's, or ``class_token``, as torchvision's) all have None there; a model that names none may have one."""
    names = ("cls_token", "class_token")
    told = [getattr(part, name) for part in model.modules() for name in names if hasattr(part, name)]
    return not told or any(token is not None and token is not False for token in told)


class TokensGiven(TypedDict, total=False):
    """What may be said of a model's tokens where it does not say it itself: the fields of :class:`GivenLayout`."""

    grid: tuple[int, int] | None
    prefix_tokens: int | None
    suffix_tokens: int | None
    frames: int | None


class GivenLayout(NamedTuple):
    """What the user says of the tokens, as in :class:`Layout`; None: the model says it."""

    grid: tuple[int, int] | None = None
    prefix_tokens: int | None = None
    suffix_tokens: int | None = None
    frames: int | None = None

    def checked(self) -> GivenLayout:
        """Itself. Raises :class:`InputError` for what is no layout."""
        grid = self.grid
        if grid is not None and (len(grid) != 2 or not all(isinstance(n, int) and n > 0 for n in grid)):
            raise InputError(f"grid must be (rows, columns) of patches, each at least 1, got {grid!r}")
        for name, least in (("prefix_tokens", 0), ("suffix_tokens", 0), ("frames", 1)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InputError(f"{name} must be at least {least}, got {value}")
        return self

    def allows(self, layout: Layout) -> bool:
        """Whether a layout that the model shows is as was said."""
        shown = (layout.grid, layout.prefix, layout.suffix, layout.frames)
        told = (self.grid and tuple(self.grid), *self[1:])
        return all(a is None or a == b for a, b in zip(told, shown, strict=True))

    def layout(self, tokens: int) -> Layout | None:
        """The layout of ``tokens`` tokens, where a grid was given and they fit it; else None.

        Tokens that the patches leave over stand behind them where the number of those before was given, else before.
        """
        if self.grid is None:
            return None
        frames = self.frames or 1
        left = tokens - frames * self.grid[0] * self.grid[1]
        prefix = left - (self.suffix_tokens or 0) if self.prefix_tokens is None else self.prefix_tokens
        suffix = left - prefix if self.suffix_tokens is None else self.suffix_tokens
        if min(left, prefix, suffix) < 0 or prefix + suffix != left:
            return None
        return Layout((self.grid[0], self.grid[1]), prefix, suffix, frames)

    def __str__(self) -> str:
        return ", ".join(f"{name}={value}" for name, value in self._asdict().items() if value is not None)


def parse_grid(text: str) -> tuple[int, int]:
    """``"7x9"`` or ``"7,9"`` as (rows, columns). Raises :class:`InputError` for anything else."""
    found = re.fullmatch(r"\s*(\d+)\s*[x,]\s*(\d+)\s*", text)
    if not found:
        raise InputError(f"--grid must be ROWSxCOLUMNS like 14x14, got {text!r}")
    return int(found[1]), int(found[2])
