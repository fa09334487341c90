"""A report of any kind, written again from its folder alone."""

import pytest

from svda_analysis.analysis import analyze_runs
from svda_analysis.cli import main
from svda_analysis.errors import InputError
from svda_analysis.reports import render_folder
from svda_analysis.sections import write_report


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
    assert capsys.readouterr().out == f"report: {folder / 'summary.md'} ({len(before)} files)\n"
    assert contents(folder) == before


@pytest.mark.parametrize("text", [None, "{", "[]", '{"kind": "poem"}'])
def test_what_is_no_report_is_refused(tmp_path, text):
    if text is not None:
        (tmp_path / "meta.json").write_text(text)
    with pytest.raises(InputError, match=r"holds no report|must be of one of the kinds analysis, study"):
        render_folder(tmp_path)
