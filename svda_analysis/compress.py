"""Spectral energy retention that really shrinks a model: rank score directions, remove rows of W_q and W_k, verify.

The scores of a head are ``q^T Sigma k / sqrt(D)`` of rows q and k (unit rows for SVDA; Sigma is the identity for dot
product). With second moments ``G_q`` of the queries and ``G_k`` of the keys, the best rank-r substitute of Sigma is a
truncated singular value decomposition of ``G_q^(1/2) Sigma G_k^(1/2)``, taken back through the roots (our derivation).
Its two factors are made orthonormal and absorbed by W_q and W_k. Unit norms do not change under rotation, so for SVDA
as well this is exact: a compressed SVDA model is an SVDA model with fewer directions.

What stands in the way for SVDA is the norm: a row is divided by its length over all D directions. Three means keep it:
norm rows (principal directions of what was removed; they feed the norm alone, where they matter to the logits by
``norm_logit``), a ``constant`` for the mean of the rest, and a training recipe that leaves little length there
(``norm_penalty``). A ``norm_logit`` of 0 keeps the norm whole: that is masking, the upper limit of what removal can
reach.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from svda_analysis.capture import evaluating
from svda_analysis.checkpoint import Checkpoint, build_model
from svda_analysis.errors import InputError
from svda_analysis.model import Attention, ViT, ViTConfig
from svda_analysis.sources import for_model

Criterion = Literal["operator", "data", "sigma", "random"]
CRITERIA: tuple[str, ...] = get_args(Criterion)
Counts = list[list[int]]  # directions to keep, by layer and head
MIN_LOGIT = 0.05
NORM_SHARE = 0.1  # of min_logit: what a norm row must move the logits by to stay
_TOKENS = 64  # of each image, spread evenly: enough for moments of at most a few hundred dimensions


# --- ranking --------------------------------------------------------------------------------------------------------


class Ranking(NamedTuple):
    """The score directions of every head, the strongest first; a list entry is one layer.

    ``energy (H, D)``: what a direction contributes to the logits, squared (see :func:`rank`). ``Sigma`` is
    ``left diag(size) right^T``, with ``left, right (H, D, D)`` and ``size (H, D)``. float64.
    """

    energy: list[Tensor]
    left: list[Tensor]
    size: list[Tensor]
    right: list[Tensor]
    layers: list[_Layer]


class _Layer(NamedTuple):
    """An attention layer as two projections, rows of heads that were compressed before padded with zeros to D.

    ``weight (2, H, D, C)``, ``bias (2, H, D)`` of q and k; ``sigma (H, D)`` or None; ``length (2, H)`` along rows that
    are gone; all float64. ``inputs (images, T, C)`` float32: what the layer saw, or None.
    """

    weight: Tensor
    bias: Tensor
    sigma: Tensor | None
    length: Tensor
    inputs: Tensor | None

    def live(self) -> Tensor:
        """Directions ``(H,)`` that each head has: where neither the row of q, nor that of k, nor sigma is zero."""
        rows = ((self.weight != 0).any(-1) | (self.bias != 0)).all(0)  # (H, D)
        return (rows if self.sigma is None else rows & (self.sigma != 0)).sum(-1)

    def rows(self, head: int) -> tuple[Tensor, Tensor]:
        """q and k of one head ``(2, images, T, D)``, and their norms ``(2, images, T, 1)`` (1 for dot)."""
        assert self.inputs is not None
        x = self.inputs.double()
        rows = torch.stack([nn.functional.linear(x, self.weight[i, head], self.bias[i, head]) for i in (0, 1)])
        if self.sigma is None:
            return rows, torch.ones_like(rows[..., :1])
        squared = rows.square().sum(-1, keepdim=True) + self.length[:, head].square()[:, None, None, None]
        return rows, squared.clamp_min(1e-300).sqrt()


def rank(model: nn.Module, images: Tensor | None = None, *, criterion: str = "operator", seed: int = 0) -> Ranking:
    """Rank the score directions of every head of ``model`` by the energy that ``criterion`` gives them.

    ``operator``: singular directions of ``G_q^(1/2) Sigma G_k^(1/2)`` on ``images (B, C, H, W)`` (training images,
    preprocessed; some hundred): the energy is the mean squared logit of the direction. ``G_k`` is taken about each
    image's mean key, since the softmax does not see what all keys share. ``data``: the same along the learned axes of
    SVDA, ``sigma_i^2 E[q_i^2] Var[k_i] / D`` (off-diagonal moments left out); for dot product, whose axes mean
    nothing, it is ``operator``. ``sigma``: from the weights alone: ``sigma_i^2 / D`` (arXiv 2609.24370); for dot
    product the singular values of ``[W_q b_q]^T [W_k b_k]``. ``random``: the control, directions of ``sigma`` in random
    order (``seed``), as many as ``operator`` would keep.

    Raises :class:`InputError` for an unknown criterion, a model whose attention cannot be changed, missing images.
    """
    if criterion not in CRITERIA:
        raise InputError(f"criterion must be one of {', '.join(CRITERIA)}, got {criterion!r}")
    if images is None and criterion != "sigma":
        raise InputError(f"images must be given for criterion {criterion}: it weighs directions by what the data do")
    layers = _read(model, images)
    parts = [_directions(layer, "operator" if criterion == "random" else criterion) for layer in layers]
    energy = [size.square() / size.shape[-1] for _, size, _ in parts]
    if criterion == "random":
        generator = torch.Generator().manual_seed(seed)
        parts = [_shuffled(_directions(layer, "sigma"), generator) for layer in layers]
    left, size, right = (list(x) for x in zip(*parts, strict=True))
    return Ranking(energy, left, size, right, layers)


def direction_energy(model: nn.Module, images: Tensor | None = None, *, criterion: str = "operator") -> list[Tensor]:
    """Energies ``(H, D)`` float64 of each layer's score directions, descending. Arguments as for :func:`rank`."""
    return rank(model, images, criterion=criterion).energy


