"""What a compression changed: accuracy with a paired interval, maps, indicators, size and time."""

from __future__ import annotations

import dataclasses
import functools
import io
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from svda_analysis.analysis import analyze
from svda_analysis.answers import logits_of
from svda_analysis.errors import InputError
from svda_analysis.forward import for_model
from svda_analysis.frames import VERIFICATION_COLUMNS, make_frame
from svda_analysis.soundness import naming_the_layer
from svda_analysis.sources import ImageFeed
from svda_analysis.specs import Given, open_model
from svda_analysis.stats import difference_test, mcnemar, mean_interval
from svda_analysis.subject import Subject
from svda_analysis.tap import evaluating


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

    The interval is Student's t over images on the differences of hits (-1, 0, 1), none where no image flips; p is
    McNemar's; ``agreement`` is the share of equal predictions.
    """
    hits = [(x == labels).double() for x in (before, after)]
    difference = hits[1] - hits[0]
    n, change = len(labels), float(difference.mean())
    se = float(difference.std()) / math.sqrt(n) if n > 1 else math.nan
    ends = difference_test(change, se, n - 1, size=1, span=1).interval
    return Change(
        before=float(hits[0].mean()),
        after=float(hits[1].mean()),
        change=change,
        ci_low=ends.low,
        ci_high=ends.high,
        p=mcnemar(int((difference < 0).sum()), int((difference > 0).sum())),
        agreement=float((before == after).double().mean()),
        n=n,
    )


def predictions(
    subject: Subject,
    feed: ImageFeed,
    *,
    images: int | None = None,
    seed: int = 0,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Predicted classes and labels, each ``(n,)`` int64, of ``images`` drawn with ``seed`` (None: all); ``progress`` is
    called with (images done, in all)."""
    found, truth, total = [], [], min(images or feed.total, feed.total)
    with subject.running() as model, torch.no_grad():
        for batch, labels in feed.batches(batch_size, images, seed):
            if labels is None:
                raise InputError(f"{feed.name} has no labels of the model's classes: no accuracy can be compared")
            inputs = for_model(batch, model)
            with naming_the_layer("model", model, inputs):
                found.append(logits_of(model(inputs), model).argmax(-1).cpu())
            truth.append(labels.cpu())
            if progress:
                progress(sum(map(len, truth)), total)
    return torch.cat(found), torch.cat(truth)


@dataclasses.dataclass(frozen=True, eq=False)
class Whole:
    """The whole model and the test images that smaller ones are held against it on: ``images`` of ``feed`` drawn with
    ``seed`` (None: all).

    What a model predicts is asked for once; ``progress`` is called with (which model of how many so far, images done,
    in all).
    """

    subject: Subject
    feed: ImageFeed
    images: int | None = None
    seed: int = 0
    progress: Callable[[str, int, int], None] | None = None
    known: list[tuple[nn.Module, Tensor]] = dataclasses.field(default_factory=list)

    @functools.cached_property
    def guesses(self) -> Tensor:
        """What the whole model predicts, ``(n,)`` int64."""
        return self._answers[0]

    @functools.cached_property
    def labels(self) -> Tensor:
        """What is true, ``(n,)`` int64."""
        return self._answers[1]

    @functools.cached_property
    def _answers(self) -> tuple[Tensor, Tensor]:
        return self._predicted(self.subject, "the whole model")

    def guesses_of(self, other: nn.Module | Subject) -> Tensor:
        """What another model predicts of the same images, ``(n,)`` int64. The last two are remembered."""
        subject = other if isinstance(other, Subject) else self.subject.like(other)
        found = next((guesses for one, guesses in self.known if one is subject.model), None)
        if found is None:
            found = self._predicted(subject, "smaller models")[0]
            self.known[:] = [*self.known[-1:], (subject.model, found)]
        return found

    def _predicted(self, subject: Subject, label: str) -> tuple[Tensor, Tensor]:
        advance = None if self.progress is None else functools.partial(self.progress, label)
        return predictions(subject, self.feed, images=self.images, seed=self.seed, progress=advance)

    def change(self, model: nn.Module) -> Change:
        """:func:`accuracy_change` from the whole model to another."""
        return accuracy_change(self.guesses, self.guesses_of(model), self.labels)


