"""``svda report``: written again from a folder, and what is no report is one line."""

import json

from command_line import (
    empty_folder,  # noqa: F401  # commands run in it, each test by itself
    refused,
    run,
)
from figure_frames import make_table

from svda_analysis.cli import main
from svda_analysis.frames import SPECTRA_COLUMNS, make_frame
from svda_analysis.results import Analysis
from svda_analysis.sections import write_report


def test_a_lost_page_is_there_again_and_the_command_names_it(tmp_path, without_figures, capsys):
    analysis = Analysis(table=make_table(seeds=1), spectra=make_frame([], SPECTRA_COLUMNS))
    written = write_report(analysis, tmp_path / "report", command="svda-analyze a b")
    before = written[0].read_text()
    written[0].unlink()
    assert run(main, "report", tmp_path / "report") == 0
    assert capsys.readouterr().out == f"report: {tmp_path / 'report' / 'report.html'} ({len(written)} files)\n"
    assert written[0].read_text() == before
    assert run(main, "report", tmp_path / "report", "--json") == 0
    (found,) = json.loads(capsys.readouterr().out)["reports"]
    assert found == {"report": str(tmp_path / "report" / "report.html"), "files": [str(path) for path in written]}


def test_a_folder_of_reports_has_each_written_again(tmp_path, without_figures, capsys):
    analysis = Analysis(table=make_table(seeds=1), spectra=make_frame([], SPECTRA_COLUMNS))
    (tmp_path / "other").mkdir()
    pages = [tmp_path / name / "report.html" for name in ("one", "two")]
    for page in pages:
        write_report(analysis, page.parent)
        page.unlink()
    assert run(main, "report", tmp_path, "--quiet") == 0
    assert all(page.is_file() for page in pages)
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == [str(page) for page in pages]
    pages[0].unlink()
    (tmp_path / "two" / "meta.json").write_text("{")
    said = refused(capsys, main, "report", tmp_path)
    assert f"{tmp_path / 'two'} holds no report: its meta.json cannot be read" in said
    assert not pages[0].exists()  # it was told before any was written


def test_a_folder_without_a_report_is_one_line(tmp_path, capsys):
    assert f"{tmp_path} holds no report" in refused(capsys, main, "report", tmp_path)
    assert "none holds no report" in refused(capsys, main, "report", "none")
    assert "Missing argument 'FOLDER'" in refused(capsys, main, "report")
