"""Which pixels spoke for a class: maps from attention and from gradients, with their registry :data:`METHODS`.

Methods of attention work on patches and give each pixel the value of its patch. They count the self-attention layers
alone: square maps over the whole image. Read is, at the patches, the row of the token that the head reads: of the class
token (CLS), or the mean over those that it reads in its place (:mod:`~svda_analysis.head_rows`).

Methods of pixels are captum's. What they find for each channel is summed over the channels, unless said otherwise, and
their baseline is the zero image: the mean colour where preprocessing subtracts the mean. A logit is explained, not a
probability. No map is normalised.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Unpack

import numpy as np
import torch
from torch import Tensor

from svda_analysis.answers import logits_of
from svda_analysis.errors import InputError, reading
from svda_analysis.fillers import patch_of_pixels
from svda_analysis.forward import (
    call_model,
    for_model,
    gradients_of,
    naming_the_cut,
    no_dependence,
    without_checkpointing,
)
from svda_analysis.head_rows import layout_of_last, rows_read, rows_told
from svda_analysis.maps import WholeMaps, to_pixels
from svda_analysis.specs import Given, open_model
from svda_analysis.subject import Subject
from svda_analysis.tokens import Layout, TokensGiven

_IG_STEPS = 50
_SHAP_SAMPLES, _SHAP_GROUP, _SHAP_NOISE = 32, 8, 0.1
_WHOLE = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


Score = Callable[[Any], Tensor]  # of a model's output for B images, (B,)


class Job(NamedTuple):
    """What a method works on: one batch of ``images (B, C, H, W)``, its own copy, with ``target`` where given: classes
    ``(B,)``, or a function of the model's output."""

    subject: Subject
    images: Tensor
    target: Tensor | Score | None
    batch_size: int

    @property
    def classes(self) -> Tensor | None:
        return self.target if isinstance(self.target, Tensor) else None

    def scores(self, output: Any, images: int) -> Tensor:
        """What may be explained of each image: its logits ``(B, classes)``, or what the function of one's own gives,
        as one of them."""
        if callable(self.target):
            return _own_scores(self.target, output, images)[:, None]
        return logits_of(output, self.subject.model)

    def heard(self, output: Any) -> Tensor | None:
        """One number in which everything of an output has a part (of a function of one's own: its scores), whose
        gradient shows what the output reads; None where it is no tensor."""
        if callable(self.target):
            return self.scores(output, len(self.images)).sum()
        answer = getattr(output, "logits", output)
        return answer.float().square().sum() if isinstance(answer, Tensor) else None

    def chosen(self, scores: Tensor) -> Tensor:
        """Which of its :meth:`scores` is explained, ``(B,)``."""
        return resolve(self.classes, scores)


MapFunction = Callable[[Job], Tensor]  # gives (B, H, W)
Factors = tuple[WholeMaps, list[Tensor]]  # of a product over layers, from the first: (B, N, N) each


@dataclasses.dataclass(frozen=True)
class Method:
    """One registered method. ``needs_target``: its map speaks of one class. ``signed``: the map has both signs."""

    name: str
    label: str
    function: MapFunction
    reference: str
    needs_gradient: bool
    needs_target: bool
    signed: bool


METHODS: dict[str, Method] = {}


def _method(
    label: str, reference: str, *, gradient: bool = True, target: bool = True, signed: bool = True
) -> Callable[[MapFunction], MapFunction]:
    """Decorator: enter the function in :data:`METHODS` under its own name, less the underscore."""

    def register(function: MapFunction) -> MapFunction:
        name = function.__name__.lstrip("_")
        METHODS[name] = Method(name, label, function, reference, gradient, target, signed)
        return function

    return register


