"""Time that compression saves at S/16 and 224 pixels: paired ratios -> reports/benchmarks/compress_speed.md and .csv.

    python benchmarks/compress_speed.py [--budget 0.3] [--rounds 20]

Random weights serve, since time depends on the heads' sizes alone; nothing here speaks of accuracy. They leave heads of
nearly one size, while those of trained models differ, and a layer costs what its widest head costs. Every pair of
models takes turns on the same images, so that what else the machine does hits both.
"""

import argparse
from pathlib import Path

import pandas as pd
import torch

from svda_analysis.compression.removal import compress_model, kept_share
from svda_analysis.compression.verification import macs, time_ratio
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.render.markdown import markdown_table as markdown

FOLDER = Path("reports") / "benchmarks"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=0.3, help="share of the rows of W_q and W_k that stays")
    parser.add_argument("--rounds", type=int, default=20)
    given = parser.parse_args()
    torch.manual_seed(0)
    images = torch.randn(16, 3, 224, 224)
    rows = []
    for attention in ("dot", "svda"):
        model = ViT(ViTConfig.preset("vit_small", attention=attention)).eval()
        smaller = compress_model(model, images, budget=given.budget).eval()
        count = [sum(p.numel() for p in one.parameters()) for one in (model, smaller)]
        work = [macs(one, images[:1]) for one in (model, smaller)]
        for batch in (1, 8):
            timed = time_ratio(model, smaller, images[:batch], rounds=given.rounds)
            rows.append(
                {
                    "attention": attention,
                    "images": batch,
                    "rows kept": f"{kept_share(smaller):.1%}",
                    "parameters": f"x {count[1] / count[0]:.3f}",
                    "MACs": f"x {work[1] / work[0]:.3f}",
                    "seconds before": f"{timed['before']:.3f}",
                    "seconds after": f"{timed['after']:.3f}",
                    "time": f"x {timed['change']:.3f} [{timed['ci_low']:.3f}, {timed['ci_high']:.3f}]",
                }
            )
            print(rows[-1], flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    frame = pd.DataFrame(rows)
    frame.to_csv(FOLDER / "compress_speed.csv", index=False)
    threads, budget = torch.get_num_threads(), f"--budget {given.budget:g} --rounds {given.rounds}"
    (FOLDER / "compress_speed.md").write_text(
        f"# Time saved by compression, S/16 at 224 pixels\n\nMade by `python benchmarks/compress_speed.py {budget}` "
        f"(CPU, {threads} thread{'s' if threads > 1 else ''}, torch {torch.__version__}). Random weights; "
        "times and ratios are geometric means of paired rounds with 95 % intervals.\n\n" + markdown(frame) + "\n"
    )


if __name__ == "__main__":
    main()
