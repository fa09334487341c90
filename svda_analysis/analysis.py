"""Measure models: one (:func:`analyze`) or several side by side (:func:`analyze_runs`)."""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

import pandas as pd
import torch
from torch import nn

from svda_analysis.bars import bars_unless
from svda_analysis.cache import joint_key, kept, run_key
from svda_analysis.comparison import default_baseline
from svda_analysis.data import Preprocessing
from svda_analysis.directions import direction_shares
from svda_analysis.errors import InputError
from svda_analysis.example_maps import example_maps
from svda_analysis.faithful import check_faithful, methods_for
from svda_analysis.faithful import faithfulness as measure_faithfulness
from svda_analysis.formatting import in_bytes
from svda_analysis.forward import for_model
from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.map_comparison import check_enough, compare_run_maps
from svda_analysis.maps import in_words
from svda_analysis.metrics import choose_metrics
from svda_analysis.options import BATCH_SIZE, Options
from svda_analysis.results import Analysis, Examples, Run, nothing_measured, versions
from svda_analysis.soundness import NOT_FINITE, NotFiniteError
from svda_analysis.sources import Batches, Data, ImageFeed, open_feed
from svda_analysis.specs import Given, open_model, run_names
from svda_analysis.streaming import Stream, costly_of_batch
from svda_analysis.subject import Subject, run_label
from svda_analysis.tokens import TokensGiven

_NAMELESS = "{model}"  # stands for the name in the cache, which serves a run under any
LEFT_OUT = "it is left out of every mean and comparison"  # of a run whose numbers are not finite
_FEWEST_FOR_PRECISION = 64  # images before an interval may end the stream: a spread seen on fewer is no spread


def analyze(
    model: Given,
    data: Data | None = None,
    *,
    indicators: Sequence[str] | None = None,
    images: int | None = None,
    precision: float | None = None,
    costly_images: int | None = 256,
    batch_size: int | None = None,
    memory: int | str | None = None,
    device: str | torch.device | None = None,
    noise: float = 0.1,
    examples: int = 4,
    seed: int = 0,
    preprocessing: Preprocessing | None = None,
    name: str | None = None,
    data_root: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | Literal[False] | None = None,
    **tokens: Unpack[TokensGiven],
) -> Analysis:
    """Measure every layer and head of a model over a data set.

    ``model`` is a module (it keeps its device and mode), the path of a checkpoint, a spec such as
    ``timm:NAME@weights.pt`` (see ``specs.py``), or what :func:`~svda_analysis.specs.open_model` returned. ``data`` is
    preprocessed images ``(B, C, H, W)`` float, a ``Dataset`` of ``(image, label)``, a ``DataLoader``, or a data set's
    name (its test part); a checkpoint brings the name of its own.

    ``indicators`` are names from :data:`~svda_analysis.indicators.INDICATORS`, or of a group of them: ``"default"``
    (those of no group, which are measured where nothing is asked for), ``"source"``
    (:mod:`~svda_analysis.source_indicators`), ``"field"`` (what the field asks first) and ``"ablation"`` (the loss
    without each head: a forward for every head). At most ``images`` are drawn without replacement (a tensor or a loader
    is taken from its start); ``precision`` stops each indicator once the half-widths of its 95 % intervals are below
    this share of its range. Spectra of scores and maps and robustness to noise, which cost several forwards each, are
    measured on ``costly_images`` of the images, evenly over them or with ``precision`` from the first (None: on all).
    ``noise`` is the standard deviation of the Gaussian noise on the preprocessed input for
    ``perturbation_robustness``, ``seed`` that of the noise and of the drawing. ``examples`` images keep their maps, the
    first of each class; ``batch_size`` go through the model at once (default: 64). ``memory`` ("2GB", or bytes) bounds
    what measuring holds beside the model: whole maps that do not fit are left out, with a line in ``warnings``.

    ``device``, ``preprocessing``, ``name`` and ``tokens`` (how tokens lie, where the model does not show it: ``grid``,
    ``prefix_tokens``, ``suffix_tokens``, ``frames``) are those of
    :func:`~svda_analysis.specs.open_model`; ``data_root`` says where data sets lie. ``progress`` is called with (images
    done, images in all); without it a bar is shown in a terminal and in a notebook (False: none). Raises
    :class:`InputError` when an argument is outside what is allowed, or the images do not suit the model.
    """
    options = Options(
        indicators=indicators,
        images=images,
        precision=precision,
        costly_images=costly_images,
        batch_size=batch_size,
        memory=memory,
        noise=noise,
        examples=examples,
        seed=seed,
    )
    subject = open_model(model, device=device, preprocessing=preprocessing, name=name, **tokens)
    feed = open_feed(data, subject, data_root)
    with bars_unless(progress, "images") as bars:
        return analyze_subject(subject, feed, options, progress=progress or functools.partial(bars, subject.name))


