"""One page over all reports: each with its figure, its finding and its command."""

from __future__ import annotations

import json

import pytest
from test_render_html import EVIL, Page

from svda_analysis.document import Document, Picture, Section
from svda_analysis.errors import InputError
from svda_analysis.gallery import write_gallery
from svda_analysis.render.writer import write_document


def a_report(folder, title="One", answer=("It is 0.5.", "svda is more structured."), pictures=(), **files):
    blocks = tuple(Picture(name=name, draw=None) for name in pictures)
    section = Section(name="figures", title="Figures", blocks=blocks)
    document = Document(title=title, sections=(section,), command=f"svda {title}", answer=answer)
    write_document(document, folder, meta={}, **files)


def test_every_report_is_there_with_its_finding_figure_and_command(tmp_path):
    a_report(tmp_path / "b & c", pictures=("curve", "other"))
    a_report(tmp_path / "deep" / "a", title=EVIL, answer=(EVIL,))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "report.html").write_text("<h1>No report of ours</h1>")
    written = write_gallery(tmp_path)
    text = written.read_text(encoding="utf-8")
    page = Page(text)
    assert written == tmp_path / "index.html"
    links = [link["href"] for link in page.all("a")]
    assert links == ["b%20%26%20c/report.html", "b%20%26%20c/report.html", "deep/a/report.html"]
    assert page.text["a"] == ["One (b & c)", f"{EVIL} (deep/a)"]  # several reports may have one title
    assert page.text["p"] == ["svda is more structured.", EVIL]
    assert page.text["code"] == ["svda One", f"svda {EVIL}"]
    assert [image["src"] for image in page.all("img")] == ["b%20%26%20c/figures/curve.png"]
    assert "http" not in text
    assert write_gallery(tmp_path).read_text(encoding="utf-8") == text  # itself no report


def test_two_reports_in_one_folder_are_two_cards(tmp_path):
    a_report(tmp_path / "a")
    a_report(tmp_path / "a", title="Two", page="other.md", html="other.html", meta_file="other.json")
    (tmp_path / "a" / "mine.json").write_text('{"files": ["mine.html"]}')
    (tmp_path / "a" / "mine.html").write_text("<h1>No report of ours</h1>")
    assert Page(write_gallery(tmp_path).read_text(encoding="utf-8")).text["a"] == ["One (a)", "Two (a)"]


def test_a_folder_without_reports_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(InputError, match="must hold reports of svda-analysis, got none"):
            write_gallery(folder)


@pytest.mark.parametrize("put", [lambda path: path.write_text("my page"), lambda path: path.symlink_to("other.html")])
def test_a_page_of_ones_own_is_not_written_over(tmp_path, put):
    a_report(tmp_path / "a")
    (tmp_path / "other.html").write_text("another page")
    put(tmp_path / "index.html")
    before = (tmp_path / "index.html").read_text()
    with pytest.raises(InputError, match=r"index\.html is no gallery of svda-analysis: move it away"):
        write_gallery(tmp_path)
    assert (tmp_path / "index.html").read_text() == before


@pytest.mark.parametrize("files", [7, "report.html", ["\0", "report.html"], None])
def test_a_list_of_files_that_is_none_is_no_traceback(tmp_path, files):
    a_report(tmp_path / "a")
    a_report(tmp_path / "b", title="Two")
    meta = json.loads((tmp_path / "a" / "meta.json").read_text())
    (tmp_path / "a" / "meta.json").write_text(json.dumps({**meta, "files": files}))
    assert "Two" in write_gallery(tmp_path).read_text(encoding="utf-8")
