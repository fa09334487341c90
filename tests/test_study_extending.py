"""A study that grows on the runs of its report, whose checkpoints are gone."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import draw_few
from study_cases import contents, every_file, run_paper

from svda_analysis.cli import main
from svda_analysis.earlier import is_measured_alike
from svda_analysis.errors import InputError
from svda_analysis.results import versions
from svda_analysis.study import load_manifest
from svda_analysis.study.extending import RunKey, check_none_lost, held_runs, keys_of, refused_runs, without
from svda_analysis.study.report import read_study
from svda_analysis.study.runs import measured_again
from svda_analysis.study.tables import accuracy_table


@pytest.fixture(scope="module")
def first_seed(whole_study, fashion, tmp_path_factory) -> Path:
    """The report of the tiny study's first seed alone, without its checkpoints."""
    place = tmp_path_factory.mktemp("first")
    manifest = place / "first.toml"
    manifest.write_text(whole_study.manifest.read_text().replace("seeds = [0, 1]", "seeds = [0]"))
    (place / "ck" / "fashion_mnist").mkdir(parents=True)
    for path in whole_study.checkpoints.rglob("*_s0.pt"):
        shutil.copy2(path, place / "ck" / "fashion_mnist")
    with pytest.MonkeyPatch.context() as patch:
        draw_few(patch)
        run_paper(manifest, place / "out", place / "ck", fashion)
    shutil.rmtree(place / "out" / "cache")
    return place / "out"


def test_it_trains_what_the_report_lacks_and_gives_the_report_of_one_go(
    first_seed, whole_study, fashion, tmp_path, few_figures
):
    out = shutil.copytree(first_seed, tmp_path / "out")
    run_paper(whole_study.manifest, out, tmp_path / "ck", fashion, "--extend")
    assert sorted(path.name for path in (tmp_path / "ck").rglob("*.pt")) == ["svda_s1.pt", "vit_s1.pt"]
    assert contents(out) == contents(whole_study.out)


def test_a_further_model_stands_beside_those_that_are_held(first_seed, whole_study, fashion, tmp_path, few_figures):
    out = shutil.copytree(first_seed, tmp_path / "out")
    manifest = tmp_path / "m.toml"
    manifest.write_text(
        whole_study.manifest.read_text()
        .replace("seeds = [0, 1]", "seeds = [0]")
        .replace('["dot", "svda"]', '["dot", "svda", "cosine"]')
    )
    before, _ = read_study(out)
    run_paper(manifest, out, tmp_path / "ck", fashion, "--extend")
    assert [path.name for path in (tmp_path / "ck").rglob("*.pt")] == ["cosine_s0.pt"]
    after, _ = read_study(out)
    sizes = after.datasets[0].sizes
    assert list(sizes) == ["vit", "svda", "cosine"]
    assert all(sizes[name].seconds == size.seconds > 0 for name, size in before.datasets[0].sizes.items())
    assert set(accuracy_table(after.datasets, 0.5).text["Model"]) == {"vit", "svda", "cosine", "-"}
    assert "svda against vit" in (out / "tables" / "t3_claims.md").read_text()


@pytest.mark.parametrize(("place", "field"), [("recipe", "lr"), ("config", "heads")])
def test_a_run_that_was_trained_otherwise_than_planned_is_not_held(first_seed, whole_study, tmp_path, place, field):
    out = shutil.copytree(first_seed, tmp_path / "out")
    path = out / "data" / "fashion_mnist" / "meta.json"
    meta = json.loads(path.read_text())
    run = meta["runs"][0]
    (run["settings"]["config"] if place == "config" else run["recipe"])[field] = 1
    path.write_text(json.dumps(meta))
    held = held_runs(*read_study(out), load_manifest(whole_study.manifest))
    assert keys_of(held) == {RunKey("fashion_mnist", meta["runs"][1]["model"], 0)}


def test_nothing_to_train_keeps_what_is_held(whole_study, fashion, tmp_path, few_figures):
    out = shutil.copytree(whole_study.out, tmp_path / "out")
    run_paper(whole_study.manifest, out, tmp_path / "ck", fashion, "--extend")
    assert not list((tmp_path / "ck").rglob("*.pt"))
    assert contents(out) == contents(whole_study.out)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("epochs = 2", "epochs = 3"),
        ("dim = 8", "dim = 16"),
        ("images = 20", "images = 10"),
        ("seeds = [0, 1]", 'seeds = [0, 1]\nmixed_precision = "bf16"'),
    ],
)
def test_runs_of_another_recipe_or_measure_are_not_held(first_seed, whole_study, tmp_path, old, new):
    manifest = tmp_path / "m.toml"
    manifest.write_text(whole_study.manifest.read_text())
    assert keys_of(held_runs(*read_study(first_seed), load_manifest(manifest)))
    manifest.write_text(whole_study.manifest.read_text().replace(old, new, 1))
    assert held_runs(*read_study(first_seed), load_manifest(manifest)) == {}


