"""What a compression did: accuracy with a paired interval, maps, indicators, size and time; sweeps and a search."""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy import stats
from torch import Tensor, nn
from torch.utils.data import Subset
from torch.utils.flop_counter import FlopCounterMode

from svda_analysis.analyze import analyze, as_logits, versions
from svda_analysis.capture import AttentionRecord, capture, check_captured, evaluating
from svda_analysis.checkpoint import Checkpoint, build_model, load
from svda_analysis.compress import (
    CRITERIA,
    MIN_LOGIT,
    SLACK,
    as_checkpoint,
    attention_sites,
    compress,
    keep_energy,
    keep_logit,
    rank,
    remove,
)
from svda_analysis.data import load_dataset
from svda_analysis.errors import InputError
from svda_analysis.model import Attention
from svda_analysis.sources import ImageSource, for_model, open_source
from svda_analysis.specs import OpenModel, open_model
from svda_analysis.train import TrainConfig, train

ENERGIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)

# --- verification ---------------------------------------------------------------------------------------------------

VERIFICATION_COLUMNS = {
    "quantity": "string",  # accuracy, agreement, map_divergence, parameters ..., or an indicator
    "source": "string",  # of an indicator
    "before": "float64",
    "after": "float64",
    "change": "float64",  # after - before; a ratio for what is timed and counted
    "ci_low": "float64",  # 95 % interval of the change
    "ci_high": "float64",
    "p": "float64",
    "n": "Int64",
}


@dataclasses.dataclass(frozen=True)
class Change:
    """A paired difference in accuracy over ``n`` images: after minus before, its 95 % interval, McNemar's exact p."""

    before: float
    after: float
    change: float
    ci_low: float
    ci_high: float
    p: float
    agreement: float
    n: int


def accuracy_change(before: Tensor, after: Tensor, labels: Tensor) -> Change:
    """Compare predictions ``before, after (n,)`` of the same images with ``labels (n,)``, all int64.

    The interval is Student's t over images on the differences of hits (-1, 0, 1); p as :func:`mcnemar`; ``agreement``
    is the share of equal predictions.
    """
    hits = [(x == labels).double() for x in (before, after)]
    difference = hits[1] - hits[0]
    n, change = len(labels), float(difference.mean())
    half = float(difference.std() / math.sqrt(n) * stats.t.ppf(0.975, n - 1)) if n > 1 else math.nan
    return Change(
        before=float(hits[0].mean()),
        after=float(hits[1].mean()),
        change=change,
        ci_low=change - half,
        ci_high=change + half,
        p=mcnemar(int((difference < 0).sum()), int((difference > 0).sum())),
        agreement=float((before == after).double().mean()),
        n=n,
    )


def mcnemar(lost: int, won: int) -> float:
    """McNemar's exact two-sided p: of the images on which just one model is right, is either model right more often?

    A binomial test of ``lost`` among ``lost + won`` with chance 1/2 (McNemar 1947); 1 where the models never differ.
    """
    return float(stats.binomtest(lost, lost + won).pvalue) if lost + won else 1.0


def predictions(
    model: nn.Module, source: ImageSource, *, images: int | None = None, seed: int = 0, batch_size: int = 64
) -> tuple[Tensor, Tensor]:
    """Predicted classes and labels, each ``(n,)`` int64, of ``images`` drawn with ``seed`` (None: all)."""
    found, truth = [], []
    with evaluating(model), torch.no_grad():
        for batch, labels in source.batches(batch_size, images, seed):
            if labels is None:
                raise InputError(f"{source.name} has no labels of the model's classes: no accuracy can be compared")
            found.append(as_logits(model(for_model(batch, model))).argmax(-1).cpu())
            truth.append(labels.cpu())
    return torch.cat(found), torch.cat(truth)


