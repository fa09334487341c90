"""What the commands take from start to end -> reports/benchmarks/commands.md and .csv.

    python benchmarks/commands.py [--rounds 3]

Processes of their own, one thread; CPU time of each, which other processes on the machine disturb less than the clock.
In each round all run once, one after the other. Imports are ratios to ``import torch`` in the same round.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch

from svda_analysis.render.markdown import markdown_table

FOLDER = Path("reports") / "benchmarks"
CHECKPOINT = "checkpoints/fashion_mnist/svda_s0.pt"
IMPORTS = {
    "import torch": "import torch",
    "import torch, pandas": "import torch, pandas",
    "from svda_analysis import analyze": "from svda_analysis import analyze",
}


def commands(folder: str) -> dict[str, list[str]]:
    """What is run, by what is said of it."""
    package = [sys.executable, "-m", "svda_analysis"]
    sample = ["--data", "sample"]
    return {
        **{name: [sys.executable, "-c", code] for name, code in IMPORTS.items()},
        "svda --help": [*package, "--help"],
        f"svda-analyze {CHECKPOINT} --images 1000": [
            *package, "analyze", CHECKPOINT, *sample, "--images", "1000", "--out", f"{folder}/analysis",
        ],
        f"svda compress {CHECKPOINT} --energy 0.9": [
            *package, "compress", CHECKPOINT, *sample, "--energy", "0.9", "--out", f"{folder}/small.pt",
            "--report", f"{folder}/compression", "--force",
        ],
    }  # fmt: skip


def seconds(command: list[str]) -> float:
    """CPU seconds of a process and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        chosen = commands(folder)
        for name in IMPORTS:  # what is compiled once is not of each start
            seconds(chosen[name])
        for number in range(given.rounds):
            rows += [{"round": number, "what": name, "cpu_seconds": seconds(run)} for name, run in chosen.items()]
    frame = pd.DataFrame(rows)
    torch_alone = frame[frame["what"] == "import torch"].set_index("round")["cpu_seconds"]
    frame["imports_of_torch"] = frame["cpu_seconds"] / frame["round"].map(torch_alone)
    found = frame.groupby("what", sort=False)[["cpu_seconds", "imports_of_torch"]].median()
    text = pd.DataFrame(
        {
            "what": list(found.index),
            "CPU s": found["cpu_seconds"].map("{:.2f}".format),
            "of import torch": found["imports_of_torch"].map("x {:.2f}".format),
        }
    )
    FOLDER.mkdir(parents=True, exist_ok=True)
    frame.to_csv(FOLDER / "commands.csv", index=False)
    (FOLDER / "commands.md").write_text(
        f"# What the commands take\n\nMade by `python benchmarks/commands.py --rounds {given.rounds}` (CPU, 1 thread, "
        f"torch {torch.__version__}): CPU seconds of whole processes, medians of the rounds, on the bundled sample. "
        f"The analysis has all its figures and the page, the compression its verification.\n\n"
        f"{markdown_table(text)}\n"
    )
    print((FOLDER / "commands.md").read_text())


if __name__ == "__main__":
    main()
