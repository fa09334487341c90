"""Do two models attend alike on the same images? Streams both models' attention maps into a comparison head by head."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from svda_analysis.errors import InputError
from svda_analysis.forward import for_model
from svda_analysis.frames import MAP_COLUMNS
from svda_analysis.matching import MEASURES, MapBatch, MapComparison
from svda_analysis.representations import RepresentationComparison
from svda_analysis.sources import Data, ImageFeed, open_feed
from svda_analysis.specs import Given, open_model
from svda_analysis.subject import Subject
from svda_analysis.team import ALONE, Team

Opened = tuple[Subject, ImageFeed]  # a model, and the images in its way


def compare_maps(
    model: Given,
    baseline: Given,
    data: Data | None = None,
    *,
    images: int = 1000,
    batch_size: int = 32,
    seed: int = 0,
    data_root: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, pd.DataFrame]:
    """Compare the attention maps of two models on the same images, after matching their heads.

    Arguments as for :func:`~svda_analysis.analysis.analyze`; each model gets the images preprocessed in its own way.
    Heads are matched on one half of the images and everything is read off the other (see ``matching.py``). Returns
    frames: ``layers`` (similarity of corresponding layers), ``heads`` (who was matched with whom), ``matching`` (per
    layer: similarity in the order the heads have, matched and by chance, with gains and 95 % intervals over images),
    and ``similarity`` (layer x layer, long form; with ``measure`` "cka" that of the layers' tokens,
    :func:`~svda_analysis.representations.linear_cka`: of a model with itself, between its layers). The column
    ``images`` is "same", or "other" for the control in which one model sees the next image of the batch: what is left
    there is habit, not a response to the image.

    Raises :class:`InputError` as :func:`~svda_analysis.analysis.analyze` does, and for fewer than 8 images.
    """
    ours, theirs = ((one, open_feed(data, one, data_root)) for one in (open_model(model), open_model(baseline)))
    return _compare(ours, theirs, images, seed, batch_size, progress)


def check_enough(name: str, images: int) -> None:
    """Raise :class:`InputError` naming ``name`` for fewer images than heads can be matched on."""
    if images < 8:
        raise InputError(f"{name} must be at least 8 to match heads on one half and judge on the other, got {images}")


def _compare(
    ours: Opened,
    theirs: Opened,
    images: int,
    seed: int,
    batch_size: int = 32,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, pd.DataFrame]:
    check_enough("images", images)
    comparisons, representations = {"same": MapComparison(), "other": MapComparison()}, RepresentationComparison()
    total = min(images, ours[1].total)
    with ours[0].running(), theirs[0].running(), torch.no_grad():
        streams = [feed.batches(batch_size, images, seed) for _, feed in (ours, theirs)]
        for (mine, _), (other, _) in zip(*streams, strict=True):
            if len(mine) < 2:  # the control needs another image
                continue
            (a, x), (b, y) = _map_batch(ours[0], mine), _map_batch(theirs[0], other)
            representations.update(x, y)
            comparisons["same"].update(a, b)
            comparisons["other"].update(a, b._replace(maps=[np.roll(layer, 1, axis=0) for layer in b.maps]))
            if progress:
                progress(comparisons["same"].n, total)
    frames = _frames(comparisons)
    alike = representations.similarity().assign(measure="cka", images="same")
    parts = [frames["similarity"], *([alike] if len(alike) else [])]  # a part without rows has no types
    return {**frames, "similarity": pd.concat(parts, ignore_index=True)}


def compare_run_maps(
    subjects: Sequence[Subject],
    feeds: Sequence[ImageFeed],
    *,
    baseline: str,
    images: int = 1000,
    batch_size: int = 32,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
    team: Team = ALONE,
) -> dict[str, pd.DataFrame]:
    """:func:`compare_maps` of every model with the baseline, and of the runs of one model with each other.

    ``subjects`` of one name are runs of one model, each with its feed of the same images. Each run of a model is
    compared with a run of the baseline that has another seed, where there is one: runs of one seed share their initial
    weights and the order of their data, so that their heads sit at the same place for that reason alone. Those pairs,
    of equal seeds, are compared beside them and told apart (``seed``, ``baseline_seed``). Without shared seeds: first
    with first. The runs of one model, each with the next one, show what another seed alone changes: the measure for
    what another model changes. Of a ``team`` of processes each compares some of the pairs, and all get the whole.
    Returns the same frames with columns ``model``, ``baseline``, ``seed`` and ``baseline_seed``.
    """
    by_name: dict[str, list[Opened]] = {}
    for one in zip(subjects, feeds, strict=True):
        by_name.setdefault(one[0].name, []).append(one)
    pairs = [pair for name in by_name if name != baseline for pair in _paired(by_name[name], by_name[baseline])]
    pairs += [pair for same in by_name.values() for pair in _neighbours(same)]
    if not pairs:
        raise InputError(f"comparing maps needs at least two models or two runs of one, got {', '.join(by_name)} alone")
    made = team.gather([_compare(*pair, images, seed, batch_size, progress) for pair in team.share(pairs)])
    parts: dict[str, list[pd.DataFrame]] = {}
    for at, (ours, theirs) in enumerate(pairs):
        who = {"model": ours[0].name, "baseline": theirs[0].name, "seed": ours[0].seed, "baseline_seed": theirs[0].seed}
        for key, frame in made[at % team.world][at // team.world].items():
            parts.setdefault(key, []).append(frame.assign(**who))
    return {key: pd.concat(frames, ignore_index=True).astype(MAP_COLUMNS[key]) for key, frames in parts.items()}


def _paired(ours: list[Opened], theirs: list[Opened]) -> list[tuple[Opened, Opened]]:
    """Runs of equal seeds; then each run with the one of the next seed among those of equal seeds."""
    by_seed = {one[0].seed: one for one in theirs if one[0].seed is not None}
    shared = [(run, by_seed[run[0].seed]) for run in ours if run[0].seed is not None and run[0].seed in by_seed]
    if not shared:
        return [(ours[0], theirs[0])]
    turned = [*shared[1:], shared[0]] if len(shared) > 1 else []
    return [*shared, *((run, other) for (run, _), (_, other) in zip(shared, turned, strict=False))]


def _neighbours(runs: list[Opened]) -> list[tuple[Opened, Opened]]:
    """Each run with the next; the last of three or more with the first."""
    return list(zip(runs, [*runs[1:], *runs[: len(runs) > 2]], strict=False))


def _map_batch(subject: Subject, images: Tensor) -> tuple[MapBatch, list[np.ndarray | None]]:
    """The maps of a batch, and each layer's mean tokens ``(B, C)``."""
    found = subject.maps_of(for_model(images, subject.model), inputs=True)
    means = [None if x is None else x.float().mean(1).cpu().numpy() for x in found.inputs]
    how, layers = found.layout, [a.float().cpu().numpy() for a in found.layers]
    return MapBatch(layers, how.grid, how.prefix, how.suffix, how.frames, how.class_token), means


def _frames(comparisons: dict[str, MapComparison]) -> dict[str, pd.DataFrame]:
    parts: dict[str, list[pd.DataFrame]] = {"layers": [], "heads": [], "matching": [], "similarity": []}
    for kind, comparison in comparisons.items():
        parts["layers"].append(comparison.layers().assign(images=kind))
        for measure in MEASURES:
            matching = comparison.match(measure)
            parts["heads"].append(matching.heads.assign(images=kind))
            parts["matching"].append(matching.layers.assign(images=kind))
            matrix = comparison.similarity(measure)
            long = matrix.reset_index().melt("layer_a", var_name="layer_b", value_name="similarity")
            parts["similarity"].append(long.assign(measure=measure, images=kind))
    return {name: pd.concat(frames, ignore_index=True) for name, frames in parts.items()}