def keep_energy(ranking: Ranking, energy: float) -> Counts:
    """For each head the fewest directions that hold the share ``energy`` in (0, 1] of its total; at least one."""
    if not 0 < energy <= 1:
        raise InputError(f"energy must lie in (0, 1], got {energy}")

    def fewest(values: Tensor) -> int:
        short = values.cumsum(0) < energy * values.sum() * (1 - 1e-12)
        return min(int(short.sum()) + 1, len(values))

    return [[fewest(head) for head in layer] for layer in ranking.energy]


def keep_logit(ranking: Ranking, least: float) -> Counts:
    """Directions that move the logits by at least ``least`` (root mean square), at least one a head.

    One threshold for the whole model: energies of ``operator`` and ``data`` are in squared logits everywhere, so heads
    and layers compare, and a head that says little may go nearly whole. Directions of no energy, such as those that
    an earlier compression took, never stay.
    """
    if not 0 <= least < math.inf:
        raise InputError(f"min_logit must be a number of at least 0, got {least}")

    def count(values: Tensor) -> int:
        return max(1, int(((values >= least**2) & (values > 0)).sum()))

    return [[count(head) for head in layer] for layer in ranking.energy]


def logit_range(ranking: Ranking) -> tuple[float, float]:
    """The least and the largest root mean square that a direction moves the logits by; above 0 for dead heads too."""
    values = torch.cat([layer.flatten() for layer in ranking.energy]).sqrt().clamp_min(1e-150)
    return float(values.min()), float(values.max())


def _directions(layer: _Layer, criterion: str) -> tuple[Tensor, Tensor, Tensor]:
    roots = _moment_roots(layer, criterion)
    sigma = torch.ones_like(layer.bias[0]) if layer.sigma is None else layer.sigma  # (H, D)
    u, size, vh = torch.linalg.svd(roots[0] @ (sigma[..., None] * roots[1]))
    over = 1 / size[:, None].clamp_min((1e-12 * size.amax()).clamp_min(1e-300))
    left = sigma[..., None] * (roots[1] @ vh.mT) * over  # G_q^(-1/2) u, without the inverse
    right = sigma[..., None] * (roots[0] @ u) * over
    return left, torch.where(torch.arange(size.shape[-1]) < layer.live()[:, None], size, 0), right


