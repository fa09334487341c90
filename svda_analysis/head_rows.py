"""Which rows of the last attention map a model's head reads: the rows at which rollout and relevance are read.

Abnar & Zuidema 2020 and Chefer, Gur & Wolf 2021 read the row of the class token, since their classifiers read nothing
else. Others read the mean over the patches, beside registers or beside a class token that goes nowhere. What is read
shows in gradients: by a map, they are 0 in the rows of tokens that are not read. One rule for every method:

- tokens that are patches alone: all rows, alike;
- else, where the head reads the class token, its row alone (also where it reads others beside it: our choice);
- else the rows that it reads, alike (our choice: so a mean over patches is followed as it is);
- where no gradient tells: the row of the class token, of a model without one all rows, alike.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from svda_analysis.errors import InputError
from svda_analysis.forward import naming_the_cut
from svda_analysis.maps import ImageMap, WholeMaps
from svda_analysis.model import ViT
from svda_analysis.subject import Subject
from svda_analysis.tokens import Layout


def usual_rows(layout: Layout) -> Tensor:
    """Shares ``(1, N)`` of rows where nothing is known of the head: all of the class token's row, or of each alike."""
    N = layout.tokens
    if layout.has_class_token:
        return F.one_hot(torch.zeros(1, dtype=torch.long), N).float()
    return torch.full((1, N), 1 / N)


def rows_told(gradients: Iterable[Tensor], layout: Layout) -> Tensor:
    """Shares of the rows that the head reads, each image's of sum 1: ``(B, N)``, or ``(1, N)`` where all are alike.

    ``gradients (B, H, N, N)`` of what is explained by the maps of whole images, from the last layer down: the first
    that are not all 0 tell of an image, since what nothing reads is no layer of its stack.
    """
    return usual_rows(layout) if layout.tokens == layout.patches else _shares_of(_tokens_read(gradients), layout)


def _tokens_read(gradients: Iterable[Tensor]) -> Tensor | None:
    """Whether a token is read, ``(B, N)``; None where there are no gradients."""
    read = None
    for gradient in gradients:
        here = (gradient != 0).any(-1).any(1)  # (B, N)
        read = here if read is None else torch.where(read.any(-1, keepdim=True), read, here)
        if bool(read.any(-1).all()):
            break
    return read


def _shares_of(read: Tensor | None, layout: Layout) -> Tensor:
    """The rows at which a map is read, by the rule above, of the tokens that are read."""
    usual = usual_rows(layout)
    if read is None:
        return usual
    by_class_token = read[:, :1] if layout.has_class_token else torch.zeros_like(read[:, :1])
    as_usual = by_class_token | ~read.any(-1, keepdim=True)
    return torch.where(as_usual, usual.to(read.device), read / read.sum(-1, keepdim=True).clamp_min(1))


def layout_of_last(found: WholeMaps) -> Layout:
    """How the tokens of the last map lie."""
    layout = found.last.whole or found.layout
    return dataclasses.replace(layout, class_token=found.layout.class_token)


def rows_read(
    subject: Subject, images: Tensor, found: WholeMaps, score_of: Callable[[Any], Tensor | None], *, alone: bool = True
) -> Tensor:
    """:func:`rows_told` the last map of ``found``, by a forward of its own with gradients where these are needed.

    ``score_of`` gives what the rows are read for, one number, from what the model returns (None: it gives none). A
    model that no gradient goes through (quantised, detached) is read as usual. Where an image may go ``alone``, one is
    asked first: a head that reads its class token alone is built so, and does it of all images.
    """
    layout = layout_of_last(found)
    if layout.tokens == layout.patches or isinstance(subject.model, ViT):  # ours reads its class token
        return usual_rows(layout)
    try:
        with torch.enable_grad(), naming_the_cut(subject.model, "attention maps"):
            read = _asked(subject, images[:1] if alone else images, layout, score_of)
            if alone and len(images) > 1 and read is not None and not _same_of_all(read, layout):
                read = _asked(subject, images, layout, score_of)
            return _shares_of(read, layout)
    except (InputError, RuntimeError) as error:
        if isinstance(error.__cause__ or error, torch.cuda.OutOfMemoryError):  # else memory would choose the rows
            raise
        return usual_rows(layout)


def _same_of_all(read: Tensor, layout: Layout) -> bool:
    """Whether what is read of one image, ``(1, N)``, is what is read of any: a maximum, say, reads others of each."""
    return layout.has_class_token and read[0].nonzero().flatten().tolist() == [0]


def _asked(subject: Subject, images: Tensor, layout: Layout, score_of: Callable[[Any], Tensor | None]) -> Tensor | None:
    """Which tokens the last map is read at, ``(B, N)``; None where no gradient tells."""
    again = subject.maps_of(images.detach().clone().requires_grad_(), gradients=True)
    score = score_of(again.output)
    if score is None or not score.requires_grad:
        return None
    maps = [one for one in again.maps if one.whole == layout] or [again.last]
    return _tokens_read(_gradient(score, one) for one in reversed(maps))


def _gradient(score: Tensor, one: ImageMap) -> Tensor:
    """The gradient of a number by a map, as that lies over the whole image, ``(B, H, N, N)``."""
    (found,) = torch.autograd.grad(score, [one.raw], retain_graph=True, allow_unused=True)
    return one.laid(torch.zeros_like(one.raw) if found is None else found)
