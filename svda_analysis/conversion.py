"""A pretrained ViT with SVDA, cosine or our dot-product attention in the place of its own.

Dot-product attention is SVDA but for the lengths of its rows. With keys about their mean, which the softmax does not
see, and second moments ``C_q, C_k`` over images, let ``C_q^(t/2) C_k^(t/2) = U diag(S) V^T``. Then ::

    q . k = (U^T C_q^(-t/2) q)^T diag(S) (V^T C_k^(-t/2) k) = q' diag(S) k'

for any ``t`` in [0, 1]: 0 is the basis that the model has, where S is flat; 1 the white one, where S are the singular
values of the score operator (:mod:`~svda_analysis.score_operator`) and rows are nearly of one length. SVDA makes the
rows unit, so Sigma is S times their mean lengths (our derivation). Distillation then brings each layer's maps back.

What is lost is that rows differ in length. With a ``norm_row`` of r the weakest direction is given up: q' and k' have a
constant there, r times the root mean square length of the rest, and Sigma is 0, so it feeds the norm alone. Squared
lengths then differ ``1 + r^2`` times less, and for a large r SVDA becomes dot-product attention less that direction.
The share ``r^2 / (1 + r^2)`` of a unit row then says nothing, and angles of whole rows little (our derivation).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from svda_analysis.attention import Attention, check_choice, check_count, unit_rows
from svda_analysis.calls import AttentionRecord
from svda_analysis.converted import Conversion, base_of, preprocessing_fields, replaced
from svda_analysis.errors import InputError
from svda_analysis.forward import call_model
from svda_analysis.hosts import Host, choose_hosts, make_replacement, put
from svda_analysis.kinds import attention_kind
from svda_analysis.model import ViT
from svda_analysis.score_operator import row_moments
from svda_analysis.specs import Given, open_model
from svda_analysis.stand_in import StandIn
from svda_analysis.tap import capture
from svda_analysis.undisturbed import undisturbed

_MOST_TOKENS = 32  # of each image, spread evenly, that lengths and bases are judged by
_SMALLEST = 1e-6  # of the largest eigenvalue: what q or k do less along a direction is none
_BASES = (0.0, 0.25, 0.5, 0.75, 1.0)  # that "best" chooses among
_SIGMAS = ("sigma_linear", "sigma_shape", "log_temperature")


def convert(
    given: Given,
    *,
    to: str = "svda",
    blocks: str | Sequence[int] = "all",
    start: Literal["fresh", "weights"] = "fresh",
    images: Tensor | None = None,
    basis: float | Literal["best"] = 1.0,
    norm_row: float = 0.0,
    sigma_form: str = "linear",
    sigma_start: float | str = "double_dim",
    inplace: bool = False,
) -> nn.Module:
    """A model whose attention is of the kind ``to`` in some of its blocks; fused kernels stay on.

    ``given`` is what :func:`~svda_analysis.specs.open_model` takes: a module of timm, torchvision, Hugging Face or
    ours, a path, a spec. ``blocks`` are ``"all"``, ``"last:2"``, ``"first:2"``, or places counted from 0. All
    projections keep their weights. ``start="fresh"`` lets sigma start at ``sigma_start`` (``"one"`` is the literal
    reading of the papers); ``"weights"`` reads it off the pretrained weights over ``images (B, C, H, W)``, a few
    hundred, prepared as the model takes them (module docstring), with ``basis`` t in [0, 1], or ``"best"``: of five the
    one that keeps each head's maps best; and with a ``norm_row`` (SVDA alone), how much longer than the rest of a row
    the constant is that takes the place of each head's weakest direction. ``sigma_form`` as for
    :class:`~svda_analysis.model.ViTConfig`. ``inplace`` changes the module that was given, else a copy is converted.

    The result trains in any loop (:func:`sigma_parameters`, :func:`~svda_analysis.penalties.penalty`), saves and loads
    (:func:`~svda_analysis.converted.save_converted`, ``state_dict``), compiles, and is analysed as any other. Raises
    :class:`InputError` that names the module for what cannot be converted: masks, position biases, windows, rotary
    embeddings, grouped queries.
    """
    attention_kind(to)
    check_choice("start", start, ("fresh", "weights"))
    if basis != "best" and not (isinstance(basis, int | float) and 0 <= basis <= 1):
        raise InputError(f"basis must lie in [0, 1] or be 'best', got {basis!r}")
    if not 0 <= norm_row < math.inf:
        raise InputError(f"norm_row must be at least 0, got {norm_row!r}")
    if norm_row and (to != "svda" or start != "weights"):
        raise InputError("norm_row must be 0 but for to='svda' with start='weights'")
    if start == "weights" and images is None:
        raise InputError("images must be given with start='weights': a few hundred, without labels")
    subject = open_model(given)
    model = subject.model if inplace else copy.deepcopy(subject.model)
    hosts = choose_hosts(model, blocks)
    read = start == "weights" and to != "dot"  # dot-product attention is what it is
    rows = _layer_rows(model, hosts, images) if read and images is not None else []
    known = getattr(model, "conversion", None)
    base, sites = (known.base, dict(known.sites)) if known else (base_of(model, subject.spec), {})
    for at, host in enumerate(hosts):
        outer = host.name.removesuffix(".attention")
        name = outer if outer in sites else host.name  # converted before
        biased = read or bool(sites.get(name, {}).get("with_bias"))
        sites[name] = {"kind": to, "sigma_form": sigma_form, "with_bias": biased}
        new = make_replacement(host.module, **sites[name], sigma_start=sigma_start)
        if rows:
            _start_from(layer_of(new), rows[at], basis, norm_row)
        put(model, host.name, new)
    how = preprocessing_fields(subject.preprocessing)
    model.conversion = Conversion(base=base, sites=sites, preprocessing=how)  # type: ignore[assignment]  # no tensor
    _tell_config(model)
    return model


def sigma_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What our attention layers learn beside their projections: sigma, or its temperature and shape; for a group of the
    optimizer of their own, such as ``{"params": sigma_parameters(model), "lr": 20 * lr, "weight_decay": 0}``."""
    return [p for name, p in model.named_parameters() if name.rpartition(".")[2] in _SIGMAS]


