"""How alike two layers represent the same images: linear CKA (Kornblith et al. 2019). No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from svda_analysis.errors import InputError

MOST_IMAGES = 1000  # that are compared: Gram matrices hold their square


class RepresentationComparison:
    """Streaming collection of what two models' layers make of the same images; of at most :data:`MOST_IMAGES`, the
    first.

    An image is represented in a layer by its mean token. Layers whose tokens are not known (None) have no similarity.
    """

    def __init__(self) -> None:
        self.n = 0
        self._parts: list[tuple[list[np.ndarray | None], list[np.ndarray | None]]] = []

    def update(self, a: Sequence[np.ndarray | None], b: Sequence[np.ndarray | None]) -> None:
        """Take in the mean tokens ``(B, C)`` of each layer of both models for the same images."""
        room = MOST_IMAGES - self.n
        if room > 0:
            kept = tuple([None if x is None else x[:room].astype(np.float64) for x in side] for side in (a, b))
            self._parts.append((kept[0], kept[1]))
            self.n += max((len(x) for x in (*kept[0], *kept[1]) if x is not None), default=0)

    def similarity(self) -> pd.DataFrame:
        """Linear CKA of every layer of ``a`` (column ``layer_a``) with every one of ``b`` (``layer_b``), as
        ``similarity``; no rows for fewer than 4 images."""
        if self.n < 4:
            return pd.DataFrame(columns=["layer_a", "layer_b", "similarity"])
        grams = [[self._gram(side, layer) for layer in range(len(self._parts[0][side]))] for side in (0, 1)]
        rows = [
            {"layer_a": i, "layer_b": j, "similarity": cka_of_grams(x, y)}
            for i, x in enumerate(grams[0])
            for j, y in enumerate(grams[1])
            if x is not None and y is not None
        ]
        return pd.DataFrame(rows, columns=["layer_a", "layer_b", "similarity"])

    def _gram(self, side: int, layer: int) -> np.ndarray | None:
        parts = [part[side][layer] for part in self._parts]
        known = [x for x in parts if x is not None]
        if len(known) < len(parts):
            return None
        features = np.concatenate(known)
        features = features - features.mean(0)  # which the similarity does not see: fewer digits are lost
        return features @ features.T


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear CKA of two representations ``(n, C)`` and ``(n, C')`` of the same n images, at most 1.

    ``HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L))`` of the Gram matrices ``K = x x^T``, ``L = y y^T`` (Kornblith et al.
    2019, eq. 3), with the unbiased HSIC of Song et al. 2012, eq. 5, so that wide layers are not alike by having few
    images (it may fall a little below 0). It does not change with a rotation, a shift or a common scale of the
    features. NaN where one of the two is constant. Raises :class:`InputError` for fewer than 4 images or different
    numbers of them.
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 4:
        raise InputError(f"x, y must be (n, C) of the same n >= 4 images, got {x.shape} and {y.shape}")
    grams = []
    for features in (x, y):
        centred = features.astype(np.float64) - features.mean(0, dtype=np.float64)
        grams.append(centred @ centred.T)
    return cka_of_grams(*grams)


def cka_of_grams(ours: np.ndarray, theirs: np.ndarray) -> float:
    """:func:`linear_cka` from the Gram matrices ``(n, n)`` of the two representations."""
    sizes = _hsic(ours, ours), _hsic(theirs, theirs)
    if min(sizes) <= 0:
        return math.nan
    return min(_hsic(ours, theirs) / math.sqrt(sizes[0] * sizes[1]), 1.0)


def _hsic(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The unbiased estimate of HSIC, times ``n (n - 3)`` (Song et al. 2012, eq. 5)."""
    n = len(ours)
    x, y = (gram - np.diag(np.diag(gram)) for gram in (ours, theirs))
    sums = x.sum() * y.sum() / ((n - 1) * (n - 2))
    return float((x * y).sum() + sums - 2 / (n - 2) * (x.sum(0) @ y.sum(0)))