def verify(
    before: Given,
    after: Given,
    feed: ImageFeed,
    *,
    images: int | None = None,
    map_images: int = 128,
    rounds: int = 15,
    seed: int = 0,
) -> pd.DataFrame:
    """What the compression changed: a frame with :data:`VERIFICATION_COLUMNS`.

    ``before`` and ``after`` are what :func:`~svda_analysis.specs.open_model` takes; a module ``after`` is seen as
    ``before`` is (its images, prefix tokens and device).

    Accuracy, with the paired interval over ``images`` test images and McNemar's p; agreement of the predictions; the
    mean Jensen-Shannon divergence (base 2, in [0, 1]) of corresponding attention maps and the mean of every indicator
    on ``map_images`` images; parameters, multiply-accumulates of an image, bytes of the saved weights; and seconds for
    one image and for 32, timed in turns. ``change`` of what is counted or timed is the ratio, with an interval over
    ``rounds`` where it is timed.
    """
    first = open_model(before)
    second = first.like(after) if isinstance(after, nn.Module) else open_model(after)
    return verify_against(Whole(first, feed, images, seed), second, map_images=map_images, rounds=rounds)


def verify_against(whole: Whole, smaller: Subject, *, map_images: int = 128, rounds: int = 15) -> pd.DataFrame:
    """:func:`verify` of a model whose predictions may be known already."""
    first, feed, seed = whole.subject, whole.feed, whole.seed
    guesses = whole.guesses_of(smaller)
    change = accuracy_change(whole.guesses, guesses, whole.labels)
    interval = {"ci_low": change.ci_low, "ci_high": change.ci_high}
    rows: list[dict[str, Any]] = [
        {"quantity": "accuracy", "p": change.p, "n": change.n, **interval, **_both(change.before, change.after)},
        {"quantity": "agreement", "after": change.agreement, "n": change.n},
    ]
    batch = torch.cat([x for x, _ in feed.batches(32, map_images, seed)])
    rows += [{"quantity": "map_divergence", "after": map_divergence(first, smaller, batch), "n": len(batch)}]
    with first.running() as before, smaller.running() as after:
        rows += _costs(before, after, batch, rounds)
    rows += _indicator_changes(first, smaller, batch)
    return make_frame(rows, VERIFICATION_COLUMNS)


def _costs(before: nn.Module, after: nn.Module, images: Tensor, rounds: int) -> list[dict[str, Any]]:
    """What is counted and timed."""
    rows: list[dict[str, Any]] = []
    counts = {"parameters": count_parameters, "macs": lambda model: macs(model, images[:1]), "bytes": file_size}
    for name, count in counts.items():
        a, b = count(before), count(after)
        rows.append({"quantity": name, "before": a, "after": b, "change": b / a})
    for name, size in (("seconds_1", 1), ("seconds_32", 32)):
        rows.append({"quantity": name, "n": rounds, **time_ratio(before, after, images[:size], rounds=rounds)})
    return rows


def _both(before: float, after: float) -> dict[str, float]:
    return {"before": before, "after": after, "change": after - before}


def _indicator_changes(before: Subject, after: Subject, images: Tensor) -> list[dict[str, Any]]:
    means = []
    for subject in (before, after):
        table = analyze(subject, images, examples=0).table
        means.append(table[table["layer"].notna()].groupby(["indicator", "source"], sort=False)["mean"].mean())
    shared = means[0].index.intersection(means[1].index, sort=False)
    return [
        {"quantity": name, "source": source, "n": len(images), **_both(means[0][name, source], means[1][name, source])}
        for name, source in shared
    ]


