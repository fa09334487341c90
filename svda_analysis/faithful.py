"""Does a map tell the truth about the model? Patches taken away and brought back, noise, and other weights.

Faithfulness is a property of a model and a method together. A random ranking of the patches, the control, stands beside
every method: a map that does no better says nothing about what the model used. Areas depend on how sure a model is of
itself, so models are compared by their gain over that control.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import os
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from svda_analysis.attribution import METHODS, attribute, check_images, class_of_each, resolve
from svda_analysis.errors import InputError
from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.maps import logits_of, whole_maps
from svda_analysis.sources import Data, ImageSource, for_model, open_source
from svda_analysis.specs import open_model
from svda_analysis.stats import Moments
from svda_analysis.subject import Subject
from svda_analysis.tap import evaluating
from svda_analysis.vocabulary import FAITHFULNESS, Quantity, quantity, register

Baseline = Literal["mean", "blur"]
_METRICS = (
    Quantity(
        name="deletion_gain",
        label="Deletion gain",
        low=-1.0,
        high=1.0,
        higher_means="taking away what the map ranks highest costs more than a random choice",
        direction={"*": +1},
        reference="our definition, after Petsiuk, Das & Saenko 2018",
    ),
    Quantity(
        name="insertion_gain",
        label="Insertion gain",
        low=-1.0,
        high=1.0,
        higher_means="bringing back what the map ranks highest gives more than a random choice",
        direction={"*": +1},
        reference="our definition, after Petsiuk, Das & Saenko 2018",
    ),
    Quantity(
        name="deletion_auc",
        label="Deletion AUC",
        low=0.0,
        high=1.0,
        higher_means="less faithful",
        reference="Petsiuk, Das & Saenko 2018 (here patch by patch)",
    ),
    Quantity(
        name="insertion_auc",
        label="Insertion AUC",
        low=0.0,
        high=1.0,
        higher_means="more faithful",
        reference="Petsiuk, Das & Saenko 2018 (here patch by patch)",
    ),
    Quantity(
        name="infidelity",
        label="Infidelity",
        low=0.0,
        higher_means="the map foretells worse what taking patches away does",
        reference="Yeh et al. 2019, eq. 1",
    ),
    Quantity(
        name="sensitivity_max",
        label="Largest sensitivity",
        low=0.0,
        higher_means="the map changes more under small noise",
        reference="Yeh et al. 2019, eq. 4",
    ),
    Quantity(
        name="randomisation_correlation",
        label="Likeness, weights redrawn",
        low=-1.0,
        high=1.0,
        higher_means="the map depends less on what was learned",
        reference="Adebayo et al. 2018",
    ),
)
for _metric in _METRICS:
    register(dataclasses.replace(_metric, family=FAITHFULNESS, quality="faithful"))


def deletion_insertion(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    *,
    target: int | Tensor | None = None,
    baseline: Baseline = "mean",
    steps: int | None = None,
    patch_size: int | None = None,
    prefix_tokens: int | None = None,
    batch_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """Areas under the deletion and the insertion curve, each ``(B,) float64`` in [0, 1] on the CPU.

    The curve is the target's softmax probability over the fraction of patches changed, its area by the trapezoid rule
    (Petsiuk, Das & Saenko 2018, there pixel by pixel; patches are our choice, those are the tokens). A patch weighs the
    sum of its map; the heaviest goes first, of equal ones the first in reading order. Deletion replaces patches of the
    image by the baseline's: low is faithful. Insertion puts the image's patches into the baseline: high is faithful.

    ``images (B, C, H, W)`` float, preprocessed; ``maps (B, H, W)``; ``target`` a class, one for each image ``(B,)``, or
    None for the predictions. ``baseline="mean"`` is the zero image: the mean colour where preprocessing subtracts the
    mean. ``"blur"`` is the image under a Gaussian whose deviation is one patch side, cut off at two deviations or at
    the image's side (our definition). All patches are changed in ``steps`` steps, as even as whole patches allow
    (default: one patch each), so the curve has ``steps + 1`` points. ``patch_size`` is the side of a patch; without it
    the grid is read off the model's tokens (``prefix_tokens`` of them before the first patch, where the model does not
    say it), and pixels go to patches as in :func:`~svda_analysis.attribution.attribute`.
    ``batch_size`` changed images go through the model at once.

    The model runs in eval mode where it lies and is as before afterwards. Raises :class:`InputError` when an argument
    is outside what is allowed, or the patches cannot be told from the model.
    """
    _check(images, maps, baseline, batch_size)
    images, maps = for_model(images.detach(), model), maps.detach().cpu().double()
    B = len(images)
    with evaluating(model), torch.no_grad():
        grid = _grid(model, images, patch_size, prefix_tokens)
        P = grid[0] * grid[1]
        steps = P if steps is None else steps
        if not isinstance(steps, int) or not 1 <= steps <= P:
            raise InputError(f"steps must be a whole number in 1..{P}, the number of patches, got {steps!r}")
        counts = (torch.arange(steps + 1) * P + steps // 2) // steps  # patches changed at each point, 0 to P
        patch_of_pixel = _to_pixels(torch.arange(P).view(1, *grid).double(), maps.shape[-2:]).long()[0]  # (H, W)
        ranks = _ranks(maps, patch_of_pixel, P)[:, patch_of_pixel].to(images.device)  # (B, H, W)
        filler = torch.zeros_like(images) if baseline == "mean" else _blurred(images, grid)
        classes = _targets(model, images, target, batch_size)
        jobs = torch.cartesian_prod(torch.arange(2), torch.arange(B), counts)  # (2 * B * (steps + 1), 3)
        found = []
        for kind, image, count in (part.to(images.device).unbind(1) for part in jobs.split(batch_size)):
            changed = ranks[image] < count[:, None, None]  # (b, H, W)
            from_image = (changed == kind[:, None, None].bool())[:, None]  # kind 0 deletes, 1 inserts
            mixed = torch.where(from_image, images[image], filler[image])
            found.append(_probabilities(model, mixed).gather(1, classes[image][:, None])[:, 0].cpu().double())
    curves = torch.cat(found).view(2, B, steps + 1)
    deletion, insertion = torch.trapezoid(curves, counts.double() / P).clamp(0, 1)  # rounding alone can pass 1
    return deletion, insertion


def infidelity(
    model: nn.Module,
    images: Tensor,
    maps: Tensor,
    *,
    target: int | Tensor | None = None,
    samples: int = 20,
    patch_size: int | None = None,
    prefix_tokens: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    first: int = 0,
) -> Tensor:
    """How far a map is from foretelling what taking patches away does to the model, ``(B,) float64``; 0 is best.

    ``E[(beta phi.z - (f(x) - f(x without z)))^2]`` over ``samples`` draws of z, in which each patch is set to zero with
    probability 1/2 (Yeh et al. 2019, eq. 1, by captum): ``phi.z`` is the sum of the map over what was taken, ``f`` the
    target's softmax probability, and ``beta`` the best scale for each image, since maps have no unit in common.

    The draws follow from ``seed`` and the image's number, ``first`` for the first image. Other arguments and errors as
    for :func:`deletion_insertion`.
    """
    import captum.metrics

    _check(images, maps, "mean", batch_size)
    _check_whole("samples", samples)
    images = for_model(images.detach(), model)
    B, C, H, W = images.shape
    with evaluating(model), torch.no_grad():
        grid = _grid(model, images, patch_size, prefix_tokens)
        drawn = _draws(B, (samples, *grid), seed, first).flatten(0, 1) < 0.5  # (B * samples, rows, columns)
        taken = _to_pixels(drawn.to(images), (H, W))[:, None].expand(-1, C, -1, -1)  # (B * samples, C, H, W)
        found = captum.metrics.infidelity(
            lambda x: torch.cat([_probabilities(model, part) for part in x.split(batch_size)]),
            lambda x: (taken, x * (1 - taken)),
            images,
            (maps.detach().to(images)[:, None] / C).expand(-1, C, -1, -1),
            target=_targets(model, images, target, batch_size),
            n_perturb_samples=samples,
            normalize=True,
        )
    return found.cpu().double()


def sensitivity_max(
    model: nn.Module,
    images: Tensor,
    *,
    method: str = "rollout",
    target: int | Tensor | None = None,
    samples: int = 10,
    radius: float = 0.02,
    prefix_tokens: int | None = None,
    batch_size: int = 16,
    seed: int = 0,
    first: int = 0,
) -> Tensor:
    """The largest relative change of a method's map under small noise, ``(B,) float64``; 0 is a map that stays.

    ``max ||phi(x + e) - phi(x)|| / ||phi(x)||`` over ``samples`` draws of e, each pixel uniform within ``radius`` in
    units of the preprocessed image, for one class throughout (Yeh et al. 2019, eq. 4, sampled by captum). ``seed`` and
    ``first`` as in :func:`infidelity`, the rest as in :func:`~svda_analysis.attribution.attribute`.
    """
    import captum.metrics

    _check_methods((method,))
    check_images(images, batch_size)
    _check_whole("samples", samples)
    images = for_model(images.detach(), model)
    with evaluating(model), torch.no_grad():
        classes = _targets(model, images, target, batch_size).cpu()

    def explain(x: Tensor | tuple[Tensor], target: Tensor) -> tuple[Tensor]:
        images = _bare(x)
        target = target.repeat_interleave(len(images) // len(target))  # captum does so, but for a single target
        found = attribute(
            model, images, method=method, target=target, batch_size=batch_size, prefix_tokens=prefix_tokens
        )
        return (found,)

    noise = (_draws(len(images), (samples, *images.shape[1:]), seed, first).flatten(0, 1) * 2 - 1) * radius
    found = captum.metrics.sensitivity_max(
        explain,
        images,
        lambda x, _radius: _bare(x) + noise.to(images),
        perturb_radius=radius,
        n_perturb_samples=samples,
        target=classes,
    )
    return found.cpu().double()


def faithfulness(
    model_or_opened: nn.Module | Subject | str | os.PathLike[str],
    data: Data | ImageSource | None = None,
    *,
    methods: Sequence[str] = ("rollout", "relevance", "cls_attention"),
    images: int | None = 200,
    batch_size: int = 16,
    baseline: Baseline = "mean",
    steps: int | None = 16,
    samples: int = 10,
    patch_size: int | None = None,
    seed: int = 0,
    data_root: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> pd.DataFrame:
    """Every measure of faithfulness, for each method and for a random ranking of the patches: means over images.

    Maps and curves speak of the model's own prediction. A frame with :data:`~svda_analysis.frames.TABLE_COLUMNS`:
    ``source`` is the method or ``random``, layer and head are NA, the interval is the 95 % t interval of the mean over
    images. The ``indicator`` is

    - ``deletion_auc``, ``insertion_auc``: :func:`deletion_insertion` in at most ``steps`` steps (None: patch by patch);
    - ``deletion_gain``, ``insertion_gain``: how much better than the random ranking, image by image (random minus
      method, and method minus random). Above 0 the map tells something; these compare models;
    - ``infidelity``, and ``sensitivity_max`` (not of ``random``, which sees no image), of ``samples`` draws each; 0
      leaves both out;
    - ``randomisation_correlation`` (not of ``random``): see :func:`randomisation_check`.

    ``images`` are drawn with ``seed`` (None: all; of a tensor or loader the first), and all else that is drawn follows
    from it too. ``progress`` is called with (images done, images in all); the rest is as in
    :func:`deletion_insertion`. Raises :class:`InputError` when an argument is outside what is allowed.
    """
    _check_methods(methods)
    _check_baseline(baseline)
    if images is not None and images < 1:
        raise InputError(f"images must be at least 1, got {images}")
    _check_whole("batch_size", batch_size)
    for name, value in (("steps", steps), ("samples", samples or None)):
        if value is not None:
            _check_whole(name, value)
    subject = open_model(model_or_opened)
    source = open_source(data, subject, data_root)
    chosen = tuple(dict.fromkeys(methods))
    settings = _Settings(chosen, baseline, steps, samples, patch_size, subject.prefix_tokens, seed)
    values: dict[tuple[str, str], Moments] = {}
    done, total = 0, min(images or source.total, source.total)
    with subject.running() as model:
        models = (model, _redrawn(model, seed))
        for given, _labels in source.batches(batch_size, images, seed):
            for key, found in _measure(*models, for_model(given, model), settings, done).items():
                values.setdefault(key, Moments()).update(found.numpy())
            done += len(given)
            if progress:
                progress(done, total)
    rows = [
        {**subject.identity, "dataset": source.name, "source": name, **_as_row(indicator, found)}
        for (indicator, name), found in values.items()
    ]
    return make_frame(rows, TABLE_COLUMNS)


class _Settings(NamedTuple):
    methods: tuple[str, ...]
    baseline: Baseline
    steps: int | None
    samples: int
    patch_size: int | None
    prefix_tokens: int | None
    seed: int


def _measure(
    model: nn.Module, redrawn: nn.Module, batch: Tensor, settings: _Settings, first: int
) -> dict[tuple[str, str], Tensor]:
    """The values of one batch, ``(indicator, source) -> (B,)``; its first image is the stream's number ``first``."""
    B, places = len(batch), {"patch_size": settings.patch_size, "prefix_tokens": settings.prefix_tokens}
    draws: dict[str, Any] = {"samples": settings.samples, "seed": settings.seed, "first": first}
    with evaluating(model), torch.no_grad():
        target = _targets(model, batch, None, B).cpu()
        grid = _grid(model, batch, **places)
    explain = partial(attribute, target=target, batch_size=B, prefix_tokens=settings.prefix_tokens)
    steps = None if settings.steps is None else min(settings.steps, grid[0] * grid[1])
    values: dict[tuple[str, str], Tensor] = {}
    for name in ("random", *settings.methods):
        if name == "random":
            maps = _to_pixels(_draws(B, grid, settings.seed, first), batch.shape[-2:])
        else:
            maps = explain(model, batch, method=name)
        areas = deletion_insertion(model, batch, maps, target=target, baseline=settings.baseline, steps=steps, **places)
        values["deletion_auc", name], values["insertion_auc", name] = areas
        if settings.samples:
            values["infidelity", name] = infidelity(model, batch, maps, target=target, **places, **draws)
        if name == "random":
            continue
        values["deletion_gain", name] = values["deletion_auc", "random"] - areas[0]
        values["insertion_gain", name] = areas[1] - values["insertion_auc", "random"]
        if settings.samples:
            prefix = settings.prefix_tokens
            values["sensitivity_max", name] = sensitivity_max(
                model, batch, method=name, target=target, prefix_tokens=prefix, **draws
            )
        others = explain(redrawn, batch, method=name)
        correlation = _rank_correlation(maps.flatten(1).numpy(), others.flatten(1).numpy())
        values["randomisation_correlation", name] = correlation[~correlation.isnan()]
    return values


