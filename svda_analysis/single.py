"""Measure one model over images that are open, in one process or in several together."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from svda_analysis.data import Preprocessing
from svda_analysis.example_maps import example_maps
from svda_analysis.formatting import in_bytes
from svda_analysis.forward import for_model
from svda_analysis.frames import TABLE_COLUMNS
from svda_analysis.maps import in_words
from svda_analysis.options import BATCH_SIZE, Options
from svda_analysis.results import Analysis, Examples, Run, versions
from svda_analysis.soundness import NOT_FINITE, NotFiniteError
from svda_analysis.sources import ImageFeed, Numbered
from svda_analysis.streaming import Stream, costly_of_batch
from svda_analysis.subject import Subject, run_label
from svda_analysis.tallies import Tally
from svda_analysis.team import ALONE, Team

_FEWEST_FOR_PRECISION = 64  # images before an interval may end the stream: a spread seen on fewer is no spread


def analyze_subject(
    subject: Subject,
    feed: ImageFeed,
    options: Options,
    *,
    progress: Callable[[int, int], None] | None = None,
    team: Team = ALONE,
) -> Analysis:
    """:func:`~svda_analysis.analysis.analyze` of a subject over a feed of images that is open, by all of a team
    together: each process measures its batches, and all get the whole."""
    started, total = time.perf_counter(), min(options.images or feed.total, feed.total)
    with subject.running() as model, torch.no_grad():
        stream = Stream(
            model,
            options.chosen,
            noise=options.noise,
            seed=options.seed,
            **subject.tokens,
            classes=feed.scores,
            normalisation=feed.normalisation or subject.preprocessing.normalisation,
            memory=options.most_bytes,
        )
        try:
            whole = _streamed(stream, feed, options, total, progress or (lambda done, total: None), team)
        except NotFiniteError as error:
            raise NotFiniteError(f"{run_label(subject)} {NOT_FINITE}: {error}") from None
        shown = team.first(lambda: example_maps(subject, feed, options.fitting_examples(whole.map_bytes)))
    seconds = round(time.perf_counter() - started, 2)
    return _as_analysis(subject, feed, options, whole, shown, seconds)


def _streamed(
    stream: Stream, feed: ImageFeed, options: Options, total: int, progress: Callable[[int, int], None], team: Team
) -> Tally:
    """What the stream comes to over this process's batches, together with what it comes to in the others."""

    def measure(first: int, images: Tensor, labels: Tensor | None) -> None:
        few, at_start = options.costly_images, options.precision is not None
        costly = costly_of_batch(len(images), first, total, few, first=at_start)
        stream.update(for_model(images, stream.model), labels, costly=costly, first=first)
        progress(min(first + len(images), total), total)

    size = _images_at_once(feed, options)
    batches = _split(feed.dealt(size, options.images, options.seed, team), options, size)
    if team.world > 1 and "position_map" in stream.needed:  # that of the first batch of all
        if team.rank == 0:
            measure(*next(batches))
        stream.position_maps = team.first(lambda: stream.position_maps)
    for batch in team.rounds(batches) if options.precision else batches:
        if batch is not None:
            measure(*batch)
        if options.precision:
            whole = stream.joined(team)
            known, stream.settled = whole.settle(options.precision, _FEWEST_FOR_PRECISION), whole.settled
            if known:
                break
    whole = stream.joined(team)
    if team.world > 1:
        progress(whole.images, total)
    return whole


def _images_at_once(feed: ImageFeed, options: Options) -> int:
    if options.batch_size or options.memory is None:
        return options.batch_size or BATCH_SIZE
    first, _ = next(iter(feed.batches(1, 1, options.seed)))
    return options.images_at_once(first[0].numel() * first.element_size())


def _split(batches: Iterator[Numbered], options: Options, size: int) -> Iterator[Numbered]:
    """Batches of a loader may be larger than what fits in memory."""
    for first, images, labels in batches:
        parts = images.split(size if options.memory else len(images))
        of_parts = [None] * len(parts) if labels is None else labels.split(len(parts[0]))
        yield from zip(itertools.count(first, len(parts[0])), parts, of_parts, strict=False)


def _as_analysis(
    subject: Subject, feed: ImageFeed, options: Options, stream: Tally, shown: Examples | None, seconds: float
) -> Analysis:
    identity = {**(who := {**subject.identity, "attention": subject.attention or stream.kind}), "dataset": feed.name}
    settings = {key: getattr(options, key) for key in ("noise", "seed", "precision", "memory")}
    settings |= {
        "at_hand": feed.total,
        "costly_measured": stream.costly_images,
        "batch_size": options.batch_size or BATCH_SIZE,
    }
    run = Run(
        **identity,
        path=subject.spec,
        parameters=sum(p.numel() for p in subject.model.parameters()),
        images=stream.images,
        data=feed.description,
        preprocessing=str(feed.preprocessing or Preprocessing()),
        seconds=seconds,
        untrained=subject.untrained,
        recipe=subject.recipe,
        settings={**settings, "device": str(subject.device), **subject.tokens},
    )
    return Analysis(
        table=stream.table(identity),
        spectra=stream.spectra(who),
        examples={subject.name: shown} if shown else {},
        runs=(run,),
        warnings=(*feed.warnings, *_cautions(subject, stream, options)),
        versions=versions(),
        **kept_by(subject),
    )


def kept_by(subject: Subject) -> dict[str, Any]:
    """What of an analysis the subject itself brings: the numbers and the trace of its training."""
    history = subject.history.assign(model=subject.name).astype(TABLE_COLUMNS)
    return {"history": history, "traces": {subject.name: subject.trace} if subject.trace else {}}


def _cautions(subject: Subject, stream: Tally, options: Options) -> list[str]:
    lines = []
    if subject.untrained:
        lines.append(f"{subject.spec} names no weights (@FILE): they are random, and nothing here was learned")
    if subject.left_out:
        lines.append(f"{subject.name}: {subject.left_out}")
    if stream.windows:
        lines.append(f"{subject.name} attends inside windows: its numbers speak of windows, not of the whole image")
    if stream.views:
        lines.append(f"{subject.name} sees several views of an image in one batch: its numbers are means over these")
    if stream.beyond:
        lines.append(f"{subject.name}: the data have {stream.beyond}: no accuracy is given")
    if stream.left_out:
        count = f"{len(stream.left_out)} of {stream.calls} attention calls are no maps of the image and are left out"
        lines.append(f"{subject.name}: {count}: {in_words(stream.left_out)}")
    if stream.hidden:
        lines.append(f"{subject.name}: not measured: {in_words(stream.hidden)}")
    if stream.starts > 1:
        measured = stream.calls - len(stream.left_out)
        passes = f"{stream.starts} of its {measured} layers come of no other: two passes or towers in one forward"
        lines.append(f"{subject.name}: {passes}, one behind the other in the table")
    if stream.pixels_unknown:
        lines.append(
            f"source_perturbation_robustness of {subject.name}: the mean and deviation that its images were brought to "
            "are not known, so the noise lies on them as they are, with nothing clamped to [0, 1]"
        )
    if (fitting := options.fitting_examples(stream.map_bytes)) < options.examples:
        maps = f"whole maps of all layers take {in_bytes(stream.map_bytes)} an image"
        lines.append(f"{subject.name}: {maps}: {fitting} of {options.examples} examples fit in memory")
    lines += [f"{subject.name}: {line}" for line in stream.too_large()]
    lines += [f"{one.name} of {subject.name}: not measured, {why}" for one, why in stream.lacking()]
    return lines