def map_divergence(before: Subject, after: Subject, images: Tensor) -> float:
    """Mean Jensen-Shannon divergence (base 2) between the rows of both models' maps, over layers, heads and images."""
    total, count = 0.0, 0
    for batch in images.split(16):
        first, second = (_double_maps(subject, batch) for subject in (before, after))
        for p, q in zip(first, second, strict=True):
            mixed = torch.special.entr((p + q) / 2) - (torch.special.entr(p) + torch.special.entr(q)) / 2
            values = mixed.sum(-1).mean((1, 2)) / math.log(2)  # (B,)
            total, count = total + float(values.sum()), count + len(values)
    return total / count


def _double_maps(subject: Subject, images: Tensor) -> list[Tensor]:
    with subject.running() as model, torch.no_grad():
        return [a.double().cpu() for a in subject.maps_of(for_model(images, model)).layers]


def count_parameters(model: nn.Module) -> int:
    """Numbers that a model learned."""
    return sum(p.numel() for p in model.parameters())


def macs(model: nn.Module, images: Tensor) -> int:
    """Multiply-accumulates of one forward of ``images (B, C, H, W)``, as torch counts them (matrix products alone)."""
    counter = FlopCounterMode(display=False)
    # with gradients: else nn.MultiheadAttention hides behind its fast path; by plain products: not every version of
    # torch counts its fused kernels
    with evaluating(model), sdpa_kernel(SDPBackend.MATH), counter:
        model(for_model(images, model))
    return counter.get_total_flops() // 2


def file_size(model: nn.Module) -> int:
    """Bytes of the saved weights."""
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.tell()


def time_ratio(before: nn.Module, after: nn.Module, images: Tensor, *, rounds: int = 15) -> dict[str, float]:
    """Seconds of a forward of ``images`` by each model, taken in turns, and how they compare.

    ``before`` and ``after`` are geometric means over ``rounds``, so that ``change`` is their ratio: the geometric
    mean of after / before, ``ci_low`` and ``ci_high`` its 95 % t interval on the logarithm.
    Pairs are neighbours in time, and the order swaps from round to round, so that what else the machine does hits both.
    """
    with evaluating(before), evaluating(after), torch.inference_mode():
        inputs = [for_model(images, model) for model in (before, after)]
        on_cuda = any(x.is_cuda for x in inputs)
        return paired_seconds(lambda: before(inputs[0]), lambda: after(inputs[1]), rounds=rounds, on_cuda=on_cuda)


def paired_seconds(
    before: Callable[[], object],
    after: Callable[[], object],
    *,
    rounds: int = 15,
    on_cuda: bool = False,
    clock: Callable[[], float] | None = None,
) -> dict[str, float]:
    """:func:`time_ratio` of any two functions; ``on_cuda``: what they started there is waited for. ``clock`` may be
    ``time.process_time``, which others on the machine hardly touch (None: ``time.perf_counter``)."""
    if rounds < 2:
        raise InputError(f"rounds must be at least 2, got {rounds}")
    pair, seconds = (before, after), np.empty((rounds + 1, 2))
    for turn in range(rounds + 1):
        for which in (0, 1) if turn % 2 else (1, 0):
            seconds[turn, which] = _seconds(pair[which], on_cuda, clock or time.perf_counter)
    seconds = seconds[1:]  # the first warms up
    logs = np.log(seconds[:, 1] / seconds[:, 0])
    mean, se = float(logs.mean()), float(logs.std(ddof=1)) / math.sqrt(rounds)
    ratio, low, high = (math.exp(x) for x in (mean, *mean_interval(mean, se, rounds - 1, size=1)))
    middle = np.exp(np.log(seconds).mean(axis=0)).tolist()
    return {"before": middle[0], "after": middle[1], "change": ratio, "ci_low": low, "ci_high": high}


def _seconds(run: Callable[[], object], on_cuda: bool, clock: Callable[[], float]) -> float:
    wait = torch.cuda.synchronize if on_cuda else lambda: None
    wait()
    started = clock()
    run()
    wait()
    return clock() - started