def randomisation_check(
    model: nn.Module | Subject | str | os.PathLike[str], images: Tensor, *, method: str = "rollout", seed: int = 0
) -> pd.DataFrame:
    """How much a map depends on what the model learned (Adebayo et al. 2018, all layers at once).

    Spearman's rank correlation of each image's map with that of a copy whose weights were re-drawn, both for the class
    that the model itself predicts: near 0 the map speaks of the weights, near 1 of the image or the architecture alone.
    Re-drawn means: the entries of each parameter in a random order, which keeps its scale (our definition); a parameter
    whose entries are all equal stays as it is. The model itself is left untouched.

    ``images (B, C, H, W)`` float, preprocessed. One row with :data:`~svda_analysis.frames.TABLE_COLUMNS`: the
    ``indicator`` is ``randomisation_correlation``, ``source`` the method; ``n`` leaves out images with a constant map,
    which has no ranks. Raises :class:`InputError` when an argument is outside what is allowed.
    """
    _check_methods((method,))
    check_images(images, 16)
    subject = open_model(model)
    with subject.running(), torch.no_grad():
        batch = for_model(images, subject.model)
        target = _targets(subject.model, batch, None, 16).cpu()
        models = (subject.model, _redrawn(subject.model, seed))
        explain = partial(attribute, method=method, target=target, prefix_tokens=subject.prefix_tokens)
        maps = [explain(each, batch).flatten(1).numpy() for each in models]
    values, moments = _rank_correlation(*maps), Moments()
    moments.update(values[~values.isnan()].numpy())
    return make_frame(
        [{**subject.identity, "source": method, **_as_row("randomisation_correlation", moments)}], TABLE_COLUMNS
    )