def layer_of(module: Any) -> Attention:
    """Our attention layer in what took another module's place."""
    found: Attention = module.attention if isinstance(module, StandIn) else module  # type: ignore[assignment]
    return found


def _tell_config(model: nn.Module) -> None:
    """A ViT of ours whose layers are all of one kind again has a config that says so."""
    if isinstance(model, ViT):
        layers = model.attention_layers()
        forms = {(layer.kind, layer.sigma_form) for layer in layers if isinstance(layer, Attention)}
        if len(forms) == 1 and all(isinstance(layer, Attention) for layer in layers):
            (kind, form) = forms.pop()
            changes: dict[str, Any] = {"attention": kind, "sigma_form": form}
            model.config = dataclasses.replace(model.config, **changes)


# --- sigma read off the weights ---------------------------------------------------------------------------------------


class _LayerRows(NamedTuple):
    """What a layer's rows are over images: ``q, k (images, H, T, D)`` of a few tokens, ``moments (2, H, D, D)`` of all,
    keys about each image's mean, and the ``mean_key (H, D)``; float64, with the scale ``1/sqrt(D)`` to come."""

    q: Tensor
    k: Tensor
    moments: Tensor
    mean_key: Tensor


def _layer_rows(model: nn.Module, hosts: Sequence[Host], images: Tensor) -> list[_LayerRows]:
    found: list[list[_LayerRows]] = [[] for _ in hosts]

    def take(at: int, record: AttentionRecord) -> None:
        q, k = record.q, record.k
        if q is None or k is None or record.sigma is not None:
            raise InputError(f"{hosts[at].name} cannot be read: start='weights' reads dot-product attention")
        q = q * (record.scale * q.shape[-1] ** 0.5)
        few = torch.linspace(0, q.shape[-2] - 1, min(q.shape[-2], _MOST_TOKENS), device=q.device).round().long()
        kept_q, kept_k = (x[..., few, :].double().cpu() for x in (q, k))
        found[at].append(_LayerRows(kept_q, kept_k, row_moments(q, k).cpu(), k.double().mean((0, 2)).cpu()))

    with undisturbed(model) as inside, _each_call([host.module for host in hosts], inside, take):
        for batch in images.split(16):
            call_model(inside, batch)
    if empty := next((host.name for host, parts in zip(hosts, found, strict=True) if not parts), None):
        raise InputError(f"{empty} cannot be read: the model never calls it")
    return [_joined_rows(parts) for parts in found]


