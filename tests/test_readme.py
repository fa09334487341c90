"""What stands in README runs as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from committed import text_of
from test_families import family_table

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
LONG = pytest.mark.slow  # CI runs what is slow of this file
MADE = {"reports/run/meta.json": (), "svda.pt": (), "reports/mine/summary.md": LONG}  # by each of them


@pytest.mark.parametrize(
    ("block", "made"),
    [pytest.param(block, made, marks=mark, id=made) for block, (made, mark) in zip(BLOCKS, MADE.items(), strict=True)],
)
def test_the_python_blocks_run(block, made, tmp_path):
    (tmp_path / "checkpoints").symlink_to(ROOT / "checkpoints")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", block],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / made).exists()


COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines()]


@LONG
def test_the_commands_run_as_they_stand(tmp_path):
    """One after the other, in a folder that holds what a clone holds."""
    for name in ("checkpoints", "svda_analysis"):
        (tmp_path / name).symlink_to(ROOT / name)
    start = {"svda": "main", "svda-analyze": "analyze_main"}
    programs = [
        f'{name}() {{ "{sys.executable}" -c "from svda_analysis.cli import {function}; {function}()" "$@"; }}'
        for name, function in start.items()
    ]
    assert len(COMMANDS) >= 8
    for line in COMMANDS:
        done = subprocess.run(
            ["bash", "-c", "\n".join([*programs, line])],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{line}: {done.stderr}"
    assert (tmp_path / "reports" / "index.html").exists()
    assert (tmp_path / "reports" / "quick-figures" / "overview.pdf").exists()


def test_the_answers_are_those_of_the_report():
    report = text_of("paper/README.md").partition("Made by")[0]
    said, measured = (
        [line for line in text.splitlines() if line.startswith("- ")]
        for text in (README.partition("## Quick start")[0], report)
    )
    assert said == measured != []


def test_the_table_of_families_is_that_of_the_tests():
    assert family_table() in README


LINKS = re.findall(r"\]\(((?!http)[^)#]+)", README)
NAMED = re.findall(r"`((?:svda_analysis|tests|benchmarks|checkpoints)/[\w./-]*)`", README)


@pytest.mark.parametrize("path", sorted({*LINKS, *NAMED}))
def test_what_it_links_to_or_names_is_there(path):
    assert (ROOT / path).exists()
