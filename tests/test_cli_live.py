"""``svda train --live``: what is drawn, in a terminal alone."""

import os
import re
import sys

import numpy as np
import pandas as pd
import pytest
from command_line import empty_folder, run  # noqa: F401  # commands run in it, each test by itself

from svda_analysis.cli import main
from svda_analysis.cli.live import live_view

START = ["-m", "svda_analysis", "train", "--dataset", "sample", "--epochs", "2", "--live", "--out", "run.pt"]
START += [
    word
    for each in ("depth=2", "dim=24", "heads=2", "batch_size=100", "probe_images=8", "train_images=300")
    for word in ("--set", each)
]


def rows(values, indicator="attention_entropy"):
    found = [(layer, head, indicator, "attention", x) for layer, row in enumerate(values) for head, x in enumerate(row)]
    whole = [(None, None, "accuracy", "test", 0.5)]
    frame = pd.DataFrame([*whole, *found], columns=["layer", "head", "indicator", "source", "mean"])
    return frame.astype({"layer": "Int64", "head": "Int64"})


def test_a_heat_map_is_darkest_where_heads_have_most():
    title, *lines = live_view(rows([[0.0, 1.0], [0.5, float("nan")]]))
    assert title == "attention_entropy by layer and head, 0.000 to 1.000:"
    assert lines == ["layer 0      ███", "layer 1   ▒▒▒???"]
    assert "accuracy" not in title


def test_another_indicator_takes_the_place_of_one_that_is_not_measured():
    assert live_view(rows([[1.0]], "head_distance"))[0].startswith("head_distance by layer and head")
    assert live_view(rows([])) == []


def test_a_spectrum_falls_and_keeps_its_place():
    sigma = np.array([[[1.0, -8.0, 0.0], [0.0, 8.0, 1.0]], [[4.0, 4.0, 4.0], [4.0, -4.0, 4.0]]])
    title, *lines = live_view(rows([]), sigma)
    assert title == "sigma's sizes by layer, largest first, 0 to 8.000:"
    assert lines == ["layer 0   █▁ ", "layer 1   ▄▄▄"]
    assert sigma[0, 0, 1] == -8.0  # what was given stays


def test_no_line_is_wider_than_a_terminal():
    wide = live_view(rows(np.random.default_rng(0).random((3, 96))), np.ones((3, 96, 192)))
    assert max(map(len, wide)) <= 80


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo-terminals")
def test_in_a_terminal_it_is_redrawn_in_place():
    import pty
    import subprocess

    ours, theirs = pty.openpty()
    clean = {key: x for key, x in os.environ.items() if not key.startswith("PYTHONWARNINGS")}
    env = {**clean, "TERM": "xterm", "COLUMNS": "80", "LINES": "40", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen([sys.executable, *START], stdout=subprocess.DEVNULL, stderr=theirs, env=env) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # how a closed one ends
                break
            if not part:
                break
            seen += part
    os.close(ours)
    assert process.returncode == 0, seen
    text = seen.decode()
    assert "\x1b[1A" in text  # the cursor goes up: the same lines are written again
    assert text.count("sigma's sizes by layer, largest first") >= 2
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert "epoch 2/2  loss" in plain
    assert re.search(r"layer 1 +[ ░▒▓█]{6}", plain)


def test_elsewhere_it_prints_the_lines_that_it_prints_without(capsys):
    words, found = START[2:], []
    for given in (words, [word if word != "run.pt" else "again.pt" for word in words if word != "--live"]):
        assert run(main, *given) == 0
        found.append(capsys.readouterr())
    assert "\x1b" not in found[0].out + found[0].err
    assert found[0].err == found[1].err

    def lines(text):
        return [re.sub(r"\d+:\d+ left|again.pt|run.pt", "", line) for line in text.splitlines()]

    assert lines(found[0].out) == lines(found[1].out)
    assert len(lines(found[0].out)) > 3
