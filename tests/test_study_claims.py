"""Verdicts follow from the numbers, by rules that were fixed before."""

from __future__ import annotations

import dataclasses

import pandas as pd
import pytest
from scipy import stats
from study_cases import result, some_runs, with_frames

from svda_analysis.formatting import p_value
from svda_analysis.results import nothing_measured
from svda_analysis.stats import holm
from svda_analysis.study.claims import (
    NUMBER,
    by_claim,
    claims_table,
    overview_table,
    remark_on,
    tables_of_claims,
    tables_of_parts,
)
from svda_analysis.study.costs import Size
from svda_analysis.study.result import NOT_AT_HAND, DatasetResult, StudyResult
from svda_analysis.study.sections import study_document
from svda_analysis.study.tables import accuracy_table, cost_table, indicator_tables
from svda_analysis.verdicts import INCONCLUSIVE, OPPOSED, SUPPORTED


def verdicts(*results: DatasetResult) -> dict[str, str]:
    text = claims_table(results, 0.5).text
    return dict(zip(text["Claim"], text["Verdict"], strict=True))


def test_claims_are_judged_by_their_numbers_alone():
    said = verdicts(result(5))
    assert said == {
        "more interpretable attention": SUPPORTED,
        "sparser attention": OPPOSED,  # it fell
        "spectrally structured attention": SUPPORTED,
        "no accuracy is sacrificed": SUPPORTED,  # 0.1 points lower, within the margin
    }
    beside, by_itself, penalties = tables_of_parts(StudyResult(title="T", datasets=(result(5),), variants={}))
    assert beside.text.set_index("Claim").loc["spectrally structured attention", "Verdict"] == SUPPORTED
    assert set(beside.text["Models"]) == {"svda against cosine"}
    assert by_itself.text.empty  # no SVDA was trained without its penalties
    assert penalties.text.empty


def test_one_run_each_decides_nothing():
    text = claims_table([result(1)], 0.5).text
    assert set(text["Verdict"]) == {INCONCLUSIVE}
    assert set(text["Why"]) == {"one training run each"}


def test_noise_supports_nothing():
    assert set(verdicts(result(3, spread=0.5)).values()) == {INCONCLUSIVE}


def test_p_is_adjusted_over_the_claims_of_a_model():
    shown = result(4, spread=0.05)
    text = claims_table([shown], 0.5).text.set_index("Claim")
    table = shown.table
    p = []
    for indicator in ("selectivity_index", "attention_sparsity", "effective_rank"):
        ours, theirs = (
            table[(table["model"] == model) & (table["indicator"] == indicator)]["mean"] for model in ("svda", "vit")
        )
        p.append(stats.ttest_rel(ours, theirs).pvalue)
    ours, theirs = (table[(table["model"] == m) & (table["indicator"] == "accuracy")]["mean"] for m in ("svda", "vit"))
    p.append(stats.ttest_1samp(ours.to_numpy() - theirs.to_numpy(), -0.005, alternative="greater").pvalue)
    assert list(text["p (Holm)"]) == [p_value(x) for x in holm(p)]


def test_a_loss_above_the_margin_opposes_the_claim():
    shown = result(5, spread=1e-4)
    table = shown.table
    worse = (table["indicator"] == "accuracy") & (table["model"] == "svda")
    table.loc[worse, "mean"] -= 0.05
    text = claims_table([with_frames(shown, table=table)], 0.5).text.set_index("Claim")
    assert tuple(text.loc["no accuracy is sacrificed", ["Verdict", "Why"]]) == (OPPOSED, "loss above the margin")


def test_uniform_attention_has_no_rank_to_judge():
    shown = result(5)
    table = shown.table
    table.loc[table["indicator"] == "selectivity_index", "mean"] /= 100
    text = claims_table([with_frames(shown, table=table)], 0.5).text.set_index("Claim")
    assert text.loc["spectrally structured attention", "Verdict"] == "uniform attention"


def test_a_data_set_that_was_not_run_is_one_line():
    sizes = {"vit": Size("dot", 10_000, 5), "svda": Size("svda", 10_005, 5)}
    missing = DatasetResult(name="y", title="Y", analysis=nothing_measured(), sizes=sizes, missing=NOT_AT_HAND)
    assert claims_table([missing], 0.5).text.empty
    assert list(accuracy_table([missing], 0.5).text["Accuracy (%)"]) == [NOT_AT_HAND]
    assert list(cost_table([missing]).text["More than baseline (%)"]) == ["-", "+0.050"]
    study = StudyResult(title="T", datasets=(missing, result(2)), variants={})
    assert study_document(study).lead[0].lines[-1] == "Not run here: Y (data not at hand)"


