"""Figures and tables of a report for a paper."""

import re

import matplotlib as mpl
import pytest
from figure_frames import make_table

from svda_analysis.errors import InputError
from svda_analysis.frames import SPECTRA_COLUMNS, make_frame
from svda_analysis.results import Analysis
from svda_analysis.sections import write_report
from svda_analysis.typesetting import width_in_inches, write_figures

mpl.use("Agg")
ONLY = ("overview", "comparison", "s*_v*")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "mine"
    table = make_table().replace({"indicator": {"attention_entropy": "selectivity_index"}})
    write_report(Analysis(table=table, spectra=make_frame([], SPECTRA_COLUMNS)), folder, command="svda-analyze a b")
    return folder


def media_width(pdf):
    """The width of a page of a PDF in inches."""
    found = re.search(rb"/MediaBox \[ ?0 0 ([\d.]+) ", pdf.read_bytes())
    return float(found[1]) / 72


@pytest.mark.parametrize(("width", "inches", "star"), [("column", 3.4, ""), ("text", 7.0, "*"), ("5.5", 5.5, "")])
def test_figures_are_as_wide_as_asked_and_included_as_they_are(report, tmp_path, width, inches, star):
    written = write_figures(report, tmp_path / "out", width=width, font="serif", only=ONLY)
    assert written[0].name == "figures.tex"
    text = written[0].read_text()
    files = re.findall(r"\\includegraphics\{(.*?)\}", text)
    assert files == ["overview.pdf", "comparison.pdf"]
    assert {path.name for path in written} == {"figures.tex", "tables.tex", "figures.json", *files}
    for name in files:
        assert media_width(tmp_path / "out" / name) == pytest.approx(inches, abs=0.01)
    assert text.count(f"\\begin{{figure{star}}}[t]") == text.count(f"\\end{{figure{star}}}") == 2
    assert text.count(r"\caption{") == text.count(r"\label{fig:") == 2
    assert re.search(r"Effective rank \(scores\): [\d.]+ in svda against", text)


def test_tables_float_with_captions_and_true_minus_signs(report, tmp_path):
    write_figures(report, tmp_path / "out", only=ONLY)
    text = (tmp_path / "out" / "tables.tex").read_text()
    assert r"\caption{svda against vit.}" in text
    assert r"\label{tab:svda-vit}" in text
    assert not re.search(r"[ \[]-\d", text)
    assert text.count(r"\begin{table") == text.count(r"\end{table") == 1
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_what_is_not_asked_for_any_more_goes_and_what_is_not_ours_stays(report, tmp_path):
    out = tmp_path / "out"
    write_figures(report, out, only=ONLY)
    (out / "mine.pdf").touch()
    write_figures(report, out, only=["overview"])
    assert {path.name for path in out.iterdir()} == {
        *("figures.tex", "tables.tex", "figures.json"),
        *("overview.pdf", "mine.pdf"),
    }


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"width": "wide"}, "width must be column, text or inches like 5.5, got 'wide'"),
        ({"width": "40"}, "width must be 2.5 to 12 inches"),
        ({"width": "nan"}, "width must be 2.5 to 12 inches"),
        ({"font": "comic"}, "font must be one of sans, serif"),
        ({"only": ["overwiew"]}, "only must hold names among .*overview.*, got 'overwiew'"),
        (
            {"only": ["sigma_over_epochs"]},
            "got 'sigma_over_epochs', which needs checkpoints that keep a trace of sigma",
        ),
    ],
)
def test_what_cannot_be_is_one_line(report, tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        write_figures(report, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_widths_have_names():
    assert (width_in_inches("column"), width_in_inches("text"), width_in_inches("5.5")) == (3.4, 7.0, 5.5)
