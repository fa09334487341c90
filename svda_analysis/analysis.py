"""Measure models: one (:func:`analyze`) or several side by side (:func:`analyze_runs`)."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

import pandas as pd
import torch

from svda_analysis.bars import bars_unless
from svda_analysis.cache import joint_key, kept, run_key
from svda_analysis.comparison import default_baseline
from svda_analysis.data import Preprocessing
from svda_analysis.directions import direction_shares
from svda_analysis.errors import InputError, check_fields
from svda_analysis.faithful import check_faithful, methods_for
from svda_analysis.faithful import faithfulness as measure_faithfulness
from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.map_comparison import check_enough, compare_run_maps
from svda_analysis.metrics import choose_metrics
from svda_analysis.options import Options
from svda_analysis.results import Analysis, Run, nothing_measured, versions
from svda_analysis.single import analyze_subject, kept_by
from svda_analysis.soundness import NotFiniteError
from svda_analysis.sources import Data, ImageFeed, open_feed
from svda_analysis.specs import Given, open_model, open_models, run_names
from svda_analysis.subject import Subject
from svda_analysis.team import Team, together
from svda_analysis.tokens import TokensGiven

Followed = Callable[..., None] | Literal[False] | None  # what is told how far it has come; False: nothing is
_NAMELESS = "{model}"  # stands for the name in the cache, which serves a run under any
LEFT_OUT = "it is left out of every mean and comparison"  # of a run whose numbers are not finite


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
    alone: bool = False,
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
    ``prefix_tokens``, ``suffix_tokens``, ``frames``) are those of :func:`~svda_analysis.specs.open_model`;
    ``data_root`` says where data sets lie. ``progress`` is called with (images done, images in all); without it a bar
    is shown in a terminal and in a notebook (False: none). Under ``torchrun`` every process calls this, and all return
    the whole (:func:`~svda_analysis.team.together`), unless one is to measure ``alone``. Raises
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
    how: dict[str, Any] = {"device": device, "preprocessing": preprocessing, "name": name, **tokens}
    return _analyzed(lambda: open_model(model, **how), data, data_root, options, progress, alone)


def _analyzed(
    opened: Callable[[], Subject],
    data: Data | None,
    root: str | os.PathLike[str] | None,
    options: Options,
    progress: Followed,
    alone: bool,
) -> Analysis:
    with together(alone) as team:
        subject = opened()
        feed = open_feed(data, subject, root)
        with bars_unless(_followed(progress, team), "images") as bars, team.failing_together(NotFiniteError):
            follow = _followed(progress, team) or functools.partial(bars, subject.name)
            return analyze_subject(subject, feed, options, progress=follow, team=team)


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
    alone: bool = False,
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
    Under ``torchrun`` it is as with :func:`analyze`: directions and faithfulness are measured on each process's
    batches, the pairs of runs whose maps are compared are dealt among the processes, and the first alone touches
    ``cache``.

    A run whose numbers are not finite is left out of every frame; it stands in ``runs`` and is named in ``warnings``
    with the first layer where they are not. Raises :class:`InputError` as :func:`analyze` does, before anything is
    measured where that can be told, and where no run has finite numbers.
    """
    extras = _Extras(maps=maps, faithfulness=faithfulness, metrics=metrics, directions=directions)
    chosen, place = Options(**options), None if cache is None else Path(cache)
    with together(alone) as team:
        labels, subjects = _named(models, names, baseline)
        if maps is not None and len(subjects) < 2:
            raise InputError(f"comparing maps needs at least two models or two runs of one, got {labels[0]} alone")
        feeds = _feeds(data, subjects, data_root)
        if faithfulness is not None:
            for subject, feed in zip(subjects, feeds, strict=True):
                check_faithful(subject, feed, metrics)
        with bars_unless(_followed(progress, team), "images") as bars:
            bench = _Bench(chosen, extras, place, _followed(progress, team) or bars, team)
            return _measured_together(bench, subjects, feeds, labels, baseline)


def _followed(progress: Followed, team: Team) -> Followed:
    """What follows the progress of this process: of a team nothing but in the first."""
    return False if team.rank else progress


