"""A study from its manifest to its report: statistics that say what they say, rules, resuming, nothing rewritten."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from svda_analysis.claims import (
    NOT_AT_HAND,
    NOT_SUPPORTED,
    NOT_TESTED,
    SUPPORTED,
    DatasetResult,
    Size,
    accuracy_table,
    claims_table,
    cost_table,
    indicator_tables,
    study_table,
    verdict,
)
from svda_analysis.manifest import load_manifest, packaged_manifests
from svda_analysis.paper import (
    LABELS,
    Trained,
    direction_shares,
    find_checkpoints,
    model_size,
    train_missing,
    write_paper,
)
from test_data import cifar100_files, write_archive

from svda_analysis import plots
from svda_analysis.checkpoint import load, save
from svda_analysis.cli import main
from svda_analysis.compression.removal import compress
from svda_analysis.data import DATASETS, load_dataset
from svda_analysis.errors import InputError
from svda_analysis.model import ViTConfig
from svda_analysis.recipe import TrainConfig
from svda_analysis.render.markdown import markdown_table as markdown
from svda_analysis.results import TABLE_COLUMNS, make_frame
from svda_analysis.specs import open_model
from svda_analysis.tap import records
from svda_analysis.training import train

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


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch, tmp_path_factory):
    """An empty home, and no data set in sight."""
    monkeypatch.delenv("SVDA_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    for name, spec in DATASETS.items():
        monkeypatch.setitem(DATASETS, name, dataclasses.replace(spec, usual_folders=()))


@pytest.fixture
def few_figures(monkeypatch):
    """Reports with two figures alone: the others take most of the time."""
    monkeypatch.setattr("svda_analysis.plots.figures", lambda *_, **__: iter(()))


@pytest.fixture
def manifest(tmp_path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


# --- two one-sided tests, and compare, against references and simulation ---------------------------------------------


@settings(deadline=None)
@given(
    st.lists(st.floats(-2, 2).map(lambda x: round(x, 6)), min_size=2, max_size=9).filter(lambda x: np.ptp(x) > 1e-3),
    st.floats(0.01, 2),
)
def test_tost_is_two_one_sided_t_tests(differences, margin):
    found = tost(differences, margin)
    lower = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    upper = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    np.testing.assert_allclose([found.p_lower, found.p_upper, found.p], [lower, upper, max(lower, upper)], rtol=1e-9)
    low, high = stats.ttest_1samp(differences, 0).confidence_interval(0.9)
    np.testing.assert_allclose([found.ci_low, found.ci_high], [low, high], rtol=1e-9, atol=1e-12)
    if abs(found.p - 0.05) > 1e-9:
        assert (found.p < 0.05) == (-margin < found.ci_low and found.ci_high < margin)


@pytest.mark.parametrize("differences", [[0.1], [0.2, 0.2, 0.2], [0.1, math.nan, 0.2]])
def test_tost_without_a_spread_has_no_p(differences):
    assert math.isnan(tost(differences, 0.5).p)


def test_tost_refuses_what_is_no_margin_and_no_row():
    for margin in (0, -1, math.nan, math.inf):
        with pytest.raises(InputError, match="margin must be above 0"):
            tost([0.1, 0.2], margin)
    with pytest.raises(InputError, match="differences must be one row"):
        tost([], 0.5)


@pytest.mark.parametrize("true", [0.5, -0.5])
def test_tost_errs_in_5_per_cent_where_the_truth_is_at_the_margin(true):
    random, trials = np.random.default_rng(0), 3000
    shown = sum(tost(random.normal(true, 0.1, 4), 0.5).p < 0.05 for _ in range(trials))
    assert abs(shown / trials - 0.05) < 3.5 * math.sqrt(0.05 * 0.95 / trials)


def test_tost_shows_an_equivalence_that_is_there_and_none_in_noise():
    random = np.random.default_rng(1)
    assert sum(tost(random.normal(0, 0.05, 5), 0.5).p < 0.05 for _ in range(200)) == 200
    assert sum(tost(random.normal(0, 5, 5), 0.5).p < 0.05 for _ in range(200)) <= 20


def simulated(effect: float, quantities: int, seeds: int = 5) -> pd.DataFrame:
    """Two models whose runs share a seed's level (spread 1) and differ by ``effect`` with a spread of 1."""
    random, rows = np.random.default_rng(round(10 * effect)), []
    for quantity in range(quantities):
        level, shift = random.normal(5, 1, seeds), random.normal(effect, 1, seeds)
        for model, values in (("vit", level), ("svda", level + shift)):
            kind = {"model": model, "attention": "dot" if model == "vit" else "svda", "dataset": "x", "epoch": 1}
            place = {"layer": 0, "head": 0, "indicator": f"i{quantity}", "source": "scores", "n": 1}
            rows += [{**kind, **place, "seed": s, "mean": x} for s, x in enumerate(values)]
    return make_frame(rows, TABLE_COLUMNS)


