"""The numbers that the source's public code printed, as they lie in ``reference/``. No torch here."""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import NamedTuple

import pandas as pd

EPOCHS, SEEDS = 100, 3  # of the source
_PLACE = resources.files("svda_analysis") / "reference"


class SourceMeasure(NamedTuple):
    """One of the source's indicators: our quantity in a history, and how it is written."""

    indicator: str
    source: str
    written: str


SOURCE_MEASURES = {
    "spectral_entropy": SourceMeasure("source_spectral_entropy", "sigma", ".4f"),
    "effective_rank": SourceMeasure("source_effective_rank", "sigma", ".2f"),
    "angular_alignment": SourceMeasure("source_angular_alignment", "scores", ".3f"),
    "selectivity_index": SourceMeasure("source_selectivity", "attention", ".6f"),
    "spectral_sparsity": SourceMeasure("source_spectral_sparsity", "sigma", ".4f"),
    "perturbation_robustness": SourceMeasure("source_perturbation_robustness", "attention", ".1e"),
}


@cache
def source_results() -> pd.DataFrame:
    """dataset, model, measure, mean and std of the source, over three seeds; accuracies are shares."""
    return _read_reference("source_results.csv")


@cache
def source_epochs() -> pd.DataFrame:
    """The six indicators by epoch (1 is after the first) of the source's FashionMNIST run of seed 42, in the columns of
    :data:`SOURCE_MEASURES`."""
    frame = _read_reference("source_fashion_mnist_epochs.csv")
    return frame.assign(epoch=frame["epoch"] + 1)


def _read_reference(name: str) -> pd.DataFrame:
    with (_PLACE / name).open(encoding="utf-8") as file:
        return pd.read_csv(file)


def by_epoch(history: pd.DataFrame, measure: SourceMeasure) -> pd.DataFrame:
    """The mean over layers and heads of one of :data:`SOURCE_MEASURES`, by epoch (rows) and run
    (columns)."""
    rows = history[(history["indicator"] == measure.indicator) & (history["source"] == measure.source)]
    rows = rows[rows["layer"].notna()]
    return rows.pivot_table(index="epoch", columns=["model", "seed"], values="mean", aggfunc="mean")
