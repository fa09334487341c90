"""``svda paper``: its options, and what it says."""

from __future__ import annotations

import re
import shlex

import pytest

from svda_analysis.cli import main


def test_from_takes_no_option_of_training(manifest, tmp_path, capsys):
    for more in (["--jobs", "2"], ["--checkpoints", "x"]):
        with pytest.raises(SystemExit) as stopped:
            main(["paper", str(manifest), "--from", str(tmp_path), "--out", str(tmp_path / "out"), *more])
        assert stopped.value.code == 2
        assert "--from trains nothing" in capsys.readouterr().err


def test_it_says_each_run_and_where_the_report_is(whole_study):
    lines = whole_study.said.splitlines()
    runs = [line for line in lines if line.startswith("run ")]
    assert runs[0] == "run 1 of 4: fashion_mnist vit seed 0"
    assert re.fullmatch(rf"report: {re.escape(str(whole_study.out))}/report.html \(\d+ files\)", lines[-1])
    assert "Made by `svda paper " in (whole_study.out / "README.md").read_text()


def test_after_an_interruption_it_says_how_to_go_on(manifest, tmp_path, capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("svda_analysis.study.train_missing", interrupted)
    words = ["paper", str(manifest), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 130
    said = f"interrupted; what is done is kept, go on with: {shlex.join(['svda', *words])}"
    assert capsys.readouterr().err == f"{said}\n"