@pytest.mark.parametrize("effect", [0.0, 2.0])
def test_compare_finds_a_known_effect_as_often_as_theory_says_and_none_in_5_per_cent(effect):
    trials, seeds = 600, 5
    found = compare(simulated(effect, trials, seeds))
    whole = found[found["layer"].isna()]
    limit, centre = stats.t.ppf(0.975, seeds - 1), effect * math.sqrt(seeds)
    power = stats.nct.sf(limit, seeds - 1, centre) + stats.nct.cdf(-limit, seeds - 1, centre) if effect else 0.05
    spread = 3.5 * math.sqrt(power * (1 - power) / trials)
    assert abs((whole["p"] < 0.05).mean() - power) < spread
    covered = ((whole["ci_low"] < effect) & (effect < whole["ci_high"])).mean()
    assert abs(covered - 0.95) < 3.5 * math.sqrt(0.05 * 0.95 / trials)
    if not effect:
        assert (whole["p_adjusted"] < 0.05).sum() <= 2  # Holm: one family in twenty has any


# --- manifests ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", packaged_manifests())
def test_packaged_manifests_are_whole(name):
    study = load_manifest(name)
    files = [run.file for dataset in study.datasets for run in study.runs(dataset)]
    assert len(set(files)) == len(files) == len(study.datasets) * len(study.variants) * len(study.seeds)
    assert study.study == (name == "sigma")
    assert {"paper", "sigma", "smoke"} <= set(packaged_manifests())


def test_what_stands_nearer_wins(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("""
        recipe = { epochs = 3, lr = 1 }
        model = { depth = 2, dim = 24 }
        [datasets.sample]
        recipe = { epochs = 4 }
        model = { depth = 3 }
        [variants.more]
        depth = 5
        sigma_start = "one"
    """)
    study = load_manifest(path)
    runs = {run.name: run for run in study.runs("sample")}
    assert list(runs) == ["vit", "svda", "more"]
    assert (runs["vit"].config.attention, runs["more"].config.attention) == ("dot", "svda")
    assert (runs["svda"].config.depth, runs["more"].config.depth, runs["svda"].config.dim) == (3, 5, 24)
    assert (runs["more"].recipe.epochs, runs["more"].recipe.lr, runs["more"].config.sigma_start) == (4, 1.0, "one")
    assert str(runs["more"].file) == "sample/more_s0.pt"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[dataset.sample]", "there is no dataset; did you mean datasets"),
        ("[datasets.sampel]", "did you mean sample"),
        ("[datasets.sample]\n[recipe]\nepoch = 3", "there is no recipe.epoch; did you mean epochs"),
        ("[datasets.sample]\n[recipe]\nepochs = '3'", "recipe.epochs must be of the type int, got '3'"),
        ("[datasets.sample]\n[recipe]\nepochs = 0", "epochs must be at least 1, got 0"),
        ("[datasets.sample]\n[model]\nattention = 'dot'", "there is no model.attention"),
        ("[datasets.sample]\nmodel = {dept = 3}", "there is no datasets.sample.model.dept; did you mean depth"),
        ("[datasets.sample]\n[variants.a]\nsigma_statr = 1", "there is no variants.a.sigma_statr; did you mean sigma_"),
        (
            "mixed_precision = 'fp8'\n[datasets.sample]",
            "mixed_precision must be one of auto, no, bf16, fp16, got 'fp8'",
        ),
        ("[datasets.sample]\n[analysis]\nmaps = 4", "analysis.maps must be at least 8, got 4"),
        ("[datasets.sample]\n[analysis]\nprecision = 2", "analysis.precision must be below 1, got 2"),
        ("[datasets.sample]\n[analysis]\nmargin = nan", "analysis.margin must be below 100, got nan"),
        ("[datasets.'imagefolder:/a/x']\n[datasets.'imagefolder:/b/x']", "two would write x/vit_s0.pt"),
        ("[datasets.sample]\n[variants.svda]", "variants must have names of their own"),
        ("[datasets.sample]\n[variants.'../x']", "variants must have names of their own"),
        ("[datasets.sample]\n[analysis]\nimages = 0", "analysis.images must be a whole number above 0"),
        ("attentions = ['rope']\n[datasets.sample]", "attentions must be among dot, svda, cosine"),
        ("seeds = [1, 1]\n[datasets.sample]", "seeds must be a list of different whole numbers"),
        ("title = 3\n[datasets.sample]", "title must be text"),
        ("title = 'x'", "datasets must name at least one"),
        ("datasets = 3 = 4", "is not TOML"),
    ],
)
def test_a_bad_manifest_is_one_line_and_exit_code_2(tmp_path, capsys, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(SystemExit) as stopped:
        main(["paper", str(path), "--out", str(tmp_path / "out"), "--checkpoints", str(tmp_path / "ck")])
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_unknown_manifest_names_those_there_are(tmp_path):
    with pytest.raises(InputError, match="manifest must be a file or one of paper, sigma, smoke, got 'papre'"):
        load_manifest("papre")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        load_manifest(tmp_path / "binary.toml")


# --- the claims' rules ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "direction", "unit", "runs", "said"),
    [
        (0.1, 0.3, +1, "seeds", 3, SUPPORTED),
        (0.1, 0.3, -1, "seeds", 3, NOT_SUPPORTED),
        (-0.3, -0.1, -1, "seeds", 3, SUPPORTED),
        (-0.3, -0.1, +1, "seeds", 3, NOT_SUPPORTED),
        (-0.1, 0.3, +1, "seeds", 3, NOT_SUPPORTED),
        (0.0, 0.3, +1, "seeds", 3, NOT_SUPPORTED),
        (0.1, 0.3, +1, "images", 1, NOT_TESTED),
        (math.nan, math.nan, +1, "seeds", 3, NOT_TESTED),
        (math.nan, math.nan, +1, "seeds", 1, NOT_TESTED),  # one run against several
    ],
)
def test_a_verdict_follows_from_the_interval(low, high, direction, unit, runs, said):
    assert verdict(low, high, direction, unit, runs)[0] == said


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
    return DatasetResult(name="x", title="X", table=table, history=table, sizes={m: sizes[m] for m in models})


