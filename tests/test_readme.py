"""What stands in README runs as it stands there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_families import family_table

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
MADE = ["reports/run/meta.json", "svda.pt", "reports/mine/summary.md"]  # by each of them


@pytest.mark.parametrize(("block", "made"), list(zip(BLOCKS, MADE, strict=True)), ids=MADE)
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


def test_the_table_of_families_is_that_of_the_tests():
    assert family_table() in README


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(((?!http)[^)#]+)", README))))
def test_what_it_links_to_is_there(path):
    assert (ROOT / path).exists()