def _moment_roots(layer: _Layer, criterion: str) -> Tensor:
    """``(2, H, D, D)``: square roots of the metrics in which q and k are measured."""
    D = layer.bias.shape[-1]
    if criterion == "sigma" and layer.sigma is not None:
        return torch.eye(D, dtype=torch.float64).expand(*layer.bias.shape, D)
    if criterion == "sigma":
        augmented = torch.cat([layer.weight, layer.bias[..., None]], dim=-1)
        return _root(augmented @ augmented.mT)
    moments = torch.stack([_moments(layer, head) for head in range(layer.bias.shape[1])], dim=1)  # (2, H, D, D)
    if criterion == "data" and layer.sigma is not None:
        return torch.diag_embed(moments.diagonal(dim1=-2, dim2=-1).sqrt())
    return _root(moments)


def _moments(layer: _Layer, head: int) -> Tensor:
    rows, norms = layer.rows(head)
    q, k = rows / norms  # (images, T, D)
    q, k = (x.flatten(0, 1) for x in (q, k - k.mean(1, keepdim=True)))
    return torch.stack([q.mT @ q, k.mT @ k]) / len(q)


def _root(moments: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(moments)
    return (vectors * values.clamp_min(0).sqrt()[..., None, :]) @ vectors.mT


def _shuffled(parts: tuple[Tensor, Tensor, Tensor], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    left, size, right = parts
    order = (torch.rand(size.shape, generator=generator) + (size == 0)).argsort(-1)  # (H, D), what is gone at the end
    wide = order[:, None].expand_as(left)
    return left.gather(2, wide), size.gather(1, order), right.gather(2, wide)


# --- removing -------------------------------------------------------------------------------------------------------


def compress(
    checkpoint: Checkpoint,
    images: Tensor | None = None,
    *,
    min_logit: float = MIN_LOGIT,
    energy: float | None = None,
    budget: float | None = None,
    norm_logit: float | None = None,
    criterion: str = "operator",
    constant: bool = True,
) -> Checkpoint:
    """A smaller checkpoint, as :func:`compress_model` makes it of the model.

    Its config names the sizes (``score_dims``, ``norm_dims``); it loads, runs, trains and compresses again as any
    other.
    """
    options: dict[str, Any] = {"min_logit": min_logit, "energy": energy, "budget": budget, "norm_logit": norm_logit}
    smaller = compress_model(build_model(checkpoint), images, criterion=criterion, constant=constant, **options)
    return as_checkpoint(smaller, checkpoint)


def compress_model(
    model: nn.Module,
    images: Tensor | None = None,
    *,
    min_logit: float = MIN_LOGIT,
    energy: float | None = None,
    budget: float | None = None,
    norm_logit: float | None = None,
    criterion: str = "operator",
    constant: bool = True,
) -> nn.Module:
    """A smaller copy of ``model``: ours, or a plain ViT of timm or torchvision.

    The directions that move the logits by ``min_logit`` stay, one threshold for all heads (:func:`keep_logit`); or
    those that hold the share ``energy`` of each head's total (:func:`keep_energy`); or as many as leave the share
    ``budget`` of the rows of W_q and W_k (:func:`to_budget`). ``norm_logit`` (default: a tenth of the threshold on the
    logits) and ``constant`` as for :func:`remove`; ``images`` and ``criterion`` as for :func:`rank`. Raises
    :class:`InputError` as these do, and for cosine attention, which has no spectrum.
    """
    if energy is not None and budget is not None:
        raise InputError("energy and budget exclude each other: give one")
    found = rank(model, images, criterion=criterion)
    if budget is not None:
        return to_budget(model, found, budget, norm_logit=norm_logit, constant=constant)[1]
    counts = keep_logit(found, min_logit) if energy is None else keep_energy(found, energy)
    norm_logit = NORM_SHARE * (min_logit if energy is None else MIN_LOGIT) if norm_logit is None else norm_logit
    return remove(model, found, counts, norm_logit=norm_logit, constant=constant)


def to_budget(
    model: nn.Module,
    ranking: Ranking,
    budget: float,
    *,
    norm_logit: float | None = None,
    constant: bool = True,
    steps: int = 16,
) -> tuple[float, nn.Module]:
    """The largest model with at most the share ``budget`` in (0, 1] of the rows of W_q and W_k, norm rows counted.

    One threshold on the logits for the whole model, bisected ``steps`` times; ``norm_logit`` None is a tenth of it.
    Returns the threshold and the model. Raises :class:`InputError` when one direction a head is more than the budget.
    """
    if not 0 < budget <= 1:
        raise InputError(f"budget must lie in (0, 1], got {budget}")

    def attempt(least: float) -> tuple[float, nn.Module]:
        norm = NORM_SHARE * least if norm_logit is None else norm_logit
        return least, remove(model, ranking, keep_logit(ranking, least), norm_logit=norm, constant=constant)

    weakest, strongest = logit_range(ranking)
    high, low = math.log(2 * strongest), math.log(max(weakest, 1e-6 * strongest)) - 1
    best = attempt(math.exp(high))
    if kept_share(best[1]) > budget:
        raise InputError(f"budget must be at least {kept_share(best[1]):.3f} (one direction a head), got {budget}")
    for _ in range(steps):
        middle = (low + high) / 2
        tried = attempt(math.exp(middle))
        if kept_share(tried[1]) <= budget:
            best, high = tried, middle
        else:
            low = middle
    return best


def kept_share(model: nn.Module) -> float:
    """Share of the rows of W_q and W_k that a model still has, norm rows counted; 1 if it was never compressed."""
    return 1 - removed_shares(model)["rows_removed"]


def removed_shares(model: nn.Module) -> dict[str, float]:
    """``directions_removed`` and ``rows_removed``: shares of what the uncompressed model has, 0 for that itself."""
    modules = [site.module for site in attention_sites(model)]
    whole = sum(_width(module) for module in modules)
    score, rows = (
        sum(
            sum(getattr(kept, name)) if (kept := getattr(module, "kept", None)) else _width(module)
            for module in modules
        )
        for name in ("score", "rows")
    )
    return {"directions_removed": 1 - score / whole, "rows_removed": 1 - rows / whole}


def _width(module: Any) -> int:
    """Rows of W_q of an attention module that was not compressed: all its heads' dimensions."""
    return module.embed_dim if isinstance(module, nn.MultiheadAttention) else int(module.proj.in_features)


def as_checkpoint(model: nn.Module, origin: Checkpoint) -> Checkpoint:
    """The compressed ``model`` of ``origin`` as a checkpoint, without optimizer state."""
    assert isinstance(model, ViT)
    weights = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    return dataclasses.replace(origin, config=model.config, model=weights, optimizer=None)


def remove(
    model: nn.Module,
    ranking: Ranking,
    counts: Counts,
    *,
    norm_logit: float = NORM_SHARE * MIN_LOGIT,
    constant: bool = True,
) -> nn.Module:
    """A copy of ``model`` that keeps the first ``counts[layer][head]`` directions of ``ranking``.

    For SVDA further rows of q and of k hold principal directions of the removed part and feed the norm alone: the
    strongest first, as many as there are whose varying share of the squared norm moves the logits by ``norm_logit``
    (root mean square, to first order: half the share's standard deviation times the head's logits). 0 keeps the norm
    whole, so that the logits are those of sigma masked; ``inf`` keeps no norm row. ``constant`` adds the mean squared
    length of what is then still missing; the constant that an earlier compression left stays either way.
    """
    if not norm_logit >= 0:
        raise InputError(f"norm_logit must be at least 0, got {norm_logit}")
    model = copy.deepcopy(model)
    sites = attention_sites(model)
    is_svda = any(layer.sigma is not None for layer in ranking.layers)
    if is_svda and ranking.layers[0].inputs is None and (norm_logit < math.inf or constant):
        raise InputError("images must be given to keep the norm of unit rows; or choose norm_logit inf and no constant")
    parts = [
        [_head(ranking, layer, head, kept, norm_logit, constant) for head, kept in enumerate(row)]
        for layer, row in enumerate(counts)
    ]
    score = tuple(tuple(len(head.sigma) for head in row) for row in parts)
    norm = tuple(tuple(head.weight.shape[1] - len(head.sigma) for head in row) for row in parts)
    for at, (site, row) in enumerate(zip(sites, parts, strict=True)):
        setattr(site.parent, site.name, _replacement(site.module, score[at], norm[at], row))
    if isinstance(model, ViT):
        model.config = dataclasses.replace(model.config, score_dims=score, norm_dims=norm, sigma_form="linear")
    return model


class _Head(NamedTuple):
    """What stays of one head: ``weight (2, rows, C)``, ``bias (2, rows)``, ``sigma (kept,)``, ``length (2,)``."""

    weight: Tensor
    bias: Tensor
    sigma: Tensor
    length: Tensor


def _head(ranking: Ranking, layer: int, head: int, kept: int, norm_logit: float, constant: bool) -> _Head:
    source = ranking.layers[layer]
    (o_q, r_q), (o_k, r_k) = (torch.linalg.qr(x[layer][head][:, :kept]) for x in (ranking.left, ranking.right))
    u, sigma, vh = torch.linalg.svd((r_q * ranking.size[layer][head, :kept]) @ r_k.mT)
    bases = torch.stack([o_q @ u, o_k @ vh.mT])  # (2, D, kept): Sigma is now bases[0] diag(sigma) bases[1]^T
    length = torch.zeros(2, dtype=torch.float64)
    if source.sigma is None:
        bases = bases * sigma.sqrt()
    else:
        bases, length = _with_norm(source, head, bases, sigma, norm_logit, constant)
    weight = bases.mT @ source.weight[:, head]  # (2, rows, C)
    return _Head(weight, (bases.mT @ source.bias[:, head, :, None])[..., 0], sigma, length)


def _with_norm(
    layer: _Layer, head: int, bases: Tensor, sigma: Tensor, norm_logit: float, constant: bool
) -> tuple[Tensor, Tensor]:
    """``bases (2, D, kept)`` and behind them the norm rows' directions; the constant length ``(2,)`` of the rest.

    Norm rows are principal directions of what is removed, the strongest first, as many as there are directions that
    move the logits by ``norm_logit`` (the count is over all of them, whatever their order).
    """
    length = layer.length[:, head]
    D, kept = bases.shape[1:]
    if layer.inputs is None or not (constant or norm_logit < math.inf) or kept == D:
        return bases, length
    outside = torch.linalg.svd(bases, full_matrices=True).U[..., kept:]  # (2, D, D - kept)
    rows, norms = layer.rows(head)  # (2, images, T, D), (2, images, T, 1)
    removed = (rows @ outside[:, None]).flatten(1, 2)  # (2, tokens, D - kept)
    shares = removed / norms.flatten(1, 2)
    values, vectors = torch.linalg.eigh(shares.mT @ shares)  # ascending
    principal = vectors.flip(-1)
    present = int((values > 1e-12 * shares.shape[1]).sum(-1).max())  # rows that an earlier compression took are zero
    part = (shares @ principal).square()  # of the squared norm, along each direction
    spread = part.std(1) if constant else part.square().mean(1).sqrt()  # (2, D - kept)
    moved = spread.amax(0) / 2 * _logits(rows / norms, bases, sigma)
    principal = principal[..., : min(present, int((moved >= norm_logit).sum()))]
    if constant:
        rest = removed.square().sum(-1) - (removed @ principal).square().sum(-1)  # (2, tokens)
        length = (length.square() + rest.mean(-1).clamp_min(0)).sqrt()
    return torch.cat([bases, outside @ principal], dim=-1), length


def _logits(units: Tensor, bases: Tensor, sigma: Tensor) -> float:
    """Root mean square of a head's logits from its kept directions, about each image's mean key; ``units`` are
    ``(2, images, T, D)``."""
    q, k = units @ bases[:, None]  # (images, T, kept)
    k = (k - k.mean(1, keepdim=True)) * sigma
    q, k = (x.flatten(0, 1) for x in (q, k))
    squared = ((q.mT @ q / len(q)) * (k.mT @ k / len(k))).sum() / units.shape[-1]
    return math.sqrt(max(float(squared), 0.0))


# --- reading and replacing attention modules ------------------------------------------------------------------------


class Site(NamedTuple):
    parent: nn.Module
    name: str
    module: nn.Module


class CompactAttention(nn.Module):
    """Stands where an attention module of timm or torchvision stood: the same call, fewer rows of W_q and W_k."""

    def __init__(self, attention: Attention, after: nn.Module, pair: bool) -> None:
        super().__init__()
        self.attention, self.after, self.pair = attention, after, pair

    def forward(self, *given: Any, **named: Any) -> Any:
        """The call of the module that it replaces: ``x (B, N, C) -> (B, N, C)``, with None for the weights behind it
        where that gave a pair. Raises :class:`InputError` for what it cannot do (:func:`_read_call`)."""
        x, why = _read_call(_OF_TORCH if self.pair else _OF_TIMM, given, named)
        if why:
            raise InputError(why)
        out = self.after(self.attention(x))
        return (out, None) if self.pair else out


_OF_TIMM = ("x", "attn_mask", "is_causal")
_OF_TORCH = (
    *("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask", "average_attn_weights"),
    "is_causal",
)


def _read_call(names: Sequence[str], given: Sequence[Any], named: dict[str, Any]) -> tuple[Any, str | None]:
    """What a call with arguments ``names`` attends over, and why a compressed module cannot answer it (None: it can).

    It attends from all tokens of one tensor to all of them, and has no weights to give. Weights are asked for by an
    explicit ``need_weights=True``: torch's default is True too, and most who leave it at that ignore them.
    """
    call = {**dict(zip(names, given, strict=False)), **named}
    x = call.get(names[0])
    if len(given) > len(names) or not call.keys() <= set(names) or x is None:
        return x, f"a compressed attention must be called with {', '.join(names)} alone, {names[0]} among them"
    for name in ("key", "value"):
        if call.get(name, x) is not x:
            return x, f"{name} must be the query itself: a compressed attention takes all three from one tensor"
    for name in ("attn_mask", "key_padding_mask", "is_causal"):
        if call.get(name) is not None and call[name] is not False:
            got = "a mask" if isinstance(call[name], Tensor) else repr(call[name])
            return x, f"{name} must be left out: all tokens of a compressed attention attend to all, got {got}"
    if call.get("need_weights"):
        return x, "need_weights must be False or left out: a compressed attention gives no weights, got True"
    return x, None


def attention_sites(model: nn.Module) -> list[Site]:
    """The attention modules of ``model`` that can be replaced. Raises :class:`InputError` for none, or one that cannot
    be, and says why."""
    found = []
    for parent in model.modules():
        for name, module in parent.named_children():
            if _is_plain_timm(module) or isinstance(module, Attention | nn.MultiheadAttention):
                _check_site(parent, module)
                found.append(Site(parent, name, module))
    if not found:
        raise InputError(f"{type(model).__name__} cannot be compressed: {_why_not(model)}")
    return found


def _is_plain_timm(module: nn.Module) -> bool:
    plain = ("timm.models.vision_transformer", "timm.layers.attention")
    return type(module).__name__ == "Attention" and type(module).__module__ in plain


def _check_site(parent: nn.Module, module: Any) -> None:
    why = None
    if isinstance(module, Attention):
        why = "cosine attention has one temperature a head and no spectrum" if module.kind == "cosine" else None
    elif isinstance(module, nn.MultiheadAttention):
        own = module._qkv_same_embed_dim and module.bias_k is None and not module.add_zero_attn and module.batch_first
        if not own or isinstance(parent, nn.TransformerEncoderLayer):
            why = f"the attention in {type(parent).__name__} is not a plain self-attention with batch_first"
    else:
        why = _why_not_timm(module)
    if why:
        raise InputError(f"{type(parent).__name__} cannot be compressed: {why}")


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


def _read(model: nn.Module, images: Tensor | None) -> list[_Layer]:
    sites = attention_sites(model)
    inputs: list[Tensor | None] = [None] * len(sites) if images is None else list(_inputs(model, sites, images))
    return [_layer(site.module, x) for site, x in zip(sites, inputs, strict=True)]


def _inputs(model: nn.Module, sites: Sequence[Site], images: Tensor) -> list[Tensor]:
    """What each attention layer sees, ``(images, T, C)``: at most :data:`_TOKENS` tokens of each image."""
    seen: list[list[Tensor]] = [[] for _ in sites]

    def keep(at: int, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        names = _OF_TORCH if isinstance(sites[at].module, nn.MultiheadAttention) else _OF_TIMM
        x, why = _read_call(names, given, named)
        if why:
            raise InputError(f"{type(model).__name__} cannot be compressed: {why}")
        chosen = torch.linspace(0, x.shape[1] - 1, min(x.shape[1], _TOKENS)).round().long()
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


def _layer(module: Any, inputs: Tensor | None) -> _Layer:
    weight, bias = (x.detach().cpu().double() for x in _qkv(module))
    heads = module.num_heads if not isinstance(module, Attention) else module.heads
    sigma, length = None, torch.zeros(2, heads, dtype=torch.float64)
    if isinstance(module, Attention) and module.kind == "svda":
        sigma = module.sigma.detach().cpu().double()  # type: ignore[union-attr]  # SVDA has a sigma
        if module.kept is not None:
            length = module.norm_length.detach().cpu().double()
    C = weight.shape[-1]
    if isinstance(module, Attention) and module.kept is not None:
        R, widest = sum(module.kept.rows), max(module.kept.rows)
        slots = module.row_slots[: 2 * R].cpu()
        weight, bias = (
            x.new_zeros(2 * heads * widest, *x.shape[1:]).index_copy(0, slots, x[: 2 * R]) for x in (weight, bias)
        )
        weight, bias = weight.view(2, heads, widest, C), bias.view(2, heads, widest)
        missing = module.head_dim - widest
        return _Layer(
            nn.functional.pad(weight, (0, 0, 0, missing)), nn.functional.pad(bias, (0, missing)), sigma, length, inputs
        )
    weight, bias = weight.view(3, heads, -1, C)[:2], bias.view(3, heads, -1)[:2]
    return _Layer(weight, bias, sigma, length, inputs)


def _qkv(module: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of q, k and v together; a missing bias is zero."""
    if isinstance(module, nn.MultiheadAttention):
        weight, bias = module.in_proj_weight, module.in_proj_bias
    else:
        weight, bias = module.qkv.weight, module.qkv.bias
    return weight, weight.new_zeros(len(weight)) if bias is None else bias


def _replacement(module: Any, score: tuple[int, ...], norm: tuple[int, ...], parts: Sequence[_Head]) -> nn.Module:
    weight, bias = _qkv(module)
    C, heads = weight.shape[1], len(score)
    kind = module.kind if isinstance(module, Attention) else "dot"
    out = module.out_proj if isinstance(module, nn.MultiheadAttention) else module.proj
    dropout = module.attn_drop.p if hasattr(module, "attn_drop") else module.dropout
    config = ViTConfig(
        dim=C, heads=heads, depth=1, attention=kind, attention_dropout=dropout, score_dims=(score,), norm_dims=(norm,)
    )
    new = Attention(config).to(weight.device, weight.dtype)
    with torch.no_grad():
        new.qkv.weight.copy_(torch.cat([*(p.weight[i] for i in (0, 1) for p in parts), weight[-C:].cpu()]))
        new.qkv.bias.copy_(torch.cat([*(p.bias[i] for i in (0, 1) for p in parts), bias[-C:].cpu()]))
        new.proj.weight.copy_(out.weight)
        new.proj.bias.copy_(torch.zeros(C) if out.bias is None else out.bias)
        if kind == "svda":
            new.sigma_linear.copy_(torch.cat([part.sigma for part in parts]))
            new.norm_length.copy_(torch.stack([part.length for part in parts], dim=1))
    new.train(module.training)
    if isinstance(module, Attention):
        new.track_row_energy = module.track_row_energy
        return new
    pair = isinstance(module, nn.MultiheadAttention)
    return CompactAttention(new, nn.Identity() if pair else module.proj_drop, pair)