def verdicts(*results: DatasetResult) -> dict[str, str]:
    text = claims_table(results, {}, 0.5).text
    return dict(zip(text["Claim"], text["Verdict"], strict=True))


def test_claims_are_judged_by_their_numbers_alone():
    said = verdicts(result(5))
    assert said["more interpretable attention"] == SUPPORTED
    assert said["sparser attention"] == NOT_SUPPORTED  # it fell
    assert said["spectrally structured attention"] == SUPPORTED
    assert said["no accuracy is sacrificed"] == SUPPORTED  # 0.1 points lower, within the margin
    assert said["indicators are monitored during training"] == SUPPORTED
    assert said["less than 0.04 % more parameters"] == SUPPORTED  # 0.03 %
    assert said["Sigma, beyond normalisation: spectrally structured attention"] == SUPPORTED


def test_one_run_each_tests_nothing_but_what_is_counted():
    said = verdicts(result(1))
    counted = {"indicators are monitored during training", "less than 0.04 % more parameters"}
    assert {claim for claim, verdict in said.items() if verdict != NOT_TESTED} == counted


def test_noise_supports_nothing():
    said = verdicts(result(3, spread=0.5))
    assert said["no accuracy is sacrificed"] == NOT_SUPPORTED
    assert said["sparser attention"] == NOT_SUPPORTED


def test_a_data_set_that_was_not_run_says_so_in_every_table():
    empty = make_frame([], TABLE_COLUMNS)
    sizes = {"vit": Size("dot", 10_000, 5), "svda": Size("svda", 10_005, 5)}
    missing = DatasetResult(name="y", title="Y", table=empty, history=empty, sizes=sizes, missing=NOT_AT_HAND)
    claims = claims_table([missing], {}, 0.5).text
    assert set(claims.loc[claims["Claim"] != "less than 0.04 % more parameters", "Verdict"]) == {NOT_TESTED}
    assert NOT_AT_HAND in set(claims["Why"])
    assert list(accuracy_table([missing], 0.5).text["Accuracy (%)"]) == [NOT_AT_HAND]
    assert list(cost_table([missing]).text["More than baseline (%)"]) == ["-", "+0.050"]
    assert claims.query("Claim == 'less than 0.04 % more parameters'")["Verdict"].item() == NOT_SUPPORTED


def some_runs(shown: DatasetResult, **seeds: int) -> DatasetResult:
    """``shown`` with the first so many seeds of some models."""
    keep = [row.seed < seeds.get(row.model, 99) for row in shown.table.itertuples()]
    return dataclasses.replace(shown, table=shown.table[keep], history=shown.history[keep])


def test_models_with_other_seeds_say_how_many_runs_are_compared():
    text = accuracy_table([some_runs(result(5), svda=3)], 0.5).text.set_index("Model")
    assert list(text["Runs"]) == ["5", "3", "5"]
    assert list(text["Runs compared"]) == ["-", "3", "5"]
    table = claims_table([some_runs(result(5), svda=1)], {}, 0.5).text.set_index("Claim")
    assert table.loc["sparser attention", "Verdict"] == NOT_TESTED
    assert "one training run" in table.loc["sparser attention", "Why"]


def test_a_small_loss_of_accuracy_is_named_even_where_it_is_within_the_margin():
    row = claims_table([result(5, spread=1e-5)], {}, 0.5).text.set_index("Claim").loc["no accuracy is sacrificed"]
    assert row["Verdict"] == SUPPORTED
    assert row["Why"] == "accuracy is lower; interval above minus the margin"


def test_without_a_control_the_rows_on_sigma_say_so():
    text = claims_table([result(3, models=("vit", "svda"))], {}, 0.5).text
    rows = text[text["Claim"].str.startswith("Sigma")]
    assert len(rows) == 4
    assert set(rows["Verdict"]) == {NOT_TESTED}
    assert set(rows["Why"]) == {"no finished run of the cosine control"}
    assert rows["Measure"].str.endswith("than the cosine control").all()