def verify(
    before: nn.Module,
    after: nn.Module,
    source: ImageSource,
    *,
    images: int | None = None,
    map_images: int = 128,
    rounds: int = 15,
    seed: int = 0,
) -> pd.DataFrame:
    """What the compression changed: a frame with :data:`VERIFICATION_COLUMNS`.

    Accuracy, with the paired interval over ``images`` test images and McNemar's p; agreement of the predictions; the
    mean Jensen-Shannon divergence (base 2, in [0, 1]) of corresponding attention maps and the mean of every indicator
    on ``map_images`` images; parameters, multiply-accumulates of an image, bytes of the saved weights; and seconds for
    one image and for 32, timed in turns. ``change`` of what is counted or timed is the ratio, with an interval over
    ``rounds`` where it is timed.
    """
    guesses, labels = predictions(before, source, images=images, seed=seed)
    change = accuracy_change(guesses, predictions(after, source, images=images, seed=seed)[0], labels)
    interval = {"ci_low": change.ci_low, "ci_high": change.ci_high}
    rows: list[dict[str, Any]] = [
        {"quantity": "accuracy", "p": change.p, "n": change.n, **interval, **_both(change.before, change.after)},
        {"quantity": "agreement", "after": change.agreement, "n": change.n},
    ]
    batch = torch.cat([x for x, _ in source.batches(32, map_images, seed)])
    rows += [{"quantity": "map_divergence", "after": map_divergence(before, after, batch), "n": len(batch)}]
    for name, count in (("parameters", _parameters), ("macs", lambda m: macs(m, batch[:1])), ("bytes", file_size)):
        a, b = count(before), count(after)
        rows.append({"quantity": name, "before": a, "after": b, "change": b / a})
    for name, size in (("seconds_1", 1), ("seconds_32", 32)):
        rows.append({"quantity": name, "n": rounds, **time_ratio(before, after, batch[:size], rounds=rounds)})
    rows += _indicator_changes(before, after, batch)
    return pd.DataFrame(rows, columns=list(VERIFICATION_COLUMNS)).astype(VERIFICATION_COLUMNS)


def _both(before: float, after: float) -> dict[str, float]:
    return {"before": before, "after": after, "change": after - before}


def _indicator_changes(before: nn.Module, after: nn.Module, images: Tensor) -> list[dict[str, Any]]:
    means = []
    for model in (before, after):
        table = analyze(model, images, examples=0).table
        means.append(table[table["layer"].notna()].groupby(["indicator", "source"], sort=False)["mean"].mean())
    shared = means[0].index.intersection(means[1].index, sort=False)
    return [
        {"quantity": name, "source": source, "n": len(images), **_both(means[0][name, source], means[1][name, source])}
        for name, source in shared
    ]


def map_divergence(before: nn.Module, after: nn.Module, images: Tensor) -> float:
    """Mean Jensen-Shannon divergence (base 2) between the rows of both models' maps, over layers, heads and images."""
    total, count = 0.0, 0
    for batch in images.split(16):
        first, second = (_maps(model, batch) for model in (before, after))
        for p, q in zip(first, second, strict=True):
            mixed = torch.special.entr((p + q) / 2) - (torch.special.entr(p) + torch.special.entr(q)) / 2
            values = mixed.sum(-1).mean((1, 2)) / math.log(2)  # (B,)
            total, count = total + float(values.sum()), count + len(values)
    return total / count


def _maps(model: nn.Module, images: Tensor) -> list[Tensor]:
    found: list[Tensor] = []

    def on_record(record: AttentionRecord) -> None:
        if record.a.shape[-2] == record.a.shape[-1]:
            found.append(record.a.double().cpu())

    with evaluating(model), torch.no_grad(), capture(model, on_record):
        model(for_model(images, model))
    check_captured(len(found), model)
    return found


def _parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def macs(model: nn.Module, images: Tensor) -> int:
    """Multiply-accumulates of one forward of ``images (B, C, H, W)``, as torch counts them (matrix products alone)."""
    counter = FlopCounterMode(display=False)
    with evaluating(model), counter:  # with gradients: else nn.MultiheadAttention hides behind its fast path
        model(for_model(images, model))
    return counter.get_total_flops() // 2


