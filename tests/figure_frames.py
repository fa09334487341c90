"""Small frames, examples and traces for the tests of figures, and where to find what was drawn."""

from __future__ import annotations

import matplotlib as mpl

mpl.use("Agg")

import numpy as np
import pandas as pd

from svda_analysis.frames import SPECTRA_COLUMNS, TABLE_COLUMNS, make_frame
from svda_analysis.results import Examples, Trace

LAYERS, HEADS, DIM = 3, 2, 8
KINDS = (("effective_rank", "sigma"), ("effective_rank", "scores"), ("attention_entropy", "attention"))


def make_table(models=("vit", "svda"), seeds=3, epochs=(4,)) -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for model in models:
        attention = "dot" if model.startswith("vit") else "svda"
        for seed in range(seeds):
            for epoch in epochs:
                run = {"model": model, "attention": attention, "seed": seed, "dataset": "toy", "epoch": epoch}
                for name, source, mean in [("loss", "train", 2.0), ("loss", "test", 2.2), ("accuracy", "test", 0.5)]:
                    rows.append({**run, "indicator": name, "source": source, "mean": mean + rng.random() / 10, "n": 9})
                for indicator, source in KINDS:
                    if source == "sigma" and attention == "dot":
                        continue
                    for layer in range(LAYERS):
                        for head in range(HEADS):
                            cell = {"layer": layer, "head": head, "indicator": indicator, "source": source}
                            mean = 0.2 + 0.6 * rng.random() + (indicator == "effective_rank")  # within its range
                            half = 0.01 + rng.random() / 10
                            interval = {"ci_low": mean - half, "ci_high": mean + half, "n": 9}
                            rows.append({**run, **cell, "mean": mean, "std": half, **interval})
    return make_frame(rows, TABLE_COLUMNS)


def make_spectra(models=("vit", "svda"), seeds=2) -> pd.DataFrame:
    rng, rows = np.random.default_rng(1), []
    for model in models:
        for seed in range(seeds):
            for layer in range(LAYERS):
                for head in range(HEADS):
                    run = {"model": model, "attention": "dot" if model == "vit" else "svda", "seed": seed, "epoch": 4}
                    for source in ("scores",) if model == "vit" else ("scores", "sigma"):
                        for rank, value in enumerate(np.sort(rng.random(DIM) * 5)[::-1], start=1):
                            cell = {"layer": layer, "head": head, "source": source, "rank": rank, "value": value}
                            rows.append({**run, **cell})
    return make_frame(rows, SPECTRA_COLUMNS)


def make_examples(prefix=1, layers=LAYERS, channels=1) -> Examples:
    rng, grid = np.random.default_rng(2), (2, 3)
    tokens = prefix + 6
    maps = rng.random((2, layers, HEADS, tokens, tokens))
    maps /= maps.sum(-1, keepdims=True)
    images = rng.integers(0, 256, (2, 8, 12, channels), dtype=np.uint8)
    labels, predictions = np.array([0, 1]), np.array([0, 0])
    return Examples(images, labels, predictions, maps.astype(np.float16), grid, prefix, ("cat", "a_very_long_dog, pet"))


def make_comparison(unit="seeds") -> pd.DataFrame:
    rows = [
        # indicator, source, layer, baseline_mean, difference, ci_low, ci_high, p_adjusted
        ("effective_rank", "scores", pd.NA, 20.0, 5.0, 2.0, 8.0, 0.01),
        ("effective_rank", "attention", pd.NA, -4.0, 1.0, -1.0, 3.0, 0.3),
        ("selectivity_index", "attention", pd.NA, 0.0, 0.1, 0.05, 0.2, 0.02),
        ("effective_rank", "scores", 1, 10.0, -5.0, -6.0, -4.0, 0.01),
    ]
    columns = ["indicator", "source", "layer", "baseline_mean", "difference", "ci_low", "ci_high", "p_adjusted"]
    frame = pd.DataFrame(rows, columns=columns).assign(model="svda", baseline="vit", unit=unit)
    frame["model_mean"] = frame["baseline_mean"] + frame["difference"]
    frame["effect"] = (
        (frame["difference"] / 2).where(frame["indicator"] != "selectivity_index") if unit == "seeds" else np.nan
    )
    return frame.assign(p_adjusted=np.nan) if unit == "images" else frame


def make_trace(sigma=True, epochs=(1, 2, 3)) -> Trace:
    rng, E = np.random.default_rng(1), len(epochs)
    values = rng.normal(size=(E, 2, 3, 8)).astype(np.float32) if sigma else None
    return Trace(np.array(epochs), values, rng.random((E, 4, 2, 16)).astype(np.float16))


def make_gains() -> pd.DataFrame:
    rng, rows = np.random.default_rng(0), []
    for model in ("vit", "svda"):
        for seed in range(3):
            for indicator in ("deletion_gain", "insertion_gain"):
                for source in ("rollout", "relevance"):
                    key = {"model": model, "seed": seed, "indicator": indicator, "source": source}
                    known = {"attention": "dot" if model == "vit" else "svda", "dataset": "toy", "n": 9}
                    rows.append({**key, **known, "mean": rng.uniform(-0.9, 0.9), "ci_low": -1.0, "ci_high": 1.0})
    return make_frame(rows, TABLE_COLUMNS)


def line(ax, start: str):
    """The one line on ``ax`` whose label starts so."""
    (found,) = [drawn for drawn in ax.lines if str(drawn.get_label()).startswith(start)]
    return found


def of(table, model, indicator, source):
    return table[(table.model == model) & (table.indicator == indicator) & (table.source == source)]
