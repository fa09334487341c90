"""A study whose variants turn two dials, with runs of known rank and accuracy."""

from __future__ import annotations

import dataclasses

import numpy as np

from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.results import nothing_measured
from svda_analysis.study.costs import Size
from svda_analysis.study.dials import Dial
from svda_analysis.study.result import DatasetResult

VARIANTS = {
    "svda": {"attention": "svda"},
    "vit": {"attention": "dot"},
    "target_1_2": {"attention": "svda", "target_rank": 0.5, "shape_penalty": 1.0},
    "target_1": {"attention": "svda", "target_rank": 1.0, "shape_penalty": 1.0},
    "vit_8": {"attention": "dot", "qk_dim": 8},
    "vit_4": {"attention": "dot", "qk_dim": 4},
}
DIALS = [
    Dial("target_rank", "a target for the rank of sigma", ("target_1", "target_1_2"), ("1", "1/2")),
    Dial("qk_dim", "fewer directions of queries and keys", ("vit", "vit_8", "vit_4"), ("all", "8", "4")),
]
LEVELS = {  # rank of scores, accuracy: the target reaches rank 5 at 0.9, plain models 0.85 there, on the line
    "svda": (4.5, 0.9),
    "vit": (6.0, 0.9),
    "target_1": (7.0, 0.91),
    "target_1_2": (5.0, 0.9),
    "vit_8": (4.0, 0.8),
    "vit_4": (3.0, 0.7),
}


def dialled(seeds: int = 3, noise: float = 0.002) -> DatasetResult:
    """Runs at :data:`LEVELS`, which differ by seed together, and by ``noise`` (accuracy) by themselves."""
    random, rows = np.random.default_rng(0), []
    together = random.normal(0, 0.02, size=seeds)
    for model, (rank, accuracy) in LEVELS.items():
        for seed in range(seeds):
            own = accuracy + together[seed] + random.normal(0, noise)
            about = {"model": model, "attention": VARIANTS[model]["attention"], "seed": seed, "dataset": "x", "n": 9}
            inner = {**about, "layer": 0, "head": 0}
            rows += [
                {**inner, "indicator": "effective_rank", "source": "scores", "mean": rank},
                {**inner, "indicator": "selectivity_index", "source": "attention", "mean": 0.3},
                {**about, "indicator": "accuracy", "source": "test", "mean": own},
            ]
            if about["attention"] == "svda":
                rows.append({**inner, "indicator": "effective_rank", "source": "sigma", "mean": 4 * rank})
    table = make_frame(rows, TABLE_COLUMNS)
    sizes = {model: Size(VARIANTS[model]["attention"], 1, 1) for model in LEVELS}
    analysis = dataclasses.replace(nothing_measured(), table=table, history=table)
    return DatasetResult(name="x", title="X", analysis=analysis, sizes=sizes)
