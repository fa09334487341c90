"""What an analysis returns: one tidy table, the spectra, and a few example images with their maps. No torch here.

There is one result schema. ``Analysis.table``, the ``history`` of a checkpoint and the input of every plot and of
:func:`svda_analysis.compare.compare` are all frames with :data:`TABLE_COLUMNS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from svda_analysis.errors import InputError

TABLE_COLUMNS = {
    "model": "string",  # the name of the group of runs: (model, seed) is one checkpoint
    "attention": "string",  # dot, svda or cosine
    "seed": "Int64",  # training seed; NA where unknown
    "dataset": "string",
    "epoch": "Int64",  # epochs trained
    "layer": "Int64",  # from 0; NA for a number about the whole model (accuracy, loss)
    "head": "Int64",  # from 0; NA likewise
    "indicator": "string",
    "source": "string",  # the spectrum or map the number speaks of: sigma, scores, attention; or train, test
    "mean": "float64",  # over images
    "std": "float64",  # over images, n - 1 in the denominator; NaN for one number
    "ci_low": "float64",  # 95 % interval of the mean over images
    "ci_high": "float64",
    "n": "Int64",  # images; 1 for a number read off the weights
}
GAINS = ("deletion_gain", "insertion_gain")  # of an attribution method over a random ranking: these compare models
FAITHFULNESS = (*GAINS, "deletion_auc", "insertion_auc", "infidelity", "sensitivity_max", "randomisation_correlation")
SPECTRA_COLUMNS = {
    "model": "string",
    "attention": "string",
    "seed": "Int64",
    "epoch": "Int64",
    "layer": "Int64",
    "head": "Int64",
    "source": "string",
    "rank": "Int64",  # from 1, the largest singular value
    "value": "float64",  # mean over images
}


@dataclasses.dataclass(frozen=True)
class Examples:
    """A few images with every attention map, for figures and pages.

    ``images (E, H, W, C) uint8``, ``labels, predictions (E,) int64`` (label -1 where there is none),
    ``maps (E, layers, heads, N, N) float16``, ``grid`` = (rows, columns) of patches, ``prefix`` = tokens before the
    first patch (CLS and the like), ``classes`` = class names (may be empty).
    """

    images: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    maps: np.ndarray
    grid: tuple[int, int]
    prefix: int
    classes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Trace:
    """How one run organised itself, epoch by epoch; written while training.

    ``epochs (E,)``; ``sigma (E, layers, H, D)`` float32, the learned diagonals, or None; ``maps (E, n, layers, N)``
    float16, what the class token pays to the N patches, mean over heads, for the first ``n`` images that the data set
    gives as examples.
    """

    epochs: np.ndarray
    sigma: np.ndarray | None
    maps: np.ndarray

    def __post_init__(self) -> None:
        E = len(self.epochs)
        if self.epochs.ndim != 1 or self.maps.ndim != 4 or len(self.maps) != E:
            raise ValueError(f"a trace of {E} epochs has maps of shape {self.maps.shape}")
        if self.sigma is not None and (self.sigma.ndim != 4 or len(self.sigma) != E):
            raise ValueError(f"a trace of {E} epochs has sigma of shape {self.sigma.shape}")

    def then(self, later: Trace) -> Trace:
        """This trace and what came after it."""
        sigma = None if self.sigma is None or later.sigma is None else np.concatenate([self.sigma, later.sigma])
        return Trace(np.concatenate([self.epochs, later.epochs]), sigma, np.concatenate([self.maps, later.maps]))


@dataclasses.dataclass(frozen=True)
class Analysis:
    """The result of :func:`svda_analysis.analyze`, of one model or of several joined by :meth:`join`.

    ``table`` and ``history`` (the numbers tracked while training, empty where unknown) have :data:`TABLE_COLUMNS`,
    ``spectra`` has :data:`SPECTRA_COLUMNS`, ``examples`` goes by model name, ``meta`` holds ``versions``, ``settings``,
    ``runs`` (one entry per model) and ``warnings``. ``maps`` holds frames that compare attention maps between models,
    where that was asked for (:func:`svda_analysis.compare_maps`).
    """

    table: pd.DataFrame
    spectra: pd.DataFrame
    history: pd.DataFrame
    examples: dict[str, Examples]
    meta: dict[str, Any]
    maps: dict[str, pd.DataFrame] = dataclasses.field(default_factory=dict)

    @staticmethod
    def join(parts: Sequence[Analysis]) -> Analysis:
        """Several analyses as one. Examples are those of each model's first run."""
        first = parts[0]
        return Analysis(
            table=pd.concat([part.table for part in parts], ignore_index=True),
            spectra=pd.concat([part.spectra for part in parts], ignore_index=True),
            history=pd.concat([part.history for part in parts], ignore_index=True),
            examples={name: found for part in reversed(parts) for name, found in part.examples.items()},
            meta={
                **first.meta,
                "runs": [run for part in parts for run in part.meta["runs"]],
                "warnings": list(dict.fromkeys(line for part in parts for line in part.meta["warnings"])),
            },
        )


def make_frame(rows: Iterable[dict[str, Any]], columns: dict[str, str]) -> pd.DataFrame:
    """A frame with exactly ``columns`` and their dtypes; what a row leaves out is missing."""
    return pd.DataFrame(list(rows), columns=list(columns)).astype(columns)


def check_columns(frame: pd.DataFrame, needed: Iterable[str], name: str = "table") -> None:
    """Raise :class:`InputError` unless ``frame`` holds every column in ``needed`` and at least one row."""
    missing = [column for column in needed if column not in frame.columns]
    if missing:
        raise InputError(f"{name} lacks the columns {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}")
    if frame.empty:
        raise InputError(f"{name} has no rows")
