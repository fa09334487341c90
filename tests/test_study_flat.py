"""Reports of studies as version 0.1 wrote them."""

from __future__ import annotations

import json
import shutil

import pytest
from study_cases import every_file

from svda_analysis.reports import render_folder
from svda_analysis.results import Analysis
from svda_analysis.study import flat
from svda_analysis.study.report import read_study

pytestmark = pytest.mark.usefixtures("bare_machine")


def test_a_report_of_the_first_version_is_read_with_limits_and_keeps_its_figures(
    whole_study, tmp_path, few_figures, monkeypatch
):
    """The layout that reports had: frames in one folder, without limits, traces and examples not kept."""
    old = tmp_path / "old"
    shutil.copytree(whole_study.out, old, ignore=shutil.ignore_patterns("cache", "data", "*.html"))
    (old / "data").mkdir()
    monkeypatch.setattr(flat, "as_measured_now", lambda frame, version: frame)  # they are, but for their layout
    kept = Analysis.load(whole_study.out / "data" / "fashion_mnist")
    for name, frame in (("indicators", kept.table), ("history", kept.history), ("spectra", kept.spectra)):
        frame = frame.drop(columns=["low", "high"], errors="ignore")
        frame.to_csv(old / "data" / f"fashion_mnist_{name}.csv", index=False)  # they had six digits
    meta = json.loads((old / "meta.json").read_text())
    meta["files"] = [path.relative_to(old).as_posix() for path in old.rglob("*") if path.is_file()]
    (old / "meta.json").write_text(json.dumps({k: v for k, v in meta.items() if k not in ("kind", "datasets")}))
    study, _ = read_study(old)
    table = study.datasets[0].table
    assert table.loc[table["indicator"] == "accuracy", ["low", "high"]].drop_duplicates().to_numpy().tolist() == [
        [0, 1]
    ]
    before = every_file(old)
    for _ in range(2):  # the second time from today's layout
        render_folder(old)
        after = every_file(old)
        for name, content in before.items():
            if name.endswith(".md") or "over_epochs_" in name or "maps_over" in name:
                assert after[name] == content, name
    assert not list((old / "data").glob("fashion_mnist_*.csv"))