# --- patches --------------------------------------------------------------------------------------------------------


def _grid(model: nn.Module, images: Tensor, patch_size: int | None, prefix_tokens: int | None) -> tuple[int, int]:
    """Rows and columns of patches: by ``patch_size``, or by the tokens that most attention maps of one image have."""
    H, W = images.shape[-2:]
    if patch_size is None:
        return whole_maps(model, images[:1], prefix_tokens=prefix_tokens).grid
    _check_whole("patch_size", patch_size)
    if H % patch_size or W % patch_size:
        raise InputError(f"patch_size must divide the images' {H} x {W} pixels, got {patch_size}")
    return H // patch_size, W // patch_size


def _to_pixels(patches: Tensor, size: tuple[int, ...]) -> Tensor:
    """``(B, rows, columns) -> (B, H, W)``, the value of a patch at each of its pixels."""
    return F.interpolate(patches[:, None], tuple(size), mode="nearest-exact")[:, 0]


def _ranks(maps: Tensor, patch_of_pixel: Tensor, P: int) -> Tensor:
    """The place of each patch in decreasing order of its sum, ``(B, P)`` from 0; equal ones stay in order."""
    weights = torch.zeros(len(maps), P, dtype=maps.dtype).index_add(1, patch_of_pixel.flatten(), maps.flatten(1))
    return weights.argsort(dim=1, descending=True, stable=True).argsort(dim=1)