def _joined_rows(parts: list[_LayerRows]) -> _LayerRows:
    share = torch.tensor([len(part.q) for part in parts], dtype=torch.float64)
    share = share / share.sum()
    means = (torch.stack([getattr(p, name) for p in parts]) for name in ("moments", "mean_key"))
    moments, mean_key = (torch.tensordot(share, x, 1) for x in means)
    return _LayerRows(torch.cat([p.q for p in parts]), torch.cat([p.k for p in parts]), moments, mean_key)


@contextlib.contextmanager
def _each_call(
    modules: Sequence[nn.Module], model: nn.Module, take: Callable[[int, AttentionRecord], None]
) -> Iterator[None]:
    """Inside, ``take`` gets each record of the attention that one of ``modules`` computes, with its place there."""
    running: list[int] = []

    def on_record(record: AttentionRecord) -> None:
        if running:
            take(running[-1], record)

    hooks = []
    for at, module in enumerate(modules):
        hooks.append(module.register_forward_pre_hook(lambda *_, at=at: running.append(at)))
        hooks.append(module.register_forward_hook(lambda *_: running.clear(), always_call=True))
    try:
        with capture(model, on_record):
            yield
    finally:
        for hook in hooks:
            hook.remove()


class _Turned(NamedTuple):
    """``q' = left q``, ``k' = right (k - mean key)``, ``(H, D, D)``, and Sigma ``(H, D)``, for one t; ``constant
    (2, H)`` is what q' and k' have along the last direction beside that."""

    left: Tensor
    right: Tensor
    sigma: Tensor
    constant: Tensor


def _turned(rows: _LayerRows, t: float, norm_row: float = 0.0) -> _Turned:
    values, vectors = torch.linalg.eigh(rows.moments)  # (2, H, D), (2, H, D, D)
    values = values.clamp_min(_SMALLEST * values.amax(-1, keepdim=True)).clamp_min(torch.finfo(values.dtype).tiny)
    root, inverse = ((vectors * values.pow(power)[..., None, :]) @ vectors.mT for power in (t / 2, -t / 2))
    left, size, right = torch.linalg.svd(root[0] @ root[1])
    turned = _Turned(left.mT @ inverse[0], right @ inverse[1], size, size.new_zeros(2, len(size)))
    if norm_row:
        for x in (turned.left, turned.right, size[..., None]):
            x[:, -1] = 0
        squared = torch.stack([x.square().sum(-1).mean((0, 2)) for x in _through(rows, turned)])  # (2, H)
        turned = turned._replace(constant=norm_row * squared.sqrt())
    lengths = [x.norm(dim=-1).mean((0, 2)) for x in _through(rows, turned)]  # each (H,)
    return turned._replace(sigma=size * (lengths[0] * lengths[1])[:, None])


def _through(rows: _LayerRows, turned: _Turned) -> tuple[Tensor, Tensor]:
    q, k = rows.q @ turned.left.mT, (rows.k - rows.mean_key[:, None]) @ turned.right.mT
    for x, constant in zip((q, k), turned.constant, strict=True):
        x[..., -1] += constant[:, None]
    return q, k


def _divergence_of(rows: _LayerRows, turned: _Turned) -> Tensor:
    """How far the maps of a few tokens are from those of dot-product attention, ``(H,)``: Kullback-Leibler, nats."""
    D = rows.q.shape[-1]
    wanted = (rows.q @ rows.k.mT / D**0.5).log_softmax(-1)
    q, k = (unit_rows(x) for x in _through(rows, turned))
    got = ((q * turned.sigma[:, None]) @ k.mT / D**0.5).log_softmax(-1)
    return (wanted.exp() * (wanted - got)).sum(-1).mean((0, 2))


def _best_turned(rows: _LayerRows, norm_row: float) -> _Turned:
    every = [_turned(rows, t, norm_row) for t in _BASES]
    best = torch.stack([_divergence_of(rows, turned) for turned in every]).argmin(0)  # (H,)
    heads = torch.arange(len(best))
    parts = (torch.stack(part) for part in zip(*(x._replace(constant=x.constant.mT) for x in every), strict=True))
    chosen = _Turned(*(part[best, heads] for part in parts))
    return chosen._replace(constant=chosen.constant.mT)