@pytest.mark.parametrize("head", [0, 1])
def test_an_indicator_that_lacks_a_number_was_not_monitored(head):
    shown = result(2)
    history = pd.concat([shown.history, shown.history.assign(head=1)]).reset_index(drop=True)
    wrong = (history["model"] == "svda") & (history["indicator"] == "effective_rank") & (history["head"] == head)
    history.loc[wrong & (history["seed"] == 1), "mean"] = math.nan
    row = claims_table([dataclasses.replace(shown, history=history)], {}, 0.5).text.set_index("Claim")
    row = row.loc["indicators are monitored during training"]
    assert row["Number"].startswith("2 of 3 over 2 epochs of 2 runs")
    assert row["Verdict"] == NOT_SUPPORTED


def test_the_table_of_indicators_holds_what_only_one_model_has():
    shown = result(3)
    own = shown.table[(shown.table["model"] == "svda") & (shown.table["indicator"] == "effective_rank")]
    table = pd.concat([shown.table, own.assign(source="sigma", mean=7.0)], ignore_index=True)
    (against, *_) = indicator_tables(dataclasses.replace(shown, table=table), {})
    row = against.text[against.text["Source"] == "sigma"].iloc[0]
    assert (row["svda"], row["vit"], row["Difference [95% CI]"], row["Runs"]) == ("7.000", "-", "-", "3")


def test_accuracy_table_pairs_by_seed_and_tests_equivalence():
    shown = result(4)
    row = accuracy_table([shown], 0.5).numbers.set_index("model").loc["svda"]
    by_model = shown.table[shown.table["indicator"] == "accuracy"].pivot_table(
        index="seed", columns="model", values="mean"
    )
    difference = by_model["svda"] - by_model["vit"]
    assert row["difference"] == pytest.approx(difference.mean())
    assert row["p"] == pytest.approx(stats.ttest_rel(by_model["svda"], by_model["vit"]).pvalue)
    assert row["p_equivalent"] == pytest.approx(tost(difference, 0.005).p)
    assert row["std"] == pytest.approx(by_model["svda"].std())


def test_study_table_has_a_row_for_each_variant():
    table = study_table(result(3), "svda", {"cosine": "attention cosine"})
    assert list(table.text["Model"]) == ["vit", "svda", "cosine"]
    without = study_table(some_runs(result(3), cosine=0), "svda", {}).text.set_index("Model")
    assert without.loc["cosine", "Accuracy (%)"] == "no finished run"
    assert table.text["From svda (points) [95% CI]"].iloc[1] == "-"
    assert table.numbers["effective_rank_scores"].iloc[1] == pytest.approx(9, abs=0.1)


# --- measures -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dot", "svda", "cosine"])
def test_macs_are_those_of_the_matrix_products(kind):
    config = ViTConfig(depth=2, dim=24, heads=2, attention=kind)
    N, C, patches = 50, 24, 49
    block = N * C * 3 * C + 2 * N * N * C + N * C * C + 2 * N * C * 4 * C
    size = model_size(config)
    assert size.macs == patches * 16 * C + 2 * block + C * 10
    extra = {"dot": 0, "svda": 2 * (24 + 2), "cosine": 2 * 2}  # the shapes and temperatures
    assert size.parameters == model_size(dataclasses.replace(config, attention="dot")).parameters + extra[kind]


@pytest.mark.parametrize("kind", ["dot", "svda"])
def test_direction_shares_follow_their_formula(tiny, fashion, kind):
    subject, data = open_model(tiny[kind]), load_dataset("fashion_mnist", root=fashion)
    rows = direction_shares(subject, data, images=len(data))
    images, _ = next(data.batches(len(data)))
    for record in records(subject.model, images):
        q, k = (x.double().square().mean((0, 2)).numpy() for x in (record.q, record.k))
        sigma = np.ones_like(q) if record.sigma is None else record.sigma.detach().double().numpy()
        for source, energy in (("data", sigma**2 * q * k), ("sigma", sigma**2)):
            found = rows[(rows["layer"] == record.layer) & (rows["source"] == source)]["mean"].to_numpy()
            if record.sigma is None and source == "sigma":
                assert not len(found)
                continue
            for head in range(len(energy)):
                largest = np.sort(energy[head])[::-1]
                needed = next(n for n in range(1, 99) if largest[:n].sum() >= 0.9 * energy[head].sum() * (1 - 1e-9))
                assert found[head] == pytest.approx(needed / energy.shape[1])


def test_train_images_are_the_same_for_every_seed(tmp_path, fashion):
    seen = {}
    for seed in (0, 1):
        config = ViTConfig(depth=1, dim=8, heads=2, patch_size=7)
        recipe = TrainConfig(epochs=1, batch_size=10, probe_images=4, train_images=30, seed=seed)
        done = train(config, recipe, tmp_path / f"{seed}.pt", data_root=fashion)
        seen[seed] = done.history.query("indicator == 'loss' and source == 'train'")["n"].item()
    assert seen == {0: 30, 1: 30}
    with pytest.raises(InputError, match="train_images must be at least 1, got 0"):
        TrainConfig(train_images=0)


