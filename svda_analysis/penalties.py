"""Penalties on attention while it is trained, for any model that holds our attention layers.

In a training loop of one's own: ``track_row_energy(model)`` once, then at each step
``(loss + penalty(model, shape_penalty=0.05, norm_penalty=0.3)).backward()`` and ``forget_row_energy(model)``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from svda_analysis.attention import Attention
from svda_analysis.compact import OwnAttention
from svda_analysis.errors import InputError

# --- of one layer -----------------------------------------------------------------------------------------------------


def shape_entropy(sigma: Tensor, target_rank: float = 0.0) -> Tensor:
    """Normalised entropy of ``|sigma| / sum |sigma|``, averaged over heads (our definition; the temperature cancels).

    ``sigma (H, D)``; returns a scalar in [0, 1]; 1 is a flat spectrum. With a ``target_rank``, a share of D, what lies
    above the entropy of so many equal directions, ``log(target_rank D) / log D``, and 0 below it: a head that is as
    structured as that is left alone.
    """
    size = sigma.abs()
    share = size / size.sum(-1, keepdim=True)
    share = share.clamp_min(torch.finfo(size.dtype).tiny)  # at 0 the slope is infinite
    D = sigma.shape[-1]
    entropy = torch.special.entr(share).sum(-1) / math.log(D)  # (H,)
    target = math.log(max(target_rank * D, 1.0)) / math.log(D)
    return (entropy - target).clamp_min(0).mean()


def energy_entropy(sigma: Tensor) -> Tensor:
    """Entropy in nats of ``sigma^2 / (sum sigma^2 + eps)``, averaged over heads, as in the source's public code (which
    has ``eps = 1e-8`` in the logarithm too). ``sigma (H, D)``; returns a scalar."""
    energy = sigma.square()
    share = energy / (energy.sum(-1, keepdim=True) + 1e-8)
    return -(share * (share + 1e-8).log()).sum(-1).mean()


def projection_gap(attention: Attention) -> Tensor:
    """``mean((W_q^T W_q - I)^2) + mean((W_k^T W_k - I)^2)`` of the whole projections, all heads together: the soft
    orthogonality of the source's public code."""
    weights = attention.qkv.weight.chunk(3)[:2]  # each (C, C)
    eye = torch.eye(attention.qkv.in_features, device=weights[0].device)
    return torch.stack([(weight.T @ weight - eye).square().mean() for weight in weights]).sum()


def norm_share(sigma: Tensor, row_energy: Tensor) -> Tensor:
    """The unit rows' squared norm that lies along weak directions, averaged over heads (our definition).

    ``mean_h sum_i (1 - |sigma_i| / max|sigma|) E[(q_hat_i^2 + k_hat_i^2) / 2]``; ``sigma, row_energy (H, D)``; returns
    a scalar in [0, 1]. Small, it lets weak directions be removed without changing the norm of what stays. Its gradient
    reaches ``row_energy`` alone: through sigma it would pull the spectrum flat, where it is zero for any rows.
    """
    size = sigma.detach().abs()
    return ((1 - size / size.amax(-1, keepdim=True)) * row_energy).sum(-1).mean()


def orthogonality_gap(attention: Attention) -> Tensor:
    """Mean squared entry of ``W W^T / mean(diag(W W^T)) - I`` over the heads' W_q and W_k (our definition)."""
    weight = attention.qkv.weight.view(3, attention.heads, -1, attention.qkv.in_features)[:2]  # (2, H, D, C)
    gram = weight @ weight.transpose(-2, -1)  # (2, H, D, D)
    gram = gram / gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    return (gram - torch.eye(gram.shape[-1], device=gram.device)).square().mean()


# --- of a model -------------------------------------------------------------------------------------------------------


def attention_layers(model: nn.Module) -> list[OwnAttention]:
    """Our attention layers inside ``model``, whole or compressed, in its order."""
    return [module for module in model.modules() if isinstance(module, OwnAttention)]


def penalty(
    model: nn.Module,
    *,
    shape_penalty: float = 0.0,
    norm_penalty: float = 0.0,
    target_rank: float = 0.0,
    sigma_l1: float = 0.0,
    sigma_entropy: float = 0.0,
    orthogonality: float = 0.0,
    soft_orthogonality: float = 0.0,
) -> Tensor:
    """The weighted sum of penalties, averaged over our attention layers; a scalar with its graph, 0 without any.

    ``shape_penalty`` weighs :func:`shape_entropy` (above ``target_rank``), ``norm_penalty`` :func:`norm_share` (of
    layers with a ``row_energy``, see :func:`track_row_energy`), ``sigma_l1`` the mean of ``|sigma|``, ``sigma_entropy``
    :func:`energy_entropy`, ``soft_orthogonality`` :func:`projection_gap`; they touch SVDA alone. ``orthogonality``
    weighs :func:`orthogonality_gap` of every layer. Of the last two a compressed layer raises :class:`InputError`.
    """
    layers = attention_layers(model)
    total = torch.zeros((), device=next((p.device for p in model.parameters()), None))
    for attention in layers:
        sigma = attention.sigma
        whole = {"orthogonality": orthogonality, "soft_orthogonality": soft_orthogonality if sigma is not None else 0.0}
        for name, weight in whole.items():
            if weight and not isinstance(attention, Attention):
                raise InputError(f"{name} must be 0 for a compressed model, got {weight}")
            if weight and isinstance(attention, Attention):
                total = total + weight * (orthogonality_gap if name == "orthogonality" else projection_gap)(attention)
        if sigma is None:
            continue
        if shape_penalty:
            total = total + shape_penalty * shape_entropy(sigma, target_rank)
        if norm_penalty and attention.row_energy is not None:
            total = total + norm_penalty * norm_share(sigma, attention.row_energy)
        if sigma_l1:
            total = total + sigma_l1 * sigma.abs().mean()
        if sigma_entropy:
            total = total + sigma_entropy * energy_entropy(sigma)
    return total / max(len(layers), 1)


def decay_projections(model: nn.Module, share: float) -> None:
    """Take a share off every W_q and W_k and nothing else, in place: weight decay on these alone, decoupled as in AdamW
    (Loshchilov & Hutter 2019). On both factors of a product it presses on its nuclear norm (Kobayashi et al. 2024)."""
    with torch.no_grad():
        for attention in attention_layers(model):
            if isinstance(attention, Attention):
                attention.qkv.weight[: 2 * attention.qkv.in_features].mul_(1 - share)


def track_row_energy(model: nn.Module, on: bool = True) -> None:
    """Let each layer with a sigma keep the ``row_energy`` of a training forward, which :func:`norm_share` needs."""
    for attention in attention_layers(model):
        attention.track_row_energy = on and attention.sigma is not None


def forget_row_energy(model: nn.Module) -> None:
    """Drop what the last forward left: it holds the graph of its step."""
    for attention in attention_layers(model):
        attention.row_energy = None
