"""What a study of variants found: sentences that follow from its numbers."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest
from study_cases import some_runs, with_frames

from svda_analysis.comparison import compare_blocked
from svda_analysis.earlier import UNCENTRED
from svda_analysis.formatting import estimate, p_value, points
from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.results import nothing_measured
from svda_analysis.stats import holm
from svda_analysis.study.costs import Size
from svda_analysis.study.findings import Part, parts_of, price_of_low_rank, what_parts_do, who_differs
from svda_analysis.study.result import DatasetResult, StudyResult
from svda_analysis.study.sections import study_document
from svda_analysis.study.tables import blocked_table

BARE = {"attention": "svda", "shape_penalty": 0.0, "norm_penalty": 0.0}
VARIANTS = {
    "svda": {"attention": "svda"},
    "vit": {"attention": "dot"},
    "cosine": {"attention": "cosine"},
    "bare": BARE,
    "direct": {"attention": "svda", "sigma_form": "linear"},
    "dead": {"attention": "svda", "sigma_start": "one"},
}
LEVELS = {  # selectivity, rank of scores, accuracy
    "svda": (0.4, 4.0, 0.89),
    "vit": (0.2, 6.0, 0.9),
    "cosine": (0.35, 6.0, 0.9),
    "bare": (0.35, 6.0, 0.9),
    "direct": (0.35, 6.0, 0.9),
    "dead": (0.01, 1.5, 0.8),
}
PENALTIES = Part("The penalties", "svda", "bare")
QUANTITIES = (("selectivity_index", "attention"), ("effective_rank", "scores"), ("accuracy", "test"))


@pytest.fixture
def shown() -> DatasetResult:
    """Three seeds that differ together, and a little by themselves; the dead variant by far more."""
    random, rows = np.random.default_rng(0), []
    blocks = random.normal(0, 0.02, size=(3, 3))
    for model, levels in LEVELS.items():
        for seed in range(3):
            for at, (indicator, source) in enumerate(QUANTITIES):
                scale = 20 if model == "dead" and indicator == "accuracy" else 1
                mean = levels[at] * (1 + blocks[seed, at] + random.normal(0, 0.0005 * scale))
                place = {} if source == "test" else {"layer": 0, "head": 0}
                about = {"model": model, "attention": VARIANTS[model]["attention"], "seed": seed, "dataset": "x"}
                rows.append({**about, **place, "indicator": indicator, "source": source, "mean": mean, "n": 9})
    table = make_frame(rows, TABLE_COLUMNS)
    sizes = {model: Size(VARIANTS[model]["attention"], 1, 1) for model in LEVELS}
    analysis = dataclasses.replace(nothing_measured(), table=table, history=table)
    return DatasetResult(name="x", title="X", analysis=analysis, sizes=sizes)


def test_each_part_is_seen_beside_the_model_that_lacks_it_alone(shown):
    assert parts_of(shown, "svda", VARIANTS) == [
        Part("Unit rows and a temperature", "cosine", "vit"),
        Part("Sigma by itself, without penalties", "bare", "cosine"),
        Part("Sigma by itself, learned directly", "direct", "cosine"),
        PENALTIES,
        Part("All of it", "svda", "vit"),
    ]
    few = with_frames(shown, table=shown.table[shown.table["model"].isin(["svda", "vit"])])
    assert parts_of(few, "svda", VARIANTS) == [Part("All of it", "svda", "vit")]
    assert parts_of(shown, "svda", {**VARIANTS, "bare": {**BARE, "sigma_l1": 0.5}})[1].model == "direct"


def test_the_sentences_are_the_blocked_analysis_of_living_models(shown):
    parts = parts_of(shown, "svda", VARIANTS)
    lines = what_parts_do(shown, parts)
    assert "selectivity higher" in lines[0]
    assert "rank of scores no difference shown" in lines[0]
    assert all("higher" not in line and "lower" not in line for line in lines[1:3])
    assert "rank of scores lower" in lines[3]
    assert "accuracy lower (-" in lines[4]
    living = shown.table[shown.table["model"] != "dead"]
    found = {
        (part, name): compare_blocked(living, *name, part.other).set_index("model").loc[part.model]
        for part in parts
        for name in QUANTITIES
    }
    adjusted = holm([row["p"] for row in found.values()])
    for ((part, _), row), p in zip(found.items(), adjusted, strict=True):
        (line,) = [line for line in lines if line.startswith(part.what)]
        written, unit = (points, " points") if row["indicator"] == "accuracy" else (estimate, "")
        assert f"({written(*row[['difference', 'ci_low', 'ci_high']])}{unit}, p {p_value(p)})" in line


def test_low_rank_has_a_price(shown):
    (line,) = price_of_low_rank(shown)
    by_model = shown.table[shown.table["indicator"] == "accuracy"].groupby("model")["mean"].mean()
    others = ["vit", "cosine", "bare", "direct"]
    assert f"accuracy lower ({100 * (by_model['svda'] - by_model[others].mean()):+.2f} [" in line
    assert "a lower rank of scores than cosine, taken together (svda), against the others whose" in line
    assert "uniform (vit, cosine, bare, direct)." in line
    earlier = shown.table.assign(source=shown.table["source"].replace("scores", UNCENTRED))
    (line,) = price_of_low_rank(with_frames(shown, table=earlier))
    assert "a lower rank of uncentred scores than cosine, taken together (svda)" in line
    assert "rank of uncentred scores lower" in what_parts_do(with_frames(shown, table=earlier), [PENALTIES])[0]
    equal = shown.table.assign(mean=shown.table["mean"].where(shown.table["indicator"] != "effective_rank", 5.0))
    assert price_of_low_rank(with_frames(shown, table=equal)) == []
    low = (shown.table["indicator"] == "effective_rank") & (shown.table["model"] == "vit")
    lower = shown.table.assign(mean=shown.table["mean"].where(~low, shown.table["mean"] - 3))
    assert price_of_low_rank(with_frames(shown, table=lower)) == []  # the baseline is of low rank, too


def test_an_arm_of_one_run_silences_no_answer(shown):
    """Each part that is asked of the others keeps its three seeds, and the page says how many runs there are."""
    parts = parts_of(shown, "svda", VARIANTS)
    thin = some_runs(shown, direct=1)
    lines = dict(zip(parts, what_parts_do(thin, parts), strict=True))
    assert "rank of scores lower" in lines[PENALTIES]
    assert "accuracy lower" in price_of_low_rank(thin)[0]
    table = blocked_table(thin, "cosine")
    assert set(table.numbers["model"]) == {"svda", "vit", "bare", "direct"}
    counts = table.numbers[table.numbers["indicator"] == "accuracy"].set_index("model")["n_seeds"]
    assert counts.to_dict() == {"svda": 3, "vit": 3, "bare": 3, "direct": 1}
    told = "Training runs compared: 3 of each model, but 1 of direct."
    assert told in table.note
    study = StudyResult(title="T", datasets=(thin,), variants=VARIANTS, of_variants=True)
    assert study_document(study).answer[-1] == told
    assert [one.name for one in study_document(study).sections[:2]] == ["study_x", "sides_x"]
    assert "runs compared" not in blocked_table(shown, "cosine").note


def test_models_without_shared_seeds_are_said_not_to_be_compared(shown):
    table = shown.table.copy()
    table["seed"] += 10 * table["model"].isin(["bare", "dead"])
    apart = with_frames(shown, table=table)
    (line,) = what_parts_do(apart, [PENALTIES])
    assert line.count("not compared, for want of shared seeds") == 3
    assert "(vit, cosine, direct)" in price_of_low_rank(apart)[0]
    first, *_ = who_differs(blocked_table(apart, "cosine").numbers)
    assert first.endswith("; not compared, for want of shared seeds: bare.")


def test_dead_variants_are_left_out_and_named(shown):
    assert shown.alive == ["svda", "vit", "cosine", "bare", "direct"]
    table = blocked_table(shown, "cosine")
    assert "dead" not in set(table.numbers["model"])
    assert table.note.endswith("Uniform attention, in which a rank says nothing, so left out: dead.")


def test_sides_follow_the_adjusted_p():
    rows = [("a", 1.0, 0.01), ("b", -1.0, 0.01), ("c", 1.0, 0.5)]
    frame = pd.DataFrame(rows, columns=["model", "difference", "p_adjusted"])
    frame = frame.assign(indicator="accuracy", source="test", baseline="z")
    assert list(who_differs(frame)) == ["Accuracy (test) against z. Higher: a; lower: b; no difference shown: c."]


def test_the_findings_stand_first(shown):
    study = StudyResult(title="T", datasets=(shown,), variants=VARIANTS, of_variants=True)
    document = study_document(study)
    assert len(document.answer) == 6
    assert not any(line.startswith("X: ") for line in document.answer)  # of one data set it need not be said
    other = dataclasses.replace(shown, name="z", title="Z")
    several = study_document(dataclasses.replace(study, datasets=(shown, other))).answer
    assert several == tuple(f"{name}: {line}" for name in ("X", "Z") for line in document.answer)