def file_size(model: nn.Module) -> int:
    """Bytes of the saved weights."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.tell()


def time_ratio(before: nn.Module, after: nn.Module, images: Tensor, *, rounds: int = 15) -> dict[str, float]:
    """Median seconds of a forward of ``images`` by each model, taken in turns, and how they compare.

    ``change`` is the geometric mean over ``rounds`` of after / before, ``ci_low`` and ``ci_high`` its 95 % t interval
    on the logarithm. Pairs are neighbours in time, and the order swaps from round to round, so that what else the
    machine does hits both.
    """
    if rounds < 2:
        raise InputError(f"rounds must be at least 2, got {rounds}")
    pair, seconds = (before, after), np.empty((rounds + 1, 2))
    with evaluating(before), evaluating(after), torch.inference_mode():
        inputs = [for_model(images, model) for model in pair]
        for turn in range(rounds + 1):
            for which in (0, 1) if turn % 2 else (1, 0):
                seconds[turn, which] = _seconds(pair[which], inputs[which])
    seconds = seconds[1:]  # the first warms up
    logs = np.log(seconds[:, 1] / seconds[:, 0])
    half = stats.t.ppf(0.975, rounds - 1) * logs.std(ddof=1) / math.sqrt(rounds)
    ratio, low, high = np.exp([logs.mean(), logs.mean() - half, logs.mean() + half]).tolist()
    medians = np.median(seconds, axis=0).tolist()
    return {"before": medians[0], "after": medians[1], "change": ratio, "ci_low": low, "ci_high": high}


def _seconds(model: nn.Module, images: Tensor) -> float:
    wait = torch.cuda.synchronize if images.is_cuda else lambda: None
    wait()
    started = time.perf_counter()
    model(images)
    wait()
    return time.perf_counter() - started


# --- sweeps and search ----------------------------------------------------------------------------------------------

SWEEP_COLUMNS = {
    "criterion": "string",
    "energy": "float64",  # the share of each head's energy that was to stay
    "directions_removed": "float64",  # share of all score directions
    "rows_removed": "float64",  # share of the rows of W_q and W_k that are gone, slack rows counted as there
    "parameters_change": "float64",  # share of the whole model's
    "macs_change": "float64",
    "masked_change": "float64",  # accuracy, after minus before: scores alone shortened, norm whole
    "masked_low": "float64",  # 95 % interval over images
    "masked_high": "float64",
    "removed_change": "float64",  # accuracy with the rows gone
    "removed_low": "float64",
    "removed_high": "float64",
    "n": "Int64",
}


def sweep(
    model: nn.Module,
    images: Tensor,
    source: ImageSource,
    *,
    energies: Sequence[float] = ENERGIES,
    criteria: Sequence[str] = CRITERIA,
    slack: int = SLACK,
    constant: bool = True,
    test_images: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Energy against accuracy for each criterion, masked and removed: a frame with :data:`SWEEP_COLUMNS`.

    ``images`` are training images to rank by, ``source`` gives the test images. ``random`` is the control: as many
    directions of each head as ``operator`` keeps, chosen at random. ``progress`` is called with (points done, in all).
    """
    guesses, labels = predictions(model, source, images=test_images, seed=seed)
    size, work = _parameters(model), macs(model, images[:1])
    rows = []
    for criterion in criteria:
        found = rank(model, images, criterion=criterion, seed=seed)
        for energy in energies:
            counts = keep_energy(found, energy)
            row: dict[str, Any] = {"criterion": criterion, "energy": energy, "n": len(labels)}
            for name, extra in (("removed", slack), ("masked", _WHOLE)):
                smaller = remove(model, found, counts, slack=extra, constant=constant)
                after, _ = predictions(smaller, source, images=test_images, seed=seed)
                change = accuracy_change(guesses, after, labels)
                row |= {f"{name}_change": change.change, f"{name}_low": change.ci_low, f"{name}_high": change.ci_high}
                if name == "removed":
                    row |= removed_shares(smaller)
                    row["parameters_change"] = _parameters(smaller) / size - 1
                    row["macs_change"] = macs(smaller, images[:1]) / work - 1
                if found.layers[0].sigma is None:  # no norm stands between masking and removing
                    row |= {f"masked_{end}": row[f"removed_{end}"] for end in ("change", "low", "high")}
                    break
            rows.append(row)
            if progress:
                progress(len(rows), len(criteria) * len(energies))
    return pd.DataFrame(rows, columns=list(SWEEP_COLUMNS)).astype(SWEEP_COLUMNS)


_WHOLE = 1_000_000  # slack rows beyond any head dimension: the norm is kept whole


def removed_shares(model: nn.Module) -> dict[str, float]:
    """``directions_removed`` and ``rows_removed`` of a compressed model: shares of what the uncompressed model has."""
    layers = [site.module for site in attention_sites(model) if isinstance(site.module, Attention)]
    whole = sum(layer.heads * layer.head_dim for layer in layers)
    kept = [layer.kept for layer in layers if layer.kept is not None]
    score, rows = (sum(sum(getattr(one, name)) for one in kept) for name in ("score", "rows"))
    return {"directions_removed": 1 - score / whole, "rows_removed": 1 - rows / whole}


