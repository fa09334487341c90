"""The attention modules of a model that can be replaced by smaller ones, why others cannot, and what is called."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from svda_analysis.compact import COMPACT_KINDS, OwnAttention
from svda_analysis.errors import InputError
from svda_analysis.forward import for_model
from svda_analysis.stand_in import OF_TIMM, OF_TORCH, read_call
from svda_analysis.tap import evaluating

MOST_TOKENS = 64  # of each image, spread evenly: enough for moments of at most a few hundred dimensions


class Site(NamedTuple):
    """Where an attention module is: ``parent.name``."""

    parent: nn.Module
    name: str
    module: nn.Module


def attention_sites(model: nn.Module) -> list[Site]:
    """The attention modules of ``model`` that can be replaced. Raises :class:`InputError` for none, or one that cannot
    be, and says why."""
    found = []
    for parent in model.modules():
        for name, module in parent.named_children():
            if _is_plain_timm(module) or isinstance(module, OwnAttention | nn.MultiheadAttention):
                _check_site(parent, module)
                found.append(Site(parent, name, module))
    if not found:
        raise InputError(f"{type(model).__name__} cannot be compressed: {_why_not(model)}")
    return found


def width(module: Any) -> int:
    """Rows of W_q of an attention module before any compression: all its heads' dimensions."""
    return module.embed_dim if isinstance(module, nn.MultiheadAttention) else int(module.proj.in_features)


def projections(module: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of q, k and v together; a missing bias is zero."""
    if isinstance(module, nn.MultiheadAttention):
        weight, bias = module.in_proj_weight, module.in_proj_bias
    else:
        weight, bias = module.qkv.weight, module.qkv.bias
    return weight, weight.new_zeros(len(weight)) if bias is None else bias


# --- what cannot be replaced ----------------------------------------------------------------------------------------


def _is_plain_timm(module: nn.Module) -> bool:
    plain = ("timm.models.vision_transformer", "timm.layers.attention")
    return type(module).__name__ == "Attention" and type(module).__module__ in plain


def _check_site(parent: nn.Module, module: Any) -> None:
    why = None
    if isinstance(module, OwnAttention):
        why = _why_not_own(module)
    elif isinstance(module, nn.MultiheadAttention):
        own = module._qkv_same_embed_dim and module.bias_k is None and not module.add_zero_attn and module.batch_first
        if not own or isinstance(parent, nn.TransformerEncoderLayer):
            why = f"the attention in {type(parent).__name__} is not a plain self-attention with batch_first"
    else:
        why = _why_not_timm(module)
    if why:
        raise InputError(f"{type(parent).__name__} cannot be compressed: {why}")


def _why_not_own(module: OwnAttention) -> str | None:
    if module.kind == "cosine":
        return "cosine attention has one temperature a head and no spectrum"
    return None if module.kind in COMPACT_KINDS else f"{module.kind} attention has no smaller form"


def _why_not_timm(module: Any) -> str | None:
    def normalises(name: str) -> bool:  # older versions of timm lack some of the three
        return not isinstance(getattr(module, name, None), nn.Identity | None)

    width = module.qkv.in_features
    if normalises("q_norm") or normalises("k_norm"):
        return "its rows of q and k are normalised between projection and score"
    if normalises("norm"):
        return "its output is normalised before the last projection"
    if getattr(module, "gate", None) is not None:
        return "its attention is gated"
    if module.qkv.out_features != 3 * width or module.proj.out_features != width:
        return "its heads do not add up to its width"
    usual = (width // module.num_heads) ** -0.5
    if not math.isclose(module.scale, usual, rel_tol=1e-6):
        return f"the scale of its scores must be 1/sqrt(head dimension), {usual:.6g}, got {float(module.scale):.6g}"
    return None


def _why_not(model: nn.Module) -> str:
    names = {type(module).__name__ for module in model.modules()}
    attention = sorted(name for name in names if "att" in name.lower())
    text = " ".join(names).lower()
    if "swin" in text or "window" in text:
        return "its attention stays inside windows and adds a position bias to the scores"
    if "rope" in text or "rotary" in text or "eva" in text:
        return "rotary embeddings turn q and k after the projection, so rows cannot be merged"
    shown = f", not {', '.join(attention)}" if attention else ""
    return f"only our attention, timm's plain Attention and nn.MultiheadAttention can be replaced{shown}"


def inputs_of(model: nn.Module, sites: Sequence[Site], images: Tensor) -> list[Tensor]:
    """What each attention layer sees, ``(images, T, C)``: at most :data:`MOST_TOKENS` tokens of each image."""
    seen: list[list[Tensor]] = [[] for _ in sites]

    def keep(at: int, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        names = OF_TORCH if isinstance(sites[at].module, nn.MultiheadAttention) else OF_TIMM
        x, why = read_call(names, given, named)
        if why:
            raise InputError(f"{type(model).__name__} cannot be compressed: {why}")
        chosen = torch.linspace(0, x.shape[1] - 1, min(x.shape[1], MOST_TOKENS)).round().long()
        seen[at].append(x[:, chosen.to(x.device)].detach().cpu())

    hooks = [
        site.module.register_forward_pre_hook(lambda _, given, named, at=at: keep(at, given, named), with_kwargs=True)
        for at, site in enumerate(sites)
    ]
    try:
        with evaluating(model), torch.no_grad():
            for batch in images.split(64):
                model(for_model(batch, model))
    finally:
        for hook in hooks:
            hook.remove()
    if not all(seen):
        raise InputError(f"{type(model).__name__} cannot be compressed: it has an attention module that it never calls")
    return [torch.cat(parts).float() for parts in seen]
