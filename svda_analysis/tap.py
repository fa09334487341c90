"""One tap on torch's attention functions: any model -> a stream of attention records, one layer at a time.

A :class:`torch.overrides.TorchFunctionMode` sees each call of an attention function while ``model`` runs, so the model
is not edited, the fused kernels stay on, and nothing is left behind.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from svda_analysis.attention import svda_attention
from svda_analysis.errors import InputError
from svda_analysis.trail import CallTrail


class AttentionRecord(NamedTuple):
    """One attention call: ``a = softmax(q diag(sigma) k^T * scale)``.

    ``layer`` counts from 0 in the order of calls. ``q, k (B, H, N, D)``, ``v (B, H, N, Dv)``, ``a (B, H, N, N)`` float
    after the softmax. ``sigma (H, D)`` for SVDA, where ``q`` and ``k`` are the unit rows; else ``None`` (identity).
    ``tokens (B, N, C)``: what the layer read, where a :class:`~svda_analysis.trail.CallTrail` was given and can tell.
    """

    layer: int
    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    a: Tensor
    sigma: Tensor | None
    tokens: Tensor | None = None


@contextlib.contextmanager
def capture(
    model: nn.Module,
    on_record: Callable[[AttentionRecord], None],
    *,
    output: Literal["kernel", "map"] = "kernel",
    trail: CallTrail | None = None,
) -> Iterator[None]:
    """While the context is open, call ``on_record`` at each attention call inside ``model``'s forward.

    ``output="kernel"``: the model's own kernel answers, logits are bit-identical to those without capture, and records
    carry no graph. ``output="map"``: the layer's output is the explicit ``a @ v`` (equal to about 1e-5), the map is
    computed once, and gradients reach ``record.a``. ``trail``: takes note of the calls between, and tells records their
    tokens. Speaks of forwards in the thread that opened the context.

    Under a tap torch switches the fast path of ``nn.MultiheadAttention`` off: the logits of such a model are
    bit-identical to those with ``torch.backends.mha.set_fastpath_enabled(False)``.
    """
    if output not in ("kernel", "map"):
        raise InputError(f"output must be 'kernel' or 'map', got {output!r}")
    with _tapped(model, _Tap(on_record, output, trail)):
        yield


@contextlib.contextmanager
def without_head(model: nn.Module, layer: int, head: int) -> Iterator[None]:
    """While the context is open, the output of one head ``a v`` is 0 in ``model``'s forward, and nothing else is
    changed (Michel et al. 2019, sec. 3); ``layer`` counts attention calls from 0, as :attr:`AttentionRecord.layer`
    does."""
    with _tapped(model, _Muted(layer, head)):
        yield


@contextlib.contextmanager
def _tapped(model: nn.Module, tap: _Watch) -> Iterator[None]:
    hooks = [
        model.register_forward_pre_hook(lambda *_: tap.start()),
        model.register_forward_hook(lambda *_: tap.stop(), always_call=True),
    ]
    try:
        with tap:
            yield
    finally:
        for hook in hooks:
            hook.remove()


def records(model: nn.Module, images: Tensor) -> list[AttentionRecord]:
    """All attention records of one forward of ``images (B, C, H, W)`` in eval mode, without gradients.

    Raises :class:`InputError` when the model never calls an attention function of torch.
    """
    found: list[AttentionRecord] = []
    with evaluating(model), torch.no_grad(), capture(model, found.append):
        model(images)
    check_captured(len(found), model)
    return found


def check_captured(number: int, model: nn.Module) -> None:
    """Raise :class:`InputError`, with the likely cause, when a forward gave no attention record."""
    if not number:
        raise InputError(f"{type(model).__name__} made no call of torch's attention function: {_why_none(model)}")


def _why_none(model: nn.Module) -> str:
    names = {type(module).__name__.lower() for module in model.modules()}
    if any("swin" in name or "windowattention" in name for name in names):
        return "its attention stays inside shifted windows and is written by hand; windows are not maps of the image"
    if any(getattr(module, "fused_attn", True) is False for module in model.modules()):
        return "its modules have fused_attn=False; set fused_attn = True on them (timm: TIMM_FUSED_ATTN=1)"
    if getattr(getattr(model, "config", None), "_attn_implementation", "sdpa") != "sdpa":
        return 'it multiplies its maps by hand; switch with model.set_attn_implementation("sdpa")'
    if not any("attention" in name or "attn" in name for name in names):
        return "it seems to have no attention"
    return "it multiplies its maps by hand; let it call F.scaled_dot_product_attention"


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside the context; each module's own training flag comes back after it."""
    flags = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags:
            module.training = flag