def attribute(
    model: Given,
    images: Tensor,
    *,
    method: str = "rollout",
    target: int | Tensor | Score | None = None,
    batch_size: int = 16,
    **tokens: Unpack[TokensGiven],
) -> Tensor:
    """How much each pixel spoke for the target class, ``(B, H, W)`` float32 on the CPU, on the method's own scale.

    ``model`` and ``tokens`` (``grid``, ``prefix_tokens``, ``suffix_tokens``, ``frames``) are what
    :func:`~svda_analysis.specs.open_model` takes. ``images (B, C, H, W)`` float, preprocessed (videos
    ``(B, T, C, H, W)`` for the methods of attention: then each frame of tokens has its map, ``(B, frames, H, W)``);
    ``method`` a name from :data:`METHODS`; ``target`` a class for all images, one for each ``(B,)``, a function of what
    the model returns that gives a score for each image ``(B,)`` (a similarity, a regression, a pixel of a
    segmentation), or None for the model's own predictions (``rollout`` and ``cls_attention`` are the same for every
    class; a function chooses the rows that are read of them). ``batch_size`` images go through the model at once (of
    ``gradient_shap`` always 8). A value of a patch stands at each of its pixels (nearest neighbour).

    The model runs in eval mode where it lies, and is as before afterwards, ``.grad`` included; gradient checkpointing
    is off for the call. An image's map depends on no other image and on no random state. Raises :class:`InputError`
    when an argument is outside what is allowed, where the model fails or no gradient arrives, from methods that explain
    a class when the model has no classifier, and from those of attention when it has no self-attention over whole
    images.
    """
    chosen = choose_method(method)
    check_images(images, batch_size, dimensions=(4, 5) if chosen.function in _OF_MAPS else (4,))
    batches = images.split(batch_size)
    if target is None or callable(target):
        targets: Sequence[Tensor | Score | None] = [target] * len(batches)
    else:
        targets = class_of_each(target, len(images)).split(batch_size)
    subject, maps = open_model(model, **tokens), []
    with subject.running() as network, torch.inference_mode(False), without_checkpointing(network):
        for batch, classes in zip(batches, targets, strict=True):
            job = Job(subject, for_model(batch.detach().clone(), network), classes, batch_size)
            with naming_the_cut(network, "pixels"):
                maps.append(chosen.function(job).detach().float().cpu())
            if chosen.needs_gradient and bool(batch.any()) and not bool(maps[-1].any()):
                raise InputError(no_dependence(network, "pixels"))
    return torch.cat(maps)


# --- methods of attention -------------------------------------------------------------------------------------------


@_method("Rollout", "Abnar & Zuidema 2020, eq. 1", gradient=False, target=False, signed=False)
def _rollout(job: Job) -> Tensor:
    """``A_hat = 0.5 A + 0.5 I`` of the mean over heads; the row of CLS of ``A_hat_L ... A_hat_1``, or what the head
    reads in its place (asked by gradients of all its outputs, or of the score that is the target)."""
    found, layers = _rolled(job)
    return _rows_of_product(job, found, layers, _rows_heard(job, found))


def _rows_heard(job: Job, found: WholeMaps) -> Tensor:
    """The rows that what is explained reads; a function of one's own may be of this batch alone."""
    return rows_read(job.subject, job.images, found, job.heard, alone=not callable(job.target))


def _rolled(job: Job) -> Factors:
    with torch.no_grad():
        found = _stack(job)
    maps = [a.mean(1) for a in found.layers]
    return found, [(a + torch.eye(a.shape[-1]).to(a)) / 2 for a in maps]


@_method("Relevance", "Chefer, Gur & Wolf 2021 (ICCV), eq. 5 and 6", signed=False)
def _relevance(job: Job) -> Tensor:
    """``A_bar = mean_h relu(dy/dA * A)`` of the target's logit y; ``R = I``, then ``R += A_bar R`` from layer 1 up; the
    row of CLS of R, or the mean over those that y reads in its place: where ``dy/dA`` of the last layer is not 0."""
    found, layers, gradients = _relevant(job)
    pairs = reversed(list(zip(found.maps, gradients, strict=True)))
    rows = rows_told((one.laid(gradient) for one, gradient in pairs), found.layout)
    return _rows_of_product(job, found, layers, rows)


