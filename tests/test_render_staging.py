"""A folder swapped in whole: foreign files and links stay, a kill leaves the old one or the new one."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from svda_analysis.errors import InputError
from svda_analysis.render import staging
from svda_analysis.render.staging import check_report_folder, staged
from svda_analysis.results import META


def tree(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def write(folder, version, *names, meta_file=META):
    """A report of some files, each with the version in it."""
    with staged(folder, meta_file) as stage:
        for name in names:
            (stage / name).parent.mkdir(parents=True, exist_ok=True)
            (stage / name).write_text(version)
        (stage / meta_file).write_text(json.dumps({"made_by": "svda-analysis", "files": [*names, meta_file]}))


def fresh(folder):
    write(folder, "old", "page.md", "figures/a.png", "figures/b.png", "gone/c.csv")
    (folder / "mine.txt").write_text("mine")
    (folder / "figures" / "mine.png").write_text("mine")
    (folder / "gone" / "mine.csv").write_text("mine")
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "deep" / "er" / "mine").write_text("mine")
    write(folder, "beside", "compression.md", "compression.csv", meta_file=OTHER)


OTHER = "compression.json"
MINE = {"mine.txt", "figures/mine.png", "gone/mine.csv", "deep/er/mine"}
BESIDE = {"compression.md", "compression.csv"}
OLD = {"page.md", "figures/a.png", "figures/b.png", "gone/c.csv"}
NEW = {"page.md", "figures/a.png", "new.csv"}


def kept(found):
    """Whether all that is not of the report is as it was."""
    return all(found.get(name) == "mine" for name in MINE) and all(found.get(name) == "beside" for name in BESIDE)


@pytest.mark.parametrize("how", ["swapped", "moved one by one"])
def test_a_report_takes_the_place_of_the_one_before_and_nothing_else(how, tmp_path, monkeypatch):
    if how == "moved one by one":
        monkeypatch.setattr(staging, "_can_swap", lambda place: False)
    out = tmp_path / "out"
    fresh(out)
    write(out, "new", *NEW)
    found = tree(out)
    assert kept(found)
    assert set(found) == MINE | BESIDE | NEW | {META, OTHER}
    assert {found[name] for name in NEW} == {"new"}
    write(out, "beside", "compression.md", meta_file=OTHER)
    assert "compression.csv" not in tree(out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
@pytest.mark.parametrize("at", range(10))
def test_a_kill_anywhere_in_the_swap_leaves_a_whole_report(at, tmp_path):
    """The process ends at its ``at``-th renaming, without any clearing up; then the next writer comes."""
    out = tmp_path / "out"
    fresh(out)
    child = os.fork()
    if not child:
        rename, calls = os.rename, []

        def until(source, target):
            calls.append(source)
            if len(calls) > at:
                os._exit(9)
            rename(source, target)

        os.rename = until
        write(out, "new", *NEW)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 9)
    staging.recover(out)
    found = tree(out)
    report = {name: text for name, text in found.items() if name not in MINE | BESIDE | {META, OTHER}}
    assert kept(found)
    assert (report == dict.fromkeys(OLD, "old")) or (report == dict.fromkeys(NEW, "new"))
    write(out, "newest", *NEW)
    found = tree(out)
    assert kept(found)
    assert set(found) == MINE | BESIDE | NEW | {META, OTHER}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    "meta",
    [
        {"files": ["mine.txt"]},
        {"files": ["mine.txt"], "made_by": "another program"},
        {"files": ["mine.txt"], "versions": {"other": "1"}},
        {
            "files": ["link/mine.txt", "../mine.txt", "link", "/x", "a\0b", 3, ".", ""],
            "made_by": "svda-analysis",
        },
        {"files": "mine.txt", "made_by": "svda-analysis"},
        ["mine.txt"],
    ],
)
def test_no_foreign_list_and_no_link_makes_files_go(meta, tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    for folder in (out, elsewhere):
        folder.mkdir()
        (folder / "mine.txt").write_text("mine")
    (out / "link").symlink_to(elsewhere)
    (tmp_path / "mine.txt").write_text("mine")
    (out / META).write_text(json.dumps(meta))
    write(out, "new", "compression.md", meta_file=OTHER)
    ours = isinstance(meta, dict) and meta.get("made_by") == "svda-analysis"
    if ours:
        write(out, "new", "page.md")
    else:
        with pytest.raises(InputError, match=r"holds a file .* and no report of svda-analysis"):
            write(out, "new", "page.md")
    assert (out / "link").is_symlink()
    for folder in (out, elsewhere, tmp_path):
        assert (folder / "mine.txt").read_text() == "mine"


def test_nothing_is_written_through_a_link(tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    for folder in (out, elsewhere):
        folder.mkdir()
    (out / "figures").symlink_to(elsewhere)
    with pytest.raises(InputError, match="holds a link of the name figures"):
        write(out, "new", "figures/a.png")
    with pytest.raises(InputError, match="holds a link of the name figures"):
        check_report_folder(out, "figures")
    assert list(elsewhere.iterdir()) == []
    (tmp_path / "way").symlink_to(out)  # the folder itself may be named by a link
    (out / "figures").unlink()
    write(tmp_path / "way", "new", "figures/a.png")
    assert (tmp_path / "way").is_symlink()
    assert (out / "figures" / "a.png").exists()


def test_a_folder_with_files_of_those_names_is_told_before_the_work(tmp_path):
    (tmp_path / "README.md").write_text("of a project")
    with pytest.raises(InputError, match=r"holds a file README\.md and no report of svda-analysis: move it away"):
        check_report_folder(tmp_path, "README.md", "report.html")
    check_report_folder(tmp_path, "summary.md")
    check_report_folder(tmp_path / "new", "README.md")
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_the_folder_that_one_works_in_can_be_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for version in ("old", "new"):
        write(tmp_path, version, "page.md")
    assert (tmp_path / "page.md").read_text() == "new"
    assert os.getcwd() == str(tmp_path)
    assert sorted(os.listdir()) == [META, "page.md"]


def test_modes_stay_and_a_new_folder_has_the_usual_one(tmp_path):
    usual = tmp_path / "usual"
    usual.mkdir()
    write(tmp_path / "out", "old", "page.md")
    assert (tmp_path / "out").stat().st_mode == usual.stat().st_mode
    (tmp_path / "out").chmod(0o750)
    write(tmp_path / "out", "new", "page.md")
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    shutil.rmtree(tmp_path / "out")


def test_a_pipe_in_the_place_of_the_list_of_files_is_not_waited_for(tmp_path):
    folder = tmp_path / "report"
    folder.mkdir()
    os.mkfifo(folder / META)
    with pytest.raises(InputError, match=r"holds a file meta\.json and no report of svda-analysis"):
        write(folder, "1", "a.txt")
    assert sorted(path.name for path in folder.iterdir()) == [META]


def test_files_that_are_known_to_be_old_go_without_a_list(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("a.png", "b.png", "mine.txt"):
        (out / name).write_text("old")
    with staged(out, old=map(Path, ("a.png", "b.png"))) as stage:
        (stage / "a.png").write_text("new")
    assert tree(out) == {"a.png": "new", "mine.txt": "old"}


def test_a_folder_is_no_file_to_be_written_over(tmp_path):
    write(tmp_path / "out", "old", "page.md")
    (tmp_path / "out" / "page.md").unlink()
    (tmp_path / "out" / "page.md").mkdir()
    (tmp_path / "out" / "page.md" / "mine").touch()
    with pytest.raises(InputError, match=r"out cannot be written: page\.md is a folder in it"):
        write(tmp_path / "out", "new", "page.md")
    assert (tmp_path / "out" / "page.md" / "mine").exists()
