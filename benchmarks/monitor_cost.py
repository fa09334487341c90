"""What monitoring costs a training step -> reports/benchmarks/monitor_cost.md and .csv.

    python benchmarks/monitor_cost.py [--rounds 8] [--batch 16] [--every 10]

ViT-Tiny at 224 pixels, random weights and images, AdamW. Turns of ``every`` steps with the monitor and without it
follow each other, each on a model of its own that starts from the same weights; the last step of a monitored turn is
measured.
"""

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svda_analysis.compression.verification import paired_seconds
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.monitor import Monitor
from svda_analysis.render.markdown import markdown_table

FOLDER = Path("reports") / "benchmarks"


def turn(model: nn.Module, images: Tensor, steps: int, monitor: Monitor | None) -> Callable[[], None]:
    """A function that makes so many steps of training."""
    labels = torch.arange(len(images))
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def run() -> None:
        for _ in range(steps):
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
            optimizer.zero_grad()
            if monitor:
                monitor.step()

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--every", type=int, default=10)
    given = parser.parse_args()
    rows = []
    for on in ("batch", "probe"):
        torch.manual_seed(0)
        plain = ViT(ViTConfig.preset("vit_tiny", attention="dot"))
        watched = copy.deepcopy(plain)
        images = torch.randn(given.batch, 3, 224, 224)
        monitor = Monitor(watched, images if on == "probe" else None, on=on, every=given.every)
        turns = (turn(m, images, given.every, seen) for m, seen in ((plain, None), (watched, monitor)))
        timed = paired_seconds(*turns, rounds=given.rounds, clock=time.process_time)
        same = all(torch.equal(a, b) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
        ratio = f"x {timed['change']:.3f} [{timed['ci_low']:.3f}, {timed['ci_high']:.3f}]"
        seconds = [f"{timed[which] / given.every:.3f}" for which in ("before", "after")]
        row = {"on": on, "every": given.every, "CPU s per step": seconds[0], "monitored": seconds[1], "time": ratio}
        rows.append({**row, "weights afterwards": "the same, bit for bit" if same else "DIFFERENT"})
        print(rows[-1], flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows)
    frame.to_csv(FOLDER / "monitor_cost.csv", index=False)
    threads = torch.get_num_threads()
    (FOLDER / "monitor_cost.md").write_text(
        f"# What a monitor costs\n\nMade by `python benchmarks/monitor_cost.py --rounds {given.rounds} --batch "
        f"{given.batch} --every {given.every}` (CPU, {threads} thread{'s' if threads > 1 else ''}, torch "
        f"{torch.__version__}). Training steps of ViT-Tiny at 224 pixels, {given.batch} images a step, one step of "
        f"{given.every} measured with the usual indicators: on the batch itself, or on a probe of as many images. Time "
        "is that of the process on the CPU, which what else the machine does hardly touches. Paired rounds, geometric "
        "mean and 95 % interval; above 1 is slower.\n\n" + markdown_table(frame) + "\n"
    )


if __name__ == "__main__":
    main()
