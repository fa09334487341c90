"""What SVDA costs in our own ViT beside dot product, and that beside timm's -> reports/benchmarks/step_cost.md, csv.

    python benchmarks/step_cost.py [--rounds 12] [--batch 4] [--no-compile]

ViT-Tiny at 224 pixels, random weights and images, AdamW. The two of a row follow each other in paired rounds.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import timm
import torch
from convert_cost import norms_alone, step
from torch import Tensor, nn

from svda_analysis.compression.verification import paired_seconds
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.render.markdown import markdown_table

FOLDER = Path("reports") / "benchmarks"


def ours(attention: str) -> nn.Module:
    torch.manual_seed(0)
    return ViT(ViTConfig.preset("vit_tiny", attention=attention))


def compiled_model(attention: str) -> nn.Module:
    model = ours(attention)
    model.compile()
    return model


def forward(model: nn.Module, images: Tensor) -> Callable[[], None]:
    """A function that classifies the images."""
    model.eval()

    def run() -> None:
        with torch.inference_mode():
            model(images)

    return run


def pairs(images: Tensor, compiled: bool) -> dict[str, tuple[Callable[[], None], Callable[[], None]]]:
    """What is timed: by name, what is beneath and what stands above it."""
    found = {
        "training step, SVDA / dot": (step(ours("dot"), images), step(ours("svda"), images)),
        "training step, cosine / dot": (step(ours("dot"), images), step(ours("cosine"), images)),
        "inference, SVDA / dot": (forward(ours("dot"), images), forward(ours("svda"), images)),
        "training step, ours / timm's": (
            step(timm.create_model("vit_tiny_patch16_224"), images),
            step(ours("dot"), images),
        ),
        "unit rows and sigma alone / step of dot": (step(ours("dot"), images), norms_alone(len(images))),
        "unit rows and sigma alone, forth / inference of dot": (
            forward(ours("dot"), images),
            norms_alone(len(images), backward=False),
        ),
    }
    if compiled:
        dot, svda = (compiled_model(kind) for kind in ("dot", "svda"))
        found["compiled training step, SVDA / dot"] = (step(dot, images), step(svda, images))
        dot, svda = (compiled_model(kind) for kind in ("dot", "svda"))
        found["compiled inference, SVDA / dot"] = (forward(dot, images), forward(svda, images))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--no-compile", action="store_true", help="leave out what needs a C++ compiler")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for name, pair in pairs(torch.randn(given.batch, 3, 224, 224), not given.no_compile).items():
        timed = paired_seconds(*pair, rounds=given.rounds, clock=time.process_time)
        rows.append({"what": name, **timed})
        print(f"{name}: x {timed['change']:.3f} [{timed['ci_low']:.3f}, {timed['ci_high']:.3f}]", flush=True)
    frame = pd.DataFrame(rows)
    FOLDER.mkdir(parents=True, exist_ok=True)
    frame.to_csv(FOLDER / "step_cost.csv", index=False, float_format="%.4g")
    shown = frame[["what"]].copy()
    shown["CPU s, the second"] = frame["before"].map("{:.3f}".format)
    shown["CPU s, the first"] = frame["after"].map("{:.3f}".format)
    ends = zip(frame["change"], frame["ci_low"], frame["ci_high"], strict=True)
    shown["ratio"] = [f"x {ratio:.3f} [{low:.3f}, {high:.3f}]" for ratio, low, high in ends]
    (FOLDER / "step_cost.md").write_text(
        f"# What SVDA costs\n\nMade by `python benchmarks/step_cost.py --rounds {given.rounds} --batch {given.batch}` "
        f"(CPU, 1 thread, torch {torch.__version__}, timm {timm.__version__}). ViT-Tiny at 224 pixels, {given.batch} "
        "images a step, AdamW. CPU time of the process; paired rounds, geometric mean and 95 % interval. Unit rows of "
        "q and k and sigma, forth and back, are also timed alone, outside of any model: an eager step of SVDA cannot "
        "cost less than that of dot product with them.\n\n" + markdown_table(shown) + "\n"
    )


if __name__ == "__main__":
    main()