def _start_from(layer: Any, rows: _LayerRows, basis: float | str, norm_row: float) -> None:
    """Turn a layer's q and k, and set its sigma (its temperature, of cosine attention)."""
    if layer.kind == "cosine":
        basis = 0.0  # its spectrum is flat
    chosen = isinstance(basis, str)
    turned = _best_turned(rows, norm_row) if chosen else _turned(rows, float(basis), norm_row)
    H, D, C = layer.heads, layer.head_dim, layer.qkv.in_features
    with torch.no_grad():
        weight, bias = layer.qkv.weight.double().cpu().view(3, H, D, C), layer.qkv.bias.double().cpu().view(3, H, D)
        turns = torch.stack([turned.left, turned.right])
        new = turns @ weight[:2], (turns @ (bias[:2] - _keys_alone(rows.mean_key))[..., None])[..., 0]
        new[1][..., -1] += turned.constant
        layer.qkv.weight[: 2 * C].copy_(new[0].reshape(2 * C, C))
        layer.qkv.bias[: 2 * C].copy_(new[1].reshape(2 * C))
        _set_sigma(layer, turned.sigma)


def _keys_alone(mean_key: Tensor) -> Tensor:
    return torch.stack([torch.zeros_like(mean_key), mean_key])


def _set_sigma(layer: Any, sigma: Tensor) -> None:
    if layer.kind == "cosine":
        layer.log_temperature.copy_(sigma.mean(-1).log())
    elif layer.sigma_form == "linear":
        layer.sigma_linear.copy_(sigma)
    else:
        length = sigma.norm(dim=-1)
        layer.sigma_shape.copy_(sigma / length[:, None] * layer.head_dim**0.5)
        layer.log_temperature.copy_((length / layer.head_dim**0.5).log())


# --- distillation -----------------------------------------------------------------------------------------------------


def distill(
    student: nn.Module,
    teacher: Given,
    images: Tensor,
    *,
    steps: int = 120,
    batch_size: int = 4,
    lr: float = 1e-3,
    sigma_lr_factor: float = 30.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Bring the maps of a converted model back to those of the model that it was made of, without labels, in place.

    Each layer by itself: it reads what the ``teacher``'s layer reads of ``images (B, C, H, W)``, and its map is drawn
    to the teacher's (cross-entropy of the rows as distributions, as in Hinton et al. 2015 for logits). Only W_q, W_k,
    their biases and sigma learn, by Adam at ``lr``, in the last third at 0.3 ``lr``; sigma's rate is
    ``sigma_lr_factor`` times that. Returns each step's mean Kullback-Leibler divergence over layers, in nats.
    """
    for name, number in (("steps", steps), ("batch_size", batch_size)):
        check_count(name, number)
    guide, layers = open_model(teacher).model, replaced(student)
    if not len(images):
        raise InputError("images must hold at least one image, got none")
    theirs = [_module_of(guide, name) for name in layers]
    groups = [_learning(layer, lr, sigma_lr_factor) for layer in layers.values()]
    optimizer = torch.optim.Adam([group for pair in groups for group in pair])
    lost, draws = [], torch.Generator().manual_seed(seed)
    for step in range(steps):
        chosen = torch.randperm(len(images), generator=draws)[:batch_size]
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * (1.0 if step < 2 * steps / 3 else 0.3)
        taught = _taught(guide, theirs, images[chosen])
        losses = [_distance(layer, *seen) for layer, seen in zip(layers.values(), taught, strict=True)]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()
        lost.append(float(torch.stack(losses).detach().mean()))
        if progress:
            progress(step + 1, steps)
    optimizer.zero_grad()
    return lost


def _module_of(model: nn.Module, name: str) -> nn.Module:
    try:
        return model.get_submodule(name)
    except AttributeError:
        raise InputError(f"teacher must be the model that the student was made of: it has no {name}") from None


def _learning(layer: Attention, lr: float, factor: float) -> list[dict[str, Any]]:
    own = [p for name, p in layer.named_parameters() if name in _SIGMAS]
    return [{"params": list(layer.qkv.parameters()), "peak": lr}, {"params": own, "peak": lr * factor}]


def _taught(guide: nn.Module, modules: Sequence[nn.Module], images: Tensor) -> list[tuple[Tensor, Tensor]]:
    """What each of the teacher's layers reads ``(B, N, C)``, and its map ``(B, H, N, N)``."""
    read: dict[int, Tensor] = {}
    maps: dict[int, Tensor] = {}
    hooks = []
    for at, module in enumerate(modules):

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], at: int = at) -> None:
            read[at] = (args[0] if args else next(iter(kwargs.values()))).detach()

        hooks.append(module.register_forward_pre_hook(note, with_kwargs=True))
    try:
        with (
            undisturbed(guide) as inside,
            _each_call(modules, inside, lambda at, record: maps.update({at: record.a})),
        ):
            call_model(inside, images)
    finally:
        for hook in hooks:
            hook.remove()
    return [(read[at], maps[at]) for at in range(len(modules))]


