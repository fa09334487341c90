"""A report of any kind, written again from its folder alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from compression_cases import a_run

from svda_analysis.analysis import analyze_runs
from svda_analysis.cli import main
from svda_analysis.compression import write_compression
from svda_analysis.errors import InputError
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.reports import render_folder
from svda_analysis.sections import write_report


def a_model():
    return ViT(ViTConfig(depth=1, dim=8, heads=2, patch_size=7)).eval()


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_an_analysis_is_written_again_without_models_or_images(tiny, fashion, tmp_path, capsys):
    analysis = analyze_runs(
        list(tiny.values()), data_root=fashion, images=20, maps=8, faithfulness=2, indicators=["attention_entropy"]
    )
    folder = tmp_path / "report"
    write_report(analysis, folder, command="svda-analyze a b")
    before = contents(folder)
    for path in folder.rglob("*.p[nd][gf]"):
        path.unlink()
    (folder / "summary.md").write_text("lost")
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(folder)])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"report: {folder / 'report.html'} ({len(before)} files)\n"
    assert contents(folder) == before


def test_all_reports_of_a_folder_are_written_again(tmp_path, capsys):
    analysis = analyze_runs([a_model()], torch.randn(4, 1, 28, 28), indicators=["attention_entropy"], examples=0)
    write_report(analysis, tmp_path, command="svda-analyze a")
    write_compression([a_run()], tmp_path, command="svda compress a")
    before = contents(tmp_path)
    for page in ("summary.md", "compression.md", "compression.png"):
        (tmp_path / page).unlink()
    with pytest.raises(SystemExit) as stopped:
        main(["report", str(tmp_path)])
    assert stopped.value.code == 0
    pages = [line.split()[1] for line in capsys.readouterr().out.splitlines()]
    assert pages == [str(tmp_path / "report.html"), str(tmp_path / "compression.html")]
    assert contents(tmp_path) == before
    (tmp_path / "compression.json").write_text('{"kind": "poem"}')
    (tmp_path / "summary.md").write_text("not touched")
    with pytest.raises(InputError, match=r"compression\.json must be of one of the kinds"):
        render_folder(tmp_path)
    assert (tmp_path / "summary.md").read_text() == "not touched"


def test_a_report_of_compressions_is_written_again_without_torch(tmp_path):
    write_compression([a_run()], tmp_path)
    code = (
        f"import sys\nfrom svda_analysis.compression.report import render_compression_again as r\nr({str(tmp_path)!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nprint('torch' in sys.modules)"], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("text", [None, "{", "[]", '{"kind": "poem"}'])
def test_what_is_no_report_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "meta.json").write_text(text)
    with pytest.raises(
        InputError, match=r"holds no report|must be of one of the kinds analysis, study, compression, got 'poem'"
    ):
        render_folder(tmp_path)


def test_a_folder_without_a_report_is_not_locked(tmp_path, monkeypatch):
    """A lock beside it would be a file in a place that no one named."""
    monkeypatch.setattr("svda_analysis.reports.only_writer", lambda *_: pytest.fail("it was locked"))
    for place in (tmp_path, tmp_path / "none", Path(os.devnull)):
        with pytest.raises(InputError, match="holds no report"):
            render_folder(place)
