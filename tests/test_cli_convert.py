"""``svda convert``: a model with another attention, opened by its path as any other."""

from __future__ import annotations

import json
import re
from pathlib import Path

from command_line import (
    empty_folder,  # noqa: F401  # commands run in it, each test by itself
    refused,
    run,
)

from svda_analysis.cli import analyze_main, main


def test_bad_input_of_convert_is_one_line(tiny, capsys):
    assert "no such file: none.pt" in refused(capsys, main, "convert", "none.pt", "--out", "new.pt")
    wrong = {"--blocks": "last:9", "--basis": "high", "--sigma-start": "two", "--distill": "-1"}
    for option, value in wrong.items():
        line = refused(capsys, main, "convert", tiny["dot"], "--out", "new.pt", option, value)
        assert option.strip("-").replace("-", "_") in line
        assert not Path("new.pt").exists()
    assert "out must be a file, got the directory new" in refused(capsys, main, "convert", tiny["dot"], "--out", "new/")


def test_what_convert_writes_is_analysed_by_its_path(tiny, fashion, without_figures, capsys):
    options = (
        "--blocks",
        "last:1",
        "--start",
        "weights",
        "--data",
        "sample",
        "--images",
        8,
        "--distill",
        2,
        "--distill-output",
        2,
    )
    assert run(main, "convert", tiny["dot"], *options, "--basis", "best", "--norm-row", 2, "--out", "late.pt") == 0
    said = capsys.readouterr().out
    assert re.search(r"^replaced: blocks\.\d+\.attention$", said, re.MULTILINE)
    assert re.search(r"first and last step: \d\.\d{4}, \d\.\d{4} nats", said)
    assert re.search(r"^1 - cosine of the outputs, first and last step: \d\.\d{5}, \d\.\d{5}$", said, re.MULTILINE)
    assert re.search(r"^model: late\.pt \(\d+\.\d MB\)$", said, re.MULTILINE)
    assert run(analyze_main, "late.pt", "--data", "sample", "--images", 20, "--quiet") == 0
    assert "sigma" in Path("reports/late/indicators.csv").read_text(encoding="utf-8")


def test_a_program_is_told_what_was_replaced_alone(tiny, capsys):
    assert run(main, "convert", tiny["dot"], "--blocks", "last:1", "--out", "late.pt", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["model"], found["bytes"]) == ("late.pt", Path("late.pt").stat().st_size)
    assert found["replaced"] == ["blocks.1.attention"]
    assert (found["images"], found["divergence"], found["warnings"]) == ("", [], [])
