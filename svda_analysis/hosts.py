"""The attention modules of a model that can be replaced by ours, in place, and why the others cannot.

Four kinds of host are known: our own layers, timm's plain ``Attention``, ``nn.MultiheadAttention``, and the attention
of Hugging Face's ViTs (four projections, called with ``hidden_states``). Whatever a module is called, it is replaced
only where our layer with its weights gives its output on random tokens.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from svda_analysis.attention import Attention
from svda_analysis.compact import CompactSelfAttention
from svda_analysis.errors import InputError, one_line
from svda_analysis.stand_in import OF_HUGGING_FACE, OF_TIMM, OF_TORCH, StandIn
from svda_analysis.undisturbed import undisturbed

_TOLERANCE = 1e-4  # of the largest output, that rounding may account for
_Weights = tuple[Tensor, Tensor | None]  # of q, k and v together


class Host(NamedTuple):
    """An attention module by its name in the model; ``why_not`` it cannot be replaced (empty: it can)."""

    name: str
    module: nn.Module
    why_not: str = ""


class _Parts(NamedTuple):
    """What a module is made of, whatever its library calls it."""

    heads: int
    qkv: _Weights
    out: nn.Linear
    scale: float
    dropout: float
    names: tuple[str, ...] = ()  # of its call; empty: ours
    after: nn.Module | None = None
    pair: bool = False


def attention_hosts(model: nn.Module) -> list[Host]:
    """Every attention module of a model, in its order. Raises :class:`InputError` for a model without any."""
    found: list[Host] = []
    for name, module in model.named_modules():
        if not name or any(name.startswith(f"{host.name}.") for host in found) or not _is_attention(module):
            continue
        parent = model.get_submodule(name.rpartition(".")[0])
        if "pool" not in f"{type(parent).__name__} {type(module).__name__}".lower():  # one query that pools: no block
            found.append(Host(name, module, why_not_replaced(parent, module)))
    if not found:
        raise InputError(f"{type(model).__name__} cannot be converted: it has no attention module")
    return found


def choose_hosts(model: nn.Module, blocks: str | Sequence[int]) -> list[Host]:
    """The hosts that ``blocks`` names: ``"all"``, ``"last:2"``, ``"first:2"``, or places counted from 0, as ``"3,7"``
    or ``[3, 7]``. Raises :class:`InputError` for others, and for a host that cannot be replaced, with its name and why.
    """
    hosts = attention_hosts(model)
    chosen = [hosts[at] for at in _places(blocks, len(hosts))]
    for host in chosen:
        if host.why_not:
            raise InputError(f"{host.name} ({type(host.module).__name__}) cannot be converted: {host.why_not}")
    return chosen


def _places(blocks: str | Sequence[int], number: int) -> list[int]:
    allowed = f"blocks must be all, last:N, first:N or places from 0 to {number - 1} such as 3,7, got {blocks!r}"
    if blocks == "all":
        return list(range(number))
    if isinstance(blocks, str):
        end = re.fullmatch(r"(first|last):(\d{1,6})", blocks)
        if end and 1 <= int(end[2]) <= number:
            places = range(number)
            return list(places[: int(end[2])] if end[1] == "first" else places[-int(end[2]) :])
        if not re.fullmatch(r"\d{1,6}(,\d{1,6})*", blocks):
            raise InputError(allowed)
        blocks = [int(word) for word in blocks.split(",")]
    found = sorted(set(blocks))
    if not found or not all(type(at) is int and 0 <= at < number for at in found):
        raise InputError(allowed)
    return found


def make_replacement(module: nn.Module, kind: str, *, with_bias: bool = False, **options: Any) -> nn.Module:
    """Our attention of ``kind`` with the weights of ``module``, called as that is; sigma where ``options`` (as those of
    :class:`~svda_analysis.attention.Attention`) let it start. ``with_bias``: q, k and v have one, of zeros where the
    module has none."""
    parts = _parts(module)
    (weight, bias), out = parts.qkv, parts.out
    with torch.random.fork_rng(devices=[]):  # what a layer starts from is not needed, and draws nothing from others
        new = Attention(weight.shape[1], parts.heads, kind=kind, dropout=parts.dropout, **options)
    new = new.to(weight.device, weight.dtype)
    if bias is None and with_bias:
        bias = weight.new_zeros(len(weight))
    with torch.no_grad():
        folded = weight.clone()
        folded[: len(weight) // 3] *= parts.scale * math.sqrt(new.head_dim)
        new.qkv.weight.copy_(folded)
        new.proj.weight.copy_(out.weight)
        _set_bias(new.qkv, bias, slice(0, len(weight) // 3), parts.scale * math.sqrt(new.head_dim))
        _set_bias(new.proj, out.bias)
    for own, theirs in ((new.qkv.weight, weight), (new.proj.weight, out.weight)):
        own.requires_grad_(theirs.requires_grad)
    new.train(module.training)
    if not parts.names:
        new.track_row_energy = getattr(module, "track_row_energy", False) and new.sigma is not None
        return new
    return StandIn(new, parts.after or nn.Identity(), parts.pair, parts.names).train(module.training)


def _set_bias(linear: nn.Linear, bias: Tensor | None, scaled: slice = slice(0, 0), by: float = 1.0) -> None:
    if bias is None:
        linear.bias = None  # type: ignore[assignment]  # as nn.Linear has it without a bias
        return
    linear.bias.copy_(bias)
    linear.bias[scaled] *= by
    linear.bias.requires_grad_(bias.requires_grad)


def put(model: nn.Module, name: str, module: nn.Module) -> None:
    """Set the submodule of that dotted name."""
    parent, _, last = name.rpartition(".")
    place = model.get_submodule(parent)
    if last.isdecimal() and isinstance(place, nn.Sequential | nn.ModuleList):
        place[int(last)] = module
    else:
        setattr(place, last, module)


# --- what a module is made of -----------------------------------------------------------------------------------------


def _parts(module: Any) -> _Parts:
    if isinstance(module, Attention):
        return _Parts(module.heads, _as_pair(module.qkv), module.proj, module.head_dim**-0.5, module.dropout)
    if isinstance(module, nn.MultiheadAttention):
        qkv = module.in_proj_weight, module.in_proj_bias
        scale = (module.embed_dim // module.num_heads) ** -0.5
        return _Parts(module.num_heads, qkv, module.out_proj, scale, module.dropout, OF_TORCH, None, True)
    if _is_timm(module):
        after, drop = module.proj_drop, float(module.attn_drop.p)
        return _Parts(module.num_heads, _as_pair(module.qkv), module.proj, float(module.scale), drop, OF_TIMM, after)
    heads = _first(module, "num_attention_heads", "num_heads")
    dropout = getattr(module, "attention_dropout", getattr(module, "dropout", 0.0))
    out, scale = _first(module, "o_proj", "out_proj"), float(_first(module, "scaling", "scale"))
    chance = dropout.p if isinstance(dropout, nn.Dropout) else float(dropout)
    return _Parts(heads, _side_by_side(module), out, scale, chance, OF_HUGGING_FACE, None, True)


def _as_pair(linear: nn.Linear) -> _Weights:
    return linear.weight, linear.bias


def _side_by_side(module: Any) -> _Weights:
    linears = [module.q_proj, module.k_proj, module.v_proj]
    biases = [x.bias for x in linears]
    whole = None
    if any(bias is not None for bias in biases):
        whole = torch.cat([x.weight.new_zeros(len(x.weight)) if x.bias is None else x.bias for x in linears])
    joined = torch.cat([x.weight for x in linears]).detach()
    if whole is not None:
        whole = whole.detach().requires_grad_(any(bias is not None and bias.requires_grad for bias in biases))
    return joined.requires_grad_(linears[0].weight.requires_grad), whole


def _first(module: Any, *names: str) -> Any:
    return next(getattr(module, name) for name in names if hasattr(module, name))


def _is_timm(module: nn.Module) -> bool:
    return type(module).__name__ == "Attention" and type(module).__module__.startswith("timm.")


def _is_hugging_face(module: nn.Module) -> bool:
    return type(module).__module__.startswith("transformers.") and all(
        isinstance(getattr(module, name, None), nn.Linear) for name in ("q_proj", "k_proj", "v_proj")
    )


def _is_known(module: nn.Module) -> bool:
    ours = isinstance(module, Attention | CompactSelfAttention | nn.MultiheadAttention)
    return ours or _is_timm(module) or _is_hugging_face(module)


def _is_attention(module: nn.Module) -> bool:
    """Whether a module is one of attention: a known one, or what is called so, has weights and holds no known one."""
    if _is_known(module):
        return True
    named = re.search(r"atten|attn", type(module).__name__.lower())
    holds = any(_is_known(part) for part in module.modules())
    return bool(named) and not holds and next(module.parameters(), None) is not None


# --- what cannot be replaced ------------------------------------------------------------------------------------------


def why_not_replaced(parent: nn.Module, module: nn.Module) -> str:
    """Why an attention module cannot be replaced by ours; empty where it can."""
    if isinstance(module, Attention):
        return ""
    if isinstance(module, CompactSelfAttention):
        return "it is compressed, and has too few rows of q and k left"
    if why := _why_by_its_parts(parent, module):
        return why
    if not _is_known(module):
        return "only our attention, timm's plain Attention, nn.MultiheadAttention and Hugging Face's ViTs are known"
    return _why_by_its_output(module)


def _why_by_its_parts(parent: nn.Module, module: Any) -> str:
    """A reason that shows in what a module holds."""
    beside = [*module.named_children(), *parent.named_children()]  # a bias may be made beside it
    held = " ".join(name for name, _ in (*module.named_parameters(), *module.named_buffers(), *beside))
    text = f"{type(module).__name__} {held}".lower()
    for found, why in _REASONS:
        if found(text, module):
            return why
    if isinstance(module, nn.MultiheadAttention):
        if isinstance(parent, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer):
            return f"{type(parent).__name__} reads its weights past its forward; masks may come to it"
        if not module._qkv_same_embed_dim or module.bias_k is not None or module.add_zero_attn:
            return "its keys and values have other sizes, or biases or zeros among the keys"
        if not module.batch_first:
            return "it has the images behind the tokens (batch_first=False)"
    return ""


_TURNED = {"rope", "position_embeddings", "rotary_pos_emb", "freqs_cis"}  # arguments that bring rotary embeddings


def _normalises(text: str, module: Any) -> bool:
    names = ("q_norm", "k_norm", "q_layernorm", "k_layernorm", "layernorm_q", "layernorm_k")
    return any(not isinstance(getattr(module, name, None), nn.Identity | None) for name in names)


def _groups_heads(text: str, module: Any) -> bool:
    heads = getattr(module, "num_attention_heads", getattr(module, "num_heads", None))
    keys = next((x for n in ("num_kv_heads", "num_key_value_heads") if (x := getattr(module, n, None))), heads)
    return bool(keys != heads) or getattr(module, "num_key_value_groups", 1) != 1


_REASONS: tuple[tuple[Callable[[str, Any], bool], str], ...] = (
    (
        lambda text, _: bool(re.search(r"relative_position|rel_pos|position_bias", text)),
        "it adds a position bias to the scores",
    ),
    (lambda text, m: "window" in text or hasattr(m, "window_size"), "it attends inside windows"),
    (
        lambda text, m: bool(
            re.search("rope|rotary", text) or _TURNED & inspect.signature(m.forward).parameters.keys()
        ),
        "rotary embeddings turn q and k after their projections",
    ),
    (_groups_heads, "several heads of queries share one of keys (GQA)"),
    (_normalises, "its rows of q and k are normalised between projection and score already"),
    (lambda _, m: getattr(m, "gate", None) is not None, "its output is gated"),
    (lambda _, m: bool(getattr(m, "is_causal", False)), "it hides later tokens from earlier ones (a causal mask)"),
)


def _why_by_its_output(module: nn.Module) -> str:
    """Whether our layer with the same weights gives the same output, on random tokens."""
    try:
        parts = _parts(module)
        weight = parts.qkv[0]
        C = weight.shape[1]
        if len(weight) != 3 * C or C % parts.heads or parts.out.weight.shape != (C, C):
            return "its heads do not add up to its width"
        draws = torch.Generator().manual_seed(0)
        x = torch.randn(2, 7, C, generator=draws).to(weight)
        with undisturbed(module):
            theirs = _output_of(module, parts, x)
            ours = _output_of(make_replacement(module, "dot").eval(), parts, x)
    except Exception as error:  # whatever a module of unknown make raises, it cannot be replaced
        return f"it cannot be called on tokens (B, N, C) alone ({one_line(error)[:200]})"
    off = float((ours - theirs).abs().max() / theirs.abs().max().clamp_min(1e-30))
    if weight.dtype in (torch.float16, torch.bfloat16):
        return ""
    return "" if off < _TOLERANCE else f"it gives something else than softmax(q k^T scale) v, off by {off:.2g}"


def _output_of(module: nn.Module, parts: _Parts, x: Tensor) -> Tensor:
    given: Iterable[Tensor] = (x, x, x) if parts.names == OF_TORCH else (x,)
    named = {"need_weights": False} if parts.names == OF_TORCH else {}
    found = module(*given, **named)
    return found[0] if isinstance(found, tuple) else found
