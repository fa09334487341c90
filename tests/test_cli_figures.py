"""``svda figures``: where it writes, and what it refuses."""

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


def test_the_figures_of_a_report_lie_beside_it(tmp_path, without_figures, capsys):
    analysis = Analysis(table=make_table(seeds=1), spectra=make_frame([], SPECTRA_COLUMNS))
    write_report(analysis, tmp_path / "report", command="svda-analyze a b")
    assert run(main, "figures", tmp_path / "report", "--width", "text", "--font", "serif") == 0
    out = tmp_path / "report-figures"
    assert capsys.readouterr().out == f"figures: {out / 'figures.tex'} (3 files)\n"
    assert run(main, "figures", tmp_path / "report", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["figures"] == str(out)
    assert sorted(found["files"]) == sorted(str(path) for path in out.iterdir())
    assert r"\begin{tabular}" in (out / "tables.tex").read_text()


def test_what_is_no_report_or_no_width_is_one_line(tmp_path, capsys):
    assert f"{tmp_path} holds no report" in refused(capsys, main, "figures", tmp_path)
    assert "width must be column, text or inches" in refused(capsys, main, "figures", tmp_path, "--width", "narrow")
    assert "is not one of 'sans', 'serif'" in refused(capsys, main, "figures", tmp_path, "--font", "comic")


def test_the_folder_that_one_stands_in_has_its_figures_beside_it(tmp_path, without_figures, monkeypatch, capsys):
    analysis = Analysis(table=make_table(seeds=1), spectra=make_frame([], SPECTRA_COLUMNS))
    write_report(analysis, tmp_path / "report")
    (tmp_path / "report" / "deeper").mkdir()
    for place, word in (("report", "."), ("report/deeper", "..")):
        monkeypatch.chdir(tmp_path / place)
        assert run(main, "figures", word) == 0
        assert capsys.readouterr().out == f"figures: {tmp_path / 'report-figures' / 'figures.tex'} (3 files)\n"
    assert "/ holds no report" in refused(capsys, main, "figures", "/")
