"""``python -m fuzz N [SEED]``: N damaged inputs -> ``reports/reliability/fuzz.csv``, ``.md``: how they ended."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch

from fuzz.cases import KINDS, make_base, make_cases
from fuzz.harness import CPU_SECONDS, MEMORY, Ending, run_cases

OUT = Path(__file__).parents[2] / "reports" / "reliability"
FAULTS = ("silent", "traceback", "several lines", "signal", "hang", "code run", "write outside")


def table(endings: list[Ending]) -> pd.DataFrame:
    """A row for each class of damage, a column for each way to end."""
    rows = [{"class": ending.kind, "how": ending.how} for ending in endings]
    counts = pd.crosstab(*(pd.DataFrame(rows)[name] for name in ("class", "how")))
    there = [kind for kind in KINDS if kind in counts.index]
    whole = counts.reindex(index=there, columns=["right", "refused", *FAULTS])
    return whole.fillna(0).astype(int).reset_index()


def page(counts: pd.DataFrame, seed: int) -> str:
    """The table as Markdown, with what was allowed."""
    numbers = counts.set_index("class")
    total, faults = int(numbers.to_numpy().sum()), int(numbers[list(FAULTS)].to_numpy().sum())
    lines = [
        "# Damaged inputs",
        "",
        f"{total} cases from seed {seed}, made by `make fuzz CASES={total}`: {faults} faults. A case is right (what it",
        "was given was sound, and read as what it is) or refused in one line; each of the other columns is a fault.",
        f"Limits of a case: {CPU_SECONDS} s of a processor, {MEMORY // 2**30} GiB of memory on top of what libraries",
        "take, no program started, no connection, no file written outside its folder. Reaching the limit of memory is",
        "mostly a refusal. Of weights the names, shapes and types are compared: files of torch before 1.6",
        "(weights_of_old_torch) carry no checksum, so that a flipped weight in them is read as it stands. Reports are",
        "read, not drawn; most command lines end before anything is measured.",
        "",
        "| " + " | ".join(["class", *numbers.columns]) + " |",
        "|---" * (1 + len(numbers.columns)) + "|",
    ]
    for name, row in numbers.iterrows():
        lines.append("| " + " | ".join([str(name), *map(str, row)]) + " |")
    return "\n".join(lines) + "\n"


def run(number: int, seed: int) -> list[Ending]:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as base:
        make_base(Path(base))
        return run_cases(make_cases(number), Path(base), seed=seed)


def main() -> None:
    number, seed = (int(word) for word in [*sys.argv[1:], *("10000", "0")[len(sys.argv) - 1 :]])
    endings = run(number, seed)
    OUT.mkdir(parents=True, exist_ok=True)
    counts = table(endings)
    counts.to_csv(OUT / "fuzz.csv", index=False)
    (OUT / "fuzz.md").write_text(page(counts, seed), encoding="utf-8")
    for ending in endings:
        if ending.how in FAULTS:
            print(f"{ending.kind} {ending.number}: {ending.how}: {ending.said}")
    print(counts.to_string(index=False))


if __name__ == "__main__":
    main()
