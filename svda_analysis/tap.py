"""One tap on torch's attention functions: any model -> a stream of attention records, one layer at a time.

A :class:`torch.overrides.TorchFunctionMode` sees each call of an attention function while ``model`` runs, so the model
is not edited, the fused kernels stay on, and nothing is left behind.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from svda_analysis.attention import svda_attention
from svda_analysis.errors import InputError
from svda_analysis.forward import call_model
from svda_analysis.layer_inputs import LayerInputs
from svda_analysis.places import NOWHERE
from svda_analysis.products import sums_to_one
from svda_analysis.tracker import Places, Product, Tracker


class AttentionRecord(NamedTuple):
    """One attention call: ``a = softmax(q diag(sigma) k^T * scale)``.

    ``layer`` counts from 0 in the order of calls. ``q, k (B, H, N, D)``, ``v (B, H, N, Dv)``, ``a (B, H, N, N)`` float
    after the softmax. ``sigma (H, D)`` for SVDA, where ``q`` and ``k`` are the unit rows; else ``None`` (identity).
    ``q`` and ``k`` are None where attention is multiplied by hand and their product was not seen; ``mixed`` says that
    its heads are mixed after the softmax, so that not ``a`` alone weighs the values. ``places`` = where queries and
    keys lie in the images (None: they do not come of them, as those of a text).
    ``tokens (B, N, C)``: what the layer read, where :class:`~svda_analysis.layer_inputs.LayerInputs` were given and can
    tell.
    """

    layer: int
    q: Tensor | None
    k: Tensor | None
    v: Tensor
    scale: float
    a: Tensor
    sigma: Tensor | None
    places: Places | None = None
    mixed: bool = False
    tokens: Tensor | None = None


@contextlib.contextmanager
def capture(
    model: nn.Module,
    on_record: Callable[[AttentionRecord], None],
    *,
    output: Literal["kernel", "map"] = "kernel",
    inputs: LayerInputs | None = None,
) -> Iterator[None]:
    """While the context is open, call ``on_record`` at each attention call inside ``model``'s forward.

    ``output="kernel"``: the model's own kernel answers, logits are bit-identical to those without capture, and records
    carry no graph. ``output="map"``: the layer's output is the explicit ``a @ v`` (equal to about 1e-5), the map is
    computed once, and gradients reach ``record.a``. ``inputs``: takes note of the calls between, and tells records
    their tokens. Speaks of forwards in the thread that opened the context.

    Under a tap torch switches the fast path of ``nn.MultiheadAttention`` off: the logits of such a model are
    bit-identical to those with ``torch.backends.mha.set_fastpath_enabled(False)``.
    """
    if output not in ("kernel", "map"):
        raise InputError(f"output must be 'kernel' or 'map', got {output!r}")
    if isinstance(model, torch.jit.ScriptModule):
        check_captured(0, model)
    with _tapped(model, Tap(on_record, output, inputs)):
        yield


@contextlib.contextmanager
def without_head(model: nn.Module, layer: int, head: int) -> Iterator[None]:
    """While the context is open, the output of one head ``a v`` is 0 in ``model``'s forward, and nothing else is
    changed (Michel et al. 2019, sec. 3); ``layer`` counts attention calls from 0, as :attr:`AttentionRecord.layer`
    does, and heads are the second dimension of its map."""
    with _tapped(model, _Muted(layer, head)):
        yield


@contextlib.contextmanager
def _tapped(model: nn.Module, tap: Tap) -> Iterator[None]:
    hooks = [
        model.register_forward_pre_hook(lambda _, args, kwargs: tap.start((*args, *kwargs.values())), with_kwargs=True),
        model.register_forward_hook(lambda *_: tap.stop(), always_call=True),
    ]
    try:
        with tap, _uncompiled():
            yield
    finally:
        for hook in hooks:
            hook.remove()


def records(model: nn.Module, images: Tensor | Mapping[str, Any]) -> list[AttentionRecord]:
    """All attention records of one forward of ``images (B, C, H, W)``, or of a mapping as a processor makes it, in
    eval mode, without gradients.

    Raises :class:`InputError` when the model never calls an attention function of torch.
    """
    found: list[AttentionRecord] = []
    with evaluating(model), torch.no_grad(), capture(model, found.append):
        call_model(model, images)
    check_captured(len(found), model)
    return found


def check_captured(number: int, model: nn.Module) -> None:
    """Raise :class:`InputError`, with the likely cause, when a forward gave no attention record."""
    if not number:
        raise InputError(f"{type(model).__name__} shows no attention: {_why_none(model)}")


def _why_none(model: nn.Module) -> str:
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        return "torch.jit made it, which hides its calls; take the module that it was made of"
    hidden = "a kernel of its own, torch.jit or flex_attention would hide it"
    return f"no softmax over tokens that weighs values was seen ({hidden})"


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


def _uncompiled() -> contextlib.AbstractContextManager[Any]:
    """What torch.compile made runs as it was written: a compiled graph hides its calls."""
    stance = getattr(torch.compiler, "set_stance", None)  # torch 2.6
    return contextlib.nullcontext() if stance is None else stance("force_eager")


class Tap(TorchFunctionMode):
    """Sees the calls inside a model's forward, in the thread that made it; ``layer`` counts those of attention."""

    def __init__(
        self, on_record: Callable[[AttentionRecord], None], output: str, inputs: LayerInputs | None = None
    ) -> None:
        super().__init__()
        self.on_record, self.output, self.inputs = on_record, output, inputs
        self.owner, self.depth, self.layer = threading.get_ident(), 0, 0
        self.tracker = Tracker()

    def start(self, given: tuple[Any, ...]) -> None:
        if threading.get_ident() == self.owner:
            if not self.depth:
                self.layer = 0
                self.tracker.begin(given)
            self.depth += 1

    def stop(self) -> None:
        if threading.get_ident() == self.owner:
            self.depth -= 1

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not self.depth:
            return func(*args, **kwargs)
        if func is Tensor.__iter__ and args[0].ndim:
            return iter(self.__torch_function__(torch.unbind, types, args))
        reader = _READERS.get(func)
        if reader is not None:
            return self._called(func, reader, args, kwargs)
        result = func(*args, **kwargs)
        found = self.tracker.follow(func, args, kwargs, result, self.layer)
        if found is not None:
            return self._weighed(found, func, args, kwargs, result)
        if self.inputs:
            self.inputs.passed(func, args, kwargs, result)
        return result

    def _weighed(self, found: Product, func: Callable[..., Any], args: Any, kwargs: dict[str, Any], result: Any) -> Any:
        """Attention that is multiplied by hand."""
        if self.output == "map" and found.weights is not found.factor:  # so that the map is on the way to the output
            result = self._again(found, found.weights, func, args, kwargs, result)
        record = _by_hand(self.layer, found)
        if self.inputs:
            record = record._replace(tokens=self.inputs.take(record.q, record.k, record.v))
        self._emit(record, detached=self.output == "kernel")
        return result

    def _again(
        self, found: Product, weights: Tensor, func: Callable[..., Any], args: Any, kwargs: dict[str, Any], result: Any
    ) -> Any:
        """The product with other weights."""
        back = weights.permute([found.order.index(d) for d in range(weights.ndim)])
        made = func(*(_replaced(x, found.factor, back) for x in args), **kwargs)
        self.tracker.copy(result, made)
        return made

    def _called(self, func: Callable[..., Any], reader: Callable[..., _Call], args: Any, kwargs: dict[str, Any]) -> Any:
        if any(isinstance(x, Tensor) and x.is_nested for x in (*args, *kwargs.values())):
            raise InputError(
                "attention over nested tensors has no map of one shape: pad the images of a batch, with a mask"
            )
        if self.output == "kernel":
            result = func(*args, **kwargs)
            with torch.no_grad():
                call = reader(self.layer, *args, **kwargs)
            result = self._answer(call, result)
        else:
            call = reader(self.layer, *args, **kwargs)
            a = call.record.a
            result = call.finish(F.dropout(a, call.dropout_p).to(call.record.v.dtype) @ call.record.v)
        places = self.tracker.places_of(call.queries, call.keys)
        output = result[0] if isinstance(result, tuple) else result
        self.tracker.mark_output(output, call.queries, places, self.layer)
        record = call.record._replace(places=call.arranged(places) if places else None)
        if self.inputs:
            inside = _bound(args, kwargs) if func is F.multi_head_attention_forward else None
            record = record._replace(tokens=self.inputs.take(record.q, record.k, record.v, inside))
        self._emit(record, detached=self.output == "kernel")
        return result

    def _answer(self, call: _Call, result: Any) -> Any:
        """What the call gives, where the model's own kernel gave ``result``."""
        return result

    def _emit(self, record: AttentionRecord, *, detached: bool) -> None:
        if detached:
            names = ("q", "k", "v", "sigma", "a")
            record = record._replace(**{n: x.detach() for n in names if (x := getattr(record, n)) is not None})
        self.layer += 1
        self.on_record(record)