def analyze_runs(
    models: Given | Sequence[Given],
    data: Data | None = None,
    *,
    names: Sequence[str] | None = None,
    baseline: str | None = None,
    maps: int | None = None,
    faithfulness: int | None = None,
    metrics: Sequence[str] | None = None,
    directions: int | None = None,
    cache: str | os.PathLike[str] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    progress: Callable[[str, int, int], None] | Literal[False] | None = None,
    **options: Any,
) -> Analysis:
    """Measure several models side by side: what ``svda-analyze A.pt B.pt`` does.

    ``models`` are what :func:`analyze` takes, or subjects opened with :func:`~svda_analysis.specs.open_model` where
    some need another preprocessing, prefix or device; ``names`` groups them into models (default: runs that differ in
    their seed alone share a name, :func:`~svda_analysis.specs.run_names`). Each gets the images in its own way; a data
    set is read once. ``baseline`` is the model to compare with. ``maps``: also compare attention maps head by head on
    so many images (:func:`~svda_analysis.map_comparison.compare_run_maps`); ``faithfulness``: also measure on so many
    images what the maps tell of the decision (:func:`~svda_analysis.faithful.faithfulness`), by these ``metrics`` or
    groups of them; ``directions``: also count on so many images the directions that hold the scores
    (:func:`~svda_analysis.directions.direction_shares`).
    ``cache`` is a folder that keeps what was measured of each run, and gives it back. ``options`` are those of
    :func:`analyze` from ``indicators`` on. ``progress`` is called with (label, done, in all), or bars are shown.

    A run whose numbers are not finite is left out of every frame; it stands in ``runs`` and is named in ``warnings``
    with the first layer where they are not. Raises :class:`InputError` as :func:`analyze` does, before anything is
    measured where that can be told, and where no run has finite numbers.
    """
    extras = _Extras(maps=maps, faithfulness=faithfulness, metrics=metrics, directions=directions)
    labels, subjects = _named(models, names, baseline)
    if maps is not None and len(subjects) < 2:
        raise InputError(f"comparing maps needs at least two models or two runs of one, got {labels[0]} alone")
    shelf: dict[Any, Any] = {}
    feeds = [open_feed(data, subject, data_root, opened=shelf) for subject in subjects]
    if len(given := dict.fromkeys(feed.name for feed in feeds)) > 1:
        raise InputError(f"models must be measured on one data set, got {', '.join(given)}: name one")
    if faithfulness is not None:
        for subject, feed in zip(subjects, feeds, strict=True):
            check_faithful(subject, feed, metrics)
    with bars_unless(progress, "images") as bars:
        bench = _Bench(Options(**options), extras, None if cache is None else Path(cache), progress or bars)
        return _measured_together(bench, subjects, feeds, labels, baseline)


def _measured_together(
    bench: _Bench, subjects: list[Subject], feeds: list[ImageFeed], labels: list[str], baseline: str | None
) -> Analysis:
    """What :func:`analyze_runs` returns, of subjects that are open."""
    analysis = Analysis.join(bench.measure_each(subjects, feeds, labels))
    sound = [at for at, run in enumerate(analysis.runs) if not run.broken]
    analysis = dataclasses.replace(analysis, baseline=baseline if baseline in analysis.models else None)
    if bench.extras.maps is None or len(sound) < 2:
        return analysis
    against = analysis.baseline or default_baseline(analysis.table)
    chosen = ([subjects[at] for at in sound], [feeds[at] for at in sound])
    return dataclasses.replace(analysis, maps=bench.compare_maps(*chosen, against))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Extras:
    """What is measured beside the indicators, each on so many images (None: not at all), and by which metrics."""

    maps: int | None
    faithfulness: int | None
    metrics: Sequence[str] | None
    directions: int | None

    def __post_init__(self) -> None:
        if self.maps is not None:
            check_enough(self.maps)
        for name in ("faithfulness", "directions"):
            if (images := getattr(self, name)) is not None and images < 1:
                raise InputError(f"{name} must be at least 1, got {images}")
        if self.metrics is not None and self.faithfulness is None:
            raise InputError(f"metrics are those of faithfulness, which needs its images, got {self.metrics} alone")
        choose_metrics(self.metrics)


