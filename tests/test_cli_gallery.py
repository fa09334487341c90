"""``svda gallery``."""

import json

from command_line import empty_folder, refused, run  # noqa: F401
from test_gallery import a_report

from svda_analysis.cli import main


def test_it_names_the_page_and_opens_it_when_asked_to(capsys, monkeypatch, tmp_path):
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    a_report(tmp_path / "reports" / "one")
    monkeypatch.chdir(tmp_path)
    assert run(main, "gallery") == 0
    assert capsys.readouterr().out == "gallery: reports/index.html\n"
    assert run(main, "gallery", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "gallery": "reports/index.html",
        "plain_words": None,
        "warnings": [],
    }
    assert run(main, "gallery", "reports", "--open") == 0
    assert opened == [(tmp_path / "reports" / "index.html").as_uri()]


def test_a_folder_without_reports_is_one_line(capsys):
    assert "none must hold reports" in refused(capsys, main, "gallery", "none")