def test_models_with_other_seeds_say_how_many_runs_are_compared():
    text = accuracy_table([some_runs(result(5), svda=3)], 0.5).text.set_index("Model")
    assert list(text["Runs"]) == ["5", "3", "5"]
    assert list(text["Runs compared"]) == ["-", "3", "5"]
    table = claims_table([some_runs(result(5), svda=1)], 0.5).text.set_index("Claim")
    assert table.loc["sparser attention", "Verdict"] == INCONCLUSIVE
    assert "one training run" in table.loc["sparser attention", "Why"]
    assert set(table["Runs"]) == {"1"}


def test_each_row_says_on_how_many_runs_it_rests():
    table = claims_table([result(5), dataclasses.replace(some_runs(result(5), svda=3), title="Y")], 0.5).text
    assert table.groupby("Data")["Runs"].unique().map(list).to_dict() == {"X": ["5"], "Y": ["3"]}
    apart = result(5).table
    apart["seed"] += 10 * (apart["model"] == "svda") * (apart["seed"] > 0)
    table = claims_table([some_runs(with_frames(result(5), table=apart), vit=2)], 0.5).text  # one seed in common
    assert set(table["Runs"]) == {"2"}
    assert set(claims_table([result(3, models=("svda",))], 0.5).text["Runs"]) == {"-"}


def test_a_loss_that_is_shown_is_told_where_the_margin_is_undecided():
    table = result(5).table
    rows = table["indicator"] == "accuracy"
    for model, lost in {"vit": 0.0, "svda": 0.0045}.items():
        noise = [1e-3, -1e-3, 2e-3, -2e-3, 0.0] if model == "svda" else [0.0] * 5
        table.loc[rows & (table["model"] == model), "mean"] = [0.9 - lost + x for x in noise]
    shown = with_frames(result(5), table=table)
    row = claims_table([shown], 0.5).text.set_index("Claim", drop=False).loc["no accuracy is sacrificed"]
    p = stats.ttest_1samp([-0.0045 + x for x in noise], 0).pvalue
    assert row["Verdict"] == INCONCLUSIVE
    assert row["Why"] == f"less accurate, p {p_value(p)} unadjusted; on which side of the margin is not shown"
    assert remark_on(row.to_dict()) == row["Why"]
    assert row["Why"] in " ".join(study_document(StudyResult(title="T", datasets=(shown,), variants={})).answer)


def test_a_study_has_its_own_margin_of_accuracy():
    """0.1 points lower than cosine attention: the same within half a point, not within a hundredth of one."""
    study = StudyResult(title="T", datasets=(result(8, spread=0.002),), variants={})
    table = study.datasets[0].table
    rows = table[table["indicator"] == "accuracy"].pivot_table(index="seed", columns="model", values="mean")
    d = rows["svda"] - rows["cosine"]
    for margin, words in ((0.5, "half a point of accuracy"), (0.01, "0.01 points of accuracy"), (2, "2 points of")):
        told, beside, *_ = tables_of_claims(dataclasses.replace(study, margin=margin))
        row = beside.text.set_index("Claim").loc["more accurate"]
        low = stats.ttest_1samp(d, -margin / 100, alternative="greater").pvalue
        high = stats.ttest_1samp(d, margin / 100, alternative="less").pvalue
        same = max(low, high) < 0.05
        assert row["Verdict"] == ("equivalent" if same else INCONCLUSIVE)
        assert same == (margin > 0.01)
        assert f"smaller than a margin ({words}" in told.note
        numbers = [one.numbers.set_index("indicator") for one in indicator_tables(study.datasets[0], margin)]
        assert numbers[-1].loc["accuracy", "p_equivalent"].max() == pytest.approx(max(low, high))


def test_without_a_control_nothing_is_said_of_sigma():
    study = StudyResult(title="T", datasets=(result(3, models=("vit", "svda")),), variants={})
    assert all(table.text.empty for table in tables_of_parts(study))


def test_of_further_pairs_the_verdicts_are_said_and_the_overview_has_their_numbers():
    noise = dataclasses.replace(result(5, spread=0.5), name="y", title="Y")
    tables = tables_of_claims(StudyResult(title="T", datasets=(result(5), noise), variants={}))
    assert any("**inconclusive** on Y, " in line for line in by_claim(tables)[:4])  # of the first pair all have numbers
    beside = next(table for table in tables if table.name == "t3_svda").text
    verdicts = beside.set_index(["Data", "Claim"])["Verdict"]
    assert (verdicts["Y"] == INCONCLUSIVE).all()
    assert INCONCLUSIVE not in list(verdicts["X"])
    line = by_claim(tables)[-1]
    assert line.startswith("What SVDA adds to normalisation (svda against cosine). **Supported**: ")
    for claim, verdict in verdicts["X"].items():
        [sentence] = [part for part in line.split(". ") if part.startswith(f"**{verdict.capitalize()}**: ")]
        assert f"{claim} on X" in sentence
    undecided = line.partition(" **Inconclusive**: ")[2]
    assert undecided == "; ".join(f"{claim} on Y" for claim in verdicts["Y"].index) + "."
    overview = overview_table(tables).set_index(["Models", "Claim"])
    for row in beside.to_dict("records"):
        assert overview.loc[(row["Models"], row["Claim"]), row["Data"]] == f"{row['Verdict']}, {row[NUMBER]}"
    alone = by_claim(tables_of_claims(StudyResult(title="T", datasets=(noise,), variants={})))[-1]
    assert alone.endswith(f"(svda against cosine). **Inconclusive**: {'; '.join(verdicts['Y'].index)}.")


