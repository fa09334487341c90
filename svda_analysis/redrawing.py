"""Other weights in the same model: what a map owes to what was learned (Adebayo et al. 2018)."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from svda_analysis.errors import InputError
from svda_analysis.subject import Subject


def redrawn(subject: Subject, seed: int) -> Subject:
    """The subject with a copy of its model, the entries of each parameter in a random order."""
    drawn, generator = copy.deepcopy(subject.model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in drawn.parameters():
            order = torch.randperm(parameter.numel(), generator=generator).to(parameter.device)
            parameter.copy_(parameter.flatten()[order].view_as(parameter))
    return dataclasses.replace(subject, model=drawn)


def cascade(subject: Subject, other: Subject) -> Iterator[tuple[str, Subject]]:
    """The subject as its parameters are replaced by those of ``other`` from the top down: the name of the part that
    was replaced last, and a copy with it and all parts above replaced.

    The parts of :func:`parts_from_the_top`. It is one and the same copy throughout: use each before the next.
    """
    copied = dataclasses.replace(subject, model=copy.deepcopy(subject.model))
    ours, theirs = (dict(each.model.named_parameters()) for each in (copied, other))
    for part, names in parts_from_the_top(subject.model).items():
        with torch.no_grad():
            for name in names:
                ours[name].copy_(theirs[name])
        yield part, copied


def parts_from_the_top(model: nn.Module) -> dict[str, list[str]]:
    """The names of a model's parameters: of its ``head``, of each ``block i`` from the last to the first, of its
    ``embedding`` (our definition).

    The blocks are the first list of modules of one class that have parts themselves; the embedding is what the model
    registers before them, the head what comes after. Raises :class:`InputError` for a model without such a list.
    """
    blocks = _blocks(model)
    of_block = {
        f"{name}.{inside}": i for i, (name, block) in enumerate(blocks) for inside, _ in block.named_parameters()
    }
    order = ["head", *(f"block {i}" for i in reversed(range(len(blocks)))), "embedding"]
    parts: dict[str, list[str]] = {part: [] for part in order}
    above = "embedding"
    for name, _ in model.named_parameters():
        if name in of_block:
            above = "head"
            parts[f"block {of_block[name]}"].append(name)
        else:
            parts[above].append(name)
    return {part: names for part, names in parts.items() if names}


def _blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The model's transformer blocks from the bottom up, under their full names."""
    for name, module in model.named_modules():
        children = list(module.named_children()) if isinstance(module, nn.ModuleList | nn.Sequential) else []
        made_of_parts = all(any(True for _ in child.children()) for _, child in children)
        if children and made_of_parts and len({type(child) for _, child in children}) == 1:
            return [(f"{name}.{key}" if name else key, child) for key, child in children]
    raise InputError(f"{type(model).__name__} has no list of blocks to draw anew one by one")


def rank_correlation(x: Tensor, y: Tensor) -> Tensor:
    """Spearman's coefficient of the maps ``x, y (B, H, W)``, ties at their mean rank, ``(B,) float64``; NaN for a
    constant map."""
    from scipy import stats  # it takes a while

    ranks = [torch.from_numpy(stats.rankdata(maps.flatten(1).numpy(), axis=1)) for maps in (x, y)]
    x_rank, y_rank = (rank - rank.mean(1, keepdim=True) for rank in ranks)
    return (x_rank * y_rank).sum(1) / (x_rank.norm(dim=1) * y_rank.norm(dim=1))
