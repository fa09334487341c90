"""Patches taken away and brought back, and noise: what a map foretells, against what the model then does.

The measures of one map at a time; :func:`svda_analysis.faithful.faithfulness` takes them over a data set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from svda_analysis.answers import logits_of
from svda_analysis.attribution import METHODS, attribute, check_images, class_of_each, resolve
from svda_analysis.draws import draws_of_images
from svda_analysis.errors import InputError
from svda_analysis.fillers import Answer, Scene, choose_filler, patch_of_pixels
from svda_analysis.forward import call_model, for_model
from svda_analysis.maps import to_pixels
from svda_analysis.specs import Given, open_model
from svda_analysis.subject import Subject
from svda_analysis.tokens import Layout


def deletion_insertion(
    model: Given,
    images: Tensor,
    maps: Tensor,
    *,
    target: int | Tensor | None = None,
    baseline: str = "mean",
    steps: int | None = None,
    patch_size: int | None = None,
    batch_size: int = 64,
) -> tuple[Tensor, Tensor]:
    """Areas under the deletion and the insertion curve, each ``(B,) float64`` in [0, 1] on the CPU.

    The curve is the target's softmax probability (of a single output its sigmoid) over the fraction of patches changed,
    its area by the trapezoid rule (Petsiuk, Das & Saenko 2018, there pixel by pixel; patches are our choice, those are
    the tokens). A patch weighs the mean of its map: one at the edge of an image that the grid does not divide has more
    pixels, and no more weight for them. The heaviest goes first, of equal ones the first in reading order. Deletion
    takes patches away: low is faithful. Insertion brings the image's patches back where none was: high is faithful.

    ``images (B, C, H, W)`` float, preprocessed; ``maps (B, H, W)``; ``target`` a class, one for each image ``(B,)``, or
    None for the predictions. ``baseline`` is what stands where a patch was taken away, a name of
    :data:`~svda_analysis.fillers.FILLERS`: ``"mean"`` is the zero image, the mean colour where preprocessing subtracts
    the mean; ``"blur"`` the blurred image; ``"black"`` pixels of 0; ``"image_mean"`` the image's own mean colour;
    ``"tokens"`` nothing at all, the tokens are dropped (Jain et al. 2022). All patches are changed in ``steps`` steps,
    as even as whole patches allow (default: one patch each), so the curve has ``steps + 1`` points. ``patch_size`` is
    the side of a patch; without it the grid is read off the model's tokens, and pixels go to patches as in
    :func:`~svda_analysis.attribution.attribute`.
    ``batch_size`` changed images go through the model at once.

    ``model`` is what :func:`~svda_analysis.specs.open_model` takes; it runs in eval mode and is as before afterwards.
    Raises :class:`InputError` when an argument is outside what is allowed, the model has no classifier, the patches
    cannot be told from it, or the baseline is not to be had for it.
    """
    check_maps(images, maps, batch_size)
    subject = open_model(model)
    choose_filler(baseline).check(subject)
    with subject.running() as network, torch.no_grad():
        images = for_model(images.detach(), network)
        P = math.prod(patch_layout(subject, images, patch_size).grid)
        points = step_counts(P, steps)
        classes = targets_of(network, images, target, batch_size)
    curves = removal_curves(
        subject, images, maps, classes[:, None], points, baseline=baseline, patch_size=patch_size, batch_size=batch_size
    )
    deletion, insertion = areas_under(curves[..., 0].exp(), points)
    return deletion, insertion


def removal_curves(
    model: Given,
    images: Tensor,
    maps: Tensor,
    classes: Tensor,
    counts: Tensor,
    *,
    baseline: str = "mean",
    patch_size: int | None = None,
    batch_size: int = 64,
) -> Tensor:
    """Log-probabilities of ``classes (B, K)`` while patches go and come back, ``(2, B, S, K) float64`` on the CPU.

    At each of ``counts (S,)`` the so many heaviest patches are taken away (the first of the two) or are all that stays
    (the second). Other arguments and errors as for :func:`deletion_insertion`.
    """
    check_maps(images, maps, batch_size)
    subject, filler, B = open_model(model), choose_filler(baseline), len(images)
    with subject.running() as network, torch.no_grad():
        images = for_model(images.detach(), network)
        classes = classes.to(images.device)
        layout = patch_layout(subject, images, patch_size)
        ranks = _ranks(maps.detach().cpu().double(), layout).to(images.device)  # (B, P)
        answer = filler.prepare(Scene(subject=subject, images=images, layout=layout))
        jobs = torch.cartesian_prod(torch.arange(2), counts.cpu(), torch.arange(B))  # (2 * S * B, 3)
        found = [_answered(network, answer, part.to(images.device), ranks, classes) for part in jobs.split(batch_size)]
    return torch.cat(found).view(2, len(counts), B, -1).transpose(1, 2)


def _answered(model: nn.Module, answer: Answer, jobs: Tensor, ranks: Tensor, classes: Tensor) -> Tensor:
    """Log-probabilities ``(b, K)`` of jobs ``(b, 3)``: kind (0 deletes, 1 inserts), patches, image."""
    kind, count, at = jobs.unbind(1)
    heaviest = ranks[at] < count[:, None]  # (b, P)
    logits = answer(at, heaviest == kind[:, None].bool())
    return class_logits(logits, model).log_softmax(-1).gather(1, classes[at]).cpu().double()


def areas_under(curves: Tensor, counts: Tensor) -> Tensor:
    """Areas by the trapezoid rule of values in [0, 1] at ``counts (S,)`` of all patches, ``(..., S) -> (...)``."""
    return torch.trapezoid(curves, counts.double() / counts[-1]).clamp(0, 1)  # rounding alone can pass 1


def step_counts(P: int, steps: int | None = None) -> Tensor:
    """Patches changed at each point of a curve, ``(steps + 1,)`` whole numbers from 0 to P, as even as they can be."""
    steps = P if steps is None else steps
    if not isinstance(steps, int) or not 1 <= steps <= P:
        raise InputError(f"steps must be a whole number in 1..{P}, the number of patches, got {steps!r}")
    return (torch.arange(steps + 1) * P + steps // 2) // steps


def infidelity(
    model: Given,
    images: Tensor,
    maps: Tensor,
    *,
    target: int | Tensor | None = None,
    samples: int = 20,
    patch_size: int | None = None,
    batch_size: int = 64,
    seed: int = 0,
    first: int = 0,
) -> Tensor:
    """How far a map is from foretelling what taking patches away does to the model, ``(B,) float64``; 0 is best.

    ``E[(beta phi.z - (f(x) - f(x without z)))^2]`` over ``samples`` draws of z, in which each patch is set to zero with
    probability 1/2 (Yeh et al. 2019, eq. 1, by captum): ``phi.z`` is the sum of the map over what was taken, ``f`` the
    target's probability, and ``beta`` the best scale for each image, since maps have no unit in common.

    The draws follow from ``seed`` and the image's number, ``first`` for the first image. Other arguments and errors as
    for :func:`deletion_insertion`.
    """
    import captum.metrics

    check_maps(images, maps, batch_size)
    check_whole("samples", samples)
    subject, (B, C, H, W) = open_model(model), images.shape
    with subject.running() as network, torch.no_grad():
        images = for_model(images.detach(), network)
        layout = patch_layout(subject, images, patch_size)
        shape = (samples, *layout.grid)
        drawn = draws_of_images("patches", range(first, first + B), shape, seed) < 0.5  # (B, samples, rows, columns)
        taken = to_pixels(drawn.flatten(0, 1).to(images), layout, (H, W))[:, None].expand(-1, C, -1, -1)
        found = captum.metrics.infidelity(
            lambda x: torch.cat([_probabilities(network, part) for part in x.split(batch_size)]),
            lambda x: (taken, x * (1 - taken)),
            images,
            (maps.detach().to(images)[:, None] / C).expand(-1, C, -1, -1),
            target=targets_of(network, images, target, batch_size),
            n_perturb_samples=samples,
            normalize=True,
        )
    return found.cpu().double()


def sensitivity_max(
    model: Given,
    images: Tensor,
    *,
    method: str = "rollout",
    target: int | Tensor | None = None,
    samples: int = 10,
    radius: float = 0.02,
    batch_size: int = 16,
    seed: int = 0,
    first: int = 0,
) -> Tensor:
    """The largest relative change of a method's map under small noise, ``(B,) float64``; 0 is a map that stays.

    ``max ||phi(x + e) - phi(x)|| / ||phi(x)||`` over ``samples`` draws of e, each pixel uniform within ``radius`` in
    units of the preprocessed image, for one class throughout (Yeh et al. 2019, eq. 4, sampled by captum). Where the
    model's preprocessing says what pixels of 0 and 1 are brought to, none is moved beyond them (our choice): what is no
    picture is no neighbour of one. ``seed`` and ``first`` as in :func:`infidelity`, the rest as in
    :func:`~svda_analysis.attribution.attribute`.
    """
    import captum.metrics

    check_methods((method,))
    check_images(images, batch_size)
    check_whole("samples", samples)
    subject = open_model(model)
    with subject.running() as network, torch.no_grad():
        images = for_model(images.detach(), network)
        classes = targets_of(network, images, target, batch_size).cpu()

    def explain(x: Tensor | tuple[Tensor], target: Tensor) -> tuple[Tensor]:
        images = _bare(x)
        target = target.repeat_interleave(len(images) // len(target))  # captum does so, but for a single target
        return (attribute(subject, images, method=method, target=target, batch_size=batch_size),)

    drawn = draws_of_images("noise", range(first, first + len(images)), (samples, *images.shape[1:]), seed)
    noise = (drawn.flatten(0, 1) * 2 - 1) * radius
    found = captum.metrics.sensitivity_max(
        explain,
        images,
        lambda x, _radius: _with_noise(_bare(x), noise.to(images), subject),
        perturb_radius=radius,
        n_perturb_samples=samples,
        target=classes,
    )
    return found.cpu().double()


def _with_noise(images: Tensor, noise: Tensor, subject: Subject) -> Tensor:
    """``images + noise (B, C, H, W)``, no pixel beyond what pictures hold, where that is known."""
    known = subject.preprocessing.normalisation
    if known is None or len(known[0]) not in (1, images.shape[1]):
        return images + noise
    mean, std = (torch.tensor(x, dtype=torch.float64)[:, None, None] for x in known)
    darkest, brightest = ((pixel - mean) / std for pixel in (0, 1))
    low, high = torch.minimum(images, darkest.to(images)), torch.maximum(images, brightest.to(images))
    return torch.clamp(images + noise, low, high)


# --- patches --------------------------------------------------------------------------------------------------------


def patch_layout(subject: Subject, images: Tensor, patch_size: int | None) -> Layout:
    """How the patches lie: by ``patch_size``, or by the tokens that most attention maps of one image have."""
    H, W = images.shape[-2:]
    if patch_size is None:
        return subject.maps_of(images[:1]).layout
    check_whole("patch_size", patch_size)
    if H % patch_size or W % patch_size:
        raise InputError(f"patch_size must divide the images' {H} x {W} pixels, got {patch_size}")
    return Layout((H // patch_size, W // patch_size))


def _ranks(maps: Tensor, layout: Layout) -> Tensor:
    """The place of each patch in decreasing order of its mean, ``(B, P)`` from 0; equal ones stay in order."""
    place = patch_of_pixels(layout, maps.shape[-2:]).flatten()
    sums = torch.zeros(len(maps), math.prod(layout.grid), dtype=maps.dtype).index_add(1, place, maps.flatten(1))
    pixels = place.bincount(minlength=sums.shape[1]).clamp_min(1)  # of each patch, (P,)
    return (sums / pixels).argsort(dim=1, descending=True, stable=True).argsort(dim=1)


# --- the model ------------------------------------------------------------------------------------------------------


def _probabilities(model: nn.Module, images: Tensor) -> Tensor:
    return class_logits(logits_of(call_model(model, images), model), model).softmax(-1)


def class_logits(logits: Tensor, model: nn.Module) -> Tensor:
    """Logits of at least float32 whose softmax is the model's probabilities; a single output z, a sigmoid's, is of
    two classes, ``(z, 0)``. Raises :class:`InputError` as :func:`check_probabilities` does."""
    check_probabilities(model, logits)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return logits if logits.shape[-1] > 1 else torch.cat([logits, torch.zeros_like(logits)], -1)


def targets_of(model: nn.Module, images: Tensor, target: int | Tensor | None, batch_size: int) -> Tensor:
    """The class of each image ``(B,)``, where the images lie: the target, or the prediction."""
    logits = torch.cat([logits_of(call_model(model, part), model) for part in images.split(batch_size)])
    return resolve(None if target is None else class_of_each(target, len(images)), logits)


def check_probabilities(model: nn.Module, logits: Tensor) -> None:
    """Raise :class:`InputError` for a single output that is not known to be the logit of a probability: the softmax of
    one number is 1 whatever the image, and a regression has none. Hugging Face's models say what they learned."""
    told = getattr(getattr(model, "config", None), "problem_type", None)
    if logits.shape[-1] == 1 and told != "multi_label_classification":
        raise InputError(
            f"faithfulness needs probabilities, and {type(model).__name__} has one output: of a sigmoid's logit z give "
            "torch.cat([torch.zeros_like(z), z], 1)"
        )


def _bare(x: Tensor | tuple[Tensor]) -> Tensor:
    return x if isinstance(x, Tensor) else x[0]  # captum hands over one input now as itself, now in a tuple


# --- checks ---------------------------------------------------------------------------------------------------------


def check_maps(images: Tensor, maps: Tensor, batch_size: int) -> None:
    """Raise :class:`InputError` unless there is one finite map ``(H, W)`` for each image."""
    check_images(images, batch_size)
    wanted = (len(images), *images.shape[-2:])
    if not isinstance(maps, Tensor) or maps.shape != wanted or not maps.isfinite().all():
        came = tuple(maps.shape) if isinstance(maps, Tensor) else type(maps).__name__
        raise InputError(f"maps must be finite numbers of shape {wanted}, one map for each image, got {came}")


def check_methods(methods: Sequence[str]) -> None:
    """Raise :class:`InputError` unless all are names of methods."""
    for name in methods:
        if name not in METHODS:
            raise InputError(f"methods must be names among {', '.join(METHODS)}, got {name!r}")


def check_whole(name: str, value: object) -> None:
    """Raise :class:`InputError` unless ``value`` is a whole number of at least 1."""
    if not isinstance(value, int) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, got {value!r}")
