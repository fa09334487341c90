"""svda compress: good runs write what they say, bad input is one line."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from svda_analysis import cli
from svda_analysis.checkpoint import load, save
from svda_analysis.cli.compress import _report_folder
from svda_analysis.compression.verification import (
    map_divergence,
    predictions,
)
from svda_analysis.errors import InputError
from svda_analysis.sources import open_feed
from svda_analysis.specs import open_model


def run(*arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(["compress", *map(str, arguments)])
    return stop.value.code


@pytest.mark.parametrize("kind", ["svda", "dot"])
def test_the_command_writes_a_smaller_checkpoint_and_a_report(kind, tiny, fashion, tmp_path, capsys, request):
    out, report = tmp_path / "small.pt", tmp_path / "report"
    common = ["--data-root", fashion, "--images", "40", "--report", report, "--out", out]
    common.append("--sweep")
    assert run(tiny[kind], "--energy", "0.8", "--norm-logit", "inf", *common, "--finetune", "1") == 0
    assert load(out).config.score_dims is not None
    assert {path.name for path in report.iterdir()} == {
        f"compression.{e}" for e in ("csv", "html", "md", "json", "pdf", "png")
    }
    content = json.loads((report / "compression.json").read_text())
    rows = pd.DataFrame(content["runs"][0]["verification"]).set_index("quantity")
    assert rows.loc["parameters", "change"] < 1
    assert rows.loc["macs", "change"] < 1
    assert rows.loc["bytes", "change"] < 1
    before, after = (rows[end].to_dict() for end in ("before", "after"))
    assert before["before_finetuning"] == before["accuracy"]
    assert before["finetuning"] == after["before_finetuning"]
    assert after["finetuning"] == after["accuracy"]
    source = open_feed(None, open_model(tiny[kind]), fashion)  # all rows speak of the file that was written
    guesses = [predictions(open_model(path), source, images=40) for path in (tiny[kind], out)]
    assert after["accuracy"] == float((guesses[1][0] == guesses[1][1]).double().mean())
    assert after["agreement"] == float((guesses[0][0] == guesses[1][0]).double().mean())
    batch = torch.cat([x for x, _ in source.batches(32, 128, 0)])
    models = [open_model(path) for path in (tiny[kind], out)]
    assert after["map_divergence"] == pytest.approx(map_divergence(*models, batch))
    page = (report / "compression.md").read_text()
    assert "are gone, after 1 epoch of fine-tuning (criterion" in page
    assert ("### What keeps the norm (without fine-tuning)" in page) == (kind == "svda")
    assert '"norm_logit": "inf"' in (report / "compression.json").read_text()
    printed = capsys.readouterr().out
    assert "score directions gone" in printed
    assert str(out) in printed
    cli_again = tmp_path / "smaller.pt"  # a compressed checkpoint compresses again, and is analysed as any other
    assert run(out, "--no-sweep", "--data-root", fashion, "--images", "20", "--report", report, "--out", cli_again) == 0
    assert sum(map(sum, load(cli_again).config.score_dims)) <= sum(map(sum, load(out).config.score_dims))
    request.getfixturevalue("without_figures")  # from here on
    with pytest.raises(SystemExit) as stop:
        cli.main(["analyze", str(out), "--data-root", str(fashion), "--out", str(tmp_path / "a"), "--images", "20"])
    assert stop.value.code == 0


def test_accuracy_is_tabulated_at_equal_size(tiny, fashion, tmp_path, capsys):
    report = tmp_path / "report"
    options = ["--accuracy-at", "0.5,0.3,0.5", "--images", "20", "--no-sweep", "--out", tmp_path, "--report", report]
    assert run(tiny["svda"], tiny["dot"], "--data-root", fashion, *options) == 0
    assert "Accuracy of models of equal size" in capsys.readouterr().out
    runs = json.loads((report / "compression.json").read_text())["runs"]
    assert [row["budget"] for row in runs[1]["budgets"]] == [0.5, 0.3, 0.5, 0.3]
    page = (report / "compression.md").read_text()
    assert "| Accuracy (%), rows kept: | all | 50% | 30% |" in page
    assert cli_again(report) == page


def cli_again(report):
    """The page as ``svda report`` writes it again from the numbers."""
    with pytest.raises(SystemExit) as stop:
        cli.main(["report", str(report)])
    assert stop.value.code == 0
    return (report / "compression.md").read_text()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["--energy", "0"], "energy must lie in (0, 1], got 0.0"),
        (["--energy", "1.5"], "energy must lie in (0, 1], got 1.5"),
        (["--norm-logit", "-1"], "norm_logit must be at least 0"),
        (["--budget", "2"], "budget must lie in (0, 1], got 2.0"),
        (["--tolerance", "0"], "--tolerance must lie between 0 and 100 points, got 0"),
        (["--tolerance", "150"], "--tolerance must lie between 0 and 100 points, got 150"),
        (["--criterion", "best"], "criterion"),
        (["--energy", "0.5", "--min-logit", "1"], "exclude each other"),
        (["--images", "0"], "--images must be at least 1, got 0"),
        (["--sweep-images", "0"], "--sweep-images must be at least 1, got 0"),
        (["--sweep-images", "50", "--no-sweep"], "--sweep-images must be left out with --no-sweep, got 50"),
        (["--images", "-9000"], "--images must be at least 1, got -9000"),
        (["--accuracy-at", "0.4,40"], "--accuracy-at must hold shares in (0, 1], like 0.4,0.2, got '0.4,40'"),
        (["--accuracy-at", "many"], "--accuracy-at must hold shares in (0, 1]"),
        (["--accuracy-at", ""], "--accuracy-at must hold shares in (0, 1]"),
        (["--finetune-images", "9"], "--finetune-images needs --finetune, got 9 without it"),
        (["--finetune-images", "0", "--finetune", "1"], "--finetune-images must be at least 1, got 0"),
        (["--finetune", "-1"], "finetune must be at least 1 epoch, got -1"),
    ],
)
def test_bad_options_are_one_line_and_write_nothing(options, complaint, tiny, fashion, tmp_path, capsys):
    out, report = tmp_path / "small.pt", tmp_path / "report"
    code = run(tiny["svda"], "--data-root", fashion, "--out", out, "--report", report, "--images", "20", *options)
    errors = capsys.readouterr().err.splitlines()
    assert code == 2
    assert complaint in errors[-1]
    assert not out.exists()
    assert not report.exists()


def test_the_checkpoint_itself_is_never_overwritten(tiny, fashion, capsys):
    assert run(tiny["svda"], "--data-root", fashion, "--out", tiny["svda"]) == 2
    assert "--out must not be what it is made from, got" in capsys.readouterr().err


def test_nor_another_of_the_checkpoints(tiny, fashion, tmp_path, capsys):
    """Two checkpoints, and what compressing the first would be named is the second."""
    first, second = tmp_path / "vit.pt", tmp_path / "vit_b40.pt"
    for path in (first, second):
        path.write_bytes(tiny["dot"].read_bytes())
    before = second.read_bytes()
    common = ["--budget", "0.4", "--no-sweep", "--data-root", fashion, "--images", "20", "--report", tmp_path / "r"]
    assert run(first, second, *common) == 2
    assert "--out must not be what it is made from, got" in capsys.readouterr().err
    assert run(first, second, "--out", tmp_path / "." / ".." / tmp_path.name, *common) == 2
    assert second.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vit.pt", "vit_b40.pt"]


def test_one_checkpoint_goes_into_a_folder_that_is_there(tiny, fashion, tmp_path):
    common = ["--budget", "0.4", "--no-sweep", "--data-root", fashion, "--images", "20", "--report", tmp_path / "r"]
    (tmp_path / "small").mkdir()
    assert run(tiny["dot"], "--out", tmp_path / "small", *common) == 0
    assert [path.name for path in (tmp_path / "small").iterdir()] == ["dot_s0_b40.pt"]


def test_what_is_no_checkpoint_is_refused(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "svda_analysis.cli",
            "compress",
            "timm:vit_tiny_patch16_224",
            "--report",
            tmp_path / "r",
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 2
    assert "timm:vit_tiny_patch16_224 must be a checkpoint of svda train" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_several_checkpoints_share_a_report(tiny, fashion, tmp_path, capsys):
    again = tmp_path / "svda_s1.pt"  # the same model with another seed: another run of it
    origin = load(tiny["svda"])
    weights = {name: value * 1.01 for name, value in origin.model.items()}
    save(dataclasses.replace(origin, model=weights, recipe={**origin.recipe, "seed": 1}), again)
    common = ["--data-root", fashion, "--images", "40", "--report", tmp_path / "r", "--out", tmp_path / "small"]
    assert run(tiny["svda"], again, tiny["dot"], "--budget", "0.4", "--no-sweep", *common) == 0
    assert len(list((tmp_path / "small").glob("*_b40.pt"))) == 3
    content = json.loads((tmp_path / "r" / "compression.json").read_text())
    assert [one["rows_removed"] >= 0.6 for one in content["runs"]] == [True] * 3
    page = (tmp_path / "r" / "compression.md").read_text()
    assert "mean of 2 training runs" in page
    assert page.count("### What keeps the norm") == 1
    printed = capsys.readouterr().out
    assert "svda: " in printed
    assert "dot_s0: " in printed or "dot: " in printed


def test_a_report_that_cannot_be_drawn_leaves_no_checkpoint(tiny, fashion, tmp_path, monkeypatch, capsys):
    def fails(*_, **__):
        raise InputError("no report")

    monkeypatch.setattr("svda_analysis.compression.write_compression", fails)
    assert run(tiny["dot"], "--data-root", fashion, "--images", "20", "--out", tmp_path / "small.pt") == 2
    assert "no report" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("word", [".", "..", "/"])
def test_a_folder_is_no_checkpoint(word, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(word, "--out", "small.pt") == 2
    assert capsys.readouterr().err == f"error: {word} is a directory, expected a checkpoint file\n"
    assert list(tmp_path.iterdir()) == []


def test_the_report_of_checkpoints_in_the_root_has_a_folder_of_its_own():
    assert _report_folder(["/a.pt", "/b.pt"], None) == Path("reports/compression")
