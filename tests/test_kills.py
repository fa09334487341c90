"""Runs that are killed, also while they write, go on to the same bits: a few of ``benchmarks/kills.py``, slowly all."""

import contextlib
import importlib.util
import io
from pathlib import Path

import pytest

from svda_analysis import cli

PATH = Path(__file__).resolve().parents[1] / "benchmarks" / "kills.py"


@pytest.fixture(scope="module")
def kills():
    spec = importlib.util.spec_from_file_location("kills", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checked(kills, found, number):
    assert found["differs"].tolist() == [""] * number
    killed = found[found["signal"] == "SIGKILL"]
    assert (killed["exit_code"] == -9).all()
    assert (found[found["signal"] == "SIGTERM"]["exit_code"] == 143).all()
    assert killed["write_cut_short"].any()
    text = kills.page(found, "")
    assert f"{number} runs of `svda train` stopped and resumed;\n0 end otherwise" in text
    assert f"| SIGKILL | {len(killed)} (" in text


class Over:
    """A run in this process, as one that was started."""

    def __init__(self, words):
        self.errors = io.StringIO()
        with pytest.raises(SystemExit) as stop, contextlib.redirect_stderr(self.errors):
            cli.main(words)
        self.returncode = stop.value.code

    def communicate(self):
        return "", self.errors.getvalue()


def test_two_kills_and_a_sigterm(kills, monkeypatch):
    """Each is resumed in this process: to start another takes longer than to train. The slow test starts one."""
    start = kills.start
    monkeypatch.setattr(
        kills,
        "start",
        lambda *given, **how: Over(kills.words(*given, **how)) if how.get("resume") else start(*given, **how),
    )
    checked(kills, kills.stop_and_resume(2, 1, epochs=3, seed=1), 3)


@pytest.mark.slow
def test_twenty_kills_and_ten_sigterms(kills):
    found = kills.stop_and_resume(20, 10)
    checked(kills, found, 30)
    assert set(found["attention"]) == {"dot", "svda"}
