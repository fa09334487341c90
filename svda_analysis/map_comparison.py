"""Do two models attend alike on the same images? Streams both models' attention maps into a comparison head by head."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from svda_analysis.capture import capture, check_captured, evaluating, token_layout
from svda_analysis.errors import InputError
from svda_analysis.matching import MEASURES, MapBatch, MapComparison
from svda_analysis.sources import Data, for_model, open_source
from svda_analysis.specs import OpenModel, open_model


def compare_maps(
    model: nn.Module | str | os.PathLike[str] | OpenModel,
    baseline: nn.Module | str | os.PathLike[str] | OpenModel,
    data: Data | None = None,
    *,
    images: int = 1000,
    batch_size: int = 32,
    seed: int = 0,
    data_root: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, pd.DataFrame]:
    """Compare the attention maps of two models on the same images, after matching their heads.

    Arguments as for :func:`~svda_analysis.analyze.analyze`; each model gets the images preprocessed in its own way.
    Heads are matched on one half of the images and everything is read off the other (see ``matching.py``). Returns
    frames: ``layers`` (similarity of corresponding layers), ``heads`` (who was matched with whom), ``matching`` (per
    layer: similarity in the order the heads have, matched and by chance, with gains and 95 % intervals over images),
    and ``similarity`` (layer x layer, long form). The column ``images`` is "same", or "other" for the control in
    which one model sees the next image of the batch: what is left there is habit, not a response to the image.

    Raises :class:`InputError` as :func:`~svda_analysis.analyze.analyze` does, and for fewer than 8 images.
    """
    if images < 8:
        raise InputError(f"images must be at least 8 to match heads on one half and judge on the other, got {images}")
    pair = [open_model(given) for given in (model, baseline)]
    sources = [open_source(data, one, data_root) for one in pair]
    comparisons = {"same": MapComparison(), "other": MapComparison()}
    total = min(images, sources[0].total)
    with evaluating(pair[0].model), evaluating(pair[1].model), torch.no_grad():
        streams = [source.batches(batch_size, images, seed) for source in sources]
        for (ours, _), (theirs, _) in zip(*streams, strict=True):
            if len(ours) < 2:  # the control needs another image
                continue
            a, b = _maps(pair[0].model, ours), _maps(pair[1].model, theirs)
            comparisons["same"].update(a, b)
            comparisons["other"].update(a, b._replace(maps=[np.roll(layer, 1, axis=0) for layer in b.maps]))
            if progress:
                progress(comparisons["same"].n, total)
    return _frames(comparisons)


def compare_runs(
    runs: Sequence[OpenModel], names: Sequence[str], baseline: str | None = None, **options: Any
) -> dict[str, pd.DataFrame]:
    """:func:`compare_maps` of every model with the baseline, and of the runs of one model with each other.

    ``names`` groups the runs into models; ``baseline`` defaults to the model with dot attention, else the first. Models
    are compared run by run where seeds are shared, else first with first. The runs of one model, each with the next
    one, show what another seed alone changes: the measure for what another model changes. Returns the same frames with
    columns ``model``, ``baseline``, ``seed`` and ``baseline_seed``.
    """
    dots = [name for name, run in zip(names, runs, strict=True) if run.attention == "dot"]
    baseline = baseline or (dots[0] if len(set(dots)) == 1 else names[0])
    by_name = {name: [run for other, run in zip(names, runs, strict=True) if other == name] for name in names}
    pairs = [
        (name, baseline, *pair) for name in by_name if name != baseline for pair in _paired(by_name, name, baseline)
    ]
    pairs += [(name, name, *pair) for name, same in by_name.items() for pair in _neighbours(same)]
    if not pairs:
        raise InputError(f"comparing maps needs at least two models or two runs of one, got {', '.join(by_name)} alone")
    parts: dict[str, list[pd.DataFrame]] = {}
    for name, against, run, other in pairs:
        who = {"model": name, "baseline": against, "seed": run.seed, "baseline_seed": other.seed}
        for key, frame in compare_maps(run, other, **options).items():
            parts.setdefault(key, []).append(frame.assign(**who))
    return {key: pd.concat(frames, ignore_index=True) for key, frames in parts.items()}


def _paired(by_name: dict[str, list[OpenModel]], name: str, baseline: str) -> list[tuple[OpenModel, OpenModel]]:
    ours, theirs = by_name[name], {run.seed: run for run in by_name[baseline] if run.seed is not None}
    return [(run, theirs[run.seed]) for run in ours if run.seed in theirs] or [(ours[0], by_name[baseline][0])]


def _neighbours(runs: list[OpenModel]) -> list[tuple[OpenModel, OpenModel]]:
    """Each run with the next; the last of three or more with the first."""
    return list(zip(runs, [*runs[1:], *runs[: len(runs) > 2]], strict=False))


def _maps(model: nn.Module, images: Tensor) -> MapBatch:
    found: list[Any] = []
    with capture(model, lambda record: found.append(record.a.float().cpu().numpy())):
        model(for_model(images, model))
    whole = [a for a in found if a.shape[-2] == a.shape[-1] and len(a) == len(images)]
    check_captured(len(whole), model)
    grid, prefix = token_layout(model, whole[0].shape[-1], image_size=(images.shape[-2], images.shape[-1]))
    return MapBatch(whole, grid, prefix)


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