class _Watch(TorchFunctionMode):
    """Sees the calls inside a model's forward, in the thread that made it; ``layer`` counts those of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.owner, self.depth, self.layer = threading.get_ident(), 0, 0

    def start(self) -> None:
        if threading.get_ident() == self.owner:
            if not self.depth:
                self.layer = 0
            self.depth += 1

    def stop(self) -> None:
        if threading.get_ident() == self.owner:
            self.depth -= 1


class _Tap(_Watch):
    def __init__(self, on_record: Callable[[AttentionRecord], None], output: str, trail: CallTrail | None) -> None:
        super().__init__()
        self.on_record, self.output, self.trail = on_record, output, trail

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        reader = _READERS.get(func) if self.depth else None
        if reader is None:
            result = func(*args, **kwargs)
            if self.trail and self.depth:
                self.trail.passed(func, args, kwargs, result)
            return result
        if self.output == "kernel":
            result = func(*args, **kwargs)
            with torch.no_grad():
                record = reader(self.layer, *args, **kwargs).record
            q, k, v = (x.detach() for x in (record.q, record.k, record.v))
            sigma = None if record.sigma is None else record.sigma.detach()
            record = record._replace(q=q, k=k, v=v, sigma=sigma)
        else:
            call = reader(self.layer, *args, **kwargs)
            record = call.record
            result = call.finish(F.dropout(record.a, call.dropout_p).to(record.v.dtype) @ record.v)
        self.layer += 1
        if self.trail:
            inside = _bound(args, kwargs) if func is F.multi_head_attention_forward else None
            record = record._replace(tokens=self.trail.take(record.q, record.k, record.v, inside))
        self.on_record(record)
        return result


class _Muted(_Watch):
    def __init__(self, layer: int, head: int) -> None:
        super().__init__()
        self.at, self.head = layer, head

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        reader = _READERS.get(func) if self.depth else None
        if reader is None:
            return func(*args, **(kwargs or {}))
        layer, self.layer = self.layer, self.layer + 1
        if layer != self.at:
            return func(*args, **(kwargs or {}))
        call = reader(layer, *args, **(kwargs or {}))
        kept = torch.arange(call.record.a.shape[1], device=call.record.a.device) != self.head
        return call.finish(call.record.a.to(call.record.v.dtype) @ call.record.v * kept[:, None, None])


class _Call(NamedTuple):
    """An attention call as read: ``finish`` makes the function's result of the output ``(B, H, N, Dv)``."""

    record: AttentionRecord
    dropout_p: float
    finish: Callable[[Tensor], Any] = lambda output: output


def _read_svda(layer: int, q_hat: Tensor, k_hat: Tensor, v: Tensor, sigma: Tensor, *, dropout_p: float = 0.0) -> _Call:
    scale = 1 / math.sqrt(q_hat.shape[-1])
    a = _softmax_map(q_hat * sigma.unsqueeze(-2).to(q_hat.dtype), k_hat, scale)
    return _Call(AttentionRecord(layer, q_hat, k_hat, v, scale, a, sigma), dropout_p)


