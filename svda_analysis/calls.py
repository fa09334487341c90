"""Calls of torch's attention functions, read: the record of each, and how its result is made of the map."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from svda_analysis.attention import svda_attention
from svda_analysis.places import NOWHERE
from svda_analysis.tracker import Places


class AttentionRecord(NamedTuple):
    """One attention call: ``a = softmax(q diag(sigma) k^T * scale)``.

    ``layer`` counts from 0 in the order of calls. ``q, k (B, H, N, D)``, ``v (B, H, N, Dv)``, ``a (B, H, N, N)`` float
    after the softmax. ``sigma (H, D)`` for SVDA, where ``q`` and ``k`` are the unit rows; else ``None`` (identity).
    ``q`` and ``k`` are None where attention is multiplied by hand and their product was not seen; ``mixed`` says that
    its heads are mixed after the softmax, so that not ``a`` alone weighs the values. ``places`` = where queries and
    keys lie in the images (None: they do not come of them, as those of a text). ``no_map`` says why ``a``, which weighs
    the values, is no map (empty: it is one): weights multiplied by hand may be negative.
    ``tokens (B, N, C)``: what the layer read, where :class:`~svda_analysis.layer_inputs.LayerInputs` were given and can
    tell. ``rows(first, last)`` makes rows of the map, of some queries, where it was not made as a whole: ``a`` is on
    the meta device then, which holds a shape and no numbers.
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
    rows: Callable[[int, int], Tensor] | None = None
    no_map: str = ""


class MapScores(NamedTuple):
    """What a map is the softmax of, ``q k^T`` with ``q`` times the scale, in float32 at least; ``mask`` is added, or
    true where a key is seen."""

    q: Tensor
    k: Tensor
    mask: Tensor | None

    def empty_map(self) -> Tensor:
        """The map's shape, on the meta device."""
        leading = torch.broadcast_shapes(self.q.shape[:-2], self.k.shape[:-2])
        return self.q.new_empty((*leading, self.q.shape[-2], self.k.shape[-2]), device="meta")

    def rows(self, first: int = 0, last: int | None = None) -> Tensor:
        """The map's rows of the queries from ``first`` to before ``last`` (None: all), ``(B, H, n, M)``."""
        mask = self.mask
        if mask is not None and mask.ndim > 1 and mask.shape[-2] > 1:
            mask = mask[..., first:last, :]
        with torch.autocast(self.q.device.type, enabled=False):
            return _softmax_of(self.q[..., first:last, :] @ self.k.transpose(-2, -1), mask)


class AttentionCall(NamedTuple):
    """An attention call as read, its map not made yet: ``record.a`` is on the meta device.

    ``finish`` makes the function's result of the output ``(B, H, N, Dv)`` and the map; ``asks_for_map``: the result
    holds the map. ``queries``, ``keys`` and ``values`` are those that the function was given, ``arranged`` makes the
    record's places of theirs.
    """

    record: AttentionRecord
    scores: MapScores
    dropout_p: float
    queries: Tensor
    keys: Tensor
    values: Tensor
    finish: Callable[[Tensor, Tensor], Any] = lambda output, a: output
    asks_for_map: bool = False
    arranged: Callable[[Places], Places] = lambda places: places

    def whole(self) -> AttentionCall:
        """The same with its map."""
        return self._replace(record=self.record._replace(a=self.scores.rows()))

    def result(self, output: Tensor) -> Any:
        """What the function gives, whose heads gave ``output (B, H, N, Dv)``."""
        return self.finish(output, self.record.a)