def _blurred(images: Tensor, grid: tuple[int, int]) -> Tensor:
    from torchvision.transforms.v2 import functional as transforms

    H, W = images.shape[-2:]
    sides = (max(1, W // grid[1]), max(1, H // grid[0]))  # horizontal first, as torchvision has it
    kernel = [min(4 * side + 1, 2 * size - 1) for side, size in zip(sides, (W, H), strict=True)]  # it reflects at edges
    return transforms.gaussian_blur(images, kernel, [float(side) for side in sides])


# --- the model ------------------------------------------------------------------------------------------------------


def _probabilities(model: nn.Module, images: Tensor) -> Tensor:
    logits = logits_of(model(images))
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)


def _targets(model: nn.Module, images: Tensor, target: int | Tensor | None, batch_size: int) -> Tensor:
    """The class of each image ``(B,)``, where the images lie: the target, or the prediction."""
    logits = torch.cat([logits_of(model(part)) for part in images.split(batch_size)])
    return resolve(None if target is None else class_of_each(target, len(images)), logits)


def _bare(x: Tensor | tuple[Tensor]) -> Tensor:
    return x if isinstance(x, Tensor) else x[0]  # captum hands over one input now as itself, now in a tuple


def _draws(B: int, shape: tuple[int, ...], seed: int, first: int) -> Tensor:
    """Uniform numbers ``(B, *shape)`` in [0, 1), those of each image by its own generator."""
    generators = (torch.Generator().manual_seed(seed * 1_000_003 + first + i) for i in range(B))
    return torch.stack([torch.rand(shape, generator=generator) for generator in generators])


def _redrawn(model: nn.Module, seed: int) -> nn.Module:
    drawn, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in drawn.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return drawn


# --- numbers over images --------------------------------------------------------------------------------------------


def _rank_correlation(x: np.ndarray, y: np.ndarray) -> Tensor:
    """Spearman's coefficient of each row of ``x, y (B, pixels)``, ties at their mean rank; NaN for a constant row."""
    ranks = [torch.from_numpy(stats.rankdata(values, axis=1)) for values in (x, y)]
    x_rank, y_rank = (rank - rank.mean(1, keepdim=True) for rank in ranks)
    return (x_rank * y_rank).sum(1) / (x_rank.norm(dim=1) * y_rank.norm(dim=1))


def _as_row(name: str, found: Moments) -> dict[str, Any]:
    """The columns of a number over images; no number at all (every map was constant) is NaN."""
    low, high = quantity(name).bounds()
    if not found.n:
        return {"indicator": name, "mean": math.nan, "n": 0, "low": low, "high": high}
    ends = found.interval(low, high)
    numbers = {
        "mean": float(found.mean),
        "std": float(found.std()),
        "ci_low": ends.low,
        "ci_high": ends.high,
        "n": found.n,
    }
    return {"indicator": name, **numbers, "low": low, "high": high}


# --- checks ---------------------------------------------------------------------------------------------------------


def _check(images: Tensor, maps: Tensor, baseline: str, batch_size: int) -> None:
    check_images(images, batch_size)
    wanted = (len(images), *images.shape[-2:])
    if not isinstance(maps, Tensor) or maps.shape != wanted or not maps.isfinite().all():
        came = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise InputError(f"maps must be finite numbers of shape {wanted}, one map for each image, got {came}")
    _check_baseline(baseline)


def _check_baseline(baseline: str) -> None:
    if baseline not in get_args(Baseline):
        raise InputError(f"baseline must be one of {', '.join(get_args(Baseline))}, got {baseline!r}")


def _check_methods(methods: Sequence[str]) -> None:
    for name in (methods,) if isinstance(methods, str) else methods:
        if name not in METHODS or isinstance(methods, str):
            raise InputError(f"methods must be names among {', '.join(METHODS)}, got {name!r}")


def _check_whole(name: str, value: object) -> None:
    if not isinstance(value, int) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, got {value!r}")