def test_runs_that_another_release_measured_are_not_held(first_seed, whole_study, tmp_path):
    out = shutil.copytree(first_seed, tmp_path / "out")
    path = out / "data" / "fashion_mnist" / "meta.json"
    meta = json.loads(path.read_text())
    meta["runs"][0]["settings"]["measured_with"]["svda-analysis"] = "0.1.0"
    path.write_text(json.dumps(meta))
    gone, left = (RunKey("fashion_mnist", run["model"], 0) for run in meta["runs"])
    held = held_runs(*read_study(out), load_manifest(whole_study.manifest))
    assert keys_of(held) == {left}
    assert gone not in keys_of(held)
    assert without(held, {left}) == {}


def test_what_only_judges_and_a_later_release_leave_runs_held(first_seed, whole_study, tmp_path, monkeypatch):
    manifest = tmp_path / "m.toml"
    manifest.write_text(whole_study.manifest.read_text().replace("images = 20", "margin = 1.0\nimages = 20", 1))
    ours = versions()
    monkeypatch.setattr("svda_analysis.study.extending.versions", lambda: {**ours, "svda-analysis": "0.4.1"})
    every = {RunKey("fashion_mnist", model, 0) for model in ("vit", "svda")}
    assert keys_of(held_runs(*read_study(first_seed), load_manifest(manifest))) == every


@pytest.mark.parametrize(
    ("version", "now", "alike"),
    [
        ("0.3.0", "0.3.0", True),
        ("0.3.0", "0.4.1", True),
        ("0.3.9", "1.0.0", True),
        ("0.2.5", "0.3.0", False),  # spectra were of uncentred keys
        ("0.4.0", "0.3.0", False),
        ("", "0.3.0", False),
    ],
)
def test_which_versions_measure_alike(version, now, alike):
    assert is_measured_alike(version, now) is alike


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("images = 20", "images = 10", "(analysis.images 20 -> 10) and 1 more"),
        ("seeds = [0, 1]", "seeds = [1, 2]", "(it is not planned) and 1 more"),
        ("epochs = 2", "epochs = 3", "(epochs 2 -> 3) and 1 more"),
        ('["dot", "svda"]', '["dot"]', "fashion_mnist svda seed 0 (it is not planned); choose another --out"),
        ("[datasets.fashion_mnist]", "", "(it is not planned) and 1 more"),
    ],
)
def test_runs_that_would_be_lost_stop_it_before_anything_is_done(
    first_seed, whole_study, fashion, tmp_path, capsys, old, new, why
):
    out, manifest = shutil.copytree(first_seed, tmp_path / "out"), tmp_path / "m.toml"
    manifest.write_text(whole_study.manifest.read_text().replace(old, new, 1))
    before = every_file(out)
    words = ["--out", str(out), "--checkpoints", str(tmp_path / "ck"), "--data-root", str(fashion), "--extend"]
    with pytest.raises(SystemExit) as stopped:
        main(["paper", str(manifest), *words])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert said.startswith(f"error: --extend would lose runs of the report in {out}")
    assert why in said
    assert every_file(out) == before
    assert not (tmp_path / "ck").exists()


def test_runs_with_checkpoints_are_measured_again_where_their_images_are(
    first_seed, whole_study, fashion, bare_machine, tmp_path
):
    manifest = tmp_path / "m.toml"
    manifest.write_text(whole_study.manifest.read_text().replace("images = 20", "images = 10", 1))
    study = load_manifest(manifest)
    refused = refused_runs(*read_study(first_seed), study)
    assert len(refused) == 2
    check_none_lost(refused, measured_again(study, whole_study.checkpoints, fashion), first_seed)
    for place, root in ((whole_study.checkpoints, tmp_path), (tmp_path, fashion)):
        with pytest.raises(InputError, match="--extend would lose runs"):
            check_none_lost(refused, measured_again(study, place, root), first_seed)


def test_what_is_held_stays_where_there_are_checkpoints_but_no_images(
    first_seed, whole_study, bare_machine, tmp_path, few_figures
):
    out = shutil.copytree(first_seed, tmp_path / "out")
    run_paper(whole_study.manifest, out, whole_study.checkpoints, tmp_path, "--extend")
    assert [run.model for run in read_study(out)[0].datasets[0].analysis.runs] == ["vit", "svda"]


def test_without_a_report_nothing_is_held(whole_study, bare_machine, tmp_path):
    """So that one command grows a study from its first run on."""
    run_paper(whole_study.manifest, tmp_path / "out", tmp_path / "ck", tmp_path, "--extend")
    assert "FashionMNIST (data not at hand)" in (tmp_path / "out" / "README.md").read_text()


def test_what_is_no_report_of_a_study_is_one_line(whole_study, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "meta.json").write_text('{"made_by": "svda-analysis", "files": []}')
    with pytest.raises(SystemExit) as stopped:
        main(["paper", str(whole_study.manifest), "--out", str(tmp_path / "out"), "--extend"])
    assert stopped.value.code == 2
    assert "meta.json is not of a study" in capsys.readouterr().err


def test_a_damaged_manifest_is_one_line(whole_study):
    study, meta = read_study(whole_study.out)
    with pytest.raises(InputError, match=r"meta\.json of the report to extend is damaged"):
        held_runs(study, {"manifest": {**meta["manifest"], "datasets": {"x": {"nothing": 1}}}}, load_manifest("smoke"))
