"""A document in a folder: every file, what went away, what was left alone, and what a failure leaves behind."""

from __future__ import annotations

import json
import math
import os

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from svda_analysis.document import Document, Picture, Section, Table
from svda_analysis.errors import InputError
from svda_analysis.render.staging import staged
from svda_analysis.render.writer import write_document


def draw():
    figure, ax = plt.subplots(figsize=(2, 1))
    ax.plot([0, 1])
    return figure


def a_document(*names, command="svda paper"):
    text = pd.DataFrame({"Model": ["svda"], "Accuracy": ["90.5"]})
    table = Table(name="t1", text=text, title="Accuracy", note="Of all runs.", numbers=pd.DataFrame({"mean": [1 / 3]}))
    pictures = tuple(Picture(name=name, draw=draw) for name in names)
    bare = Table(name="t2", text=text)
    return Document(title="R", command=command, sections=(Section(name="s", blocks=(table, bare, *pictures)),))


def tree(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_files_of_a_study(tmp_path):
    written = write_document(
        a_document("curve", "heat"),
        tmp_path / "new" / "out",
        page="README.md",
        tables="tables",
        frames={"data/runs": pd.DataFrame({"x": [1 / 3, math.nan], "n": [1, 2]})},
        texts={"notes/why.txt": "so ± it is\n"},
        save=lambda stage: (stage / "more.bin").write_bytes(b"\0"),
        meta={"title": "é", "when": math.inf},
    )
    out = tmp_path / "new" / "out"
    assert written[0] == out / "README.md"
    assert {path.relative_to(out).as_posix() for path in written} == tree(out)
    assert tree(out) == {
        *("README.md", "report.html", "meta.json", "more.bin", "data/runs.csv", "notes/why.txt"),
        *(f"tables/t1.{kind}" for kind in ("csv", "md", "tex")),
        *(f"figures/{name}.{kind}" for name in ("curve", "heat") for kind in ("pdf", "png")),
    }
    assert (out / "data" / "runs.csv").read_text() == "x,n\n0.333333,1\n,2\n"
    assert (out / "notes" / "why.txt").read_bytes() == "so ± it is\n".encode()
    assert (out / "tables" / "t1.csv").read_text() == "mean\n0.333333\n"
    rows = "| Model | Accuracy |\n| --- | --- |\n| svda | 90.5 |"
    assert (out / "tables" / "t1.md").read_text() == f"{rows}\n\nOf all runs.\n"
    assert (out / "tables" / "t1.tex").read_text().startswith("% Accuracy. Of all runs.\n% needs")
    text = (out / "meta.json").read_text()
    assert text.endswith("}\n")
    meta = json.loads(text)
    assert list(meta) == ["command", "title", "when", "made_by", "files"]
    assert meta["command"] == "svda paper"
    assert meta["files"] == sorted(tree(out))
    assert "![curve](figures/curve.png)" in written[0].read_text()
    assert 'src="figures/curve.png"' in (out / "report.html").read_text()


def test_each_picture_is_closed_before_the_next_is_drawn(tmp_path):
    def counted():
        assert plt.get_fignums() == []
        return draw()

    pictures = tuple(Picture(name=name, draw=counted) for name in ("a", "b"))
    seen = []
    document = Document(title="R", sections=(Section(name="s", blocks=pictures),))
    write_document(document, tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert plt.get_fignums() == []
    assert seen == [(0, 2), (1, 2), (2, 2)]


def test_what_an_earlier_report_listed_goes_and_nothing_else(tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    write_document(a_document("curve"), tmp_path, tables="tables", meta={})
    write_document(a_document("other"), tmp_path, meta={})
    assert tree(tmp_path) == {
        *("mine.txt", "summary.md", "report.html", "meta.json", "figures/other.pdf", "figures/other.png")
    }


@pytest.mark.parametrize("name", ["../mine.txt", "/mine.txt", 3])
def test_no_list_of_files_reaches_out_of_the_folder(name, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "meta.json").write_text(json.dumps({"files": [name], "made_by": "svda-analysis"}))
    write_document(a_document(), tmp_path / "out", meta={})
    assert (tmp_path / "mine.txt").exists()


def test_a_report_beside_another_takes_only_its_own_away(tmp_path):
    write_document(a_document("curve"), tmp_path, meta={})
    before = {name: (tmp_path / name).read_bytes() for name in tree(tmp_path)}
    options = {"page": "other.md", "html": "other.html", "figures": "", "meta": {}, "meta_file": "other.json"}
    written = write_document(a_document("other"), tmp_path, frames={"other": pd.DataFrame({"x": [1]})}, **options)
    kinds = ("md", "csv", "html", "json", "pdf", "png")
    assert [path.name for path in written] == [f"other.{kind}" for kind in kinds]
    assert json.loads((tmp_path / "other.json").read_text())["files"] == sorted(f"other.{kind}" for kind in kinds)
    assert "![other](other.png)" in written[0].read_text()
    written = write_document(a_document(), tmp_path, **options)
    assert [path.name for path in written] == ["other.md", "other.html", "other.json"]
    assert tree(tmp_path) == {*before, "other.md", "other.html", "other.json"}
    assert {name: (tmp_path / name).read_bytes() for name in before} == before


def test_what_did_not_change_keeps_its_date(tmp_path):
    write_document(a_document("curve"), tmp_path, tables="tables", meta={"a": 1})
    for path in tmp_path.rglob("*"):
        os.utime(path, (1, 1))
    write_document(a_document("curve"), tmp_path, tables="tables", meta={"a": 2})
    changed = {path.name for path in tmp_path.rglob("*") if path.is_file() and path.stat().st_mtime > 1}
    assert changed == {"meta.json"}


def test_a_failure_leaves_what_was_there(tmp_path):
    write_document(a_document("curve"), tmp_path, meta={})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def fail():
        raise KeyboardInterrupt

    broken = Document(title="R", sections=(Section(name="s", blocks=(Picture(name="x", draw=fail),)),))
    with pytest.raises(KeyboardInterrupt):
        write_document(broken, tmp_path, meta={})
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_that_cannot_be_written_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"output folder .*file cannot be written"):
        write_document(a_document(), tmp_path / "file")
    with pytest.raises(InputError, match="cannot be written"), staged(tmp_path / "file" / "below"):
        pass
