"""What a compression did: accuracy with a paired interval, maps, indicators, size and time; sweeps and a search."""

from __future__ import annotations

import copy
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

from svda_analysis.analysis import analyze
from svda_analysis.checkpoint import Checkpoint, build_model, load
from svda_analysis.compression.keep import CRITERIA, MIN_LOGIT, NORM_SHARE
from svda_analysis.compression.ranking import Counts, Ranking, keep_energy, keep_logit, logit_range, rank
from svda_analysis.compression.removal import as_checkpoint, remove, removed_shares, to_budget
from svda_analysis.data import load_dataset
from svda_analysis.errors import InputError
from svda_analysis.maps import logits_of
from svda_analysis.model import ViT
from svda_analysis.recipe import TrainConfig
from svda_analysis.results import versions
from svda_analysis.sources import ImageSource, for_model, open_source
from svda_analysis.specs import open_model
from svda_analysis.subject import Subject
from svda_analysis.tap import AttentionRecord, capture, check_captured, evaluating
from svda_analysis.training import train

ENERGIES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
BUDGETS = (0.5, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15)

# --- verification ---------------------------------------------------------------------------------------------------

VERIFICATION_COLUMNS = {
    "quantity": "string",  # accuracy, agreement, map_divergence, parameters ..., an indicator, a gain by fine-tuning
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


def adjusted_wald(lost: int, won: int, n: int) -> tuple[float, float]:
    """95 % interval of a paired difference of proportions, won minus lost over ``n`` (Bonett & Price 2012).

    Wald's interval with one image added to each of the two counts: unlike Student's t it has a width where no image
    flips, so that few images cannot pass for certainty.
    """
    p_lost, p_won = (lost + 1) / (n + 2), (won + 1) / (n + 2)
    change = p_won - p_lost
    half = float(stats.norm.ppf(0.975)) * math.sqrt((p_lost + p_won - change**2) / (n + 2))
    return change - half, change + half


def predictions(
    model: nn.Module, source: ImageSource, *, images: int | None = None, seed: int = 0, batch_size: int = 64
) -> tuple[Tensor, Tensor]:
    """Predicted classes and labels, each ``(n,)`` int64, of ``images`` drawn with ``seed`` (None: all)."""
    found, truth = [], []
    with evaluating(model), torch.no_grad():
        for batch, labels in source.batches(batch_size, images, seed):
            if labels is None:
                raise InputError(f"{source.name} has no labels of the model's classes: no accuracy can be compared")
            found.append(logits_of(model(for_model(batch, model))).argmax(-1).cpu())
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


def over_runs(frames: Sequence[pd.DataFrame], keys: Sequence[str]) -> pd.DataFrame:
    """Frames of several runs as one of the same columns: means, rows being matched by ``keys``.

    The interval of each change (``change`` with ``ci_low, ci_high``; ``X_change`` with ``X_low, X_high``) is Student's
    t over runs, ``n`` their number, ``p`` that of the paired t-test; ratios are averaged as logarithms. A single frame
    is returned as it is, with its intervals over images.
    """
    if len(frames) == 1:
        return frames[0]
    together = pd.concat(frames, ignore_index=True)
    pooled = []
    for _, rows in together.groupby(list(keys), sort=False, dropna=False):
        row: dict[str, Any] = {name: rows[name].iloc[0] for name in keys}
        row |= {name: rows[name].mean() for name in together if name not in keys and rows[name].notna().all()}
        for low in (name for name in together if name.endswith("low")):
            start = low.removesuffix("low")
            change, high = ("change" if start == "ci_" else f"{start}change"), f"{start}high"
            is_ratio = "quantity" in rows and rows["quantity"].iloc[0] in RATIOS
            row |= dict(
                zip((change, low, high, "p"), _t_over_runs(rows[change].to_numpy(float), is_ratio), strict=True)
            )
        if "p" not in together:
            row.pop("p", None)
        pooled.append({**row, "n": len(rows)})
    return pd.DataFrame(pooled, columns=list(together)).astype(together.dtypes.to_dict())


RATIOS = ("parameters", "macs", "bytes", "seconds_1", "seconds_32")  # whose change is after / before


def _t_over_runs(values: np.ndarray, is_ratio: bool) -> tuple[float, float, float, float]:
    """Mean, 95 % interval and p against no change."""
    values = np.log(values) if is_ratio else values
    mean, spread = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
    if not spread > 1e-9 * np.abs(values).max():  # all alike to rounding, or a value that is missing
        ends = (mean, math.nan, math.nan)
        p = math.nan
    else:
        half = spread * stats.t.ppf(0.975, len(values) - 1)
        ends, p = (mean, mean - half, mean + half), float(2 * stats.t.sf(abs(mean) / spread, len(values) - 1))
    low, middle, high = (math.exp(x) if is_ratio else x for x in (ends[1], ends[0], ends[2]))
    return middle, low, high, p


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
    "energy": "float64",  # the share of each head's energy that was to stay; or
    "budget": "float64",  # the share of all rows, by one threshold for the whole model
    "directions_removed": "float64",  # share of all score directions
    "rows_removed": "float64",  # share of the rows of W_q and W_k that are gone, norm rows counted as there
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
    budgets: Sequence[float] = BUDGETS,
    energies: Sequence[float] = ENERGIES,
    criteria: Sequence[str] = CRITERIA,
    norm_logit: float | None = None,
    constant: bool = True,
    test_images: int | None = None,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """What removing costs in accuracy, masked and removed: a frame with :data:`SWEEP_COLUMNS`.

    To each of ``budgets`` (:func:`to_budget`; those that are less than one direction a head
    are left out), and by each of ``energies`` a head for each criterion. ``images`` are training images to rank by,
    ``source`` gives the test images. ``random`` is the control: as many directions of each head as ``operator`` keeps,
    chosen at random. ``norm_logit`` None: a tenth of the threshold that meets a budget; at each energy, for all
    criteria, a tenth of what the weakest direction that ``operator`` keeps moves the logits by (root mean square over
    heads). ``progress`` is called with (points done, in all).
    """
    if not all(0 < budget <= 1 for budget in budgets):
        raise InputError(f"budgets must lie in (0, 1], got {', '.join(map(str, budgets))}")
    guesses, labels = predictions(model, source, images=test_images, seed=seed)
    size, work = _parameters(model), macs(model, images[:1])
    logits = rank(model, images)

    def cost(found: Ranking, counts: Counts, norm: float) -> dict[str, Any]:
        row: dict[str, Any] = {"n": len(labels)}
        for name, least in (("removed", norm), ("masked", 0.0)):
            smaller = remove(model, found, counts, norm_logit=least, constant=constant)
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
        if progress:
            progress(len(rows) + 1, len(budgets) + len(criteria) * len(energies))
        return row

    rows: list[dict[str, Any]] = []
    for budget in budgets:
        try:
            least, _ = to_budget(model, logits, budget, norm_logit=norm_logit, constant=constant)
        except InputError:
            continue
        norm = NORM_SHARE * least if norm_logit is None else norm_logit
        rows.append({"criterion": "operator", "budget": budget, **cost(logits, keep_logit(logits, least), norm)})
    for criterion in criteria if energies else ():
        found = rank(model, images, criterion=criterion, seed=seed)
        for energy in energies:
            norm = NORM_SHARE * _weakest(logits, energy) if norm_logit is None else norm_logit
            rows.append({"criterion": criterion, "energy": energy, **cost(found, keep_energy(found, energy), norm)})
    return pd.DataFrame(rows, columns=list(SWEEP_COLUMNS)).astype(SWEEP_COLUMNS)


def _weakest(ranking: Ranking, energy: float) -> float:
    counts = keep_energy(ranking, energy)
    kept = [layer[h, n - 1] for layer, row in zip(ranking.energy, counts, strict=True) for h, n in enumerate(row)]
    return math.sqrt(float(torch.stack(kept).mean()))


def smallest(
    model: nn.Module,
    ranking: Ranking,
    held_out: ImageSource,
    *,
    tolerance: float,
    norm_logit: float | None = None,
    constant: bool = True,
    steps: int = 8,
) -> tuple[float, nn.Module, Change]:
    """The smallest model whose accuracy falls by less than ``tolerance`` (a share, 0.01 is one point).

    One threshold on the logits that a direction moves (:func:`keep_logit`) for all heads and layers, bisected ``steps``
    times on ``held_out`` images, which must be neither test images nor those of the ``ranking``. A model passes if
    the whole 95 % interval of its accuracy change lies above ``-tolerance``, by :func:`adjusted_wald`: few images give
    a wide interval and a cautious choice. Returns the threshold, the model, and its change on ``held_out`` with that
    interval. Raises :class:`InputError` when none passes.

    The held-out images are training images, which the model has learned from, and the search looks at them
    ``steps + 1`` times: the interval guides the choice and promises nothing. The test images have the last word.
    """
    if not 0 < tolerance < 1:
        raise InputError(f"tolerance must lie between 0 and 1, got {tolerance}")
    guesses, labels = predictions(model, held_out)
    right = guesses == labels

    def attempt(least: float) -> tuple[float, nn.Module, Change]:
        norm = NORM_SHARE * least if norm_logit is None else norm_logit
        smaller = remove(model, ranking, keep_logit(ranking, least), norm_logit=norm, constant=constant)
        after = predictions(smaller, held_out)[0]
        still = after == labels
        low, high = adjusted_wald(int((right & ~still).sum()), int((~right & still).sum()), len(labels))
        return least, smaller, dataclasses.replace(accuracy_change(guesses, after, labels), ci_low=low, ci_high=high)

    weakest, strongest = logit_range(ranking)
    high = math.log(strongest)
    low = max(math.log(weakest), high - math.log(1e4))
    best = attempt(math.exp(low))
    if best[2].ci_low < -tolerance:
        raise InputError(
            f"tolerance {tolerance} cannot be met: with hardly anything removed the change in accuracy on "
            f"{len(labels)} images is in [{best[2].ci_low:.4f}, {best[2].ci_high:.4f}]; give more images or a lower "
            "norm_logit"
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
    checkpoint: Checkpoint,
    teacher: nn.Module,
    epochs: int,
    *,
    lr: float | None = None,
    data_root: str | os.PathLike[str] | None = None,
) -> Checkpoint:
    """Bring a compressed checkpoint back to the model that it was made from, ``teacher``: ``epochs`` through the
    training images towards its logits (Ba & Caruana 2014), without labels.

    Only what compression touched is trained: the projections of attention, sigma and the norm's constants. The rest of
    the recipe without penalties and decay, on a fresh schedule with peak ``lr``, by default 0.3 of the recipe's. By
    this loss the whole model has nothing to learn, so what the compressed one gains is recovery, never longer training.
    Raises :class:`InputError` where the checkpoint does not say how it was trained.
    """
    recipe, root = _further(checkpoint, epochs, lr), None if data_root is None else Path(data_root)
    options: dict[str, Any] = {"weights": checkpoint.model, "teacher": copy.deepcopy(teacher), "data_root": root}
    with tempfile.TemporaryDirectory() as folder:
        done = train(checkpoint.config, recipe, Path(folder) / "run.pt", trained=_was_compressed, **options)
    return dataclasses.replace(checkpoint, model=done.model, epoch=checkpoint.epoch + epochs, optimizer=None)


def _was_compressed(name: str) -> bool:
    return ".attention." in name and ".proj." not in name


def _further(checkpoint: Checkpoint, epochs: int, lr: float | None = None) -> TrainConfig:
    """The recipe that :func:`finetune` trains with, or its complaint."""
    if epochs < 1:
        raise InputError(f"finetune must be at least 1 epoch, got {epochs}")
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    if not checkpoint.recipe.keys() <= known or "dataset" not in checkpoint.recipe:
        raise InputError("finetune needs a checkpoint of svda train: this one does not say how it was trained")
    recipe = TrainConfig(**checkpoint.recipe)
    penalties = ("shape_penalty", "norm_penalty", "sigma_l1", "orthogonality", "weight_decay")
    off: dict[str, Any] = {**dict.fromkeys(penalties, 0.0), "sigma_lr_factor": 1.0}
    return dataclasses.replace(recipe, epochs=epochs, lr=0.3 * recipe.lr if lr is None else lr, **off)


# --- all of it ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Compression:
    """What :func:`compress_and_verify` returns.

    ``checkpoint`` is the smaller one, ``verification`` has :data:`VERIFICATION_COLUMNS`, ``norms`` has
    :data:`NORM_COLUMNS` (empty where no norm stands in the way), ``curve`` has :data:`SWEEP_COLUMNS` (empty where no
    sweep was asked for), ``meta`` says what was done on what.
    """

    checkpoint: Checkpoint
    verification: pd.DataFrame
    norms: pd.DataFrame
    curve: pd.DataFrame
    meta: dict[str, Any]


def compress_and_verify(
    path: str | os.PathLike[str],
    *,
    min_logit: float = MIN_LOGIT,
    energy: float | None = None,
    budget: float | None = None,
    tolerance: float | None = None,
    norm_logit: float | None = None,
    criterion: str = "operator",
    constant: bool = True,
    epochs: int = 0,
    data: str | None = None,
    data_root: str | os.PathLike[str] | None = None,
    rank_images: int = 256,
    held_out: int = 5000,
    test_images: int | None = None,
    sweep_images: int = 2000,
    name: str | None = None,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Compression:
    """Compress the checkpoint at ``path`` and verify it: by ``min_logit``, by ``energy`` a head, to a ``budget``
    (as :func:`~svda_analysis.compression.removal.compress_model`) or to a ``tolerance`` (as :func:`smallest`).

    Directions are ranked on ``rank_images`` training images, a tolerance is met on ``held_out`` other training images,
    and everything is verified on ``test_images`` test images (None: all). With ``epochs`` of fine-tuning, what is
    returned and verified is the fine-tuned model, against the whole one; further rows say what the training gave back.
    The data of the recipe must then be on the machine: no sample takes their place. A :func:`sweep` of budgets on
    ``test_images`` and of energies on at most ``sweep_images`` of them ends it (0: no sweep), without fine-tuning.
    ``name`` is the model's in the report (default: the file's), shared by its runs.
    """
    if sum(given is not None for given in (energy, budget, tolerance)) > 1:
        raise InputError("energy, budget and tolerance exclude each other: give one")
    if test_images is not None and test_images < 1:
        raise InputError(f"test_images must be at least 1, got {test_images}")
    origin = load(path)
    if epochs:  # refused now rather than after the search
        recipe = _further(origin, epochs)
        for part in (True, False):
            load_dataset(recipe.dataset, root=data_root, train=part, image_size=origin.config.image_size)
    subject = open_model(path)
    source = open_source(data, subject, data_root)
    images, others, training = _training_images(subject, data, data_root, rank_images, held_out, seed)
    found = rank(subject.model, images, criterion=criterion, seed=seed)
    options: dict[str, Any] = {"norm_logit": norm_logit, "constant": constant}
    chosen: dict[str, Any] = {}
    if tolerance is not None:
        least, model, change = smallest(subject.model, found, others, tolerance=tolerance, **options)
        chosen = {"tolerance": tolerance, "held_out": dataclasses.asdict(change)}
    elif budget is not None:
        least, model = to_budget(subject.model, found, budget, **options)
        chosen = {"budget": budget}
    else:
        least = min_logit if energy is None else MIN_LOGIT
        counts = keep_logit(found, least) if energy is None else keep_energy(found, energy)
        norm = NORM_SHARE * least if norm_logit is None else norm_logit
        model = remove(subject.model, found, counts, norm_logit=norm, constant=constant)
    chosen |= {"min_logit": least} if energy is None else {"energy": energy}
    norm = NORM_SHARE * least if norm_logit is None else norm_logit
    smaller = as_checkpoint(model, origin)
    gains = pd.DataFrame(columns=list(VERIFICATION_COLUMNS)).astype(VERIFICATION_COLUMNS)
    if epochs:
        smaller, gains = _finetuned(smaller, subject.model, epochs, source, test_images, seed, data_root)
    written = build_model(smaller) if epochs else model
    verification = verify(subject.model, written, source, images=test_images, seed=seed)
    verification = pd.concat([verification, gains], ignore_index=True)
    norms = _means_for_the_norm(subject.model, found, model, source, norm, test_images, seed)
    shares = removed_shares(model)
    curves = [pd.DataFrame(columns=list(SWEEP_COLUMNS)).astype(SWEEP_COLUMNS)]
    if sweep_images:
        swept = functools.partial(sweep, subject.model, images, source, seed=seed, **options)
        advance = None if progress is None else functools.partial(progress, "sweep")
        few = min(sweep_images, test_images or sweep_images)
        curves = [
            swept(energies=(), test_images=test_images, progress=advance),
            swept(budgets=(), test_images=few, progress=advance),
        ]
    curve = pd.concat(curves, ignore_index=True)
    meta = {
        **{"model": name or subject.name, "attention": subject.attention, "seed": subject.seed, "epoch": subject.epoch},
        **{"criterion": criterion, "norm_logit": norm, "constant": constant, "finetune_epochs": epochs, **chosen},
        **shares,
        **{"ranked on": f"{len(images)} of {training}", "data": source.description, "versions": versions()},
        "warnings": source.warnings,
    }
    return Compression(smaller, verification, norms, curve, meta)


NORM_COLUMNS = {
    "kept": "string",  # what keeps the norm of unit rows: norm rows, the constant, both, neither, or all rows (masked)
    "rows_removed": "float64",
    "change": "float64",  # accuracy, after minus before, with its 95 % interval over images
    "ci_low": "float64",
    "ci_high": "float64",
    "n": "Int64",
}


def _means_for_the_norm(
    model: nn.Module,
    found: Ranking,
    smaller: nn.Module,
    source: ImageSource,
    norm_logit: float,
    images: int | None,
    seed: int,
) -> pd.DataFrame:
    """The same directions removed with each means of keeping the norm, without fine-tuning: :data:`NORM_COLUMNS`."""
    rows: list[dict[str, Any]] = []
    if found.layers[0].sigma is not None and isinstance(smaller, ViT) and smaller.config.score_dims is not None:
        counts: Counts = [list(layer) for layer in smaller.config.score_dims]
        guesses, labels = predictions(model, source, images=images, seed=seed)
        means = {
            "all rows (masked)": (0.0, False),
            "norm rows and constant": (norm_logit, True),
            "norm rows": (norm_logit, False),
            "constant": (math.inf, True),
            "neither": (math.inf, False),
        }
        for name, (least, constant) in means.items():
            if math.isinf(norm_logit) and name.startswith("norm rows"):
                continue
            tried = remove(model, found, counts, norm_logit=least, constant=constant)
            change = accuracy_change(guesses, predictions(tried, source, images=images, seed=seed)[0], labels)
            fields = {key: getattr(change, key) for key in ("change", "ci_low", "ci_high", "n")}
            rows.append({"kept": name, "rows_removed": removed_shares(tried)["rows_removed"], **fields})
    return pd.DataFrame(rows, columns=list(NORM_COLUMNS)).astype(NORM_COLUMNS)


def _training_images(
    subject: Subject,
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
    smaller: Checkpoint,
    teacher: nn.Module,
    epochs: int,
    source: ImageSource,
    images: int | None,
    seed: int,
    root: str | os.PathLike[str] | None,
) -> tuple[Checkpoint, pd.DataFrame]:
    """The compressed checkpoint after fine-tuning; and rows of accuracy: what compression had cost, what came back."""
    tuned = finetune(smaller, teacher, epochs, data_root=root)
    models = (teacher, build_model(smaller), build_model(tuned))
    whole, before, after = (predictions(model, source, images=images, seed=seed) for model in models)
    rows = []
    for name, (first, second) in {"before_finetuning": (whole, before), "finetuning": (before, after)}.items():
        change = accuracy_change(first[0], second[0], whole[1])
        fields = {key: getattr(change, key) for key in ("before", "after", "change", "ci_low", "ci_high", "p", "n")}
        rows.append({"quantity": name, **fields})
    return tuned, pd.DataFrame(rows, columns=list(VERIFICATION_COLUMNS)).astype(VERIFICATION_COLUMNS)