class _Muted(Tap):
    """One head of one call gives nothing."""

    def __init__(self, layer: int, head: int) -> None:
        super().__init__(lambda record: None, "kernel")
        self.at, self.head = layer, head

    def _weighed(self, found: Product, func: Callable[..., Any], args: Any, kwargs: dict[str, Any], result: Any) -> Any:
        if self.layer == self.at:
            kept = self._kept(found.weights)
            result = self._again(found, found.weights * kept, func, args, kwargs, result)
        self.layer += 1
        return result

    def _answer(self, call: _Call, result: Any) -> Any:
        if self.layer != self.at:
            return result
        a, v = call.record.a, call.record.v
        return call.finish(a.to(v.dtype) @ v * self._kept(a))

    def _kept(self, a: Tensor) -> Tensor:
        """Which heads of a map stay, ``(H, 1, 1)``."""
        if a.ndim != 4:
            raise InputError(f"heads can be taken out of maps (B, H, N, N), got {tuple(a.shape)}")
        return (torch.arange(a.shape[1], device=a.device) != self.head)[:, None, None]


def _replaced(given: Any, old: Tensor, new: Tensor) -> Any:
    if isinstance(given, list | tuple):
        return type(given)(_replaced(x, old, new) for x in given)
    return new if given is old else given


