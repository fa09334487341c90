"""Damaged inputs: 500 of them from a fixed seed, and that the harness sees each kind of fault."""

import ctypes
import subprocess
import sys

import pytest
from fuzz.__main__ import FAULTS, page, run, table
from fuzz.harness import Case, SilentError, run_cases

from svda_analysis.errors import InputError

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it limits memory as Linux does")


def test_500_damaged_inputs_are_right_or_refused_in_one_line():
    endings = run(500, seed=1)
    assert len(endings) == 500
    assert not [ending for ending in endings if ending.how in FAULTS]
    assert {ending.how for ending in endings} == {"right", "refused"}
    text = page(table(endings), 1)
    assert text.startswith("# Damaged inputs\n\n500 cases from seed 1")


def _raise(error):
    raise error


FAULTY = {
    "right": lambda *_: None,
    "refused": lambda *_: _raise(InputError("one line")),
    "several lines": lambda *_: _raise(_of_two_lines()),
    "silent": lambda *_: _raise(SilentError("other weights")),
    "traceback": lambda *_: _raise(KeyError("x")),
    "signal": lambda *_: ctypes.string_at(0),
    "hang": lambda *_: [None for _ in iter(int, 1)],
    "code run": lambda *_: subprocess.run(["true"], check=True),
    "write outside": lambda rng, base, folder: (base / "x").write_text("x"),
}


def _of_two_lines():
    error = InputError("one line")  # which would make one of them
    error.args = ("two\nlines",)
    return error


def test_the_harness_tells_each_way_to_end(tmp_path, monkeypatch):
    monkeypatch.setattr("fuzz.harness.CPU_SECONDS", 0.3)
    endings = run_cases([Case(how, ends) for how, ends in FAULTY.items()], tmp_path, seed=0)
    assert {ending.kind: ending.how for ending in endings} == {how: how for how in FAULTY}


def test_a_case_may_not_take_more_memory_than_it_is_let(tmp_path):
    endings = run_cases([Case("greedy", lambda *_: bytearray(3 * 2**30) and None)], tmp_path, seed=0)
    assert endings[0].how == "traceback"
    assert "MemoryError" in endings[0].said
