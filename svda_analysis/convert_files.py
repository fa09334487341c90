"""``svda convert``: a spec or a checkpoint in, the converted model as a file out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from svda_analysis.attention import Attention, check_count
from svda_analysis.checkpoint import Checkpoint, save
from svda_analysis.conversion import convert, distill, distill_output
from svda_analysis.converted import replaced, save_converted, weights_of
from svda_analysis.data import load_dataset
from svda_analysis.errors import InputError
from svda_analysis.model import ViT
from svda_analysis.sources import as_learned
from svda_analysis.specs import open_model
from svda_analysis.subject import Subject
from svda_analysis.writing import check_target, only_writer


class Converted(NamedTuple):
    """What a conversion came to: the names of the replaced modules, where images came from (empty: none were needed),
    each step's divergence of the maps while they were distilled, what of the weights' file was left out, and each
    step's distance of the outputs while these were."""

    sites: tuple[str, ...]
    images: str
    divergence: list[float]
    left_out: str = ""
    apart: tuple[float, ...] = ()


def convert_file(
    spec: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    to: str = "svda",
    blocks: str | Sequence[int] = "all",
    start: str = "fresh",
    data: str | None = None,
    data_root: str | os.PathLike[str] | None = None,
    images: int = 256,
    distill_steps: int = 0,
    output_steps: int = 0,
    seed: int = 0,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Converted:
    """Open ``spec``, convert it (:func:`~svda_analysis.conversion.convert`, which takes ``options``) and write ``out``.

    ``distill_steps`` of :func:`~svda_analysis.conversion.distill` and ``output_steps`` of
    :func:`~svda_analysis.conversion.distill_output` follow. They and ``start="weights"`` look at ``images`` images of
    ``data``, by default those that a checkpoint learned from; labels are not used. A checkpoint of ours whose blocks
    are all converted stays a checkpoint, without the history of what it was made from; any other model becomes a file
    of :func:`~svda_analysis.converted.save_converted`. Raises :class:`InputError` before anything is written.
    """
    check_count("images", images)
    for name, steps in (("distill", distill_steps), ("distill_output", output_steps)):
        if steps < 0:
            raise InputError(f"{name} must be at least 0 steps, got {steps}")
    with only_writer(out):
        check_target(out, [spec], name="out", force=force)
        subject = open_model(spec)
        needed = start == "weights" or distill_steps + output_steps > 0
        shown, source = _images_to_read(subject, data, data_root, images, seed) if needed else (None, "")
        model = convert(subject, to=to, blocks=blocks, start=start, images=shown, **options)  # type: ignore[arg-type]  # checked there
        lost: list[float] = []
        apart: list[float] = []
        if distill_steps and shown is not None:
            lost = distill(model, subject, shown, steps=distill_steps, seed=seed, progress=progress)
        if output_steps and shown is not None:
            apart = distill_output(model, subject, shown, steps=output_steps, seed=seed, progress=progress)
        whole = isinstance(model, ViT) and all(isinstance(x, Attention) for x in model.attention_layers())
        if subject.checkpoint and isinstance(model, ViT) and whole and len(_kinds(model)) == 1:
            known = {name: getattr(subject.checkpoint, name) for name in ("epoch", "recipe", "data", "versions")}
            save(Checkpoint(config=model.config, model=weights_of(model), **known), out)
        else:
            save_converted(model, out)
    return Converted(tuple(replaced(model)), source, lost, subject.left_out, tuple(apart))


def _kinds(model: ViT) -> set[tuple[str, str]]:
    layers = [layer for layer in model.attention_layers() if isinstance(layer, Attention)]
    return {(layer.kind, layer.sigma_form) for layer in layers}


def _images_to_read(
    subject: Subject, data: str | None, root: str | os.PathLike[str] | None, number: int, seed: int
) -> tuple[Tensor, str]:
    """Training images as the model takes them, drawn without replacement, and where they are from."""
    name = subject.data.get("name") if data is None else data
    if name is None:
        raise InputError("data must be given (a data set's name): the model does not say what it was trained on")
    size = subject.preprocessing.image_size
    opened = load_dataset(str(name), root=root, train=True, image_size=size, sample_fallback=data is None)
    found = as_learned(opened, subject)
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(seed))[:number]
    return next(found.batches(len(order), indices=order))[0], found.source
