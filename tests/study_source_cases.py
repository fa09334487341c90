"""Runs of the source's recipe as a study holds them, with numbers that the tests choose."""

from __future__ import annotations

import dataclasses

import pandas as pd
from study_cases import result

from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.model import ViTConfig
from svda_analysis.recipe import TrainConfig, named_recipe
from svda_analysis.results import Analysis, Run
from svda_analysis.source_numbers import SOURCE_MEASURES, source_results
from svda_analysis.study.result import DatasetResult

PROTOCOL = {  # of the source's faithfulness: our quantity, and of what
    "deletion_top_0.3": ("source_deletion_30", "cls_attention"),
    "deletion_random_0.3": ("source_deletion_30", "random"),
    "insertion_top_0.3": ("source_insertion_30", "cls_attention"),
    "insertion_random_0.3": ("source_insertion_30", "random"),
}


def by_recipe(name: str, model: str, seed: int = 0, dataset: str = "fashion_mnist", **changed) -> Run:
    """A run of a model by a recipe by name, as its report tells of it."""
    of_model, of_recipe = named_recipe(name, dataset)
    config, recipe = ViTConfig(**of_model), TrainConfig(**{**of_recipe, "dataset": dataset, "seed": seed})
    known = {"config": {**dataclasses.asdict(config), "attention": {"vit": "dot"}.get(model, model)}}
    return Run(model=model, seed=seed, recipe={**dataclasses.asdict(recipe), **changed}, settings=known)


def of_the_source(epochs: int, seeds: int = 3, off: float = 0.0, faithful: bool = True) -> DatasetResult:
    """FashionMNIST, where each number of a seed is the source's mean, a spread of 0.001 and ``off``, at every epoch."""
    rows = []
    known = source_results().query("dataset == 'fashion_mnist'").set_index(["model", "measure"])["mean"]
    for seed in range(seeds):
        for epoch in range(1, epochs + 1):
            about = {"dataset": "fashion_mnist", "seed": seed, "epoch": epoch, "std": 0.1, "n": 100}
            for model, attention, theirs in (("vit", "dot", "baseline"), ("svda", "svda", "svda")):
                own = {**about, "model": model, "attention": attention}
                accuracy = known[theirs, "final_accuracy"] + 0.001 * (seed - 1) + off
                rows.append({**own, "indicator": "accuracy", "source": "test", "mean": accuracy})
                if epoch == epochs // 2:  # a better epoch, before the last
                    rows[-1]["mean"] += known[theirs, "best_accuracy"] - known[theirs, "final_accuracy"]
                for name, measure in SOURCE_MEASURES.items() if attention == "svda" else ():
                    value = known["svda", name] * (1 + 0.001 * (seed - 1) + off)
                    place = {"layer": 0, "head": 0, "low": 0.0, "high": 0.98}
                    rows.append(
                        {**own, **place, "indicator": measure.indicator, "source": measure.source, "mean": value}
                    )
    history = make_frame(rows, TABLE_COLUMNS)
    plain = result(seeds, models=("vit", "svda"))
    ends = [
        {
            **{"dataset": "fashion_mnist", "model": model, "attention": attention, "seed": seed, "epoch": epochs},
            **{"indicator": PROTOCOL[name][0], "source": PROTOCOL[name][1], "n": 128},
            "mean": known[theirs, name] + 0.001 * (seed - 1) + off,
        }
        for seed in range(seeds)
        for model, attention, theirs in (("vit", "dot", "baseline"), ("svda", "svda", "svda"))
        for name in (PROTOCOL if faithful else ())
    ]
    table = pd.concat([history[history["epoch"] == epochs], make_frame(ends, TABLE_COLUMNS)], ignore_index=True)
    runs = [by_recipe("source", model, seed, epochs=epochs) for model in ("vit", "svda") for seed in range(seeds)]
    analysis = dataclasses.replace(plain.analysis, table=table, history=history, runs=tuple(runs))
    return dataclasses.replace(plain, name="fashion_mnist", title="FashionMNIST", analysis=analysis)


def said_of(numbers: pd.DataFrame, dataset: str) -> dict[tuple[str, str], str]:
    """What became of each number of a data set."""
    rows = numbers[numbers["dataset"] == dataset]
    return {(row.model, row.measure): row.said for row in rows.itertuples()}


def beside(shown: DatasetResult, model: str, run: Run, **changes) -> DatasetResult:
    """``shown`` with one model more, before its others: SVDA's runs under another name, each trained as ``run`` was, in
    whose frames ``changes`` are made."""
    frames = {key: getattr(shown.analysis, key) for key in ("table", "history")}
    mine = {key: frame[frame["model"] == "svda"] for key, frame in frames.items()}
    mine = {key: changes.get(key, lambda same: same)(frame.assign(model=model)) for key, frame in mine.items()}
    joined = {key: pd.concat([frame.astype(TABLE_COLUMNS), frames[key]]) for key, frame in mine.items()}
    runs = [dataclasses.replace(run, model=model, seed=seed) for seed in sorted(set(mine["table"]["seed"]))]
    analysis: Analysis = dataclasses.replace(shown.analysis, **joined, runs=(*runs, *shown.analysis.runs))
    return dataclasses.replace(shown, analysis=analysis, sizes={model: shown.sizes["svda"], **shown.sizes})
