"""Runs that are killed, also while they write, go on to the same bits: two of ``benchmarks/kills.py``, slowly all."""

import importlib.util
from pathlib import Path

import pytest

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
    assert killed["aimed_at_a_write"].any()
    assert killed.loc[killed["aimed_at_a_write"], "write_cut_short"].all()
    text = kills.page(found, "")
    assert f"{number} runs of `svda train` stopped and resumed;\n0 end otherwise" in text
    assert f"| SIGKILL | {len(killed)} (" in text


def test_a_kill_within_a_write_and_a_sigterm(kills):
    checked(kills, kills.stop_and_resume(1, 1, epochs=2), 2)


@pytest.mark.slow
def test_twenty_kills_and_ten_sigterms(kills):
    found = kills.stop_and_resume(20, 10)
    checked(kills, found, 30)
    assert set(found["attention"]) == {"dot", "svda"}
