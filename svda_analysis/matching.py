"""Do two models attend alike? Attention maps of the same images across models, head by head. No torch here.

Heads have no order, so they are matched before they are compared; and a matching, a maximum over permutations, flatters
itself on the images it was found on. So of every two images that stream in, one goes to a first half and one to a
second: every matching is found on the first half, every number is read off the second.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy  # whose parts take a while, and are imported when they are used

from svda_analysis.errors import InputError
from svda_analysis.frames import HEAD_COLUMNS, LAYER_COLUMNS, MATCH_COLUMNS, make_frame
from svda_analysis.stats import NO_INTERVAL, difference_test, mean_interval
from svda_analysis.tokens import Layout

# similarities, 1 means alike, and what each can be at least; see MapComparison
_LEAST = {"js": 0.0, "cosine": 0.0, "spearman": -1.0}
MEASURES = tuple(_LEAST)


class MapBatch(NamedTuple):
    """One model's post-softmax maps of ``B`` images.

    ``maps``: ``(B, L, H, N, N)``, or a sequence of ``L`` arrays ``(B, H, N, N)``; the other fields are those of the
    tokens' :attr:`layout`, CLS the first of the prefix (unless ``class_token`` is False).
    """

    maps: Any
    grid: tuple[int, int]
    prefix: int = 1
    suffix: int = 0
    frames: int = 1
    class_token: bool = True

    @property
    def layout(self) -> Layout:
        grid = (self.grid[0], self.grid[1])
        return Layout(grid, self.prefix, self.suffix, self.frames, class_token=self.class_token)


class HeadMatching(NamedTuple):
    """``heads``: a row of ``HEAD_COLUMNS`` per pair or left-over head; ``layers``: ``MATCH_COLUMNS`` per layer pair."""

    heads: pd.DataFrame
    layers: pd.DataFrame


# --- similarity of heads on one image -------------------------------------------------------------------------------


def jensen_shannon(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """Jensen-Shannon distances ``sqrt(H((p+q)/2) - (H(p) + H(q)) / 2)``, base 2, in [0, 1] (Endres & Schindelin 2003).

    ``p (X, P)``, ``q (Y, P)`` hold a distribution in each row; returns float64 ``(X, Y)``, good to about 1e-7.
    """
    mixed = scipy.special.entr((p[:, None] + q) / 2).sum(-1)  # (X, Y)
    divergence = mixed - (scipy.special.entr(p).sum(-1)[:, None] + scipy.special.entr(q).sum(-1)) / 2
    return np.sqrt((divergence / math.log(2)).clip(0, 1))


def cosine(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Cosines between the rows of ``x (X, P)`` and of ``y (Y, P)``, ``(X, Y)``; 0 where a row is zero."""
    norms = (np.linalg.norm(rows, axis=-1) for rows in (x, y))
    down, across = (np.where(norm > 0, norm, 1) for norm in norms)
    return (x @ y.T / down[:, None] / across).clip(-1, 1)