def smallest(
    model: nn.Module,
    images: Tensor,
    held_out: ImageSource,
    *,
    tolerance: float,
    criterion: str = "operator",
    slack: int = SLACK,
    constant: bool = True,
    seed: int = 0,
    steps: int = 8,
) -> tuple[float, nn.Module, Change]:
    """The smallest model whose accuracy falls by less than ``tolerance`` (a share, 0.01 is one point).

    One threshold on the logits that a direction moves (:func:`keep_logit`) for all heads and layers, bisected ``steps``
    times on ``held_out`` images, which must be neither test images nor among ``images``. A model passes if the whole
    95 % interval of its accuracy change lies above ``-tolerance``: few images, wide intervals, a cautious choice.
    Returns the threshold, the model, and its change on ``held_out``. Raises :class:`InputError` when none passes.
    """
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance must lie between 0 and 1, got {tolerance}")
    found = rank(model, images, criterion=criterion, seed=seed)
    guesses, labels = predictions(model, held_out)

    def attempt(least: float) -> tuple[float, nn.Module, Change]:
        smaller = remove(model, found, keep_logit(found, least), slack=slack, constant=constant)
        return least, smaller, accuracy_change(guesses, predictions(smaller, held_out)[0], labels)

    values = torch.cat([layer.flatten() for layer in found.energy]).sqrt()
    high = math.log(float(values.max()))
    low = max(math.log(max(float(values.min()), 1e-300)), high - math.log(1e4))
    best = attempt(math.exp(low))
    if best[2].ci_low < -tolerance:
        raise InputError(
            f"tolerance {tolerance} cannot be met: with hardly anything removed the change in accuracy on "
            f"{len(labels)} images is in [{best[2].ci_low:.4f}, {best[2].ci_high:.4f}]; give more slack or images"
        )
    for _ in range(steps):
        middle = (low + high) / 2
        tried = attempt(math.exp(middle))
        if tried[2].ci_low >= -tolerance:
            best, low = tried, middle
        else:
            high = middle
    return best


# --- fine-tuning ----------------------------------------------------------------------------------------------------


def finetune(
    checkpoint: Checkpoint, epochs: int, *, lr: float | None = None, data_root: str | os.PathLike[str] | None = None
) -> Checkpoint:
    """Train a checkpoint, compressed or not, for ``epochs`` more: its own recipe on a fresh schedule with peak ``lr``.

    The default peak is a tenth of the recipe's. The whole model after the same epochs is the control: what both gain
    is the longer training. Raises :class:`InputError` where the checkpoint does not say how it was trained.
    """
    if epochs < 1:
        raise InputError(f"finetune must be at least 1 epoch, got {epochs}")
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    if not checkpoint.recipe.keys() <= known or "dataset" not in checkpoint.recipe:
        raise InputError("finetune needs a checkpoint of svda train: this one does not say how it was trained")
    recipe, root = TrainConfig(**checkpoint.recipe), None if data_root is None else Path(data_root)
    recipe = dataclasses.replace(recipe, epochs=epochs, lr=recipe.lr / 10 if lr is None else lr, orthogonality=0.0)
    with tempfile.TemporaryDirectory() as folder:
        done = train(checkpoint.config, recipe, Path(folder) / "run.pt", data_root=root, weights=checkpoint.model)
    return dataclasses.replace(checkpoint, model=done.model, epoch=checkpoint.epoch + epochs, optimizer=None)


# --- all of it ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Compression:
    """What :func:`compress_and_verify` returns.

    ``checkpoint`` is the smaller one, ``verification`` has :data:`VERIFICATION_COLUMNS`, ``curve`` has
    :data:`SWEEP_COLUMNS` (empty where no sweep was asked for), ``meta`` says what was done on what.
    """

    checkpoint: Checkpoint
    verification: pd.DataFrame
    curve: pd.DataFrame
    meta: dict[str, Any]