def test_the_manifest_says_in_which_precision_runs_are_trained(tmp_path, fashion):
    weights = {}
    for precision in ("no", "bf16"):
        path = tmp_path / f"{precision}.toml"
        path.write_text(f"mixed_precision = '{precision}'\n{TINY}")
        study = dataclasses.replace(load_manifest(path), seeds=(0,), variants={"svda": {"attention": "svda"}})
        trained = train_missing(study, tmp_path / precision, data_root=fashion, jobs=2)
        weights[precision] = load(trained[0].path).model["head.weight"]
    assert not torch.equal(weights["no"], weights["bf16"])


# --- from the manifest to the report --------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a report but for the cache and what holds measured times."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    timed = ("cache/", "tables/t1_cost")
    found = {name: path.read_bytes() for name, path in files.items() if not name.startswith(timed)}
    before, _, costs = found["README.md"].decode().partition("## What it costs")
    found["README.md"] = "##".join([before, *costs.split("##")[1:]]).encode()
    return found


def run_paper(manifest: Path, out: Path, checkpoints: Path, data: Path, *more: str) -> None:
    arguments = [str(manifest), "--out", str(out), "--data-root", str(data), *more]
    with pytest.raises(SystemExit) as stopped:
        main(["paper", *arguments, *([] if "--from" in more else ["--checkpoints", str(checkpoints)])])
    assert stopped.value.code == 0


def test_a_study_is_trained_analysed_and_written_once(manifest, tmp_path, fashion, few_figures, capsys):
    out, checkpoints = tmp_path / "out", tmp_path / "ck"
    run_paper(manifest, out, checkpoints, fashion)
    assert capsys.readouterr().out.count("run ") == 4
    assert sorted(path.name for path in checkpoints.rglob("*.pt")) == [
        "svda_s0.pt", "svda_s1.pt", "vit_s0.pt", "vit_s1.pt",
    ]  # fmt: skip
    readme = (out / "README.md").read_text()
    assert "CIFAR-100: not run here: data not at hand" in readme
    assert "FashionMNIST test, 120 images" in readme
    for name in ("t1_accuracy", "t1_cost", "t2_fashion_mnist_svda_vit", "t3_claims"):
        assert {path.suffix for path in (out / "tables").glob(f"{name}.*")} == {".csv", ".md", ".tex"}
        assert r"\toprule" in (out / "tables" / f"{name}.tex").read_text()
    for line in readme.split("\n"):
        if line.startswith("!["):
            name = line.partition("](")[2].rstrip(")")
            assert (out / name).exists()
            assert (out / name).with_suffix(".pdf").exists()
    last = load(checkpoints / "fashion_mnist" / "svda_s1.pt").history
    accuracy = last.query("indicator == 'accuracy' and source == 'test'")["mean"].iloc[-1]
    table = pd.read_csv(out / "data" / "fashion_mnist_indicators.csv")
    assert table.query("indicator == 'accuracy' and model == 'svda' and seed == 1")["mean"].item() == pytest.approx(
        accuracy, rel=1e-5
    )

    before = {path: path.stat().st_mtime_ns for path in [*out.rglob("*"), *checkpoints.rglob("*")] if path.is_file()}
    run_paper(manifest, out, checkpoints, fashion)
    assert "run 1 of" not in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in [*out.rglob("*"), *checkpoints.rglob("*")] if path.is_file()}
    assert before == after

    for damaged in (out / "cache").rglob("table.csv"):
        damaged.write_text("no table")
    bare = contents(out)
    run_paper(manifest, out, checkpoints, fashion)
    assert contents(out) == bare


def wait_for(done, seconds: float = 600) -> None:
    started = time.monotonic()
    while not done():
        assert time.monotonic() - started < seconds
        time.sleep(0.02)


def test_killed_twice_it_gives_the_report_of_one_run(manifest, tmp_path, fashion, few_figures):
    """Once in the middle of training, once while checkpoints are measured."""
    run_paper(manifest, tmp_path / "whole", tmp_path / "whole_ck", fashion)
    out, checkpoints = tmp_path / "out", tmp_path / "ck"
    arguments = ["--out", str(out), "--checkpoints", str(checkpoints), "--data-root", str(fashion)]
    command = [sys.executable, "-m", "svda_analysis.cli", "paper", str(manifest), *arguments]

    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # as here: sums in another order are other weights

    def second_run_is_half_done() -> bool:
        return (checkpoints / "fashion_mnist" / "svda_s0.pt").exists()

    for reached in (second_run_is_half_done, lambda: len(list(out.glob("cache/*/table.csv"))) >= 2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=one_thread)
        try:
            wait_for(lambda reached=reached, process=process: reached() or process.poll() is not None)
        finally:
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL  # it was still at it
    run_paper(manifest, out, checkpoints, fashion)
    for path in (tmp_path / "whole_ck").rglob("*.pt"):
        ours, theirs = load(path), load(checkpoints / path.relative_to(tmp_path / "whole_ck"))
        assert all(torch.equal(ours.model[name], theirs.model[name]) for name in ours.model)
    assert contents(out) == contents(tmp_path / "whole")
    assert not list(out.rglob(".unfinished-*"))


