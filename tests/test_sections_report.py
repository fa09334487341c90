"""A report in its folder: all of the analysis, the same again without measuring, nothing of the report before."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from test_sections_analysis import an_analysis, some_maps

from svda_analysis.document import Picture
from svda_analysis.errors import InputError
from svda_analysis.frames import COMPARISON_COLUMNS, TABLE_COLUMNS
from svda_analysis.results import Analysis, Examples, Trace, read_frame
from svda_analysis.sections import render_again, write_report


@pytest.fixture(autouse=True)
def _pictures(monkeypatch):
    """One small figure of the numbers themselves in the place of all."""

    def pictures(analysis):
        def draw():
            figure = Figure(figsize=(2, 1))
            figure.subplots().plot(analysis.table["mean"])
            return figure

        return [Picture(name="means", draw=draw)]

    monkeypatch.setattr("svda_analysis.sections.analysis._pictures", pictures)


def a_whole_analysis():
    rng = np.random.default_rng(1)
    maps = rng.random((2, 2, 2, 5, 5)).astype(np.float16)
    labels = np.array([1, -1])
    shown = Examples(np.zeros((2, 4, 4, 1), np.uint8), labels, labels, maps, (2, 2), 1, ("shoe", "hat"))
    trace = Trace(
        np.arange(1, 4), rng.random((3, 2, 2, 4)).astype(np.float32), rng.random((3, 1, 2, 4)).astype(np.float16)
    )
    analysis = an_analysis(maps=some_maps(), warnings=("few images",), examples={"svda": shown}, traces={"svda": trace})
    return dataclasses.replace(analysis, history=analysis.table.assign(epoch=1).astype(TABLE_COLUMNS))


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_folder_holds_the_whole_analysis(tmp_path):
    analysis = a_whole_analysis()
    written = write_report(analysis, tmp_path / "out", command="svda-analyze a.pt b.pt")
    assert written[0] == tmp_path / "out" / "summary.md"
    found = contents(tmp_path / "out")
    assert set(found) == {path.relative_to(tmp_path / "out").as_posix() for path in written}
    assert set(found) == {
        *(f"{name}.csv" for name in ("indicators", "spectra", "history", "comparison")),
        *(f"maps_{name}.csv" for name in ("layers", "heads", "matching", "similarity")),
        *("examples.npz", "traces.npz", "meta.json", "summary.md", "report.html", "table.tex"),
        *("figures/means.pdf", "figures/means.png"),
    }
    read = read_frame(tmp_path / "out" / "indicators.csv", TABLE_COLUMNS)
    np.testing.assert_array_equal(read["mean"], analysis.table["mean"])
    assert list(pd.read_csv(tmp_path / "out" / "comparison.csv")) == list(COMPARISON_COLUMNS)
    meta = json.loads(found["meta.json"])
    first, *_, last = meta
    assert (first, last) == ("command", "files")
    assert meta["files"] == sorted(found)
    assert [run["model"] for run in meta["runs"]] == ["vit"] * 3 + ["svda"] * 3
    summary = found["summary.md"].decode()
    title, warning, answers, made, *_ = summary.split("\n\n")
    assert (title, warning) == ("# Attention analysis: out", "**Warning: few images**")
    assert answers.startswith("- Test accuracy, vit: ")
    assert made == "Made by `svda-analyze a.pt b.pt`."
    assert "![means](figures/means.png)" in summary
    assert found["table.tex"].startswith(b"% WARNING: few images\n")


def test_rendered_again_it_has_the_same_bytes(tmp_path):
    written = write_report(a_whole_analysis(), tmp_path, command="svda-analyze a.pt --out x")
    before = contents(tmp_path)
    for path in tmp_path.rglob("*"):
        os.utime(path, (1, 1))
    assert render_again(tmp_path) == written
    assert contents(tmp_path) == before
    assert all(path.stat().st_mtime == 1 for path in written)  # not even touched
    (tmp_path / "summary.md").unlink()
    render_again(tmp_path)
    assert contents(tmp_path) == before
    loaded = Analysis.load(tmp_path)
    write_report(loaded, tmp_path / "other" / tmp_path.name, command="svda-analyze a.pt --out x")
    assert contents(tmp_path / "other" / tmp_path.name) == before


def test_another_baseline_stays_with_the_report(tmp_path):
    write_report(an_analysis(), tmp_path, baseline="svda")
    assert "### vit against svda" in (tmp_path / "summary.md").read_text()
    before = contents(tmp_path)
    render_again(tmp_path)
    assert contents(tmp_path) == before
    with pytest.raises(InputError, match="baseline must be one of vit, svda, got 'x'"):
        write_report(an_analysis(), tmp_path, baseline="x")
    assert contents(tmp_path) == before


@pytest.mark.parametrize("saved", [False, True])
def test_the_report_of_one_replaces_the_report_of_two(tmp_path, saved):
    write_report(a_whole_analysis(), tmp_path)
    if saved:
        a_whole_analysis().save(tmp_path)
    write_report(an_analysis(("svda",)), tmp_path)
    assert set(contents(tmp_path)) == {
        *("indicators.csv", "spectra.csv", "meta.json", "summary.md", "report.html", "table.tex"),
        *("figures/means.pdf", "figures/means.png"),
    }


def test_an_interrupted_report_leaves_the_old_one(tmp_path, monkeypatch):
    write_report(an_analysis(), tmp_path)
    before = contents(tmp_path)

    def fail(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("svda_analysis.render.writer.to_html", fail)
    with pytest.raises(KeyboardInterrupt):
        write_report(an_analysis(("svda",)), tmp_path)
    assert contents(tmp_path) == before


def test_a_model_named_as_markup_does_no_harm(tmp_path):
    write_report(an_analysis(("vit", "<script>|$")), tmp_path)
    assert "<script>" not in (tmp_path / "report.html").read_text()
    assert r"| &lt;script>\|\$ |" in (tmp_path / "summary.md").read_text()
    assert r"$<$script$>$$|$\$ &" in (tmp_path / "table.tex").read_text()


def test_a_folder_without_an_analysis_cannot_be_rendered(tmp_path):
    with pytest.raises(InputError, match="holds no analysis"):
        render_again(tmp_path)