def _relevant(job: Job) -> tuple[WholeMaps, list[Tensor], list[Tensor]]:
    """The maps, the factors of R and the gradients by the maps, from the first layer."""
    job.images.requires_grad_()  # so that gradients reach the maps of a frozen model too
    with torch.enable_grad():
        found = _stack(job, gradients=True)
        scores = job.scores(found.output, len(job.images))
        score = scores.gather(1, job.chosen(scores)[:, None]).sum()
    gradients = gradients_of(score, [one.raw for one in found.maps], job.subject.model, "attention maps")
    pairs = zip(found.maps, gradients, strict=True)
    bars = [one.laid((gradient * one.raw.detach()).relu()).mean(1) for one, gradient in pairs]
    return found, [torch.eye(bar.shape[-1]).to(bar) + bar for bar in bars], gradients


@_method("CLS attention", "the map itself", gradient=False, target=False, signed=False)
def _cls_attention(job: Job) -> Tensor:
    """The row of CLS in the last layer, mean over heads; or the mean over those that the head reads in its place."""
    with torch.no_grad():
        found = _whole(job)
        layout, a = layout_of_last(found), found.last.map().mean(1)  # (B, N, N)
        rows = _rows_heard(job, found).to(a)
        a = a.masked_fill(rows[..., None] == 0, 0)  # rows that are not read may hold what is no number
        return _drawn(layout.of_patches((rows[:, None] @ a)[:, 0]), layout, job)


_OF_MAPS = (_rollout, _relevance, _cls_attention)
OF_STACKS = ("rollout", "relevance")  # the methods that need the same tokens in every layer
OF_ATTENTION = (*OF_STACKS, "cls_attention", "occlusion")  # and those that need a grid of patches
_FLOWS: dict[str, Callable[[Job], Factors]] = {"rollout": _rolled, "relevance": lambda job: _relevant(job)[:2]}


def flows(subject: Subject, images: Tensor) -> dict[str, Tensor]:
    """The rows of rollout and of relevance for every token, ``(B, N, N)`` float32 on the CPU, by the method's name.

    ``images (B, C, H, W)`` as the model takes them, which must be in eval mode (``subject.running()``). Row i says
    from which tokens of the input token i of the output has what it holds; relevance speaks of the predicted class, and
    is less the identity, by which each token is relevant to itself. A method that this model does not allow (layers of
    other tokens, no classifier, no gradient) is left out.
    """
    found: dict[str, Tensor] = {}
    for name, factors_of in _FLOWS.items():
        with contextlib.suppress(InputError), torch.inference_mode(False), without_checkpointing(subject.model):
            _, factors = factors_of(Job(subject, images.detach().clone(), None, len(images)))
            with torch.no_grad():
                product = functools.reduce(lambda below, layer: layer @ below, (one.float() for one in factors))
                itself = torch.eye(product.shape[-1]).to(product) if name == "relevance" else 0
                found[name] = (product - itself).cpu()
    return found


def _stack(job: Job, *, gradients: bool = False) -> WholeMaps:
    """The whole stack of layers; an error where it has gaps."""
    found = _whole(job, gradients=gradients)
    if found.gaps:
        needed = "rollout and relevance need the same tokens in every layer"
        raise InputError(f"{needed}; of {type(job.subject.model).__name__}: {'; '.join(found.gaps)}")
    return found


def _whole(job: Job, *, gradients: bool = False) -> WholeMaps:
    found = job.subject.maps_of(job.images, gradients=gradients)
    if job.classes is not None:
        resolve(job.classes, logits_of(found.output, job.subject.model))  # a map of no class is refused one as well
    return found