def compress_and_verify(
    path: str | os.PathLike[str],
    *,
    min_logit: float = MIN_LOGIT,
    energy: float | None = None,
    tolerance: float | None = None,
    criterion: str = "operator",
    slack: int = SLACK,
    constant: bool = True,
    epochs: int = 0,
    data: str | None = None,
    data_root: str | os.PathLike[str] | None = None,
    rank_images: int = 256,
    held_out: int = 5000,
    test_images: int | None = None,
    energies: Sequence[float] = ENERGIES,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Compression:
    """Compress the checkpoint at ``path`` by ``min_logit``, by ``energy`` a head, or to a ``tolerance``; verify it.

    Directions are ranked on ``rank_images`` training images, a tolerance is met on ``held_out`` other training images,
    and everything is verified on ``test_images`` test images (None: all). ``epochs`` of fine-tuning follow, with the
    whole model trained as long beside it. ``energies`` are swept as by :func:`sweep`; none, no sweep.
    """
    origin = load(path)
    subject = open_model(path)
    source = open_source(data, subject, data_root)
    images, others, training = _training_images(subject, data, data_root, rank_images, held_out, seed)
    options: dict[str, Any] = {"slack": slack, "constant": constant}
    budget: dict[str, Any] = {"min_logit": min_logit} if energy is None else {"energy": energy}
    if tolerance is not None:
        least, found, change = smallest(
            subject.model, images, others, tolerance=tolerance, criterion=criterion, seed=seed, **options
        )
        budget = {"tolerance": tolerance, "min_logit": least, "held_out": dataclasses.asdict(change)}
        smaller = as_checkpoint(found, origin)
    else:
        smaller = compress(origin, images, min_logit=min_logit, energy=energy, criterion=criterion, **options)
    verification = verify(subject.model, build_model(smaller), source, images=test_images, seed=seed)
    if epochs:
        smaller, rows = _finetuned(origin, smaller, epochs, source, test_images, seed, data_root)
        verification = pd.concat([verification, rows], ignore_index=True)
    curve = sweep(
        subject.model,
        images,
        source,
        energies=energies,
        test_images=test_images,
        seed=seed,
        progress=None if progress is None else functools.partial(progress, "sweep"),
        **options,
    )
    meta = {
        **{"model": subject.name, "attention": subject.attention, "seed": subject.seed, "epoch": subject.epoch},
        **{"criterion": criterion, **options, "finetune_epochs": epochs, **budget},
        **removed_shares(build_model(smaller)),
        **{"ranked on": f"{len(images)} of {training}", "data": source.description, "versions": versions()},
        "warnings": source.warnings,
    }
    return Compression(smaller, verification, curve, meta)


def _training_images(
    subject: OpenModel,
    data: str | None,
    root: str | os.PathLike[str] | None,
    number: int,
    held_out: int,
    seed: int,
) -> tuple[Tensor, ImageSource, str]:
    """Images to rank by, other training images with their labels, and where both are from."""
    if number < 2 or held_out < 2:
        raise InputError(f"rank_images and held_out must be at least 2, got {number} and {held_out}")
    config: Any = subject.model.config
    name = subject.data.get("name") if data is None else data
    if name is None:
        raise InputError("data must be given (a data set's name): the checkpoint does not say what it was trained on")
    found = load_dataset(name, root=root, train=True, image_size=config.image_size, sample_fallback=data is None)
    if found.split == "all":
        raise InputError(f"{found.name} has no training part to rank by: put its classes into train/ and test/ folders")
    if subject.data.get("mean") and len(subject.data["mean"]) == found.channels:
        found.mean, found.std = tuple(subject.data["mean"]), tuple(subject.data["std"])
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))
    first, rest = order[:number], order[number : number + held_out]
    if not len(rest):
        raise InputError(f"rank_images must leave some of the {len(found)} training images over, got {number}")
    return (
        next(found.batches(len(first), indices=first))[0],
        open_source(Subset(found, rest.tolist()), subject),
        found.source,
    )


def _finetuned(
    origin: Checkpoint,
    smaller: Checkpoint,
    epochs: int,
    source: ImageSource,
    images: int | None,
    seed: int,
    root: str | os.PathLike[str] | None,
) -> tuple[Checkpoint, pd.DataFrame]:
    """The compressed checkpoint after fine-tuning, and what it gained beside the whole model's gain."""
    trained = [finetune(one, epochs, data_root=root) for one in (smaller, origin)]
    guesses = [predictions(build_model(one), source, images=images, seed=seed) for one in (smaller, origin, *trained)]
    pairs = {"compressed_gain": (0, 2), "whole_gain": (1, 3), "accuracy_finetuned": (3, 2)}
    rows = []
    for name, (i, j) in pairs.items():
        change = accuracy_change(guesses[i][0], guesses[j][0], guesses[0][1])
        fields = {key: getattr(change, key) for key in ("before", "after", "change", "ci_low", "ci_high", "p", "n")}
        rows.append({"quantity": name, **fields})
    return trained[0], pd.DataFrame(rows, columns=list(VERIFICATION_COLUMNS)).astype(VERIFICATION_COLUMNS)