def _read_sdpa(
    layer: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> _Call:
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], dim=-3) for x in (key, value))
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    a = _softmax_map(query, key, scale, attn_mask)
    return _Call(AttentionRecord(layer, query, key, value, scale, a, None), dropout_p)


def _read_multi_head(layer: int, *args: Any, **kwargs: Any) -> _Call:
    """``nn.MultiheadAttention``: its projections again, since its own call of the kernel is out of the tap's sight."""
    given = _bound(args, kwargs)
    inputs = [given[name] if given[name].ndim == 3 else given[name].unsqueeze(1) for name in ("query", "key", "value")]
    separate = given["use_separate_proj_weight"]
    weights = [given[f"{x}_proj_weight"] for x in "qkv"] if separate else given["in_proj_weight"].chunk(3)
    biases = [None] * 3 if given["in_proj_bias"] is None else given["in_proj_bias"].chunk(3)
    q, k, v = (F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True))  # each (N, B, C)
    extra_keys = 0
    if given["bias_k"] is not None:
        k, v = (torch.cat([x, b.expand(1, x.shape[1], -1)]) for x, b in ((k, given["bias_k"]), (v, given["bias_v"])))
        extra_keys += 1
    if given["add_zero_attn"]:
        k, v = (F.pad(x, (0, 0, 0, 0, 0, 1)) for x in (k, v))
        extra_keys += 1
    H = given["num_heads"]
    q, k, v = (x.unflatten(-1, (H, -1)).permute(1, 2, 0, 3) for x in (q, k, v))  # each (B, H, N, D)
    mask = _merged_mask(given["attn_mask"], given["key_padding_mask"], q, extra_keys)
    record = _read_sdpa(layer, q, k, v, mask).record

    def finish(output: Tensor) -> tuple[Tensor, Tensor | None]:
        merged = output.permute(2, 0, 1, 3).flatten(2)  # (N, B, C)
        result = F.linear(merged, given["out_proj_weight"], given["out_proj_bias"])
        weights = record.a.mean(1) if given["average_attn_weights"] else record.a
        if given["query"].ndim == 2:
            result, weights = result.squeeze(1), weights.squeeze(0)
        return result, weights if given["need_weights"] else None

    return _Call(record, given["dropout_p"] if given["training"] else 0.0, finish)


def _bound(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of ``F.multi_head_attention_forward`` by name."""
    call = inspect.signature(F.multi_head_attention_forward).bind(*args, **kwargs)
    call.apply_defaults()
    return call.arguments


def _merged_mask(mask: Tensor | None, padding: Tensor | None, q: Tensor, extra_keys: int) -> Tensor | None:
    """The masks of ``nn.MultiheadAttention`` (True or -inf is hidden) as one that is added to ``(B, H, N, N)``."""
    total = None
    if mask is not None:
        mask = mask if mask.ndim == 2 else mask.view(*q.shape[:2], *mask.shape[-2:])
        total = _additive(mask, q)
    if padding is not None:
        padding = _additive(padding.view(-1, 1, 1, padding.shape[-1]), q)
        total = padding if total is None else total + padding
    return total if total is None else F.pad(total, (0, extra_keys))


def _additive(mask: Tensor, q: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(mask, -math.inf)


def _softmax_map(q: Tensor, k: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
    """The kernel's map: scores add up in float32 at least, and a query that may see no key attends to nothing."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = q.to(wide) * scale @ k.to(wide).transpose(-2, -1)  # (B, H, N, N)
    if mask is None:
        return scores.softmax(dim=-1)
    scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    blind = (scores == -math.inf).all(dim=-1, keepdim=True)
    return scores.masked_fill(blind, 0.0).softmax(dim=-1).masked_fill(blind, 0.0)


_READERS: dict[Callable[..., Any], Callable[..., _Call]] = {
    svda_attention: _read_svda,
    F.scaled_dot_product_attention: _read_sdpa,
    F.multi_head_attention_forward: _read_multi_head,
}