def _feeds(data: Data | None, subjects: Sequence[Subject], root: str | os.PathLike[str] | None) -> list[ImageFeed]:
    """The images, in the way of each subject."""
    shelf: dict[Any, Any] = {}
    feeds = [open_feed(data, subject, root, opened=shelf) for subject in subjects]
    if len(given := dict.fromkeys(feed.name for feed in feeds)) > 1:
        raise InputError(f"models must be measured on one data set, got {', '.join(given)}: name one")
    return feeds


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
    with bench.team.failing_together(NotFiniteError):
        return dataclasses.replace(analysis, maps=bench.compare_maps(*chosen, against))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Extras:
    """What is measured beside the indicators, each on so many images (None: not at all), and by which metrics."""

    maps: int | None
    faithfulness: int | None
    metrics: Sequence[str] | None
    directions: int | None

    def __post_init__(self) -> None:
        check_fields(self)
        if self.maps is not None:
            check_enough("maps", self.maps)
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
    team: Team

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
                with self.team.failing_together(NotFiniteError):
                    parts.append(self.measure(subject, feed, label))
            except NotFiniteError as nameless:
                errors.append(NotFiniteError(str(nameless).replace(_NAMELESS, subject.name)))
                parts.append(_left_out(subject, feed, errors[-1]))
        if len(errors) == len(parts):
            raise errors[0]
        return parts

    def measure(self, subject: Subject, feed: ImageFeed, label: str) -> Analysis:
        """All of one run but its maps, from the cache where it was measured before."""
        if (cache := self.cache) is None:
            return self._fresh(subject, feed, label)
        nameless = dataclasses.replace(subject, name=_NAMELESS)
        fresh = functools.partial(self._fresh, nameless, feed, label)
        found = kept(lambda: cache / self._key(subject, feed), lambda: _as_kept(fresh()), self.team)
        part = found.renamed(subject.name)
        lines = tuple(line.replace(_NAMELESS, subject.name) for line in part.warnings)
        part = dataclasses.replace(part, warnings=lines)
        run = dataclasses.replace(part.runs[0], path=subject.spec, data=feed.description, recipe=subject.recipe)
        return dataclasses.replace(part, runs=(run,), **kept_by(subject))

    def _fresh(self, subject: Subject, feed: ImageFeed, label: str) -> Analysis:
        follow = functools.partial(self.progress, label)
        part = analyze_subject(subject, feed, self.options, progress=follow, team=self.team)
        if self.extras.directions is not None:
            part = _with_rows(part, direction_shares(subject, feed, self.extras.directions, team=self.team))
        if self.extras.faithfulness is not None:
            wanted: dict[str, Any] = {
                "images": self.extras.faithfulness,
                "metrics": self.extras.metrics,
                "seed": self.options.seed,
                "progress": functools.partial(self.progress, f"{label}, faithfulness"),
                "team": self.team,
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
                team=self.team,
                **self.sizes,
            )

        def place() -> Path:
            keys = [self._key(subject, feed) for subject, feed in zip(subjects, feeds, strict=True)]
            key = joint_key(self.extras.maps, baseline, [subject.name for subject in subjects], keys)
            return (self.cache or Path()) / f"maps-{key}"

        if self.cache is None:
            return fresh()
        return kept(place, lambda: dataclasses.replace(nothing_measured(), maps=fresh()), self.team).maps

    def _key(self, subject: Subject, feed: ImageFeed) -> str:
        settings = {**dataclasses.asdict(self.options), **dataclasses.asdict(self.extras), "maps": None}
        metrics = [] if self.extras.faithfulness is None else choose_metrics(self.extras.metrics)
        return run_key(subject, feed, settings, [*self.options.chosen, *metrics])


def _named(
    models: Given | Sequence[Given], names: Sequence[str] | None, baseline: str | None
) -> tuple[list[str], list[Subject]]:
    """What the models are called by themselves, and the subjects under the names that group them."""
    opened = open_models(models)
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


def _as_kept(part: Analysis) -> Analysis:
    """An analysis without what its subject brings, as it lies in a cache."""
    runs = tuple(dataclasses.replace(run, path=None, data="", recipe={}) for run in part.runs)
    return dataclasses.replace(part, history=make_frame([], TABLE_COLUMNS), traces={}, runs=runs)


def _left_out(subject: Subject, feed: ImageFeed, error: NotFiniteError) -> Analysis:
    """The analysis of a run whose numbers are not finite: the run and a warning, no numbers."""
    where = str(error).rpartition("the first are in ")[2]
    run = Run(**subject.identity, dataset=feed.name, path=subject.spec, data=feed.description, broken=where)
    return dataclasses.replace(nothing_measured(), runs=(run,), warnings=(f"{error}; {LEFT_OUT}",), versions=versions())


def _with_rows(part: Analysis, rows: pd.DataFrame, warnings: Sequence[str] = ()) -> Analysis:
    rows = rows.assign(attention=part.runs[0].attention).astype(TABLE_COLUMNS)
    table = pd.concat([part.table, rows], ignore_index=True)
    return dataclasses.replace(part, table=table, warnings=(*part.warnings, *warnings))