def _rows_of_product(job: Job, found: WholeMaps, layers: list[Tensor], rows: Tensor) -> Tensor:
    """The mean over ``rows``, shares ``(B, N)`` or ``(1, N)``, of ``layers[-1] @ ... @ layers[0]``, at the pixels."""
    row = rows[:, None].to(layers[0])
    for layer in reversed(layers):
        row = row @ layer  # (B, 1, N)
    return _drawn(found.layout.of_patches(row[:, 0]), found.layout, job)


def _drawn(patches: Tensor, layout: Layout, job: Job) -> Tensor:
    """``(B, patches)`` at the pixels, ``(B, H, W)``; of a video ``(B, frames, H, W)``."""
    grid = (layout.frames, *layout.grid) if job.images.ndim == 5 else layout.grid
    return to_pixels(patches.unflatten(-1, grid), layout, job.images.shape[-2:])


# --- methods of pixels, by captum (whose import takes seconds, and waits until a method is called) ------------------


@_method("Integrated gradients", "Sundararajan, Taly & Yan 2017, eq. 1")
def _integrated_gradients(job: Job) -> Tensor:
    method, classes = _by_captum("IntegratedGradients", job)
    return method.attribute(job.images, target=classes, n_steps=_IG_STEPS, internal_batch_size=job.batch_size).sum(1)


@_method("Saliency", "Simonyan, Vedaldi & Zisserman 2014, sec. 3", signed=False)
def _saliency(job: Job) -> Tensor:
    """``max over channels of |dy/dx|``: the magnitude is captum's convention, the maximum the paper's."""
    method, classes = _by_captum("Saliency", job)
    return method.attribute(job.images, target=classes).amax(1)


@_method("Input x gradient", "Shrikumar et al. 2016")
def _input_x_gradient(job: Job) -> Tensor:
    method, classes = _by_captum("InputXGradient", job)
    return method.attribute(job.images, target=classes).sum(1)


