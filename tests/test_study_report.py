"""A study from its manifest to its report: resuming, nothing rewritten, written again from its own files."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from committed import text_of
from making import cifar100_files, write_archive
from PIL import Image
from study_cases import TINY, contents, every_file, run_paper, wait_for

from svda_analysis.checkpoint import load, save
from svda_analysis.data import DATASETS
from svda_analysis.errors import InputError
from svda_analysis.render.markdown import markdown_table
from svda_analysis.specs import open_model
from svda_analysis.study.claims import claims_table
from svda_analysis.study.findings import parts_of, price_of_low_rank, what_parts_do
from svda_analysis.study.manifest import load_manifest
from svda_analysis.study.report import read_study, render_study_again, write_paper
from svda_analysis.study.result import NOT_AT_HAND
from svda_analysis.study.runs import Trained, train_missing
from svda_analysis.study.tables import accuracy_table, indicator_tables

pytestmark = pytest.mark.usefixtures("bare_machine")


def test_a_study_is_trained_analysed_and_written_once(whole_study, tmp_path, fashion, few_figures, capsys):
    out, checkpoints = tmp_path / "out", tmp_path / "ck"
    for made, ours in ((whole_study.out, out), (whole_study.checkpoints, checkpoints)):
        shutil.copytree(made, ours)
    for name in ("README.md", "report.html", "meta.json"):  # its command names the folder
        (out / name).write_bytes((out / name).read_bytes().replace(str(whole_study.out).encode(), str(out).encode()))
    manifest = whole_study.manifest
    assert whole_study.said.count("run ") == 4
    assert sorted(path.name for path in checkpoints.rglob("*.pt")) == [
        "svda_s0.pt", "svda_s1.pt", "vit_s0.pt", "vit_s1.pt",
    ]  # fmt: skip
    readme = (out / "README.md").read_text()
    assert "CIFAR-100 (data not at hand)" in readme
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
    table = pd.read_csv(out / "data" / "fashion_mnist" / "indicators.csv")
    assert table.query("indicator == 'accuracy' and model == 'svda' and seed == 1")["mean"].item() == pytest.approx(
        accuracy, rel=1e-5
    )

    before = {path: path.stat().st_mtime_ns for path in [*out.rglob("*"), *checkpoints.rglob("*")] if path.is_file()}
    run_paper(manifest, out, checkpoints, fashion)
    assert "run 1 of" not in capsys.readouterr().out
    after = {path: path.stat().st_mtime_ns for path in [*out.rglob("*"), *checkpoints.rglob("*")] if path.is_file()}
    assert before == after

    for damaged in (out / "cache").rglob("indicators.csv"):
        damaged.write_text("no table")
    bare = contents(out)
    run_paper(manifest, out, checkpoints, fashion)
    assert contents(out) == bare


def test_killed_twice_it_gives_the_report_of_one_run(whole_study, tmp_path, fashion, few_figures):
    """Once in the middle of training, once while checkpoints are measured."""
    manifest = whole_study.manifest
    out, checkpoints = tmp_path / "out", tmp_path / "ck"
    arguments = ["--out", str(out), "--checkpoints", str(checkpoints), "--data-root", str(fashion)]
    command = [sys.executable, "-m", "svda_analysis.cli", "paper", str(manifest), *arguments]

    one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}  # as here: sums in another order are other weights

    def second_run_is_half_done() -> bool:
        return (checkpoints / "fashion_mnist" / "svda_s0.pt").exists()

    for reached in (second_run_is_half_done, lambda: len(list(out.glob("cache/*/meta.json"))) >= 2):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=one_thread)
        try:
            wait_for(lambda reached=reached, process=process: reached() or process.poll() is not None)
        finally:
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL  # it was still at it
    run_paper(manifest, out, checkpoints, fashion)
    for path in whole_study.checkpoints.rglob("*.pt"):
        ours, theirs = load(path), load(checkpoints / path.relative_to(whole_study.checkpoints))
        assert all(torch.equal(ours.model[name], theirs.model[name]) for name in ours.model)
    assert contents(out) == contents(whole_study.out)
    assert not list(out.rglob(".unfinished-*"))


def test_models_of_one_name_in_two_folders_stay_apart(manifest, tiny, fashion, tmp_path, few_figures):
    for folder in ("a", "b"):
        (tmp_path / "ck" / folder).mkdir(parents=True)
        for path in tiny.values():
            (tmp_path / "ck" / folder / path.name).write_bytes(path.read_bytes())
    run_paper(manifest, tmp_path / "out", tmp_path, fashion, "--from", str(tmp_path / "ck"))
    claims = pd.read_csv(tmp_path / "out" / "tables" / "t3_claims.csv")
    assert {models.partition(" ")[0] for models in claims["Models"]} == {"svda", "b/svda"}
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
    trained = [Trained("fashion_mnist", kind, open_model(path)) for kind, path in tiny.items()]
    write_paper(study, trained, tmp_path / "out", data_root=tmp_path)
    assert "FashionMNIST (data not at hand)" in (tmp_path / "out" / "README.md").read_text()
    assert not (tmp_path / "out" / "tables" / "t3_claims.csv").exists()  # of what was not measured nothing is claimed
    assert set(pd.read_csv(tmp_path / "out" / "tables" / "t1_cost.csv")["data"]) >= {"FashionMNIST"}


def test_a_folder_that_is_not_there_gets_its_rows(tmp_path):
    path = tmp_path / "folder.toml"
    path.write_text(f"[datasets.'imagefolder:{tmp_path}/absent']\n")
    study = load_manifest(path)
    assert train_missing(study, tmp_path / "ck") == []
    write_paper(study, [], tmp_path / "out")
    assert NOT_AT_HAND.removeprefix("not run here: ") in (tmp_path / "out" / "README.md").read_text()


def test_two_folders_of_images_are_two_data_sets_with_their_own_classes(tmp_path, few_figures):
    random = np.random.default_rng(0)
    for folder, classes in (("a/first", 2), ("b/second", 3)):
        for at in range(8 * classes):
            place = tmp_path / folder / ("train" if at < 4 * classes else "test") / f"class{at % classes}"
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 255, (16, 16, 3), dtype=np.uint8)).save(place / f"{at}.png")
    path = tmp_path / "m.toml"
    tables = [f'[datasets."imagefolder:{tmp_path / name}"]\n' for name in ("a/first", "b/second")]
    small = "[model]\nimage_size = 16\npatch_size = 8\ndim = 8\ndepth = 1\nheads = 2\n"
    few = "[recipe]\nepochs = 1\nprobe_images = 4\n[analysis]\nimages = 4\nexamples = 1\n"
    path.write_text(small + few + "".join(tables))
    run_paper(path, tmp_path / "out", tmp_path / "ck", tmp_path)
    study, _ = read_study(tmp_path / "out")
    first, second = study.datasets
    assert [one.title for one in study.datasets] == ["image folder first", "image folder second"]
    assert (first.analysis.runs[0].images, second.analysis.runs[0].images) == (4, 4)
    assert second.sizes["vit"].parameters - first.sizes["vit"].parameters == 8 + 1  # a row of the head, and its bias
    assert "imagefolder" not in (tmp_path / "out" / "tables" / "t3_claims.md").read_text()
    overview = (tmp_path / "out" / "README.md").read_text()
    assert "| Models | Claim | image folder first | image folder second |" in overview


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
    history = pd.read_csv(tmp_path / "out" / "data" / "fashion_mnist" / "history.csv")
    assert history["layer"].isna().all()
    assert set(history["epoch"]) == {1, 2}
    assert [path.name for path in sorted((tmp_path / "out" / "figures").iterdir())] == [
        f"fashion_mnist_{name}.{end}"
        for name in ("accuracy_structure", "maps_over_epochs", "sigma_over_epochs_svda")
        for end in ("pdf", "png")
    ]


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


COMMITTED = Path(__file__).parents[1] / "reports" / "paper"


def test_the_committed_claims_follow_from_the_committed_numbers():
    """The tables of accuracy, indicators and claims, made again from the data that lie beside them."""
    study, _ = read_study(COMMITTED)
    assert sum(not result.missing for result in study.datasets) >= 2
    made = [accuracy_table(study.datasets, 0.5), claims_table(study.datasets, 0.5)]
    made += [table for result in study.datasets for table in indicator_tables(result, 0.5)]
    for table in made:
        committed = (COMMITTED / "tables" / f"{table.name}.md").read_text()
        assert committed.startswith(markdown_table(table.text)), table.name


def test_what_the_readme_says_of_sigma_follows_from_the_committed_study():
    study, _ = read_study(COMMITTED.parent / "sigma")
    (result,) = study.datasets
    rows, bare, direct, penalties, _ = what_parts_do(result, parts_of(result, study.base, study.variants))
    assert "selectivity higher" in rows
    assert all(line.count("no difference shown") == 3 for line in (bare, direct))
    assert "scores lower" in penalties
    (price,) = price_of_low_rank(result)
    assert "accuracy lower" in price
    page = text_of("sigma/README.md")
    assert all(line in page for line in (rows, bare, direct, penalties, price))


# --- written again ----------------------------------------------------------------------------------------------------


def test_a_report_is_written_again_from_its_folder_byte_by_byte(whole_study, tmp_path, few_figures):
    out = tmp_path / "out"
    shutil.copytree(whole_study.out, out, ignore=shutil.ignore_patterns("cache", "tables", "figures", "*.html", "*.md"))
    written = render_study_again(out)
    assert written[0] == out / "README.md"
    assert every_file(out) == every_file(whole_study.out)


def test_what_is_no_study_is_one_line(whole_study, tmp_path):
    with pytest.raises(InputError, match=r"holds no report: there is no meta.json"):
        render_study_again(tmp_path)
    (tmp_path / "meta.json").write_text("[]")
    with pytest.raises(InputError, match=r"is not of a study"):
        render_study_again(tmp_path)
    shutil.copy(whole_study.out / "meta.json", tmp_path)
    with pytest.raises(InputError, match=r"no such file: .*costs.csv"):
        render_study_again(tmp_path)
