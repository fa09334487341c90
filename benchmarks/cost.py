"""What each part of an analysis costs, in plain forward passes -> reports/benchmarks/cost.md and .csv.

    python benchmarks/cost.py [--rounds 7] [--batch 8]

ViT-Tiny/16 at 224 pixels, random weights and images, one thread. In each round the plain forward with the fused kernel
and every part run once, one after the other; a ratio is that of one round, and time is that of the process on the CPU.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svda_analysis.indicators import choose_indicators
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.render.markdown import markdown_table
from svda_analysis.streaming import Stream
from svda_analysis.tap import capture

FOLDER = Path("reports") / "benchmarks"
NOISY = {"a_noisy", "a_pixel_noisy"}


def by_hand(model: nn.Module, images: Tensor, read: Callable[[Tensor], object]) -> None:
    """A forward that makes each map and multiplies by it, in as few calls of torch as there are, and ``read`` of it:
    less cannot be done by anything that looks at maps."""

    def attention(q: Tensor, k: Tensor, v: Tensor, **_: object) -> Tensor:
        a = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(-1)
        read(a)
        return a @ v

    with mock.patch.object(F, "scaled_dot_product_attention", attention):
        model(images)


def log_and_sort(a: Tensor) -> None:
    """What the entropy and the keys for 90 % of mass begin with."""
    a.log()
    a.numpy().copy().sort(axis=-1)


def eigenvalues(a: Tensor) -> None:
    """What the spectrum of maps takes, by the cheapest way whose effective rank is right to 1e-8."""
    wide = a.double()
    torch.linalg.eigvalsh(wide @ wide.mT)


def parts(model: nn.Module, images: Tensor) -> dict[str, Callable[[], object]]:
    """What is timed, by name; the plain forward first."""
    every = choose_indicators()
    names = {one.name for one in every}
    spectral = {one.name for one in every if "spectrum" in one.needs}
    noisy = {one.name for one in every if NOISY & set(one.needs)}
    one_pass = names - spectral - noisy

    def measured(chosen: set[str], spectra_of: tuple[str, ...] | None = None) -> Callable[[], object]:
        indicators = [one for one in every if one.name in chosen]
        stream = Stream(model, indicators, spectra_of=spectra_of)
        stream.update(images)  # what is measured once for all images is not of each batch
        return lambda: stream.update(images)

    def captured() -> None:
        with capture(model, lambda record: None):
            model(images)

    return {
        "plain forward": lambda: model(images),
        "floor: map by hand": lambda: by_hand(model, images, lambda a: None),
        "floor: and log, sort": lambda: by_hand(model, images, log_and_sort),
        "floor: and eigenvalues": lambda: by_hand(model, images, eigenvalues),
        "capture": captured,
        "mass_90": measured({"mass_90"}),
        "one-pass indicators": measured(one_pass),
        "score spectra": measured(spectral, ("scores",)),
        "attention spectra": measured(spectral, ("attention",)),
        "robustness": measured(noisy),
        "everything": measured(names),
    }


def ratios(timed: dict[str, Callable[[], object]], rounds: int) -> pd.DataFrame:
    """Seconds of each part in each round, over those of the first."""
    seconds = np.empty((rounds + 1, len(timed)))
    for turn in range(rounds + 1):
        for at, run in enumerate(timed.values()):
            started = time.process_time()
            run()
            seconds[turn, at] = time.process_time() - started
    seconds = seconds[1:]  # the first warms up
    relative = seconds / seconds[:, :1]
    low, middle, high = np.quantile(relative, [0.25, 0.5, 0.75], axis=0)
    medians = np.median(seconds, axis=0)
    return pd.DataFrame({"part": list(timed), "seconds": medians, "times": middle, "low": low, "high": high})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=8)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    images, frames = torch.randn(given.batch, 3, 224, 224), []
    for attention in ("dot", "svda"):
        model = ViT(ViTConfig.preset("vit_tiny", attention=attention)).eval()
        with torch.no_grad():
            frames.append(ratios(parts(model, images), given.rounds).assign(attention=attention))
        print(frames[-1].to_string(index=False, float_format="%.3f"), flush=True)
    frame = pd.concat(frames)[["attention", "part", "seconds", "times", "low", "high"]]
    FOLDER.mkdir(parents=True, exist_ok=True)
    frame.to_csv(FOLDER / "cost.csv", index=False, float_format="%.4g")
    shown = frame[["attention", "part"]].copy()
    shown["CPU s per batch"] = frame["seconds"].map("{:.3f}".format)
    spread = zip(frame["times"], frame["low"], frame["high"], strict=True)
    shown["plain forwards"] = [f"x {times:.2f} [{low:.2f}, {high:.2f}]" for times, low, high in spread]
    (FOLDER / "cost.md").write_text(
        f"# What an analysis costs\n\nMade by `python benchmarks/cost.py --rounds {given.rounds} --batch {given.batch}`"
        f" (CPU, 1 thread, torch {torch.__version__}). ViT-Tiny/16 at 224 pixels, random weights, {given.batch} images "
        "a batch. Each part as a multiple of the plain forward with the fused kernel: median over rounds in which all "
        "parts follow each other, and the middle half of the rounds. Each part includes the forward that it needs. "
        "Floors: each map made and multiplied by in plain torch calls; then a logarithm and a sort of "
        "each map (entropy and keys for 90 % of mass begin so), or its squared singular values in float64 (spectra of "
        "maps). Robustness runs a noisy copy of each image beside it: two forwards.\n\n" + markdown_table(shown) + "\n"
    )


if __name__ == "__main__":
    main()
