"""Kill a training run again and again, resume it, compare with one left alone -> reports/reliability/kills.csv, .md.

    python benchmarks/kills.py [--kills 20] [--terms 10] [--seed 0]

Tiny models on the bundled sample, dot-product and SVDA attention in turn, each run a process of ``svda train``. SIGKILL
falls at a random moment of the run, every second one while a checkpoint is being written; SIGTERM at a random moment.
What a resumed run ends with must equal the run left alone bit for bit: weights, optimizer, history (but for seconds)
and traces.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from svda_analysis.checkpoint import Checkpoint, load

FOLDER = Path("reports") / "reliability"
MODEL = {
    "depth": 2,
    "dim": 24,
    "heads": 2,
    "dropout": 0.1,
    "train_images": 600,
    "monitor_images": 64,
    "probe_images": 8,
}


def start(out: Path, attention: str, *, epochs: int, resume: bool = False) -> subprocess.Popen[str]:
    """``svda train`` in a process of its own."""
    command = [sys.executable, "-m", "svda_analysis", "train", "--dataset", "sample", f"--attention={attention}"]
    command += [f"--epochs={epochs}", f"--out={out}", *(f"--set={key}={value}" for key, value in MODEL.items())]
    return subprocess.Popen(
        [*command, *(["--resume"] if resume else [])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def unfinished(out: Path) -> list[Path]:
    """What a writer of ``out`` has under way."""
    return list(out.parent.glob(f".{out.name}.*.unfinished"))


def freeze_in_a_write(running: subprocess.Popen[str], out: Path) -> None:
    """Freeze the process (SIGSTOP) within a write of ``out``, if one comes before it ends.

    A write that was seen while the process ran may be over by the time a signal arrives: what is frozen is looked at
    again, and goes on if it writes no more.
    """
    while running.poll() is None:
        if not unfinished(out):
            continue
        os.kill(running.pid, signal.SIGSTOP)
        event = os.waitid(os.P_PID, running.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if event is not None and event.si_code == os.CLD_STOPPED:
            if unfinished(out):
                return
            os.kill(running.pid, signal.SIGCONT)


def hit(running: subprocess.Popen[str], out: Path, how: signal.Signals, seconds: float, *, writing: bool) -> bool:
    """Wait for the first line, then so many seconds and, if asked, for a write; send the signal.

    Whether a write was under way when the process ended.
    """
    if running.stdout is not None:
        running.stdout.readline()
    deadline = time.monotonic() + seconds
    while running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    if writing:
        freeze_in_a_write(running, out)
    running.send_signal(how)  # SIGKILL ends what is frozen too
    running.communicate()
    return bool(unfinished(out))


def differences(found: Checkpoint, wanted: Checkpoint) -> list[str]:
    """What differs between two checkpoints, but for the seconds that their epochs took."""
    histories = [one.history[one.history["indicator"] != "epoch_seconds"] for one in (found, wanted)]
    same = {
        "epoch": found.epoch == wanted.epoch and found.under_way == wanted.under_way,
        "weights": _equal(found.model, wanted.model),
        "optimizer": _equal(found.optimizer, wanted.optimizer),
        "history": histories[0].reset_index(drop=True).equals(histories[1].reset_index(drop=True)),
        "trace": found.trace is not None and wanted.trace is not None and _equal(vars(found.trace), vars(wanted.trace)),
    }
    return [name for name, equal in same.items() if not equal]


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return bool(np.array_equal(a, b))


def one_case(case: dict[str, Any], wanted: Checkpoint, folder: Path, epochs: int) -> dict[str, Any]:
    """Stop a run as ``case`` says, sooner if it had ended by then, resume it to its end, and say what came of it."""
    out, how = folder / "run.pt", signal.Signals[case["signal"]]
    while True:
        running = start(out, case["attention"], epochs=epochs)
        caught = hit(running, out, how, case["seconds"], writing=case["aimed_at_a_write"])
        code, saved = running.returncode, load(out) if out.exists() else None
        if code and (saved is None or saved.epoch < epochs):
            break
        out.unlink(missing_ok=True)  # it was done before the signal came: the machine is faster now
        case["seconds"] = round(case["seconds"] / 2, 3)
    place = "" if saved is None else f"epoch {saved.epoch} step {(saved.under_way or {'step': 0})['step']}"
    again = start(out, case["attention"], epochs=epochs, resume=True)
    _, errors = again.communicate()
    if again.returncode:
        return {**case, "exit_code": code, "saved": place, "write_cut_short": caught, "differs": errors.strip()[-200:]}
    left = [path.name for path in folder.iterdir() if path.name != out.name]
    differs = [*differences(load(out), wanted), *(f"left {name}" for name in left)]
    return {**case, "exit_code": code, "saved": place, "write_cut_short": caught, "differs": ", ".join(differs)}


def left_alone(attention: str, out: Path, epochs: int) -> tuple[Checkpoint, float]:
    """What a run ends with that nothing stops, and the seconds that it takes from its first line."""
    running = start(out, attention, epochs=epochs)
    if running.stdout is not None:
        running.stdout.readline()
    began = time.monotonic()
    running.communicate()
    return load(out), time.monotonic() - began


def stop_and_resume(kills: int, terms: int, *, epochs: int = 6, seed: int = 0) -> pd.DataFrame:
    """A row for each run that was stopped: how and when, where it stood, what differs at the end (empty: nothing)."""
    draw, rows, alone = random.Random(seed), [], {}
    with tempfile.TemporaryDirectory() as made:
        for at in range(kills + terms):
            attention, killed = ("dot", "svda")[at % 2], at < kills
            if attention not in alone:
                alone[attention] = left_alone(attention, Path(made) / attention / "run.pt", epochs)
            wanted, seconds = alone[attention]
            case = {
                "signal": "SIGKILL" if killed else "SIGTERM",
                "attention": attention,
                "aimed_at_a_write": killed and at % 4 in (0, 3),  # as often of each attention
                "seconds": round(draw.uniform(0, 0.8 * seconds), 3),
            }
            folder = Path(made) / f"case{at}"
            folder.mkdir()
            rows.append(one_case(case, wanted, folder, epochs))
            print(rows[-1], flush=True)
    return pd.DataFrame(rows)


def page(found: pd.DataFrame, given: str) -> str:
    """What came of it, as Markdown."""
    differ = int((found["differs"] != "").sum())
    rows = []
    for how in found["signal"].unique():
        stopped = found[found["signal"] == how]
        writes, attentions = int(stopped["write_cut_short"].sum()), stopped["attention"].value_counts()
        of = ", ".join(f"{attentions[name]} of {name}" for name in sorted(attentions.index))
        same = int((stopped["differs"] == "").sum())
        rows.append(f"| {how} | {len(stopped)} ({of}) | {writes} | {same} |")
    lines = [
        "# Runs that were stopped",
        "",
        f"Made by `python benchmarks/kills.py{given}`: {len(found)} runs of `svda train` stopped and resumed;",
        f"{differ} end otherwise than the run left alone (weights, optimizer, history but for seconds, traces: bit for",
        "bit, on a CPU with one thread). SIGKILL falls at a random moment, every second time while a file is being",
        "written; SIGTERM at a random moment, and ends the run with exit code 143. Each row stands in `kills.csv`.",
        "",
        "| signal | runs | a write was cut short | ended bit for bit the same |",
        "|---|---|---|---|",
        *rows,
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--terms", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    found = stop_and_resume(given.kills, given.terms, seed=given.seed)
    FOLDER.mkdir(parents=True, exist_ok=True)
    found.to_csv(FOLDER / "kills.csv", index=False)
    (FOLDER / "kills.md").write_text(page(found, "".join(f" {word}" for word in sys.argv[1:])), encoding="utf-8")
    print(f"{len(found)} runs stopped, {int((found['differs'] != '').sum())} differ from the run left alone")
    sys.exit(int((found["differs"] != "").any()))
