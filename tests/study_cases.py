"""What the tests of studies share: a tiny manifest, results with known numbers, and how a report is made and read."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import numpy as np
import pytest

from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.results import nothing_measured
from svda_analysis.study.costs import Size
from svda_analysis.study.result import DatasetResult

TINY = """
title = "A tiny study"
seeds = [0, 1]
attentions = ["dot", "svda"]
[recipe]
epochs = 2
batch_size = 100
probe_images = 8
[model]
depth = 1
dim = 8
heads = 2
patch_size = 7
[analysis]
images = 20
energy_images = 20
examples = 1
[datasets.fashion_mnist]
[datasets.cifar100]
model = { patch_size = 8 }
"""


QUANTITIES = {
    ("selectivity_index", "attention"): (0.1, +0.1),
    ("attention_sparsity", "attention"): (0.3, -0.1),
    ("effective_rank", "scores"): (12.0, -3.0),
    ("accuracy", "test"): (0.90, -0.001),
}


def result(seeds: int, spread: float = 0.001, models=("vit", "svda", "cosine")) -> DatasetResult:
    """Runs whose numbers differ by the shift in QUANTITIES: SVDA's from the baseline's, with cosine as the baseline."""
    random, rows = np.random.default_rng(0), []
    kinds = {"vit": "dot", "svda": "svda", "cosine": "cosine"}
    for model in models:
        for seed in range(seeds):
            for (indicator, source), (level, shift) in QUANTITIES.items():
                place = {} if source == "test" else {"layer": 0, "head": 0}
                mean = level + (shift if model == "svda" else 0) + random.normal(0, spread * level)
                about = {"model": model, "attention": kinds[model], "seed": seed, "dataset": "x", "epoch": 1}
                numbers = {"indicator": indicator, "source": source, "mean": mean, "std": 0.1, "n": 100}
                rows.append({**about, **place, **numbers})
    table = make_frame(rows, TABLE_COLUMNS)
    sizes = {"vit": Size("dot", 10_000, 5), "svda": Size("svda", 10_003, 5), "cosine": Size("cosine", 10_001, 5)}
    return DatasetResult(
        name="x",
        title="X",
        analysis=dataclasses.replace(nothing_measured(), table=table, history=table),
        sizes={m: sizes[m] for m in models},
    )


def some_runs(shown: DatasetResult, **seeds: int) -> DatasetResult:
    """``shown`` with the first so many seeds of some models."""
    keep = [row.seed < seeds.get(row.model, 99) for row in shown.table.itertuples()]
    return with_frames(shown, table=shown.table[keep], history=shown.history[keep])


def run_paper(manifest: Path, out: Path, checkpoints: Path, data: Path, *more: str) -> None:
    from svda_analysis.cli import main  # slow to import, and most tests of tables do without

    arguments = [str(manifest), "--out", str(out), "--data-root", str(data), *more]
    with pytest.raises(SystemExit) as stopped:
        main(["paper", *arguments, *([] if "--from" in more else ["--checkpoints", str(checkpoints)])])
    assert stopped.value.code == 0


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a report but for the cache and what holds measured times; its command names no folder."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    timed = ("cache/", "tables/t1_cost", "data/costs.csv")
    here = str(folder).encode()
    found = {n: path.read_bytes().replace(here, b"OUT") for n, path in files.items() if not n.startswith(timed)}
    for page, start in (("README.md", b"## "), ("report.html", b"<h2 ")):
        sections = found[page].split(start)
        found[page] = start.join(section for section in sections if b"What it costs" not in section)
    return found


def every_file(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file() and "cache" not in path.parts)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def with_frames(shown: DatasetResult, **frames) -> DatasetResult:
    """``shown`` with other frames in its analysis."""
    return dataclasses.replace(shown, analysis=dataclasses.replace(shown.analysis, **frames))


def wait_for(done) -> None:
    deadline = time.monotonic() + 600
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.02)
