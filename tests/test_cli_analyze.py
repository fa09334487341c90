"""``svda analyze``: good runs write what they say, bad input is one line and exit code 2."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from command_line import (
    RunsCode,
    empty_folder,  # noqa: F401  # commands run in it, each test by itself
    refused,
    run,
    shell,
    tree,
)

from svda_analysis.analysis import analyze_runs
from svda_analysis.checkpoint import load, save
from svda_analysis.cli import analyze_main, main
from svda_analysis.cli.analyze import _report_name
from svda_analysis.frames import SPECTRA_COLUMNS, TABLE_COLUMNS

# name -> arguments of svda-analyze, and a part of the message. GOOD is a checkpoint, OTHERS the folder of the others.
BAD_INPUT = {
    "no arguments": ([], "Missing argument"),
    "an unknown option": (["GOOD", "--imagse", "3"], "--imagse"),
    "no such file": (["OTHERS/none.pt"], "no such file: OTHERS/none.pt"),
    "no such file in two lines": (["OTHERS/no\nne.pt"], "no such file: OTHERS/no ne.pt"),
    "a folder without checkpoints": (["OTHERS/folder.pt"], "no finished checkpoint (*.pt) in OTHERS/folder.pt"),
    "an empty file": (["OTHERS/empty.pt"], "empty.pt is empty"),
    "a text file": (["OTHERS/text.pt"], "text.pt is not a checkpoint"),
    "half a checkpoint": (["OTHERS/half.pt"], "half.pt is cut off or damaged"),
    "a broken one behind a good one": (["GOOD", "OTHERS/half.pt"], "half.pt is cut off or damaged"),
    "an unknown data set": (["GOOD", "--data", "fashon_mnist"], "got 'fashon_mnist'; did you mean fashion_mnist?"),
    "a data set of no name": (["GOOD", "--data", ""], "fashion_mnist, cifar10, cifar100"),
    "a folder without images": (
        ["GOOD", "--data", "imagefolder:OTHERS/photographs"],
        "no images in OTHERS/photographs",
    ),
    "a folder without classes": (["GOOD", "--data", "imagefolder:OTHERS/folder.pt"], "no images in OTHERS/folder.pt"),
    "no folder": (["GOOD", "--data", "imagefolder:OTHERS/none"], "OTHERS/none is not a folder"),
    "grey images for a colour model": (["OTHERS/rgb.pt"], "images are grey 28 x 28, the model takes RGB 28 x 28"),
    "images of another size": (["OTHERS/large.pt"], "images are 28 x 28, the model takes 32 x 32"),
    "another data set's size": (["GOOD", "--data", "cifar10"], "cifar10 images are 32 x 32, the model takes 28 x 28"),
    "a data set that is not there": (["OTHERS/large.pt", "--data", "cifar10"], "--data-root"),
    "precision 0": (["GOOD", "--precision", "0"], "precision must lie between 0 and 1, got 0"),
    "precision in words": (["GOOD", "--precision", "high"], "'high' is not a valid float"),
    "no images": (["GOOD", "--images", "0"], "images must be at least 1, got 0"),
    "half an image": (["GOOD", "--images", "0.5"], "'0.5' is not a valid integer"),
    "no batch": (["GOOD", "--batch-size", "0"], "batch_size must be at least 1, got 0"),
    "negative noise": (["GOOD", "--noise", "-1"], "noise must be a finite number of at least 0, got -1"),
    "negative examples": (["GOOD", "--examples", "-1"], "examples must be at least 0, got -1"),
    "a seed beyond 64 bits": (["GOOD", "--seed", str(2**70)], "seed"),
    "a file in the way": (["GOOD", "--out", "OTHERS/text.pt"], "output folder OTHERS/text.pt cannot be written"),
    "a file on the way": (["GOOD", "--out", "OTHERS/text.pt/sub/folder"], "cannot be written"),
    "unknown indicators": (["GOOD", "--indicators", "effective_rank,entropie"], "got 'entropie'"),
    "an unknown baseline": (["GOOD", "--baseline", "vit"], "baseline must be one of dot, got 'vit'"),
    "a grid in words": (["GOOD", "--grid", "seven"], "--grid must be ROWSxCOLUMNS like 14x14, got 'seven'"),
    "another grid": (
        ["GOOD", "--grid", "3x3", "--prefix-tokens", "1", "--suffix-tokens", "0"],
        "are 7 x 7 patches, 1 before them, but given was grid=(3, 3)",
    ),
    "no frames": (["GOOD", "--frames", "0"], "frames must be at least 1, got 0"),
    "an unknown device": (["GOOD", "--device", "tpu9"], "tpu9"),
    "a device that is not there": (["GOOD", "--device", "cuda:99"], "cuda:99"),
}


@pytest.mark.parametrize(("arguments", "said"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_of_analyze_is_one_line(tiny, others, fashion, capsys, monkeypatch, arguments, said):
    monkeypatch.setenv("SVDA_DATA", str(fashion))
    places = {"GOOD": str(tiny["dot"]), "OTHERS": str(others)}

    def fill(text):
        return re.sub("GOOD|OTHERS", lambda found: places[found[0]], text)

    assert fill(said) in refused(capsys, analyze_main, *map(fill, arguments))


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_a_pickle_that_would_run_code_is_refused(capsys, protocol):
    Path("plain.pt").write_bytes(pickle.dumps(RunsCode(), protocol))
    torch.save({"model": RunsCode()}, "torch.pt", pickle_protocol=protocol)
    for name in ("plain.pt", "torch.pt"):
        assert f"{name} was refused" in refused(capsys, analyze_main, name)
    assert not Path("marker").exists()


def test_one_checkpoint_gives_a_table_and_a_report(tiny, fashion, without_figures, capsys, monkeypatch):
    # a real process draws the figures; the second run is in this process and draws none
    done = shell("svda-analyze", tiny["svda"], SVDA_DATA=str(fashion))
    assert (done.returncode, done.stderr) == (0, "")
    assert "Attention entropy" in done.stdout
    assert re.search(r"test accuracy, svda: \d+\.\d\d% \[", done.stdout)
    assert done.stdout.endswith("files)\n")
    folder = Path("reports/svda_s0")
    written = set(tree(folder))
    for name in ("indicators.csv", "spectra.csv", "history.csv", "meta.json", "summary.md", "table.tex"):
        assert str(folder / name) in written
        assert (folder / name).stat().st_size
    drawn = {path.stem for path in (folder / "figures").glob("*.pdf")}
    assert {path.stem for path in (folder / "figures").glob("*.png")} == drawn
    assert len(drawn) >= 4
    assert set(os.listdir(folder)) == {path.split("/")[2] for path in written}  # no unfinished file is left

    table = pd.read_csv(folder / "indicators.csv")
    assert list(table) == list(TABLE_COLUMNS)
    assert list(pd.read_csv(folder / "spectra.csv")) == list(SPECTRA_COLUMNS)
    assert set(table["model"]) == {"svda"}
    assert {"sigma", "scores", "attention", "test"} == set(table["source"])
    assert set(table["layer"].dropna()) == set(table["head"].dropna()) == {0, 1}
    assert table.loc[table["indicator"] == "accuracy", "n"].item() == 120
    meta = json.loads((folder / "meta.json").read_text())
    assert meta["command"] == f"svda-analyze {tiny['svda']}"
    assert meta["command"] in (folder / "summary.md").read_text()
    assert (meta["warnings"], meta["runs"][0]["images"]) == ([], 120)
    assert meta["runs"][0]["recipe"]["batch_size"] == 100

    monkeypatch.setenv("SVDA_DATA", str(fashion))
    assert run(analyze_main, tiny["svda"], "--out", "again", "--quiet") == 0
    assert capsys.readouterr().out.startswith("report: again/report.html")
    assert Path("again/indicators.csv").read_bytes() == (folder / "indicators.csv").read_bytes()
    assert Path("again/spectra.csv").read_bytes() == (folder / "spectra.csv").read_bytes()


def test_two_checkpoints_are_compared(tiny, fashion, capsys):
    odd = Path("sets [/of] data")  # what a terminal library could take for markup
    odd.parent.mkdir()
    odd.symlink_to(fashion)
    arguments = [*tiny.values(), "--data-root", odd, "--indicators", "attention_entropy, effective_rank"]
    assert run(main, "analyze", *arguments, "--out", "out", "--examples", 1) == 0
    printed, warned = capsys.readouterr()
    assert warned == ""
    assert "sets [/of] data" in printed.replace("\n", " ")
    assert "svda against dot, one run each" in printed
    table, comparison = pd.read_csv("out/indicators.csv"), pd.read_csv("out/comparison.csv")
    assert set(table["indicator"]) == {"attention_entropy", "effective_rank", "accuracy", "loss"}
    assert set(table["model"]) == {"dot", "svda"}
    assert set(comparison["baseline"]) == {"dot"}
    assert {"model", "indicator", "source", "difference", "ci_low", "ci_high", "p_adjusted"} <= set(comparison)
    assert "svda against dot" in Path("out/summary.md").read_text()
    assert Path("out/figures").is_dir()


def test_a_folder_of_checkpoints_is_analysed_by_model_and_answers_in_json(tiny, fashion, without_figures, capsys):
    place = Path("runs")
    (place / "a").mkdir(parents=True)
    for kind, path in tiny.items():
        (place / "a" / f"{kind}_s0.pt").write_bytes(path.read_bytes())
        checkpoint = load(path)
        save(dataclasses.replace(checkpoint, recipe={**checkpoint.recipe, "seed": 1}), place / f"{kind}_s1.pt")
    (place / "half.pt").write_bytes(tiny["dot"].read_bytes()[:1000])
    arguments = ["--data-root", fashion, "--indicators", "selectivity_index", "--images", 16, "--examples", 0]
    assert run(analyze_main, place, *arguments, "--json") == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert [(one["model"], one["seed"], one["images"]) for one in found["runs"]] == [
        ("dot", 0, 16), ("svda", 0, 16), ("dot", 1, 16), ("svda", 1, 16)
    ]  # fmt: skip
    assert found["report"] == "reports/runs/report.html"
    assert set(found["files"]) >= {found["report"], "reports/runs/indicators.csv"}
    assert all(Path(name).is_file() for name in found["files"])
    (row,) = [one for one in found["comparison"] if one["indicator"] == "selectivity_index"]
    assert (row["model"], row["baseline"], row["unit"], row["n_seeds"]) == ("svda", "dot", "seeds", 2)
    means = {one["model"]: one["mean"] for one in found["summary"] if one["indicator"] == "selectivity_index"}
    assert row["difference"] == pytest.approx(means["svda"] - means["dot"])
    (warning,) = found["warnings"]
    assert warning.startswith("left out: runs/half.pt is cut off or damaged")
    assert err == f"warning: {warning}\n"


def test_as_many_images_as_the_precision_needs_are_measured(tiny, fashion, without_figures, capsys):
    arguments = [tiny["svda"], "--data-root", fashion, "--examples", 0, "--out", "out"]
    chosen = ["--indicators", "attention_entropy"]
    assert run(analyze_main, *arguments, *chosen, "--precision", 0.2) == 0
    said = "stopped after 64 of 120 images: every interval within 20 %"
    assert said in capsys.readouterr().out
    assert "64 (every interval within 20 %)" in Path("out/report.html").read_text()
    assert run(analyze_main, *arguments, *chosen) == 0  # no 120 images tell an accuracy to 1 %
    assert json.loads(Path("out/meta.json").read_text())["runs"][0]["settings"]["precision"] == 0.01
    assert "stopped after" not in capsys.readouterr().out
    for words, images, precision in ((["--images", "all"], 120, None), (["--images", 8, "--precision", 0.9], 8, 0.9)):
        assert run(analyze_main, *arguments, *chosen, *words, "--json") == 0
        assert [one["images"] for one in json.loads(capsys.readouterr().out)["runs"]] == [images]
        assert json.loads(Path("out/meta.json").read_text())["runs"][0]["settings"]["precision"] == precision


def test_the_report_of_one_replaces_the_report_of_two(tiny, fashion, without_figures, capsys):
    arguments = ["--data-root", fashion, "--indicators", "attention_entropy", "--out", "out", "--images", 20]
    assert run(analyze_main, *tiny.values(), *arguments) == 0
    assert Path("out/comparison.csv").exists()
    assert run(analyze_main, tiny["dot"], *arguments) == 0
    assert not Path("out/comparison.csv").exists()


def test_the_bundled_sample_stands_in_for_missing_data(tiny, without_figures, capsys):
    assert run(analyze_main, tiny["dot"], "--images", 20, "--out", "out", "--indicators", "attention_entropy") == 0
    meta = json.loads(Path("out/meta.json").read_text())
    warning = meta["warnings"][0]
    assert "bundled sample" in warning
    assert "apt-get install dataset-fashion-mnist" in warning
    assert meta["runs"][0]["dataset"] == "sample"
    assert f"**Warning: {warning}**" in Path("out/summary.md").read_text()
    assert capsys.readouterr().err == f"warning: {warning}\n"
    assert Path("out/table.tex").read_text().startswith(f"% WARNING: {warning}\n")


def test_faithfulness_adds_its_rows_and_its_control(tiny, fashion, capsys, without_figures):
    arguments = [str(tiny["svda"]), "--data-root", str(fashion), "--indicators", "attention_entropy", "--images", "16"]
    with pytest.raises(SystemExit) as stopped:
        analyze_main([*arguments, "--out", "out", "--faithfulness", "6"])
    assert stopped.value.code == 0
    table = pd.read_csv("out/indicators.csv").astype(TABLE_COLUMNS)
    rows = table[table["indicator"].isin(["deletion_auc", "insertion_auc"])]
    assert set(rows["source"]) == {"rollout", "relevance", "cls_attention", "brightness", "centre", "random"}
    assert (rows["n"] == 6).all()
    assert set(rows["model"]) == {table["model"].iloc[0]}
    text = Path("out/table.tex").read_text()
    assert ("Deletion gain" in text, "Deletion AUC" in text) == (True, False)  # of areas the file of numbers knows
    with pytest.raises(SystemExit) as stopped:
        analyze_main([*arguments, "--out", "out", "--faithfulness", "0"])
    assert stopped.value.code == 2
    assert "faithfulness must be at least 1, got 0" in capsys.readouterr().err


def test_metrics_of_faithfulness_are_chosen_by_group(tiny, fashion, capsys, without_figures):
    arguments = [
        tiny["svda"],
        "--data-root",
        fashion,
        "--indicators",
        "attention_entropy",
        "--images",
        16,
        "--out",
        "out",
    ]
    assert run(analyze_main, *arguments, "--faithfulness", 3, "--metrics", "source,deletion_gain") == 0
    table = pd.read_csv("out/indicators.csv")
    shares = {f"source_{kind}_{share}" for kind in ("deletion", "insertion") for share in (10, 20, 30)}
    assert set(table["indicator"][table["layer"].isna()]) - {"accuracy", "loss"} == {"deletion_gain", *shares}
    capsys.readouterr()
    said = refused(capsys, analyze_main, *arguments, "--faithfulness", 3, "--metrics", "sauce")
    assert "metrics must be among default, cascade, fillers, tokens, source, " in said
    assert "needs its images" in refused(capsys, analyze_main, *arguments, "--metrics", "source")


# --- several processes ------------------------------------------------------------------------------------------------


def torchrun(*arguments):
    """``svda analyze`` in two processes of torchrun."""
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "svda_analysis", "analyze"]
    return shell("python", *launch, *arguments)


GLOO = r"\[Gloo\] Rank|is connected to|peer ranks\.|Expected number of connected peer ranks is :|\d|\s"


def said_by_us(text):
    """Without what gloo prints at the start in older versions of torch, whose pieces two processes mix."""
    head, report, rest = text.partition("report: ")
    return re.sub(GLOO, "", head) + report + rest


def test_two_processes_write_what_one_writes():
    checkpoint = Path(__file__).resolve().parents[1] / "checkpoints" / "fashion_mnist" / "svda_s0.pt"
    few = ["effective_rank", "perturbation_robustness", "position_share"]
    given = ["--data", "sample", "--images", 200, "--examples", 0, "--indicators", ",".join(few)]
    done = torchrun(checkpoint, *given, "--out", "two", "--quiet")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"report: two/report.html \(\d+ files\)\n", said_by_us(done.stdout))  # once
    assert set(os.listdir()) == {"two"}
    analyze_runs(checkpoint, "sample", images=200, examples=0, indicators=few).save("one")
    for name in ("indicators.csv", "spectra.csv"):
        found, wanted = (pd.read_csv(f"{folder}/{name}") for folder in ("two", "one"))
        pd.testing.assert_frame_equal(found, wanted, rtol=1e-12, atol=0)
        assert len(wanted) > 40
    assert json.loads(Path("two/meta.json").read_text())["runs"][0]["images"] == 200


def test_several_processes_refuse_bad_input_in_one_line():
    done = torchrun("none.pt", "--data", "sample")
    assert done.returncode != 0
    assert said_by_us(done.stdout) == ""
    assert done.stderr.count("error: no such file: none.pt") == 1
    assert re.search(r"exitcode +: 2 ", done.stderr)
    assert not os.listdir()


def test_what_lies_in_the_root_names_no_folder():
    assert _report_name(["/"], "svda_s0") == "svda_s0"