def workers() -> set[str]:
    """Command lines of the processes that multiprocessing has spawned on this machine, by number."""
    found = set()
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if b"spawn_main" in (place / "cmdline").read_bytes():
                found.add(place.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="reads the processes from /proc")
def test_workers_end_with_the_study_that_was_killed(tmp_path, fashion):
    path, before = tmp_path / "long.toml", workers()
    path.write_text(TINY.replace("epochs = 2", "epochs = 2000"))
    arguments = ["--checkpoints", str(tmp_path / "ck"), "--data-root", str(fashion), "--jobs", "2"]
    command = [sys.executable, "-m", "svda_analysis.cli", "paper", str(path), "--out", str(tmp_path / "out")]
    process = subprocess.Popen([*command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: list((tmp_path / "ck").rglob("*.pt")) or process.poll() is not None)
    assert len(workers() - before) == 2
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    wait_for(lambda: not workers() - before, seconds=60)


def test_from_a_folder_it_only_analyses(tiny, fashion, tmp_path, capsys):
    (tmp_path / "broken.pt").write_bytes(b"nothing")
    source = tmp_path / "deep" / "er"
    source.mkdir(parents=True)
    for path in tiny.values():
        (source / path.name).write_bytes(path.read_bytes())
    half = ViTConfig(depth=1, dim=8, heads=2, patch_size=7)
    recipe = TrainConfig(epochs=2, batch_size=100, probe_images=4)
    train(half, recipe, source / "half_s0.pt", data_root=fashion, stop_after=1)
    images, _ = next(load_dataset("fashion_mnist", root=fashion, train=True).batches(20))
    save(compress(load(tiny["svda"]), images, budget=0.5), source / "small_s0.pt")
    study = tmp_path / "tiny.toml"
    study.write_text(TINY)
    run_paper(study, tmp_path / "out", tmp_path / "nowhere", fashion, "--from", str(tmp_path))
    said = capsys.readouterr().err
    assert "half_s0.pt, epoch 1 of 2" in said
    assert "small_s0.pt, compressed" in said
    assert "broken.pt is not a checkpoint" in said
    claims = pd.read_csv(tmp_path / "out" / "tables" / "t3_claims.csv")
    one_each = claims[(claims["Data"] == "FashionMNIST") & (claims["Claim"] == "sparser attention")]
    assert one_each["Verdict"].item() == NOT_TESTED
    assert one_each["Why"].item() == "one training run each"
    assert set(claims.loc[claims["Data"] == "CIFAR-100", "Why"]) > {NOT_AT_HAND}
    figures = {path.stem for path in (tmp_path / "out" / "figures").iterdir()}
    expected = ("accuracy_structure", "by_layer", "epochs_by_layer", "heatmaps", "maps_over_epochs", "spectra_scores")
    assert {f"fashion_mnist_{name}" for name in (*expected, "sigma_over_epochs_svda", "training")} <= figures
    assert not (tmp_path / "nowhere").exists()
    with pytest.raises(InputError, match="no finished checkpoint in"):
        find_checkpoints(fashion)
    with pytest.raises(InputError, match="--from must be a folder"):
        find_checkpoints(tmp_path / "absent")


def test_models_of_one_name_in_two_folders_stay_apart(manifest, tiny, fashion, tmp_path, few_figures):
    for folder in ("a", "b"):
        (tmp_path / "ck" / folder).mkdir(parents=True)
        for path in tiny.values():
            (tmp_path / "ck" / folder / path.name).write_bytes(path.read_bytes())
    run_paper(manifest, tmp_path / "out", tmp_path, fashion, "--from", str(tmp_path / "ck"))
    claims = pd.read_csv(tmp_path / "out" / "tables" / "t3_claims.csv")
    assert set(claims.loc[claims["Data"] == "FashionMNIST", "Model"]) == {"svda", "b/svda"}
    tables = {path.stem for path in (tmp_path / "out" / "tables").iterdir()}
    assert {"t2_fashion_mnist_svda_dot", "t2_fashion_mnist_b-svda_dot", "t2_fashion_mnist_b-dot_dot"} <= tables


def test_a_report_says_which_checkpoints_kept_no_trace(manifest, tiny, fashion, tmp_path, few_figures):
    for kind, path in tiny.items():
        save(dataclasses.replace(load(path), trace=None), tmp_path / "ck" / f"{kind}_s0.pt")
    run_paper(manifest, tmp_path / "out", tmp_path, fashion, "--from", str(tmp_path / "ck"))
    assert "over the epochs are not drawn for dot, svda, whose" in (tmp_path / "out" / "README.md").read_text()
    assert not list((tmp_path / "out" / "figures").glob("*over_epochs*"))


def test_checkpoints_whose_data_are_not_at_hand_keep_their_rows(tiny, tmp_path, few_figures):
    study = load_manifest("smoke")
    trained = [Trained("fashion_mnist", kind, path) for kind, path in tiny.items()]
    write_paper(study, trained, tmp_path / "out", data_root=tmp_path)
    claims = pd.read_csv(tmp_path / "out" / "tables" / "t3_claims.csv")
    assert set(claims.loc[claims["Data"] == "FashionMNIST", "Model"]) == {"svda"}
    assert NOT_AT_HAND in set(claims.loc[claims["Data"] == "FashionMNIST", "Why"])
    assert set(pd.read_csv(tmp_path / "out" / "tables" / "t1_cost.csv")["data"]) >= {"FashionMNIST"}


def test_a_folder_that_is_not_there_gets_its_rows(tmp_path):
    path = tmp_path / "folder.toml"
    path.write_text(f"[datasets.'imagefolder:{tmp_path}/absent']\n")
    study = load_manifest(path)
    assert train_missing(study, tmp_path / "ck") == []
    write_paper(study, [], tmp_path / "out")
    assert NOT_AT_HAND in (tmp_path / "out" / "README.md").read_text()


def test_from_takes_no_option_of_training(manifest, tmp_path, capsys):
    for more in (["--jobs", "2"], ["--checkpoints", "x"]):
        with pytest.raises(SystemExit) as stopped:
            main(["paper", str(manifest), "--from", str(tmp_path), "--out", str(tmp_path / "out"), *more])
        assert stopped.value.code == 2
        assert "--from trains nothing" in capsys.readouterr().err


def test_a_study_of_variants_has_one_table_with_what_each_changes(tmp_path, fashion):
    path = tmp_path / "study.toml"
    variants = '[variants.start_one]\nsigma_start = "one"\nshape_penalty = 0\n'
    path.write_text(TINY.replace("[datasets.cifar100]\nmodel = { patch_size = 8 }\n", variants))
    run_paper(path, tmp_path / "out", tmp_path / "ck", fashion, "--jobs", "2")
    text = pd.read_csv(tmp_path / "out" / "tables" / "study_fashion_mnist.csv").set_index("model")
    assert list(text.index) == ["vit", "svda", "start_one"]
    assert text.loc["start_one", "changed"] == "sigma_start one, shape_penalty 0.0"
    assert list(text["runs"]) == [2, 2, 2]
    measured = [
        name for name in text.columns if name.startswith(("accuracy", "effective", "selectivity", "directions"))
    ]
    assert len(measured) == 12
    assert text.loc[["svda", "start_one"], measured].notna().to_numpy().all()
    assert math.isnan(text.loc["vit", "directions_90_sigma"])
    assert not list((tmp_path / "out" / "tables").glob("t3*"))
    history = pd.read_csv(tmp_path / "out" / "data" / "fashion_mnist_history.csv")
    assert history["layer"].isna().all()
    assert set(history["epoch"]) == {1, 2}
    assert [path.name for path in sorted((tmp_path / "out" / "figures").iterdir())] == [
        f"fashion_mnist_{name}.{end}"
        for name in ("accuracy_structure", "maps_over_epochs", "sigma_over_epochs_svda")
        for end in ("pdf", "png")
    ]


def test_a_checkpoint_of_another_recipe_is_not_touched(manifest, tmp_path, fashion):
    path = tmp_path / "ck" / "fashion_mnist" / "svda_s1.pt"
    config = ViTConfig(depth=1, dim=8, heads=2, patch_size=7, attention="svda")
    recipe = TrainConfig(epochs=1, seed=1, batch_size=100, probe_images=8)
    train(config, recipe, path, data_root=fashion)
    before = path.read_bytes()
    with pytest.raises(
        InputError, match=r"svda_s1.pt is of another recipe than the manifest's: epochs 1 -> 2; move it"
    ):
        train_missing(load_manifest(manifest), tmp_path / "ck", data_root=fashion)
    assert path.read_bytes() == before
    assert len(list((tmp_path / "ck").rglob("*.pt"))) == 1


def write_jpegs(folder: Path, classes: tuple[str, ...], splits: tuple[str, str], size: int) -> None:
    random = np.random.default_rng(0)
    for split in splits:
        for name in classes:
            (folder / split / name).mkdir(parents=True)
            pixels = random.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / split / name / "0.jpg")