def _by_hand(layer: int, found: Product) -> AttentionRecord:
    """The record of attention that is multiplied by hand.

    The map is what weighs the values, as long as its rows are distributions; else it is the softmax, and heads are
    mixed after it.
    """
    a, whole = found.weights, sums_to_one(found.weights, -1)
    if not whole and found.soft.shape == a.shape:
        a = found.soft
    q = k = None
    scale = 1.0
    if found.scores is not None:
        scale, fit = found.scores.scale, (a.shape[:-1], (*a.shape[:-2], a.shape[-1]))
        q, k = (_fitted(x, shape) for x, shape in zip(found.scores[:2], fit, strict=True))
    return AttentionRecord(layer, q, k, found.v, scale, a, None, found.places, not whole)


def _fitted(x: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """``x (..., N, D)`` with the leading dimensions of the map, where it has as many entries."""
    wanted = (*shape, x.shape[-1])
    return x if x.shape == wanted else x.reshape(wanted) if x.numel() == math.prod(wanted) else None


class _Call(NamedTuple):
    """An attention call as read: ``finish`` makes the function's result of the output ``(B, H, N, Dv)``; ``queries``
    and ``keys`` are those that the function was given, ``arranged`` makes the record's places of theirs."""

    record: AttentionRecord
    dropout_p: float
    queries: Tensor
    keys: Tensor
    finish: Callable[[Tensor], Any] = lambda output: output
    arranged: Callable[[Places], Places] = lambda places: places


def _read_svda(layer: int, q_hat: Tensor, k_hat: Tensor, v: Tensor, sigma: Tensor, *, dropout_p: float = 0.0) -> _Call:
    scale = 1 / math.sqrt(q_hat.shape[-1])
    a = _softmax_map(q_hat * sigma.unsqueeze(-2).to(q_hat.dtype), k_hat, scale)
    return _Call(AttentionRecord(layer, q_hat, k_hat, v, scale, a, sigma), dropout_p, q_hat, k_hat)


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
    given = query, key
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], dim=-3) for x in (key, value))
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    a = _softmax_map(query, key, scale, attn_mask)

    def arranged(places: Places) -> Places:
        keys = places.keys
        if keys is not None and keys.ndim > 1 and keys.shape[-2] != key.shape[-3]:  # fewer heads of keys
            keys = keys.repeat_interleave(key.shape[-3] // keys.shape[-2], dim=-2)
        return places._replace(keys=keys)

    return _Call(AttentionRecord(layer, query, key, value, scale, a, None), dropout_p, *given, arranged=arranged)


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

    def arranged(places: Places) -> Places:
        """``(N, B)`` or ``(N,)`` as ``(B, H, N)``; keys that the module adds are nowhere."""
        sides = [None if x is None else x.reshape(len(x), -1).T for x in places[:2]]
        queries, keys = sides
        keys = None if keys is None else F.pad(keys, (0, extra_keys), value=NOWHERE)
        spread = [None if x is None else x[:, None].expand(-1, H, -1) for x in (queries, keys)]
        return places._replace(queries=spread[0], keys=spread[1])

    dropout = given["dropout_p"] if given["training"] else 0.0
    return _Call(record, dropout, given["query"], given["key"], finish, arranged)


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
    """The kernel's map: scores add up in float32 at least, and a query that may see no key attends to nothing.

    Under autocast the kernel takes rows in half precision, as here, and adds up in float32 all the same.
    """
    device, wide = q.device.type, torch.promote_types(q.dtype, torch.float32)
    if torch.is_autocast_enabled(device) and q.dtype != torch.float64:
        q, k = (x.to(torch.get_autocast_dtype(device)) for x in (q, k))
    with torch.autocast(device, enabled=False):
        return _softmax_of(q.to(wide) * scale @ k.to(wide).transpose(-2, -1), mask)


def _softmax_of(scores: Tensor, mask: Tensor | None) -> Tensor:
    """The map of ``scores (B, H, N, N)`` under a mask that is added, or true where a key is seen."""
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
