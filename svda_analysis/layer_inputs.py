"""What an attention layer reads, and with which weights, told from the calls around it: no names of modules.

A projection is known by what it gives: a linear call after which the rows of q (k, v) stand in its output, up to their
lengths. So rotary embeddings, and norms of q and k that weigh axes, leave no weights to read: there the scores are not
those of ``W_q^T W_k``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from svda_analysis.attention import unit_rows

_OF_NORM = ("input", "normalized_shape", "weight")


class HeadWeights(NamedTuple):
    """The weights of one layer by head: ``w_q, w_k (H, D, C)``, ``w_v (H, Dv, C)``, ``w_o (H, C, Dv)``, without biases.

    What a norm before the projections does to the tokens linearly is folded into ``w_q, w_k, w_v``: its gain, and that
    a layer norm takes the mean off each token. None: not to be told.
    """

    w_q: Tensor | None = None
    w_k: Tensor | None = None
    w_v: Tensor | None = None
    w_o: Tensor | None = None


class _Norm(NamedTuple):
    given: Tensor
    result: Tensor
    gain: Tensor | None
    centres: bool


class _Linear(NamedTuple):
    read: Tensor
    weight: Tensor
    bias: Tensor | None


class LayerInputs:
    """The norms and projections of tokens ``(B, N, C)`` between two attention calls of a forward.

    :meth:`passed` takes note of a call, :meth:`take` tells the tokens that an attention call read, and its projections
    where ``weights`` are wanted: :attr:`weights` holds those of each attention call so far.
    """

    def __init__(self, *, weights: bool = False) -> None:
        self.weights: list[HeadWeights] = []
        self._wants_weights = weights
        self._norm: _Norm | None = None
        self._linears: list[_Linear] = []
        self._merging: tuple[int, int] | None = None  # H, Dv of the last attention call, until it is projected

    def passed(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Take note of a call that is not one of attention."""
        names = {F.linear: ("input", "weight", "bias"), F.rms_norm: _OF_NORM, F.layer_norm: _OF_NORM}.get(function)
        given = {**dict(zip(names or (), args, strict=False)), **kwargs}
        read, weight = given.get("input"), given.get("weight")
        if names is None or not isinstance(read, Tensor) or read.ndim != 3:
            return
        if function is not F.linear:
            self._norm = _Norm(read.detach(), result.detach(), weight, function is F.layer_norm)
        elif weight is not None:
            self._linears = [*self._linears[-2:], _Linear(read.detach(), weight.detach(), given.get("bias"))]
            if self._merging:
                self._project(weight.detach())

    def take(
        self, q: Tensor | None, k: Tensor | None, v: Tensor, multi_head: dict[str, Any] | None = None
    ) -> Tensor | None:
        """The tokens ``(B, N, C)`` that an attention call of ``q, k, v (B, H, N, D)`` read (q and k None: not
        seen); None where the calls do not tell.

        They are the stream that blocks add to: what the last norm took in where the projections read what it gave
        (pre-norm), else what the projections read. ``multi_head``: the arguments of
        ``F.multi_head_attention_forward``, which projects by itself.
        """
        norm, linears, self._norm, self._linears = self._norm, self._linears, None, []
        if multi_head is not None:
            read = multi_head["query"].detach()
            read = read.transpose(0, 1) if read.ndim == 3 else None  # (B, N, C)
        else:
            read = linears[-1].read if linears else None
        if norm and (read is None or not _same_storage(norm.result, read)):
            norm = None
        if self._wants_weights:
            found = _given_weights(multi_head) if multi_head else _matched_weights(linears, (q, k, v))
            self.weights.append(HeadWeights(*(_behind(norm, w) for w in found)))
            self._merging = (v.shape[1], v.shape[-1]) if v.ndim == 4 else None
            if multi_head:
                self._project(multi_head["out_proj_weight"].detach())
        rows = v if q is None else q
        if read is None or read.shape[:2] != (len(rows), rows.shape[-2]):
            return None
        if norm is None:
            return read
        return norm.given if norm.given.shape == read.shape else norm.given.transpose(0, 1)

    def _project(self, weight: Tensor) -> None:
        """The first projection after an attention call is that of its heads, if it reads as many columns."""
        if self._merging and weight.shape[1] == self._merging[0] * self._merging[1]:
            w_o = weight.unflatten(1, self._merging).transpose(0, 1)  # (H, C, Dv)
            self.weights[-1] = self.weights[-1]._replace(w_o=w_o)
        self._merging = None


def _same_storage(x: Tensor, y: Tensor) -> bool:
    return x.data_ptr() == y.data_ptr() and x.numel() == y.numel()


def _behind(norm: _Norm | None, weight: Tensor | None) -> Tensor | None:
    """``weight (H, D, C)`` on tokens before a norm, but for the lengths that it divides by."""
    if norm is None or weight is None:
        return weight
    folded = weight if norm.gain is None else weight * norm.gain.detach()
    return folded - folded.mean(-1, keepdim=True) if norm.centres else folded


def _given_weights(call: dict[str, Any]) -> list[Tensor | None]:
    separate = call["use_separate_proj_weight"]
    weights = [call[f"{x}_proj_weight"] for x in "qkv"] if separate else call["in_proj_weight"].chunk(3)
    return [weight.detach().unflatten(0, (call["num_heads"], -1)) for weight in weights]


def _matched_weights(linears: list[_Linear], rows: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    return [
        None if wanted is None else next((w for linear in linears for w in _matches(linear, wanted)), None)
        for wanted in rows
    ]


def _matches(linear: _Linear, wanted: Tensor) -> list[Tensor]:
    """The rows ``(H, D, C)`` of a projection that give ``wanted (B, H, N, D)``, up to the lengths of its rows."""
    if wanted.ndim != 4:
        return []
    _, H, N, D = wanted.shape
    if linear.read.shape[0] != len(wanted) or linear.read.shape[1] != N or linear.weight.shape[0] % (H * D):
        return []
    bias = linear.bias if linear.bias is None else linear.bias.detach()
    out = F.linear(linear.read[:1], linear.weight, bias)[0]  # (N, O)
    parts = linear.weight.shape[0] // (H * D)
    found = []
    for shape, part_at in (((parts, H, D), 0), ((H, parts, D), 1)):
        for part in range(parts):
            rows = out.unflatten(-1, shape).select(1 + part_at, part).transpose(0, 1)  # (H, N, D)
            if _along(rows, wanted[0]):
                found.append(linear.weight.unflatten(0, shape).select(part_at, part))
    return found


def _along(x: Tensor, y: Tensor) -> bool:
    """Whether the rows of x point along those of y, to the precision that they are given in."""
    tolerance = 50 * torch.finfo(y.dtype).eps
    return bool((unit_rows(x.double()) - unit_rows(y.double())).abs().max() < tolerance)