@dataclasses.dataclass(frozen=True)
class _Bench:
    """How :func:`analyze_runs` measures each of its runs."""

    options: Options
    extras: _Extras
    cache: Path | None
    progress: Callable[[str, int, int], None]

    @property
    def sizes(self) -> dict[str, Any]:
        """The batch size where one is given; each measurement has a default of its own."""
        return {} if self.options.batch_size is None else {"batch_size": self.options.batch_size}

    def measure_each(
        self, subjects: Sequence[Subject], feeds: Sequence[ImageFeed], labels: Sequence[str]
    ) -> list[Analysis]:
        """A part for each run, without numbers where they are not finite; where that is so of all, the first error."""
        parts, errors = [], []
        if len(labels) > 1:
            labels = [f"{at} of {len(labels)}: {label}" for at, label in enumerate(labels, start=1)]
        for subject, feed, label in zip(subjects, feeds, labels, strict=True):
            try:
                parts.append(self.measure(subject, feed, label))
            except NotFiniteError as error:
                errors.append(error)
                parts.append(_left_out(subject, feed, error))
        if len(errors) == len(parts):
            raise errors[0]
        return parts

    def measure(self, subject: Subject, feed: ImageFeed, label: str) -> Analysis:
        """All of one run but its maps, from the cache where it was measured before."""
        if self.cache is None:
            return self._fresh(subject, feed, label)
        nameless = dataclasses.replace(subject, name=_NAMELESS)
        found = kept(self.cache / self._key(subject, feed), lambda: _as_kept(self._fresh(nameless, feed, label)))
        part = found.renamed(subject.name)
        lines = tuple(line.replace(_NAMELESS, subject.name) for line in part.warnings)
        part = dataclasses.replace(part, warnings=lines)
        run = dataclasses.replace(part.runs[0], path=subject.spec, data=feed.description, recipe=subject.recipe)
        return dataclasses.replace(part, runs=(run,), **_kept_by(subject))

    def _fresh(self, subject: Subject, feed: ImageFeed, label: str) -> Analysis:
        part = analyze_subject(subject, feed, self.options, progress=functools.partial(self.progress, label))
        if self.extras.directions is not None:
            part = _with_rows(part, direction_shares(subject, feed, self.extras.directions))
        if self.extras.faithfulness is not None:
            wanted: dict[str, Any] = {
                "images": self.extras.faithfulness,
                "metrics": self.extras.metrics,
                "seed": self.options.seed,
                "progress": functools.partial(self.progress, f"{label}, faithfulness"),
            }
            methods, lines = methods_for(subject, feed)
            rows = measure_faithfulness(subject, feed, methods=methods, **wanted, **self.sizes)
            part = _with_rows(part, rows, lines)
        return part

    def compare_maps(
        self, subjects: Sequence[Subject], feeds: Sequence[ImageFeed], baseline: str
    ) -> dict[str, pd.DataFrame]:
        """The comparison of attention maps, from the cache where it was made before."""

        def fresh() -> dict[str, pd.DataFrame]:
            return compare_run_maps(
                subjects,
                feeds,
                baseline=baseline,
                images=self.extras.maps or 0,
                seed=self.options.seed,
                progress=functools.partial(self.progress, "maps"),
                **self.sizes,
            )

        if self.cache is None:
            return fresh()
        keys = [self._key(subject, feed) for subject, feed in zip(subjects, feeds, strict=True)]
        key = joint_key(self.extras.maps, baseline, [subject.name for subject in subjects], keys)
        return kept(self.cache / f"maps-{key}", lambda: dataclasses.replace(nothing_measured(), maps=fresh())).maps

    def _key(self, subject: Subject, feed: ImageFeed) -> str:
        settings = {**dataclasses.asdict(self.options), **dataclasses.asdict(self.extras), "maps": None}
        metrics = [] if self.extras.faithfulness is None else choose_metrics(self.extras.metrics)
        return run_key(subject, feed, settings, [*self.options.chosen, *metrics])