def with_variant(fields) -> StudyResult:
    """A study whose SVDA has a variant with these fields, which measures what the baseline does."""
    shown = result(5)
    kinds = {name: size.attention for name, size in shown.sizes.items()}
    more = shown.table[shown.table["model"] == "vit"].assign(model="plain", attention="svda")
    table = pd.concat([shown.table, more], ignore_index=True)
    sizes = {**shown.sizes, "plain": shown.sizes["svda"]}
    variants = {**{name: {"attention": kind} for name, kind in kinds.items()}, "plain": {"attention": "svda", **fields}}
    shown = dataclasses.replace(with_frames(shown, table=table, history=table), sizes=sizes)
    return StudyResult(title="T", datasets=(shown,), variants=variants)


def test_what_the_penalties_add_is_judged_beside_svda_without_them():
    study = with_variant({"shape_penalty": 0.0, "norm_penalty": 0.0})
    _, beside, sigma, penalties = tables_of_claims(study)
    assert set(beside.text["Models"]) == {"svda against cosine"}
    assert set(sigma.text["Models"]) == {"plain against cosine"}
    assert set(penalties.text["Models"]) == {"svda against plain"}
    said = penalties.text.set_index("Claim")
    beside = claims_table(study.datasets, 0.5).text.set_index("Models").loc["svda against vit"].set_index("Claim")
    for claim in ("more interpretable attention", "sparser attention", "spectrally structured attention"):
        assert said.loc[claim, NUMBER] == beside.loc[claim, NUMBER]  # which the variant has the numbers of
        assert said.loc[claim, "Verdict"] == (OPPOSED if claim.startswith("sparser") else SUPPORTED)
    assert "t3_penalties" in [section.name for section in study_document(study).sections]


def test_equal_up_to_rounding_is_equivalent():
    table = result(5).table
    rows = table["indicator"] == "selectivity_index"
    cosine = table.loc[rows & (table["model"] == "cosine"), "mean"].to_numpy()
    table.loc[rows & (table["model"] == "svda"), "mean"] = cosine - [2e-8, 2.1e-8, 2e-8, 1.9e-8, 2.2e-8]
    study = StudyResult(title="T", datasets=(with_frames(result(5), table=table),), variants={})
    row = tables_of_parts(study)[0].text.set_index("Claim").loc["more interpretable attention"]
    assert list(row[["p (Holm)", "Verdict", "Why"]]) == ["-", "equivalent", "smaller than the margin, p <0.001"]


def test_of_what_was_not_trained_no_table_speaks():
    whole = with_variant({"shape_penalty": 0.0, "norm_penalty": 0.0})
    (shown,) = whole.datasets
    untrained = dataclasses.replace(whole, datasets=(some_runs(shown, plain=0),))
    for table in tables_of_claims(untrained):
        assert table.text.empty or set(table.text["Models"]) <= {"svda against vit", "svda against cosine"}
    bare = dataclasses.replace(whole, datasets=(some_runs(shown, svda=0),))
    assert [len(table.text) for table in tables_of_claims(bare)] == [4, 0, 4, 0]
    none = dataclasses.replace(whole, datasets=(some_runs(shown, svda=0, plain=0),))
    assert all(table.text.empty for table in tables_of_claims(none))
    assert "claims" not in " ".join(study_document(none).answer)


def test_a_variant_that_changes_more_says_nothing_of_the_penalties():
    for fields in ({"shape_penalty": 0.0}, {"shape_penalty": 0.0, "norm_penalty": 0.0, "sigma_start": "one"}):
        beside, sigma, penalties = tables_of_parts(with_variant(fields))
        assert set(beside.text["Models"]) == {"svda against cosine", "plain against cosine"}
        assert sigma.text.empty
        assert penalties.text.empty


def test_without_a_baseline_the_claims_say_so():
    text = claims_table([result(3, models=("svda",))], 0.5).text
    assert set(text["Why"]) == {"no finished run of a baseline"}