def _read_svda(
    layer: int, q_hat: Tensor, k_hat: Tensor, v: Tensor, sigma: Tensor, *, dropout_p: float = 0.0
) -> AttentionCall:
    scale = 1 / math.sqrt(q_hat.shape[-1])
    scores = _scores_of(q_hat * sigma.unsqueeze(-2).to(q_hat.dtype), k_hat, scale)
    record = AttentionRecord(layer, q_hat, k_hat, v, scale, scores.empty_map(), sigma)
    return AttentionCall(record, scores, dropout_p, q_hat, k_hat, v)


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
) -> AttentionCall:
    given = query, key, value
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], dim=-3) for x in (key, value))
    leading = torch.broadcast_shapes(query.shape[:-2], key.shape[:-2], value.shape[:-2])
    query, key, value = (x.expand(*leading, *x.shape[-2:]) for x in (query, key, value))
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = _scores_of(query, key, scale, attn_mask)

    def arranged(places: Places) -> Places:
        keys = places.keys
        if keys is not None and keys.ndim > 1 and keys.shape[-2] != key.shape[-3]:  # fewer heads of keys
            keys = keys.repeat_interleave(key.shape[-3] // keys.shape[-2], dim=-2)
        return places._replace(keys=keys)

    record = AttentionRecord(layer, query, key, value, scale, scores.empty_map(), None)
    return AttentionCall(record, scores, dropout_p, *given, arranged=arranged)


def _read_multi_head(layer: int, *args: Any, **kwargs: Any) -> AttentionCall:
    """``nn.MultiheadAttention``: its projections again, since its own call of the kernel is out of the tap's sight."""
    given = bound(args, kwargs)
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
    read = _read_sdpa(layer, q, k, v, mask)

    def finish(output: Tensor, a: Tensor) -> tuple[Tensor, Tensor | None]:
        merged = output.permute(2, 0, 1, 3).flatten(2)  # (N, B, C)
        result = F.linear(merged, given["out_proj_weight"], given["out_proj_bias"])
        weights = None
        if given["need_weights"]:
            weights = a.mean(1) if given["average_attn_weights"] else a
        if given["query"].ndim == 2:
            result, weights = result.squeeze(1), None if weights is None else weights.squeeze(0)
        return result, weights

    def arranged(places: Places) -> Places:
        """``(N, B)`` or ``(N,)`` as ``(B, H, N)``; keys that the module adds are nowhere."""
        sides = [None if x is None else x.reshape(len(x), -1).T for x in places[:2]]
        queries, keys = sides
        keys = None if keys is None else F.pad(keys, (0, extra_keys), value=NOWHERE)
        spread = [None if x is None else x[:, None].expand(-1, H, -1) for x in (queries, keys)]
        return places._replace(queries=spread[0], keys=spread[1])

    dropout = given["dropout_p"] if given["training"] else 0.0
    asked = bool(given["need_weights"])
    three = given["query"], given["key"], given["value"]
    return AttentionCall(read.record, read.scores, dropout, *three, finish, asked, arranged)


def bound(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
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


def _scores_of(q: Tensor, k: Tensor, scale: float, mask: Tensor | None = None) -> MapScores:
    """The kernel's scores: they add up in float32 at least, and a query that may see no key attends to nothing.

    Under autocast the kernel takes rows in half precision, as here, and adds up in float32 all the same.
    """
    device, wide = q.device.type, torch.promote_types(q.dtype, torch.float32)
    if torch.is_autocast_enabled(device) and q.dtype != torch.float64:
        q, k = (x.to(torch.get_autocast_dtype(device)) for x in (q, k))
    with torch.autocast(device, enabled=False):
        return MapScores((q.to(wide) * scale).contiguous(), k.to(wide).contiguous(), mask)


def _softmax_of(scores: Tensor, mask: Tensor | None) -> Tensor:
    """The map of ``scores (B, H, N, N)`` under a mask that is added, or true where a key is seen."""
    if mask is None:
        return scores.softmax(dim=-1)
    scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
    blind = (scores == -math.inf).all(dim=-1, keepdim=True)
    return scores.masked_fill(blind, 0.0).softmax(dim=-1).masked_fill(blind, 0.0)


READERS: dict[Callable[..., Any], Callable[..., AttentionCall]] = {
    svda_attention: _read_svda,
    F.scaled_dot_product_attention: _read_sdpa,
    F.multi_head_attention_forward: _read_multi_head,
}