def _named(
    models: Given | Sequence[Given], names: Sequence[str] | None, baseline: str | None
) -> tuple[list[str], list[Subject]]:
    """What the models are called by themselves, and the subjects under the names that group them."""
    every = [models] if isinstance(models, str | os.PathLike | nn.Module | Subject) else models
    opened = [open_model(given) for given in every]
    if not opened:
        raise InputError("models must name at least one model, got none")
    names = list(run_names(opened) if names is None else names)
    if len(names) != len(opened) or not all(names):
        raise InputError(f"names must hold a name for each of {len(opened)} models, got {names}")
    if baseline is not None and baseline not in names:
        raise InputError(f"baseline must be one of {', '.join(dict.fromkeys(names))}, got {baseline!r}")
    subjects = [dataclasses.replace(subject, name=name) for subject, name in zip(opened, names, strict=True)]
    known = [(subject.name, subject.seed) for subject in subjects]
    if double := next((run for run in known if known.count(run) > 1), None):
        seed = "without a seed" if double[1] is None else f"with seed {double[1]}"
        raise InputError(f"names must tell runs apart that have no seeds to, got two runs {seed} named {double[0]}")
    return [subject.name for subject in opened], subjects


def _kept_by(subject: Subject) -> dict[str, Any]:
    """What of an analysis the subject itself brings: the numbers and the trace of its training."""
    history = subject.history.assign(model=subject.name).astype(TABLE_COLUMNS)
    return {"history": history, "traces": {subject.name: subject.trace} if subject.trace else {}}


def _as_kept(part: Analysis) -> Analysis:
    """An analysis without what its subject brings, as it lies in a cache."""
    runs = tuple(dataclasses.replace(run, path=None, data="", recipe={}) for run in part.runs)
    return dataclasses.replace(part, history=make_frame([], TABLE_COLUMNS), traces={}, runs=runs)


def analyze_subject(
    subject: Subject,
    feed: ImageFeed,
    options: Options,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Analysis:
    """:func:`analyze` of a subject over a feed of images that is open."""
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
        size = _images_at_once(feed, options)
        for batch, labels in _split(feed.batches(size, options.images, options.seed), options, size):
            try:
                few, first = options.costly_images, options.precision is not None
                costly = costly_of_batch(len(batch), stream.images, total, few, first=first)
                stream.update(for_model(batch, model), labels, costly=costly)
            except NotFiniteError as error:
                raise NotFiniteError(f"{run_label(subject)} {NOT_FINITE}: {error}") from None
            if progress:
                progress(stream.images, total)
            if options.precision and stream.settle(options.precision, _FEWEST_FOR_PRECISION):
                break
        shown = example_maps(subject, feed, options.fitting_examples(stream.map_bytes))
    seconds = round(time.perf_counter() - started, 2)
    return _as_analysis(subject, feed, options, stream, shown, seconds)


def _images_at_once(feed: ImageFeed, options: Options) -> int:
    if options.batch_size or options.memory is None:
        return options.batch_size or BATCH_SIZE
    first, _ = next(iter(feed.batches(1, 1, options.seed)))
    return options.images_at_once(first[0].numel() * first.element_size())


def _split(batches: Batches, options: Options, size: int) -> Batches:
    """Batches of a loader may be larger than what fits in memory."""
    for images, labels in batches:
        parts = images.split(size if options.memory else len(images))
        of_parts = [None] * len(parts) if labels is None else labels.split(len(parts[0]))
        yield from zip(parts, of_parts, strict=True)


def _as_analysis(
    subject: Subject, feed: ImageFeed, options: Options, stream: Stream, shown: Examples | None, seconds: float
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
        **_kept_by(subject),
    )


def _left_out(subject: Subject, feed: ImageFeed, error: NotFiniteError) -> Analysis:
    """The analysis of a run whose numbers are not finite: the run and a warning, no numbers."""
    where = str(error).rpartition("the first are in ")[2]
    run = Run(**subject.identity, dataset=feed.name, path=subject.spec, data=feed.description, broken=where)
    return dataclasses.replace(nothing_measured(), runs=(run,), warnings=(f"{error}; {LEFT_OUT}",), versions=versions())


def _with_rows(part: Analysis, rows: pd.DataFrame, warnings: Sequence[str] = ()) -> Analysis:
    rows = rows.assign(attention=part.runs[0].attention).astype(TABLE_COLUMNS)
    table = pd.concat([part.table, rows], ignore_index=True)
    return dataclasses.replace(part, table=table, warnings=(*part.warnings, *warnings))


def _cautions(subject: Subject, stream: Stream, options: Options) -> list[str]:
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
