"""What another library takes for the same -> reports/benchmarks/peers.md and .csv.

    python -m venv build/peers && build/peers/bin/pip install -r benchmarks/peers.txt -e .
    build/peers/bin/python benchmarks/peers.py [--images 64] [--rounds 5]

An environment of its own, since the peer asks for older versions. A committed checkpoint, bundled test images, one
thread. In each round both run, one after the other; a ratio is that of one round, and time is that of the process on
the CPU. Both take away one patch after the other by the same map, black in its place, and give the same curves: the
largest difference is printed. Quantus measures deletion; ours measures insertion as well, in twice the forward passes.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd
import quantus  # type: ignore[import-not-found]
import torch

from svda_analysis.attribution import attribute
from svda_analysis.data import load_dataset
from svda_analysis.perturbation import deletion_insertion, removal_curves, step_counts
from svda_analysis.render.markdown import markdown_table
from svda_analysis.specs import open_model

FOLDER = Path("reports") / "benchmarks"
CHECKPOINT, SIDE, PATCH = Path("checkpoints") / "fashion_mnist" / "vit_s0.pt", 28, 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    subject = open_model(CHECKPOINT, device="cpu")
    data = load_dataset("sample", train=False)
    images, labels = next(data.batches(given.images))
    maps = attribute(subject, images, method="rollout").float()
    pixels = (images.numpy(), labels.numpy(), maps[:, None].numpy())
    flipping = quantus.PixelFlipping(
        features_in_step=PATCH**2, normalise=False, perturb_baseline="black", disable_warnings=True
    )

    def theirs() -> np.ndarray:
        x, y, a = pixels
        return np.array(flipping(model=subject.model, x_batch=x, y_batch=y, a_batch=a, batch_size=64))

    def ours() -> object:
        return deletion_insertion(subject, images, maps, target=labels, baseline="black")

    def passes() -> None:
        with torch.no_grad():
            for _ in range(2 * len(counts)):
                subject.model(images)

    counts = step_counts((SIDE // PATCH) ** 2)
    curves = removal_curves(subject, images, maps, labels[:, None], counts, baseline="black")[0, :, 1:, 0].exp().numpy()
    apart = float(np.abs(theirs() - curves).max())
    seconds = []
    for _ in range(given.rounds):
        row = {}
        for name, run in (("Quantus", theirs), ("svda_analysis", ours), ("forward passes", passes)):
            began = time.process_time()
            run()
            row[name] = time.process_time() - began
        seconds.append(row)
    frame = pd.DataFrame(seconds)
    curves_of = {"Quantus": 1, "svda_analysis": 2, "forward passes": 2}
    rows = []
    for name, number in curves_of.items():
        ratio = (frame[name] / number) / frame["Quantus"]
        low, middle, high = np.quantile(ratio, [0.25, 0.5, 0.75])
        about = {"what": name, "curves": number, "CPU s": f"{frame[name].median():.2f}"}
        rows.append({**about, "a curve, of Quantus's": f"x {middle:.2f} [{low:.2f}, {high:.2f}]"})
    text = pd.DataFrame(rows)
    FOLDER.mkdir(parents=True, exist_ok=True)
    frame.to_csv(FOLDER / "peers.csv", index=False)
    (FOLDER / "peers.md").write_text(
        f"# What others take for the same\n\nMade by `python benchmarks/peers.py --images {given.images} --rounds "
        f"{given.rounds}` (CPU, 1 thread, torch {torch.__version__}, numpy {np.__version__}). {given.images} images of "
        f"{SIDE} pixels, {counts[-1]} patches each, one patch a step. Quantus has the deletion curve, ours deletion "
        f"and insertion; the forward passes that two curves need stand beside them. Ratios are medians of the rounds "
        f"and their middle half. Largest difference of the deletion curves: {apart:.1e}.\n\n{markdown_table(text)}\n"
    )
    print((FOLDER / "peers.md").read_text())


if __name__ == "__main__":
    main()
