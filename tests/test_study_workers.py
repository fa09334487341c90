"""Processes that do several tasks at once, and end together."""

import contextlib
import multiprocessing
import signal

import pytest
from worker_cases import do

from svda_analysis.errors import HaltedError, InputError
from svda_analysis.study.workers import each_done


def doing(folder, *tasks):
    return contextlib.closing(each_done(do, [(folder, at, what) for at, what in enumerate(tasks)], 2))


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_all_tasks_are_done_and_the_processes_end(tmp_path):
    with doing(tmp_path, *["quick"] * 5) as done:
        assert sorted(done) == [0, 1, 2, 3, 4]
    assert names(tmp_path) == {f"{word}_{at}" for word in ("begun", "done") for at in range(5)}
    assert not multiprocessing.active_children()
    with doing(tmp_path) as done:
        assert list(done) == []


def test_no_task_begins_after_one_that_failed_and_those_under_way_end(tmp_path):
    with doing(tmp_path, "fail", "long", "quick", "quick") as done, pytest.raises(InputError, match="task 0") as failed:
        list(done)
    assert names(tmp_path) == {"begun_0", "begun_1"}
    assert "worker_cases.py" in failed.value.__notes__[0]
    assert not multiprocessing.active_children()


@pytest.mark.parametrize(
    ("what", "kind", "line"),
    [
        ("halt", HaltedError, "stopped"),
        ("odd", RuntimeError, "OddError: ab"),
        ("die", HaltedError, "a process of --jobs ended before its run, on signal 9; what is done is kept"),
    ],
)
def test_what_ended_a_task_is_told(tmp_path, what, kind, line):
    with doing(tmp_path, "quick", "quick", what) as done, pytest.raises(kind) as failed:
        list(done)
    assert str(failed.value) == line
    assert getattr(failed.value, "code", None) == {"halt": 143, "odd": None, "die": 1}[what]
    assert not multiprocessing.active_children()


def test_who_stops_asking_ends_them(tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with doing(tmp_path, "quick", "long") as done:
        assert next(done) == 0
    assert "done_1" not in names(tmp_path)
    assert not multiprocessing.active_children()
    assert signal.getsignal(signal.SIGTERM) is before
