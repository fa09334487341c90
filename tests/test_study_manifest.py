"""Manifests: what stands nearer wins, and a bad one is one line."""

from __future__ import annotations

import pytest

from svda_analysis.cli import main
from svda_analysis.errors import InputError
from svda_analysis.study.manifest import load_manifest, packaged_manifests


@pytest.mark.parametrize("name", packaged_manifests())
def test_packaged_manifests_are_whole(name):
    study = load_manifest(name)
    files = [run.file for dataset in study.datasets for run in study.runs(dataset)]
    assert len(set(files)) == len(files) == len(study.datasets) * len(study.variants) * len(study.seeds)
    assert study.of_variants == (name in ("sigma", "dial"))
    assert {"paper", "sigma", "smoke", "source", "source_start", "dial"} <= set(packaged_manifests())


def test_variants_are_judged_by_the_claims_where_the_manifest_says_so(tmp_path):
    path = tmp_path / "a.toml"
    for line, of_variants in (("", True), ("claims = true", False), ("claims = false", True)):
        path.write_text(f"{line}\n[datasets.sample]\n[variants.more]\ndepth = 5")
        assert load_manifest(path).of_variants == of_variants
    path.write_text("claims = 1\n[datasets.sample]")
    with pytest.raises(InputError, match="claims must be true or false, got 1"):
        load_manifest(path)


def test_notes_are_lines_of_text(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('notes = ["One.", "Two."]\n[datasets.sample]')
    assert load_manifest(path).notes == ("One.", "Two.")
    for wrong in ("'One.'", "[1]", "[]"):
        path.write_text(f"notes = {wrong}\n[datasets.sample]")
        with pytest.raises(InputError, match="notes must be a list"):
            load_manifest(path)


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
        ("[datasets.sample]\n[recipe]\nepochs = 0", "epochs must be a whole number of at least 1, got 0"),
        ("[datasets.sample]\n[model]\nattention = 'dot'", "there is no model.attention"),
        ("[datasets.sample]\nmodel = {dept = 3}", "there is no datasets.sample.model.dept; did you mean depth"),
        ("[datasets.sample]\n[variants.a]\nsigma_statr = 1", "there is no variants.a.sigma_statr; did you mean sigma_"),
        (
            "mixed_precision = 'fp8'\n[datasets.sample]",
            "mixed_precision must be one of auto, no, bf16, fp16, got 'fp8'",
        ),
        ("[datasets.sample]\n[analysis]\nmaps = 4", "analysis.maps must be at least 8, got 4"),
        (
            "[datasets.sample]\n[analysis]\nmetrics = ['source']",
            "analysis.metrics are those of faithfulness",
        ),
        ("[datasets.sample]\n[analysis]\nfaithfulness = 8\nmetrics = ['x']", "metrics must be among"),
        ("[datasets.sample]\n[analysis]\nfaithfulness = 8\nmetrics = []", "metrics must be a list of different names"),
        ("[datasets.sample]\n[analysis]\nfaithfulness = 0", "analysis.faithfulness must be a whole number above 0"),
        ("[datasets.sample]\n[analysis]\nprecision = 2", "analysis.precision must be below 1, got 2"),
        ("[datasets.sample]\n[analysis]\nmargin = nan", "analysis.margin must be below 100, got nan"),
        (
            "[datasets.'imagefolder:/a/x']\n[datasets.'imagefolder:/b/x']",
            "datasets must end in different names, got imagefolder:/a/x and imagefolder:/b/x",
        ),
        ("[datasets.'imagefolder:a/b c']\n[datasets.'imagefolder:a/b-c']", "end in different names, got imagefolder:a"),
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


def test_no_data_set_leads_out_of_the_folder_of_checkpoints(tmp_path):
    (tmp_path / "m.toml").write_text("[datasets.'imagefolder:..']")
    files = [run.file for run in load_manifest(tmp_path / "m.toml").runs("imagefolder:..")]
    assert all((tmp_path / file).resolve().parent.parent == tmp_path for file in files)


def test_an_unknown_manifest_names_those_there_are(tmp_path):
    with pytest.raises(
        InputError, match="a file or one of dial, paper, sigma, smoke, source, source_start, got 'papre'"
    ):
        load_manifest("papre")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read"):
        load_manifest(tmp_path / "binary.toml")


@pytest.mark.parametrize(
    "text",
    [
        "x = " + "[" * 10**5,
        "seeds = [" + "9" * 5000 + "]",
        "seeds = [0x" + "f" * 5000 + "]",
        "title = '" + "x" * 2**20 + "'",
        "seeds = [" + ", ".join(map(str, range(1001))) + "]\n[datasets.sample]",
        "[recipe]\nepochs = 10000000000\n[datasets.sample]",
        "[model]\ndepth = 100000000\n[datasets.sample]",
        "a." * 10**5 + "b = 1",
    ],
    ids=["deep", "digits", "hexadecimal", "long", "seeds", "epochs", "depth", "dotted"],
)
def test_a_manifest_without_measure_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "m.toml").write_text(text)
    with pytest.raises(InputError, match=r"^manifest [^\n]+$"):
        load_manifest(tmp_path / "m.toml")


def test_a_manifest_that_is_no_text_is_refused_in_one_line(tmp_path):
    (tmp_path / "m.toml").write_bytes(b"title = '\xff'")
    with pytest.raises(InputError, match=r"m\.toml cannot be read: [^\n]+$"):
        load_manifest(tmp_path / "m.toml")


def test_a_recipe_by_name_gives_way_to_what_the_manifest_says(tmp_path):
    path = tmp_path / "short.toml"
    path.write_text(
        'base = "source"\nattentions = ["svda"]\n[recipe]\nepochs = 3\n[model]\ndim = 32\n[datasets.cifar10]\n'
    )
    run = load_manifest(path).runs("cifar10")[0]
    assert (run.recipe.epochs, run.config.dim) == (3, 32)
    assert (run.recipe.schedule, run.config.norm, run.config.heads) == ("constant", "post", 4)
