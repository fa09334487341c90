"""How much memory an analysis takes beside its model -> reports/benchmarks/memory.md and .csv.

    python benchmarks/memory.py [--memory 2GB] [--images 100,2000]

Each row is a process of its own, one thread, random weights and images: the largest resident size that it reached
(``getrusage``) beyond what it had with the model loaded, before any image went through.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from svda_analysis.analysis import analyze
from svda_analysis.formatting import in_bytes
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.render.markdown import markdown_table

FOLDER = Path("reports") / "benchmarks"
PLAIN = "plain forward"


class Drawn(Dataset[tuple[Tensor, int]]):
    """Random images, each made when it is asked for."""

    def __init__(self, count: int, size: int) -> None:
        self.count, self.size = count, size

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, at: int) -> tuple[Tensor, int]:
        if not 0 <= at < self.count:
            raise IndexError(at)
        generator = torch.Generator().manual_seed(at)
        return torch.randn(3, self.size, self.size, generator=generator), -1


def vit(preset: str, size: int) -> nn.Module:
    torch.manual_seed(0)
    return ViT(ViTConfig.preset(preset, attention="dot", image_size=size)).eval()


def peak() -> int:
    """The largest resident size of this process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def measured(case: dict[str, object]) -> dict[str, object]:
    """One case in this process: what it took beyond the model, and what the analysis says."""
    torch.set_num_threads(1)
    size, images = int(str(case["size"])), int(str(case["images"]))
    model = vit(str(case["model"]), size)
    before, started, warnings = peak(), time.process_time(), list[str]()
    if case["memory"] == PLAIN:
        drawn, together = Drawn(images, size), int(str(case["batch"] or 1))
        with torch.no_grad():
            for first in range(0, images, together):
                model(torch.stack([drawn[at][0] for at in range(first, min(first + together, images))]))
    else:
        options = {"memory": case["memory"], "batch_size": case["batch"], "costly_images": case["costly"]}
        found = analyze(model, Drawn(images, size), examples=int(str(case["examples"])), progress=False, **options)  # type: ignore[arg-type]
        warnings = [line for line in found.warnings if "memory" in line or "too long" in line]
    return {**case, "extra": peak() - before, "seconds": time.process_time() - started, "warnings": warnings}


def cases(memory: str, images: list[int]) -> Iterator[dict[str, object]]:
    large = {"model": "vit_base", "size": 1024, "images": 1, "batch": None, "costly": 1, "examples": 4}
    yield {**large, "memory": PLAIN}
    yield {**large, "memory": memory}
    small = {"model": "vit_tiny", "size": 224, "batch": 8, "costly": 16, "examples": 0}
    yield {**small, "images": images[0], "memory": PLAIN}
    for count in images:
        yield {**small, "images": count, "memory": None}


def in_own_process(case: dict[str, object]) -> dict[str, object]:
    command = [sys.executable, __file__, "--one", json.dumps(case)]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return dict(json.loads(found.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--memory", default="2GB")
    parser.add_argument("--images", default="100,2000")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(measured(json.loads(given.one))))
        return
    rows = []
    for case in cases(given.memory, [int(count) for count in given.images.split(",")]):
        rows.append(in_own_process(case))
        print(rows[-1], flush=True)
    write(rows, f"--memory {given.memory} --images {given.images}")


def write(rows: list[dict[str, object]], command: str) -> None:
    frame = pd.DataFrame(rows)
    FOLDER.mkdir(parents=True, exist_ok=True)
    numbers = frame.drop(columns="warnings").assign(seconds=frame["seconds"].round(1))
    numbers.to_csv(FOLDER / "memory.csv", index=False)
    shown = frame[["model", "size", "images"]].copy()
    shown["tokens"] = (frame["size"] // 16) ** 2 + 1
    shown["what"] = [
        PLAIN if x == PLAIN else f"analysis, --memory {x}" if x else "analysis" for x in (row["memory"] for row in rows)
    ]
    shown["extra memory"] = frame["extra"].map(in_bytes)
    shown["CPU s"] = frame["seconds"].map("{:.0f}".format)
    said = sorted({line for lines in frame["warnings"] for line in lines})
    (FOLDER / "memory.md").write_text(
        "# What memory an analysis takes\n\n"
        f"Made by `python benchmarks/memory.py {command}` (CPU, 1 thread, torch {torch.__version__}). Patches of 16 "
        "pixels, random weights and images. Extra memory: the largest resident size of a process of its own, beyond "
        "what it had with the model loaded. The default indicators; of the small model 8 images a batch, spectra and "
        "robustness on 16 images.\n\n"
        + markdown_table(shown)
        + "\n\nThe analysis says:\n\n"
        + "".join(f"- {line}\n" for line in said)
    )


if __name__ == "__main__":
    main()
