"""What an analysis costs against tokens, heads, size and images -> reports/benchmarks/cost_scaling.md and others.

    python benchmarks/cost_scaling.py [--rounds 5]

Of plain ViTs with random weights and images the parts of ``benchmarks/cost.py``, of a committed checkpoint whole
analyses; one thread, in plain forwards of the same images, medians over rounds in which all parts follow each other.
"""

import argparse
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import torch
from cost import parts, ratios
from matplotlib.figure import Figure
from torch import Tensor, nn

from svda_analysis.analysis import analyze
from svda_analysis.figures.saving import save_figure
from svda_analysis.figures.style import on_page, page_width, theme
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.render.markdown import markdown_table
from svda_analysis.sources import open_feed
from svda_analysis.specs import open_model

FOLDER = Path("reports") / "benchmarks"
CHECKPOINT = Path("checkpoints") / "fashion_mnist" / "vit_s0.pt"
SHOWN = ("capture", "one-pass indicators", "everything")
PRECISE = "everything, precision 0.01"
PATCH, TOKENS = 16, (5, 17, 65, 197, 401, 785)
HEADS = (1, 2, 3, 6, 12)
SIZES = {"vit_tiny": 8, "vit_small": 4, "vit_base": 2}  # images a batch
IMAGES = (64, 128, 256, 512, 1000)  # of as many as the sample has


def of_models(rounds: int) -> pd.DataFrame:
    """against, at, part, times: the parts of models that differ in one thing."""
    models = {("tokens", n): ({"image_size": PATCH * round((n - 1) ** 0.5)}, max(1600 // n, 1)) for n in TOKENS}
    models |= {("heads", heads): ({"heads": heads}, 8) for heads in HEADS}
    models |= {("size", at): ({}, batch) for at, batch in enumerate(SIZES.values())}
    found = []
    for (against, at), (fields, batch) in models.items():
        preset = list(SIZES)[at] if against == "size" else "vit_tiny"
        config = ViTConfig.preset(preset, attention="dot", **fields)
        torch.manual_seed(0)
        images = torch.randn(batch, 3, config.image_size, config.image_size)
        with torch.no_grad():
            every = parts(ViT(config).eval(), images)
            rows = ratios({name: every[name] for name in ("plain forward", *SHOWN)}, rounds)
        found.append(rows.assign(against=against, at=at, batch=batch))
        print(found[-1].to_string(index=False, float_format="%.3f"), flush=True)
    return pd.concat(found, ignore_index=True)


def forwards(model: nn.Module, images: Tensor) -> None:
    for batch in images.split(64):
        model(batch)


def of_images(rounds: int) -> pd.DataFrame:
    """against, at, part, seconds: whole analyses of a committed checkpoint on so many images of the bundled sample, by
    the defaults and with ``precision=0.01``, and the plain forwards alone."""
    subject = open_model(CHECKPOINT, device="cpu")
    feed = open_feed("sample", subject)
    found = []
    for _ in range(rounds):
        for number in IMAGES:
            images = torch.cat([batch for batch, _ in feed.batches(64, number, 0)])
            how: dict[str, dict[str, Any]] = {"everything": {}, PRECISE: {"precision": 0.01}}
            runs: dict[str, Callable[[], object]] = {
                "plain forward": functools.partial(forwards, subject.model, images)
            }
            for part, precise in how.items():
                runs[part] = functools.partial(
                    analyze, subject, "sample", images=number, examples=0, progress=False, **precise
                )
            for part, run in runs.items():
                started = time.process_time()
                with torch.no_grad():
                    run()
                found.append((number, part, time.process_time() - started))
    frame = pd.DataFrame(found, columns=["at", "part", "seconds"]).assign(against="images")
    medians = frame.groupby(["against", "at", "part"])["seconds"].median().reset_index()
    plain = medians[medians["part"] == "plain forward"].set_index("at")["seconds"]
    return medians.assign(times=medians["seconds"] / medians["at"].map(plain))


def draw(frame: pd.DataFrame) -> Figure:
    """A panel for each thing that costs are drawn against."""
    with theme(), on_page():
        fig, axes = plt.subplots(1, 4, figsize=(page_width(), 0.3 * page_width()), layout="constrained")
        titles = {"tokens": "Tokens", "heads": "Heads", "size": "Model", "images": "Images"}
        for ax, (against, title) in zip(axes, titles.items(), strict=True):
            rows = frame[frame["against"] == against]
            for at, part in enumerate((*SHOWN, PRECISE)):
                line = rows[rows["part"] == part].sort_values("at")
                if len(line):
                    ax.plot(line["at"], line["times"], marker="o", markersize=3, label=part, color=f"C{at}")
            ax.set_xlabel(title)
            ax.set_ylim(bottom=0)
            if against == "tokens":
                ax.set_ylabel("Plain forwards")
            if against in ("tokens", "images"):
                ax.set_xscale("log", base=2)
                ax.set_xticks(shown := sorted(rows["at"].unique())[:: 2 if against == "tokens" else 1], map(str, shown))
                ax.minorticks_off()
            elif against == "size":
                ax.set_xticks(range(len(SIZES)), [name.removeprefix("vit_").capitalize() for name in SIZES])
            else:
                ax.set_xticks(HEADS)
        lines = {line.get_label(): line for ax in axes for line in ax.get_lines()}
        fig.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=len(lines), frameon=False)
    return fig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    frame = pd.concat([of_models(given.rounds), of_images(given.rounds)], ignore_index=True)
    frame = frame[["against", "at", "batch", "part", "seconds", "times", "low", "high"]]
    FOLDER.mkdir(parents=True, exist_ok=True)
    frame.to_csv(FOLDER / "cost_scaling.csv", index=False, float_format="%.4g")
    save_figure(draw(frame), FOLDER, "cost_scaling")
    shown = frame[["against", "at", "part"]].astype(str)
    shown["plain forwards"] = ["" if pd.isna(x) else f"x {x:.2f}" for x in frame["times"]]
    shown["CPU s"] = frame["seconds"].map("{:.3g}".format)
    (FOLDER / "cost_scaling.md").write_text(
        "# What an analysis costs against tokens, heads, size and images\n\nMade by `python benchmarks/cost_scaling.py "
        f"--rounds {given.rounds}` (CPU, 1 thread, torch {torch.__version__}). Each part as a multiple of the plain "
        "forward of the same model on the same images, medians. Tokens and heads: ViT-Tiny with patches of 16 pixels; "
        "size: at 224 pixels; random weights and images. Images: whole analyses of "
        "`checkpoints/fashion_mnist/vit_s0.pt` on the bundled sample, reading included, by the defaults (spectra and "
        "robustness on 256 images).\n\n"
        "![Cost against tokens, heads, size and images](cost_scaling.png)\n\n" + markdown_table(shown) + "\n"
    )


if __name__ == "__main__":
    main()
