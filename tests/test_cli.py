"""The command line: good runs write what they say, bad input is one line and exit code 2, and help needs no torch."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import urllib.error
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image

from svda_analysis.checkpoint import Checkpoint, load, save
from svda_analysis.cli import analyze_main, cli, main
from svda_analysis.data import DATASETS
from svda_analysis.frames import SPECTRA_COLUMNS, TABLE_COLUMNS
from svda_analysis.model import ViT, ViTConfig

README = Path(__file__).resolve().parents[1] / "README.md"
TINY = ["--set", "depth=1", "--set", "dim=8", "--set", "heads=2", "--set", "batch_size=100", "--set", "probe_images=16"]


@pytest.fixture(autouse=True)
def bare_machine(monkeypatch, tmp_path_factory):
    """Commands run in an empty folder, with no data set in sight, an empty home, and a network that fails."""

    def refuse(*_, **__):
        raise urllib.error.URLError("no\nnetwork")

    monkeypatch.delenv("SVDA_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))
    for name, spec in DATASETS.items():
        monkeypatch.setitem(DATASETS, name, dataclasses.replace(spec, usual_folders=()))
    monkeypatch.setattr("torchvision.datasets.utils.download_url", refuse)


@pytest.fixture
def without_figures(monkeypatch):
    """Reports without their figures, which take most of the time."""
    monkeypatch.setattr("svda_analysis.figures.registry.pictures", lambda *_, **__: [])


@pytest.fixture(scope="session")
def others(tmp_path_factory):
    """Untrained checkpoints that take colour images, and grey ones of 32 x 32; and files that are no checkpoints."""
    folder = tmp_path_factory.mktemp("others")
    small = {"depth": 1, "dim": 8, "heads": 2}
    for name, fields in {"rgb": {"in_channels": 3}, "large": {"image_size": 32}, "whole": {}}.items():
        config = ViTConfig(**small, **fields)
        data = {"name": "fashion_mnist", "classes": []}
        save(Checkpoint(config=config, model=ViT(config).state_dict(), epoch=0, data=data), folder / f"{name}.pt")
    data = (folder / "whole.pt").read_bytes()
    (folder / "half.pt").write_bytes(data[: len(data) // 2])
    (folder / "empty.pt").touch()
    (folder / "text.pt").write_text("these are no weights\n")
    (folder / "folder.pt").mkdir()
    (folder / "photographs" / "cats").mkdir(parents=True)
    (folder / "photographs" / "cats" / "notes.txt").write_text("no image")
    (folder / "colours" / "cats").mkdir(parents=True)
    Image.new("RGB", (40, 30), "red").save(folder / "colours" / "cats" / "1.png")
    return folder


class RunsCode:
    """Unpickling this makes a file named marker in the current folder."""

    def __reduce__(self):
        return os.system, ("touch marker",)


def tree(folder="."):
    return sorted(str(path) for path in Path(folder).rglob("*"))


def run(command, *arguments):
    """Run a command in this process; returns its exit code."""
    with pytest.raises(SystemExit) as caught:
        command([str(each) for each in arguments])
    return caught.value.code


def shell(*arguments, **environment):
    """Run a console script, or python with the arguments, as a process of its own, on one thread."""
    bin_folder = Path(sys.executable).parent
    name, *rest = map(str, arguments)
    start = [sys.executable] if name == "python" else [bin_folder / name]
    if not Path(start[0]).exists():  # not installed: the same function, by its module
        start = [sys.executable, "-c", f"from svda_analysis.cli import {SCRIPTS[name]} as main; main()"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHONWARNINGS")}
    return subprocess.run(
        [*start, *rest],
        capture_output=True,
        text=True,
        env={**clean, "OMP_NUM_THREADS": "1", **environment},
        timeout=120,
    )


SCRIPTS = {"svda": "main", "svda-analyze": "analyze_main"}


def one_error(stdout, stderr):
    """The one line of stderr after "error: "; nothing on stdout."""
    assert stdout == ""
    assert re.fullmatch(r"error: [^\n]+\n", stderr), stderr
    return stderr[len("error: ") : -1]


def refused(capsys, command, *arguments):
    """What a command of this process is refused with: exit code 2, one line on stderr, no new file anywhere here."""
    before = tree()
    code = run(command, *arguments)
    message = one_error(*capsys.readouterr())
    assert code == 2
    assert tree() == before
    return message


# --- bad input ------------------------------------------------------------------------------------------------------

# name -> arguments of svda-analyze, and a part of the message. GOOD is a checkpoint, OTHERS the folder of the others.
BAD_INPUT = {
    "no arguments": ([], "Missing argument"),
    "an unknown option": (["GOOD", "--imagse", "3"], "--imagse"),
    "no such file": (["OTHERS/none.pt"], "no such file: OTHERS/none.pt"),
    "no such file in two lines": (["OTHERS/no\nne.pt"], "no such file: OTHERS/no ne.pt"),
    "a directory": (["OTHERS/folder.pt"], "folder.pt is a directory"),
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
    "colour images for a grey model": (
        ["GOOD", "--data", "imagefolder:OTHERS/colours"],
        "the model takes grey 28 x 28",
    ),
    "images of another size": (["OTHERS/large.pt"], "images are 28 x 28, the model takes 32 x 32"),
    "another data set's size": (["GOOD", "--data", "cifar10"], "cifar10 images are 32 x 32, the model takes 28 x 28"),
    "a data set that is not there": (["OTHERS/large.pt", "--data", "cifar10"], "--data-root"),
    "precision 0": (["GOOD", "--precision", "0"], "precision must lie between 0 and 1, got 0"),
    "precision in words": (["GOOD", "--precision", "high"], "'high' is not a valid float"),
    "no images": (["GOOD", "--images", "0"], "images must be at least 1, got 0"),
    "half an image": (["GOOD", "--images", "0.5"], "'0.5' is not a valid integer"),
    "no batch": (["GOOD", "--batch-size", "0"], "batch_size must be at least 1, got 0"),
    "negative noise": (["GOOD", "--noise", "-1"], "noise must be at least 0, got -1"),
    "negative examples": (["GOOD", "--examples", "-1"], "examples must be at least 0, got -1"),
    "a seed beyond 64 bits": (["GOOD", "--seed", str(2**70)], "seed"),
    "a file in the way": (["GOOD", "--out", "OTHERS/text.pt"], "output folder OTHERS/text.pt cannot be written"),
    "a file on the way": (["GOOD", "--out", "OTHERS/text.pt/sub/folder"], "cannot be written"),
    "unknown indicators": (["GOOD", "--indicators", "effective_rank,entropie"], "got 'entropie'"),
    "an unknown baseline": (["GOOD", "--baseline", "vit"], "baseline must be one of dot, got 'vit'"),
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


# arguments of svda train behind those of a tiny run into folder/run.pt, and a part of the message
BAD_TRAINING = {
    "no data set named": ([], "Missing option '--dataset'"),
    "an unknown data set": (["--dataset", "cifar11"], "got 'cifar11'; did you mean cifar10"),
    "a number for a data set": (["--dataset", "10"], "got '10'"),
    "an empty folder": (["--dataset", "imagefolder:OTHERS/folder.pt"], "no images in OTHERS/folder.pt"),
    "an unknown attention": (["--dataset", "sample", "--attention", "linear"], "'linear' is not one of"),
    "an unknown preset": (["--dataset", "sample", "--preset", "vit_huge"], "got 'vit_huge'"),
    "a preset for other images": (["--dataset", "sample", "--preset", "cifar10"], "the model takes 32 x 32"),
    "a setting without a value": (["--dataset", "sample", "--set", "depth"], "--set must be KEY=VALUE, got 'depth'"),
    "an unknown setting": (["--dataset", "sample", "--set", "deep=3"], "got 'deep'"),
    "a setting in words": (["--dataset", "sample", "--set", "depth=three"], "depth must be a number like"),
    "half a layer": (["--dataset", "sample", "--set", "depth=1.5"], "depth must be a number like"),
    "a setting out of range": (["--dataset", "sample", "--set", "lr=-1"], "lr must be at least 0, got -1"),
    "a rate that is no number": (["--dataset", "sample", "--set", "lr=nan"], "lr must be at least 0, got nan"),
    "a switch in words": (["--dataset", "sample", "--set", "flip=maybe"], "flip must be true or false, got 'maybe'"),
    "a number for a word": (["--dataset", "sample", "--set", "sigma_form=1"], "sigma_form must be one of"),
    "sizes that do not fit": (["--dataset", "sample", "--set", "dim=9"], "dim must be a multiple of heads 2, got 9"),
    "no epochs": (["--dataset", "sample", "--epochs", "0"], "epochs must be at least 1, got 0"),
    "a stop before the start": (["--dataset", "sample", "--stop-after", "0"], "stop_after must be at least 1, got 0"),
    "a negative seed": (["--dataset", "sample", "--seed", "-1"], "seed must lie in"),
    "an unknown tracker": (["--dataset", "sample", "--track", "notebook"], "notebook"),
    "an output that is a folder": (["--dataset", "sample", "--out", "OTHERS/folder.pt"], "folder.pt"),
    "an output that exists": (
        ["--dataset", "sample", "--out", "OTHERS/whole.pt"],
        "out already exists: OTHERS/whole.pt",
    ),
    "an output under a file": (["--dataset", "sample", "--out", "OTHERS/text.pt/run.pt"], "cannot be written"),
    "a broken run to resume": (["--dataset", "sample", "--out", "OTHERS/half.pt", "--resume"], "half.pt is cut off"),
}


@pytest.mark.parametrize(("arguments", "said"), BAD_TRAINING.values(), ids=BAD_TRAINING)
def test_bad_input_of_train_is_one_line(others, capsys, arguments, said):
    before = {path: path.read_bytes() for path in others.glob("*.pt") if path.is_file()}
    filled = [
        each.replace("OTHERS", str(others)) for each in ["--out", "folder/run.pt", "--epochs", "1", *TINY, *arguments]
    ]
    assert said.replace("OTHERS", str(others)) in refused(capsys, main, "train", *filled)
    assert before == {path: path.read_bytes() for path in others.glob("*.pt") if path.is_file()}


def test_training_without_the_data_says_how_to_get_it(capsys):
    message = refused(capsys, main, "train", "--dataset", "fashion_mnist", "--out", "run.pt")
    assert "apt-get install dataset-fashion-mnist, or pass --data-root DIR" in message


def test_resuming_with_another_recipe_is_refused(tiny, fashion, capsys):
    shutil.copy(tiny["svda"], "run.pt")
    before = Path("run.pt").read_bytes()
    arguments = ["train", "--dataset", "fashion_mnist", "--data-root", fashion, "--out", "run.pt", "--resume"]
    arguments += ["--set", "depth=2", "--set", "dim=24", "--set", "heads=2", "--epochs", 1]
    message = refused(capsys, main, *arguments, "--set", "batch_size=100", "--set", "probe_images=16", "--seed", "3")
    assert "run.pt cannot be resumed with another recipe: seed 0 -> 3" in message
    assert Path("run.pt").read_bytes() == before


def test_bad_input_of_export_is_one_line(tiny, capsys):
    assert "no such file: none.pt" in refused(capsys, main, "export", "none.pt", "new.pt")
    Path("file").touch()
    assert "file/new.pt cannot be written" in refused(capsys, main, "export", tiny["dot"], "file/new.pt")
    assert "No such command 'exprot'" in refused(capsys, main, "exprot")


def test_bad_input_of_real_processes_is_one_line(tiny, others):
    Path("evil.pt").write_bytes(pickle.dumps(RunsCode(), 2))
    for arguments, said in (
        (["svda-analyze"], "Missing argument"),
        (["svda-analyze", tiny["dot"], "--presicion", "0.1"], "--presicion"),
        (["python", "-m", "svda_analysis.cli", "analyze", "evil.pt"], "evil.pt was refused: it holds posix.system"),
        (["svda-analyze", others / "half.pt"], "half.pt is cut off or damaged"),
        (["svda", "train", "--dataset", "imagefolder:none", "--out", "run.pt"], "none is not a folder"),
    ):
        done = shell(*arguments)
        assert said in one_error(done.stdout, done.stderr)
        assert done.returncode == 2
    assert tree() == ["evil.pt"]


# --- help -----------------------------------------------------------------------------------------------------------


def test_help_and_the_bare_import_need_no_torch():
    script = """
        import sys
        import svda_analysis
        heavy = {"torch", "torchvision", "numpy", "pandas", "matplotlib", "seaborn", "scipy", "accelerate", "captum"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        from svda_analysis.cli import cli, main, analyze_main
        for command, arguments in [(analyze_main, ["-h"]), (main, []), (main, ["--version"]), (main, ["--help"]), *(
            (main, [name, "--help"]) for name in cli.commands
        )]:
            try:
                command(arguments)
            except SystemExit as done:
                assert done.code == (0 if arguments else 2), arguments
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
    """
    done = shell("python", "-c", "\n".join(line.removeprefix(" " * 8) for line in script.splitlines()))
    assert (done.returncode, done.stderr) == (0, "")
    assert "svda-analyze [OPTIONS] MODEL..." in done.stdout
    assert re.search(r"^svda, version \d+\.\d+", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", ["", *cli.commands])
def test_every_help_text_ends_in_an_example(name, capsys):
    command = cli.commands[name] if name else cli
    *_, title, last = [line.strip() for line in command.help.splitlines() if line.strip()]
    assert last.startswith(("svda", "torchrun")), last
    assert re.search(r"\bExamples?:", command.help), title
    assert run(main, *([name] if name else []), "--help") == 0
    assert last in capsys.readouterr().out


@pytest.mark.skipif(not README.exists(), reason="there is no README.md yet")
@pytest.mark.parametrize("name", cli.commands)
def test_every_command_is_in_the_readme(name):
    assert re.search(rf"\bsvda[ -]{name}\b", README.read_text(encoding="utf-8"))


# --- good runs ------------------------------------------------------------------------------------------------------


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
    assert capsys.readouterr().out.startswith("report: again/summary.md")
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


def test_a_training_in_two_parts_equals_one_in_a_single_run(fashion, capsys):
    start = ["train", "--dataset", "fashion_mnist", "--data-root", fashion, "--seed", 5, "--epochs", 4, *TINY]
    start += ["--set", "dropout=0.1"]
    assert run(main, *start, "--out", "whole.pt") == 0
    assert run(main, *start, "--out", "parts.pt", "--stop-after", 2) == 0
    assert load("parts.pt").epoch == 2
    assert run(main, *start, "--out", "parts.pt", "--resume") == 0
    printed = capsys.readouterr().out
    assert "checkpoint: parts.pt (epoch 2 of 4)" in printed
    assert printed.count("epoch 4/4  train loss ") == 2
    whole, parts = load("whole.pt"), load("parts.pt")
    assert whole.epoch == parts.epoch == 4
    for name, weight in whole.model.items():
        assert torch.equal(weight, parts.model[name]), name
    for key, state in whole.optimizer["state"].items():
        assert all(torch.equal(value, parts.optimizer["state"][key][name]) for name, value in state.items())
    left, right = (
        each.history[each.history["indicator"] != "epoch_seconds"].drop(columns="model") for each in (whole, parts)
    )
    assert set(left["epoch"]) == {1, 2, 3, 4}
    pd.testing.assert_frame_equal(left, right, check_exact=True)


def test_export_is_smaller_and_still_analysed(tiny, fashion, without_figures, capsys):
    assert run(main, "export", tiny["dot"], "shared.pt") == 0
    assert re.fullmatch(r"checkpoint: shared\.pt \(\d+\.\d MB\)\n", capsys.readouterr().out)
    assert Path("shared.pt").stat().st_size < tiny["dot"].stat().st_size
    assert run(analyze_main, "shared.pt", "--data-root", fashion, "--images", 20, "--quiet") == 0
    assert Path("reports/shared/indicators.csv").exists()


def test_faithfulness_adds_its_rows_and_its_control(tiny, fashion, capsys, without_figures):
    arguments = [str(tiny["svda"]), "--data-root", str(fashion), "--indicators", "attention_entropy", "--images", "16"]
    with pytest.raises(SystemExit) as stopped:
        analyze_main([*arguments, "--out", "out", "--faithfulness", "6"])
    assert stopped.value.code == 0
    table = pd.read_csv("out/indicators.csv").astype(TABLE_COLUMNS)
    rows = table[table["indicator"].isin(["deletion_auc", "insertion_auc"])]
    assert set(rows["source"]) == {"rollout", "relevance", "cls_attention", "random"}
    assert (rows["n"] == 6).all()
    assert set(rows["model"]) == {table["model"].iloc[0]}
    assert "Deletion AUC" in Path("out/table.tex").read_text()
    with pytest.raises(SystemExit) as stopped:
        analyze_main([*arguments, "--out", "out", "--faithfulness", "0"])
    assert stopped.value.code == 2
    assert "faithfulness must be at least 1, got 0" in capsys.readouterr().err