def test_every_data_set_of_the_paper_trains_and_is_named_for_what_it_is(tmp_path, few_figures):
    root = tmp_path / "data"
    write_archive(root / "cifar100" / "cifar-100-python.tar.gz", cifar100_files(count=5)[0])
    write_jpegs(root / "cifar10", DATASETS["cifar10"].classes, ("train", "test"), 32)
    write_jpegs(root / "imagenet100", DATASETS["imagenet100"].classes, ("train", "val"), 20)
    study = load_manifest("paper")
    small = {"depth": 1, "dim": 8, "heads": 2}
    plans = {name: dataclasses.replace(plan, recipe={}, model=small) for name, plan in study.datasets.items()}
    plans["imagenet100"] = dataclasses.replace(plans["imagenet100"], model={**small, "image_size": 32, "patch_size": 8})
    study = dataclasses.replace(
        study,
        datasets=plans,
        seeds=(0,),
        variants={"svda": {"attention": "svda"}},
        recipe={"epochs": 1, "batch_size": 10, "probe_images": 4},
        analysis=dataclasses.replace(study.analysis, images=4, examples=1, energy_images=4),
    )
    trained = train_missing(study, tmp_path / "ck", data_root=root)
    assert [run.dataset for run in trained] == ["cifar10", "cifar100", "imagenet100"]
    written = write_paper(study, trained, tmp_path / "out", data_root=root)
    accuracy = pd.read_csv(tmp_path / "out" / "tables" / "t1_accuracy.csv").set_index("data")
    assert list(accuracy.index) == ["FashionMNIST", "CIFAR-10 (JPEG re-encoding)", "CIFAR-100", "ImageNet-100"]
    assert accuracy.loc["FashionMNIST", "missing"] == NOT_AT_HAND
    assert written[0].name == "README.md"
    assert "CIFAR-10 (JPEG re-encoding) test, 10 images" in written[0].read_text()
    runs = json.loads((tmp_path / "out" / "meta.json").read_text())["runs"]
    assert runs[0]["trained_on"] == "CIFAR-10 (JPEG re-encoding) train, 10 images"


