"""One writer of an output at a time: who is refused, who takes over, what is left behind."""

import os
import socket
import subprocess
import sys
import threading

import pytest

from svda_analysis.errors import InputError
from svda_analysis.writing import all_or_none, check_target, only_writer, unfinished_name

HOLD = """
import sys, time
from svda_analysis.writing import only_writer
with only_writer(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def held(tmp_path):
    """A folder that another process writes, and that process."""
    target = tmp_path / "deep" / "out"
    other = subprocess.Popen([sys.executable, "-c", HOLD, target], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "held\n"
    yield target, other
    other.kill()
    other.communicate()


def test_the_second_is_refused_and_the_lock_of_the_dead_taken_over(held, tmp_path):
    target, other = held
    link = tmp_path / "link"
    link.symlink_to(target)
    for name in (target, target.parent / ".." / "deep" / "out", link):
        said = rf"is being written by process {other.pid}, for \d+ s: wait for it, or choose another name"
        with pytest.raises(InputError, match=said), only_writer(name):
            pass
    other.kill()
    other.wait()
    assert [path.name for path in target.parent.iterdir()] == [".out.lock"]
    with only_writer(target):
        pass
    assert list(target.parent.iterdir()) == []


def test_a_thread_may_hold_an_output_twice_and_another_may_not(tmp_path):
    target, refused = tmp_path / "a.pt", []

    def try_it():
        try:
            with only_writer(target):
                pass
        except InputError as error:
            refused.append(error)

    with only_writer(target):
        with only_writer(target):
            pass
        other = threading.Thread(target=try_it)
        other.start()
        other.join()
        assert (tmp_path / ".a.pt.lock").exists()
    assert len(refused) == 1
    try_it()
    assert len(refused) == 1


def test_what_the_dead_left_unfinished_goes_and_nothing_else(tmp_path):
    start, end = unfinished_name(tmp_path / "a.pt")
    (tmp_path / f"{start}1{end}").write_text("half")
    (tmp_path / f"{start}2{end}").mkdir()
    (tmp_path / f"{start}2{end}" / "x").write_text("half")
    others = {".b.pt.1.unfinished", ".a.pt.mine", "a.pt.unfinished"}
    for name in others:
        (tmp_path / name).write_text("keep")
    with only_writer(tmp_path / "a.pt"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == others


def test_folders_made_for_the_lock_go_with_it(tmp_path):
    with only_writer(tmp_path / "x" / "y" / "a.pt"):
        assert (tmp_path / "x" / "y").is_dir()
    assert not (tmp_path / "x").exists()
    with only_writer(tmp_path / "x" / "y" / "a.pt"):
        (tmp_path / "x" / "y" / "a.pt").write_text("done")
    assert (tmp_path / "x" / "y" / "a.pt").exists()


def test_a_place_that_cannot_be_written_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"out: .* cannot be written"), only_writer(tmp_path / "file" / "a.pt"):
        pass


def test_no_pipe_and_no_device_is_written_over_even_by_force(tmp_path):
    """A file renamed onto one would take its place."""
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "socket"))
        for name in ("pipe", "socket"):
            with pytest.raises(InputError, match=f"target must be a file, got the device, pipe or socket .*{name}$"):
                check_target(tmp_path / name, [], force=True)


def test_several_files_appear_together_or_not_at_all(tmp_path):
    targets = [tmp_path / "new" / "a.pt", tmp_path / "b.pt"]
    targets[1].write_text("old")

    def write_half():
        with all_or_none(targets) as stages:
            stages[0].write_text("half")
            stages[1].read_text()

    with pytest.raises(FileNotFoundError):
        write_half()
    assert [path.name for path in tmp_path.iterdir()] == ["b.pt"]
    with all_or_none(targets) as stages:
        for stage in stages:
            stage.write_text("new")
        assert not targets[0].exists()
        assert targets[1].read_text() == "old"
    assert [path.read_text() for path in targets] == ["new", "new"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.pt", "b.pt", "new"]


def test_what_can_be_done_about_a_file_that_exists_is_said(tmp_path):
    (tmp_path / "a.pt").touch()
    with pytest.raises(InputError, match=r"a\.pt \(force writes over it; or choose another name\)$"):
        check_target(tmp_path / "a.pt", [])
    with pytest.raises(InputError, match=r"a\.pt \(choose another name\)$"):
        check_target(tmp_path / "a.pt", [], force=None)
