"""``svda export``: a smaller checkpoint that is analysed as any other."""

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


def test_bad_input_of_export_is_one_line(tiny, capsys):
    assert "no such file: none.pt" in refused(capsys, main, "export", "none.pt", "new.pt")
    Path("file").touch()
    assert "file/new.pt cannot be written" in refused(capsys, main, "export", tiny["dot"], "file/new.pt")
    assert refused(capsys, main, "export", tiny["dot"], "/").startswith("target")


def test_export_is_smaller_and_still_analysed(tiny, fashion, without_figures, capsys):
    assert run(main, "export", tiny["dot"], "shared.pt") == 0
    assert re.fullmatch(r"checkpoint: shared\.pt \(\d+\.\d MB\)\n", capsys.readouterr().out)
    assert Path("shared.pt").stat().st_size < tiny["dot"].stat().st_size
    assert run(analyze_main, "shared.pt", "--data-root", fashion, "--images", 20, "--quiet") == 0
    assert Path("reports/shared/indicators.csv").exists()


def test_a_program_is_told_the_file_and_its_size(tiny, tmp_path, capsys):
    target = tmp_path / "small.pt"
    assert run(main, "export", tiny["dot"], target, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found == {"checkpoint": str(target), "bytes": target.stat().st_size, "warnings": []}
    assert "target must be a file, got the directory" in refused(capsys, main, "export", tiny["dot"], f"{tmp_path}/no/")