@_method("Gradient SHAP", "Lundberg & Lee 2017, as captum samples it")
def _gradient_shap(job: Job) -> Tensor:
    """Mean of 32 gradients between the zero image and the image under noise of deviation 0.1, times the difference.

    captum draws for the whole batch, so each image goes alone with the same seed, its samples in groups of 8.
    """
    method, classes = _by_captum("GradientShap", job)
    found = []
    for image, label in zip(job.images.split(1), classes.split(1), strict=True):
        draw = functools.partial(method.attribute, image, torch.zeros_like(image), stdevs=_SHAP_NOISE, target=label)
        with _seeded():
            groups = [draw(n_samples=_SHAP_GROUP).detach() for _ in range(_SHAP_SAMPLES // _SHAP_GROUP)]
        found.append(torch.cat(groups).mean(0).sum(0))
    return torch.stack(found)


@_method("Occlusion", "Zeiler & Fergus 2014, sec. 4.2", gradient=False)
def _occlusion(job: Job) -> Tensor:
    """The fall of the target's logit when a patch is set to zero (the paper's square is the patch, whatever its size).
    It stands in every channel: one is read, no sum."""
    with torch.no_grad():
        layout = job.subject.maps_of(job.images[:1]).layout
    patches = patch_of_pixels(layout, job.images.shape[-2:]).to(job.images.device)[None, None]  # (1, 1, H, W)
    method, classes = _by_captum("FeatureAblation", job)
    at_once = max(1, job.batch_size // len(job.images))
    found = method.attribute(job.images, target=classes, feature_mask=patches, perturbations_per_eval=at_once)
    return found[:, 0]


def _by_captum(name: str, job: Job) -> tuple[Any, Tensor]:
    """captum's method on the model's scores, and which is explained of each image. The images now require gradients."""
    import captum.attr

    def forward(images: Tensor) -> Tensor:
        return job.scores(call_model(job.subject.model, images), len(images))

    with torch.no_grad():
        classes = job.chosen(forward(job.images))
    job.images.requires_grad_()
    return getattr(captum.attr, name)(forward), classes


@contextlib.contextmanager
def _seeded() -> Iterator[None]:
    """Both global generators that captum draws from start at 0 inside, and come back after."""
    state = np.random.get_state()  # noqa: NPY002  (captum draws from the global generator)
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002  (likewise)
        try:
            yield
        finally:
            np.random.set_state(state)  # noqa: NPY002  (likewise)


# --- rankings that ask no model ---------------------------------------------------------------------------------------


def _brightness(images: Tensor, layout: Layout) -> Tensor:
    """The mean over channels of the preprocessed image: the brightest patch first."""
    return images.detach().mean(1).float().cpu()


def _centre(images: Tensor, layout: Layout) -> Tensor:
    """How much closer a patch lies to the middle of the grid than the corners do: the middle first."""
    (rows, columns), (B, _C, H, W) = layout.grid, images.shape
    middle = torch.tensor([(rows - 1) / 2, (columns - 1) / 2])
    places = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).view(rows, columns, 2)
    closeness = middle.norm() - (places - middle).norm(dim=-1)  # (rows, columns)
    return to_pixels(closeness, layout, (H, W)).expand(B, -1, -1)


# By name: functions of images (B, C, H, W) and how patches lie, that give maps (B, H, W). What a map ranks above
# these, it does not owe to where things lie or how bright they are.
RANKINGS: dict[str, Callable[[Tensor, Layout], Tensor]] = {"brightness": _brightness, "centre": _centre}


# --- checks ---------------------------------------------------------------------------------------------------------


def _own_scores(target: Score, output: Any, B: int) -> Tensor:
    """What a function of one's own gives. Raises :class:`InputError` where it fails or gives something else."""
    with reading("target fails on what the model returns"):
        scores = target(output)
    if not isinstance(scores, Tensor) or scores.shape != (B,) or not scores.is_floating_point():
        came = f"{scores.dtype} {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        raise InputError(f"target must give one floating-point score for each image, ({B},), got {came}")
    return scores


def resolve(target: Tensor | None, logits: Tensor) -> Tensor:
    """The class of each image ``(B,)``: the target, or the prediction."""
    if target is None:
        return logits.argmax(-1)
    outside = target[(target < 0) | (target >= logits.shape[-1])]
    if len(outside):
        raise InputError(f"target must lie in 0..{logits.shape[-1] - 1}, the model's classes, got {int(outside[0])}")
    return target.to(logits.device)


def class_of_each(target: int | Tensor, B: int) -> Tensor:
    """``(B,) int64`` of one class for all or of one for each. Raises :class:`InputError` for anything else."""
    if isinstance(target, int) and not isinstance(target, bool) and abs(target) < 2**63:
        return torch.full((B,), target)
    if not isinstance(target, Tensor) or target.dtype not in _WHOLE or target.shape != (B,):
        came = f"{target.dtype} {tuple(target.shape)}" if isinstance(target, Tensor) else repr(target)
        raise InputError(f"target must be a class number or whole numbers of shape ({B},), got {came}")
    return target.long()


def check_images(images: Tensor, batch_size: int, *, dimensions: tuple[int, ...] = (4,)) -> None:
    """Raise :class:`InputError` unless images are float ``(B, C, H, W)`` and the batch size is a whole number."""
    if (
        not isinstance(images, Tensor)
        or images.ndim not in dimensions
        or not images.is_floating_point()
        or not len(images)
    ):
        came = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"images must be float (B, C, H, W), got {came}")
    if not isinstance(batch_size, int) or batch_size < 1:
        raise InputError(f"batch_size must be a whole number of at least 1, got {batch_size!r}")


def choose_method(name: str) -> Method:
    """The method of that name. Raises :class:`InputError` with the names there are."""
    if name not in METHODS:
        near = difflib.get_close_matches(str(name).lower(), METHODS, 1, 0.5)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"method must be one of {', '.join(METHODS)}, got {name!r}{hint}")
    return METHODS[name]