# --- figures --------------------------------------------------------------------------------------------------------


def test_accuracy_against_structure_shows_every_run_and_each_mean():
    shown = result(3)
    fig, ax = plt.subplots()
    plots.plot_accuracy_structure(shown.table, indicator="selectivity_index", ax=ax)
    runs, mean = ax.lines[0], ax.lines[1]  # the baseline's come first
    rows = shown.table[(shown.table["model"] == "vit") & (shown.table["indicator"] == "selectivity_index")]
    np.testing.assert_allclose(runs.get_xdata(), rows["mean"])
    accuracy = shown.table[(shown.table["model"] == "vit") & (shown.table["indicator"] == "accuracy")]["mean"]
    np.testing.assert_allclose(mean.get_ydata(), [100 * accuracy.mean()])
    plt.close(fig)
    with pytest.raises(InputError, match="must hold one of selectivity_index"):
        plots.plot_structure(shown.table[shown.table["indicator"] == "accuracy"])


def test_layers_over_epochs_have_a_line_each_and_a_band_over_seeds(tiny):
    history = open_model(tiny["svda"]).history
    later = history.assign(epoch=2)
    runs = pd.concat([h.assign(seed=s) for h in (history, later) for s in (0, 1)], ignore_index=True)
    fig, ax = plt.subplots()
    plots.plot_layers_over_epochs(runs, indicator="effective_rank", source="sigma", ax=ax)
    assert [line.get_label() for line in ax.lines] == ["layer 0", "layer 1"]
    wanted = history.query("indicator == 'effective_rank' and source == 'sigma' and layer == 1")["mean"].mean()
    np.testing.assert_allclose(ax.lines[1].get_ydata(), [wanted, wanted])
    plt.close(fig)
    figure = plots.plot_epochs_by_layer(runs)
    assert len(figure.axes) == 3
    plt.close(figure)


# --- what is committed ----------------------------------------------------------------------------------------------

COMMITTED = Path(__file__).parents[1] / "reports" / "paper"


def test_the_committed_claims_follow_from_the_committed_numbers():
    """The tables of accuracy, indicators and claims, made again from the data that lie beside them."""
    costs = pd.read_csv(COMMITTED / "tables" / "t1_cost.csv")
    results = []
    for title, rows in costs.groupby("data", sort=False):
        name = {"FashionMNIST": "fashion_mnist", "CIFAR-10 (JPEG re-encoding)": "cifar10"}.get(title, title)
        kinds = {"vit": "dot"}
        sizes = {
            row.model: Size(kinds.get(row.model, row.model), row.parameters, row.macs) for row in rows.itertuples()
        }
        frames = {}
        for frame, file in (("table", "indicators"), ("history", "history")):
            path = COMMITTED / "data" / f"{name}_{file}.csv"
            frames[frame] = pd.read_csv(path).astype(TABLE_COLUMNS) if path.exists() else make_frame([], TABLE_COLUMNS)
        missing = "" if len(frames["table"]) else NOT_AT_HAND
        results.append(DatasetResult(name=name, title=title, sizes=sizes, missing=missing, **frames))
    assert sum(not result.missing for result in results) >= 2
    made = [accuracy_table(results, 0.5), claims_table(results, LABELS, 0.5)]
    made += [table for result in results for table in indicator_tables(result, LABELS)]
    for table in made:
        committed = (COMMITTED / "tables" / f"{table.name}.md").read_text()
        assert committed.startswith(markdown(table.text)), table.name
