"""What the tests of commands share: where they run, how they are run, and how they refuse."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def empty_folder(bare_machine, monkeypatch, tmp_path_factory):
    """Commands run in an empty folder, with no data set in sight, an empty home, and a network that fails."""
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))


TINY = ["--set", "depth=1", "--set", "dim=8", "--set", "heads=2", "--set", "batch_size=100", "--set", "probe_images=16"]


class RunsCode:
    """Unpickling this makes a file named marker in the current folder."""

    def __reduce__(self):
        return os.system, ("touch marker",)


def tree(folder="."):
    return sorted(str(path) for path in Path(folder).rglob("*"))


def run(command, *arguments):
    """Run a command in this process; returns its exit code."""
    with pytest.raises(SystemExit) as caught:
        command([str(each) for each in arguments])
    return caught.value.code


SCRIPTS = {"svda": "main", "svda-analyze": "analyze_main"}


def shell(*arguments, **environment):
    """Run a console script, or python with the arguments, as a process of its own, on one thread."""
    bin_folder = Path(sys.executable).parent
    name, *rest = map(str, arguments)
    start = [sys.executable] if name == "python" else [bin_folder / name]
    if not Path(start[0]).exists():  # not installed: the same function, by its module
        start = [sys.executable, "-c", f"from svda_analysis.cli import {SCRIPTS[name]} as main; main()"]
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHONWARNINGS")}
    return subprocess.run(
        [*start, *rest],
        capture_output=True,
        text=True,
        env={**clean, "OMP_NUM_THREADS": "1", **environment},
        timeout=300,
    )


def one_error(stdout, stderr):
    """The one line of stderr after "error: "; nothing on stdout."""
    assert stdout == ""
    assert re.fullmatch(r"error: [^\n]+\n", stderr), stderr
    return stderr[len("error: ") : -1]


def refused(capsys, command, *arguments):
    """What a command of this process is refused with: exit code 2, one line on stderr, no new file anywhere here."""
    before = tree()
    code = run(command, *arguments)
    message = one_error(*capsys.readouterr())
    assert code == 2
    assert tree() == before
    return message