def spearman(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Spearman's correlations (ties share their mean rank) between rows as in :func:`cosine`; 0 for a constant row."""
    return cosine(*(scipy.stats.rankdata(rows, axis=-1) - (rows.shape[-1] + 1) / 2 for rows in (x, y)))


def patch_shares(grid: Sequence[int], to: Sequence[int]) -> np.ndarray:
    """``(cells, patches)``: the share of each patch of ``grid`` that falls into each cell of the grid ``to``, by area.
    Both are (rows, columns), or (frames, rows, columns).

    Columns sum to 1. A cell's attention as key is the sum over its shares, which preserves the mass of every row; as
    query it is the mean over its area.
    """
    return functools.reduce(np.kron, (_overlap(source, target) for source, target in zip(grid, to, strict=True)))


def _sides(batch: MapBatch) -> tuple[int, ...]:
    return batch.frames, *batch.grid


def _overlap(source: int, target: int) -> np.ndarray:
    i, j = np.arange(target)[:, None] * source, np.arange(source) * target  # left edges, in 1 / (source * target)
    return (np.minimum(i + source, j + target) - np.maximum(i, j)).clip(0) / target  # (target, source)


def _read_image(
    layers: list[np.ndarray], image: int, batch: MapBatch, to: tuple[int, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """One image's CLS rows ``(L * H, P)``, renormalised, and patch-to-patch maps ``(L * H, P * P)`` on the grid ``to``.

    A row without any mass on the patches counts as uniform.
    """
    layout, maps = batch.layout, np.concatenate([layer[image] for layer in layers]).astype(np.float64)  # (L * H, N, N)
    rows, maps = layout.class_row(maps), layout.of_patches(layout.of_patches(maps).swapaxes(-1, -2)).swapaxes(-1, -2)
    if (own := _sides(batch)) != to:
        shares = patch_shares(own, to)  # as queries up to the area of a cell, which cosines do not see
        rows, maps = rows @ shares.T, shares @ maps @ shares.T
    mass = rows.sum(-1, keepdims=True)
    rows = np.divide(rows, mass, out=np.full_like(rows, 1 / rows.shape[-1]), where=mass > 0)
    return rows, maps.reshape(len(maps), -1)


# --- over images ----------------------------------------------------------------------------------------------------


class MapComparison:
    """Streaming comparison of two models' attention maps; memory does not depend on the number of images.

    Per image, and for every head of every layer of ``a`` with every one of ``b``, the :data:`MEASURES`:

    - ``js``: 1 - Jensen-Shannon distance of the CLS rows over the patches, renormalised (without CLS: the mean row);
    - ``spearman``: rank correlation of these rows;
    - ``cosine``: of the whole patch-to-patch maps, not renormalised; maps hold no negatives, so chance is far above 0.

    Models on different grids meet on the coarser one (per axis), by area averaging (:func:`patch_shares`).

    ``layer_pairs``: the ``(layer_a, layer_b)`` that :meth:`match` and :meth:`layers` compare; default each layer of
    ``a`` with that of ``b`` at the same relative depth (equal depths: the same index). For these the covariance of all
    head pairs over images is kept, so that means over heads have intervals; for other layer pairs the mean alone.
    """

    def __init__(self, layer_pairs: Sequence[tuple[int, int]] | None = None) -> None:
        self.layer_pairs = layer_pairs
        self.n = 0  # images seen
        self._layout: tuple[Any, ...] | None = None

    def update(self, a: MapBatch, b: MapBatch) -> None:
        """Take in the maps of the same images by both models; every batch has the layout of the first.

        Raises :class:`InputError`, and takes in nothing, for shapes that do not fit, rows that do not sum to 1 (within
        0.01), or different numbers of images.
        """
        layers_a, layers_b = _checked(a, "a"), _checked(b, "b")
        images, (H_a, H_b) = len(layers_a[0]), (layers[0].shape[1] for layers in (layers_a, layers_b))
        if len(layers_b[0]) != images:
            raise InputError(f"b must hold the maps of the {images} images of a, got {len(layers_b[0])} images")
        self._settle(((len(layers_a), H_a, len(layers_b), H_b), _sides(a), _sides(b)))
        to = tuple(min(sides) for sides in zip(_sides(a), _sides(b), strict=True))
        values = np.empty((images, *self._second.mean.shape))  # (B, M, L, H, L, H)
        for image, out in enumerate(values):
            (rows_a, maps_a), (rows_b, maps_b) = (
                _read_image(layers_a, image, a, to),
                _read_image(layers_b, image, b, to),
            )
            scores = [1 - jensen_shannon(rows_a, rows_b), cosine(maps_a, maps_b), spearman(rows_a, rows_b)]
            out[:] = np.reshape(scores, out.shape)
        # Thue-Morse order: with plain turns, data that cycle through their classes would part them between the halves
        second = np.array([i.bit_count() % 2 for i in range(self.n, self.n + images)], dtype=bool)
        self._first.add(values[~second])
        self._second.add(values[second])
        self.n += images

    def match(self, measure: str = "js") -> HeadMatching:
        """Which head of ``b`` is each head of ``a``? The assignment of greatest mean similarity, for each layer pair.

        It is found on the first half of the images; means, gains and their 95 % intervals (Student's t over images)
        come from the second. If the numbers of heads differ, left-over heads have no partner, and ``identity`` pairs
        the first ``min(H_a, H_b)``.

        The intervals speak of new images for these two checkpoints. ``gain_over_chance`` is free of the optimism of
        choosing by noise: it is 0 on average where no pair of heads is lastingly closer than another. It does not
        test kinship: of any heads with habits of their own, some pairs are closer (two that favour the centre). What
        of a gain is habit alone shows a second comparison that is fed other images of ``b`` (its batch rolled by one).
        """
        m, heads, rows = self._index(measure), [], []
        for p, pair in enumerate(self._second.pairs):
            key = {"layer_a": pair[0], "layer_b": pair[1], "measure": measure}
            matched, again = self._first.assign(m, *pair), self._second.assign(m, *pair)
            heads += [{**key, **row} for row in self._heads(m, p, matched > 0, again > 0)]
            rows.append({**key, **self._gains(m, p, matched)})
        return HeadMatching(make_frame(heads, HEAD_COLUMNS), make_frame(rows, MATCH_COLUMNS))

    def layers(self) -> pd.DataFrame:
        """Mean over matched heads (see :meth:`match`), per layer pair and measure; rows of ``LAYER_COLUMNS``."""
        rows = []
        for measure in MEASURES:
            m = self._index(measure)
            for p, (i, j) in enumerate(self._second.pairs):
                numbers = self._second.estimate(m, p, self._first.assign(m, i, j))
                rows.append({"layer_a": i, "layer_b": j, "measure": measure, **numbers})
        return make_frame(rows, LAYER_COLUMNS)

    def similarity(self, measure: str = "js") -> pd.DataFrame:
        """Mean over heads, matched for each pair of layers: all layers of ``a`` (index) by all of ``b`` (columns)."""
        m = self._index(measure)
        means = self._second.mean[m]  # (L, H, L, H)
        table = np.empty(means.shape[::2])
        for i, j in np.ndindex(table.shape):
            table[i, j] = (self._first.assign(m, i, j) * means[i, :, j]).sum()
        index, columns = (
            pd.RangeIndex(n, name=name) for n, name in zip(table.shape, ("layer_a", "layer_b"), strict=False)
        )
        return pd.DataFrame(table, index=index, columns=columns)

    def _settle(self, layout: tuple[Any, ...]) -> None:
        if self._layout is None:
            depth_a, _, depth_b, _ = layout[0]
            alike = [(i, int((i + 0.5) * depth_b / depth_a)) for i in range(depth_a)]
            pairs = alike if self.layer_pairs is None else list(self.layer_pairs)
            if not pairs or not all(0 <= i < depth_a and 0 <= j < depth_b for i, j in pairs):
                raise InputError(f"layer_pairs must lie within {depth_a} layers of a and {depth_b} of b, got {pairs}")
            self._first, self._second, self._layout = _Half(layout[0], pairs), _Half(layout[0], pairs), layout
        elif self._layout != layout:
            raise InputError(f"a, b must keep their layers, heads and grids {self._layout}, got {layout}")

    def _index(self, measure: str) -> int:
        if measure not in MEASURES:
            raise InputError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}")
        if self.n < 2:
            raise InputError(f"update must have seen 2 images or more, to match on one and score on one, got {self.n}")
        return MEASURES.index(measure)

    def _heads(self, m: int, p: int, matched: np.ndarray, again: np.ndarray) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for cell in zip(*np.nonzero(matched), strict=True):
            one = np.zeros(matched.shape)
            one[cell] = 1
            numbers, pair = self._second.estimate(m, p, one), dict(zip(("head_a", "head_b"), cell, strict=True))
            rows.append({**pair, "stable": bool(again[cell]), "similarity": numbers["mean"], **numbers})
        rows += [{"head_a": i, "n": self._second.n} for i in np.flatnonzero(~matched.any(1))]
        return rows + [{"head_b": j, "n": self._second.n} for j in np.flatnonzero(~matched.any(0))]

    def _gains(self, m: int, p: int, matched: np.ndarray) -> dict[str, Any]:
        estimate = self._second.estimate
        row: dict[str, Any] = {"n": self._second.n, "matched": estimate(m, p, matched)["mean"]}
        identity = np.eye(*matched.shape) / min(matched.shape)
        chance = np.full(matched.shape, 1 / matched.size)  # a random assignment holds every pair equally often
        for name, other in (("identity", identity), ("chance", chance)):
            gain, column = estimate(m, p, matched - other, gain=True), f"gain_over_{name}"
            row |= {name: estimate(m, p, other)["mean"], column: gain["mean"]}
            row |= {f"{column}_low": gain["ci_low"], f"{column}_high": gain["ci_high"]}
        return row


class _Half:
    """Count, mean ``(M, L, H, L, H)`` and, for ``pairs`` of layers, co-moments ``(pairs, M, H * H, H * H)``."""

    def __init__(self, sizes: tuple[int, int, int, int], pairs: Sequence[tuple[int, int]]) -> None:
        self.n, self.pairs, M, K = 0, pairs, len(MEASURES), sizes[1] * sizes[3]
        self.mean, self.co = np.zeros((M, *sizes)), np.zeros((len(pairs), M, K, K))

    def add(self, values: np.ndarray) -> None:
        """Merge ``values (B, M, L, H, L, H)`` (Chan, Golub & LeVeque 1983)."""
        if not len(values):
            return
        batch_mean, total = values.mean(0), self.n + len(values)
        spread, shift = self._of_pairs(values - batch_mean), self._of_pairs((batch_mean - self.mean)[None])
        self.co += _gram(spread) + _gram(shift) * (self.n * len(values) / total)
        self.mean += (batch_mean - self.mean) * (len(values) / total)
        self.n = total

    def _of_pairs(self, values: np.ndarray) -> np.ndarray:
        i, j = np.transpose(self.pairs)
        chosen = values[:, :, i, :, j]  # (pairs, B, M, H, H)
        return chosen.reshape(*chosen.shape[:3], -1).swapaxes(1, 2)  # (pairs, M, B, H * H)

    def assign(self, m: int, i: int, j: int) -> np.ndarray:
        """``(H, H)``: 1 / pairs where heads of layers ``i`` and ``j`` match, so that a sum with it is a mean."""
        scores = self.mean[m, i, :, j].round(10)  # ties must not fall by the rounding of another batch size
        weights = np.zeros(scores.shape)
        weights[scipy.optimize.linear_sum_assignment(scores, maximize=True)] = 1 / min(scores.shape)
        return weights

    def estimate(self, m: int, p: int, weights: np.ndarray, *, gain: bool = False) -> dict[str, Any]:
        """Mean, deviation and interval over images of ``sum(weights (H, H) * similarity)``; one image: no interval.

        ``gain``: the weights sum to 0, so that it is a difference of similarities.
        """
        (i, j), w, low = self.pairs[p], weights.ravel(), _LEAST[MEASURES[m]]
        mean, std, ends = float((weights * self.mean[m, i, :, j]).sum()), math.nan, NO_INTERVAL
        if self.n > 1:
            std = math.sqrt(max(w @ self.co[p, m] @ w, 0) / (self.n - 1))
            se, df = std / math.sqrt(self.n), self.n - 1
            if gain:
                ends = difference_test(mean, se, df, size=1, span=1 - low).interval
            else:
                ends = mean_interval(mean, se, df, low=low, high=1, size=1)
        return {"mean": mean, "std": std, "ci_low": ends.low, "ci_high": ends.high, "n": self.n}


def _gram(x: np.ndarray) -> np.ndarray:
    return x.swapaxes(-1, -2) @ x


@np.errstate(invalid="ignore", over="ignore")  # maps that hold inf are refused, not warned of
def _checked(batch: MapBatch, name: str) -> list[np.ndarray]:
    """The maps as one array ``(B, H, N, N)`` per layer."""
    maps, (rows, columns), prefix, suffix, frames, _ = batch
    if min(rows, columns, prefix + 1, suffix + 1, frames) < 1:
        raise InputError(f"{name} must have a grid of at least (1, 1) and a prefix of at least 0, got {batch[1:]}")
    layers = [np.asarray(layer) for layer in (np.moveaxis(maps, 1, 0) if getattr(maps, "ndim", 0) == 5 else maps)]
    shapes, N = {layer.shape for layer in layers}, batch.layout.tokens
    if len(shapes) != 1 or not all(len(shape) == 4 and shape[2:] == (N, N) and min(shape) > 0 for shape in shapes):
        wanted = f"{name} must hold maps (B, H, {N}, {N}) per layer for prefix {prefix} and grid {rows, columns}"
        raise InputError(f"{wanted}, got {sorted(shapes)}")
    for index, layer in enumerate(layers):
        if not (np.abs(layer.sum(-1, dtype=np.float64) - 1) < 0.01).all() or layer.min() < 0:
            raise InputError(f"{name} must hold maps after the softmax, rows of sum 1, got others in layer {index}")
    return layers