def _distance(layer: Attention, tokens: Tensor, wanted: Tensor) -> Tensor:
    """Kullback-Leibler divergence of a layer's map from the ``wanted`` one, mean over rows; a scalar with its graph."""
    found: list[AttentionRecord] = []
    tokens = tokens.to(layer.qkv.weight)
    with capture(layer, found.append, output="map"):
        layer(tokens)
    q, k = found[0].q, found[0].k
    if q is None or k is None:
        raise InputError("a layer shows no rows of q and k")
    if found[0].sigma is not None:
        q = q * found[0].sigma.unsqueeze(-2)
    got = (q @ k.mT * found[0].scale).float().log_softmax(-1)
    wanted = wanted.to(got)
    return (torch.special.xlogy(wanted, wanted) - wanted * got).sum(-1).mean()


def distill_output(
    student: nn.Module,
    teacher: Given,
    images: Tensor,
    *,
    steps: int = 60,
    batch_size: int = 4,
    lr: float = 2e-4,
    sigma_lr_factor: float = 30.0,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[float]:
    """Bring the output of a converted model back to that of the model that it was made of, without labels, in place.

    After :func:`distill`, which sees each layer by itself: here errors of all layers count together. What is drawn to
    0 is 1 - cosine of the two outputs, over tokens where it has them ``(B, N, C)``, the first of which counts as much
    as all. W_q, W_k, their biases and sigma learn, as there, from ``images (B, C, H, W)``; the rate falls to 0 by half
    a cosine. Returns the loss of each step.
    """
    for name, number in (("steps", steps), ("batch_size", batch_size)):
        check_count(name, number)
    if not len(images):
        raise InputError("images must hold at least one image, got none")
    guide, layers = open_model(teacher).model, list(replaced(student).values())
    optimizer = torch.optim.Adam([group for layer in layers for group in _learning(layer, lr, sigma_lr_factor)])
    chosen = [p for group in optimizer.param_groups for p in group["params"]]
    lost, draws = [], torch.Generator().manual_seed(seed)
    for step in range(steps):
        batch = images[torch.randperm(len(images), generator=draws)[:batch_size]]
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * (1 + math.cos(math.pi * step / steps)) / 2
        with torch.no_grad(), undisturbed(guide) as inside:
            wanted = _output_rows(call_model(inside, batch))
        with undisturbed(student) as inside, torch.enable_grad():
            loss = _apart(_output_rows(call_model(inside, batch)), wanted)
            gradients = torch.autograd.grad(loss, chosen)
        for parameter, gradient in zip(chosen, gradients, strict=True):
            parameter.grad = gradient
        for layer in layers:  # v stays
            for gradient in (x.grad for x in layer.qkv.parameters() if x.grad is not None):
                gradient[-layer.qkv.in_features :] = 0
        optimizer.step()
        lost.append(float(loss.detach()))
        if progress:
            progress(step + 1, steps)
    optimizer.zero_grad()
    return lost


def _output_rows(output: Any) -> Tensor:
    """The first tensor of what a model gives: its tokens ``(B, N, C)``, features or logits."""
    found = output if isinstance(output, Tensor) else output[0]
    return found.float()


def _apart(own: Tensor, wanted: Tensor) -> Tensor:
    off = 1 - torch.cosine_similarity(own, wanted, dim=-1)
    return off.mean() + off[:, 0].mean() if off.ndim == 2 else off.mean()
