"""What a converted model's training step costs beside the original's -> reports/benchmarks/convert_cost.md and .csv.

    python benchmarks/convert_cost.py [--rounds 10] [--batch 4]

timm's ViT-Tiny at 224 pixels, random weights and images, AdamW; all blocks converted. Steps of the original and of the
converted model follow each other.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from svda_analysis.attention import unit_rows
from svda_analysis.compression.verification import paired_seconds
from svda_analysis.conversion import convert
from svda_analysis.render.markdown import markdown_table
from svda_analysis.specs import open_model

FOLDER = Path("reports") / "benchmarks"


def step(model: nn.Module, images: Tensor) -> Callable[[], None]:
    """A function that makes a step of training."""
    optimizer = torch.optim.AdamW(model.train().parameters(), 1e-4)

    def run() -> None:
        model(images).logsumexp(-1).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def norms_alone(batch: int, backward: bool = True) -> Callable[[], None]:
    """A function that does of a step (or only forth) what SVDA adds to it: unit rows of q and k, and sigma, for the 12
    layers of 3 heads of 64 over 197 tokens."""
    rows = torch.randn(2, batch, 197, 3, 64).transpose(2, 3).requires_grad_(backward)
    sigma, above = torch.ones(3, 64, requires_grad=backward), torch.randn(2, batch, 3, 197, 64)

    def run() -> None:
        for _ in range(12):
            q, k = rows.unbind()
            q_hat, k_hat = unit_rows(q) * sigma.unsqueeze(-2), unit_rows(k)
            if backward:
                torch.autograd.grad((q_hat, k_hat), (q, k, sigma), (above[0], above[1]))

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--batch", type=int, default=4)
    given = parser.parse_args()
    torch.manual_seed(0)
    original = open_model("timm:vit_tiny_patch16_224", device="cpu").model
    images = torch.randn(given.batch, 3, 224, 224)
    rows = []
    for kind in ("dot", "svda", "cosine"):
        pair = step(original, images), step(convert(original, to=kind), images)
        timed = paired_seconds(*pair, rounds=given.rounds, clock=time.process_time)
        ratio = f"x {timed['change']:.3f} [{timed['ci_low']:.3f}, {timed['ci_high']:.3f}]"
        seconds = [f"{timed[which]:.3f}" for which in ("before", "after")]
        rows.append({"converted to": kind, "CPU s per step": seconds[0], "converted": seconds[1], "time": ratio})
        print(rows[-1], flush=True)
    timed = paired_seconds(
        step(original, images), norms_alone(given.batch), rounds=given.rounds, clock=time.process_time
    )
    share = 1 + timed["after"] / timed["before"]
    rows.append(
        {"converted to": "unit rows and sigma alone", "CPU s per step": f"{timed['before']:.3f}"}
        | {"converted": f"{timed['after']:.3f}", "time": f"x {share:.3f} with them"}
    )
    FOLDER.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows)
    frame.to_csv(FOLDER / "convert_cost.csv", index=False)
    threads = torch.get_num_threads()
    (FOLDER / "convert_cost.md").write_text(
        f"# What a converted model costs\n\nMade by `python benchmarks/convert_cost.py --rounds {given.rounds} --batch "
        f"{given.batch}` (CPU, {threads} thread{'s' if threads > 1 else ''}, torch {torch.__version__}). Training "
        f"steps of timm's ViT-Tiny at 224 pixels, {given.batch} images a step, all blocks converted, beside the "
        "original's. Time is that of the process on the CPU, which what else the machine does hardly touches. Paired "
        "rounds, geometric mean and 95 % interval; above 1 is slower. Last row: what SVDA adds, unit rows of q and k "
        "and sigma, forth and back, outside of any model; a converted step cannot cost less than the original with "
        "that.\n\n" + markdown_table(frame) + "\n"
    )


if __name__ == "__main__":
    main()
