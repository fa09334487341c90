"""What an attention layer reads, and with which weights, told from the calls around it: no names of modules.

A projection is known by what it gives: a linear call after which the rows of q (k, v) stand in its output, up to their
lengths. So rotary embeddings, and norms of q and k that weigh axes, leave no weights to read: there the scores are not
those of ``W_q^T W_k``. What heads give has a projection where one linear call alone reads it, as they gave it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from svda_analysis.attention import unit_rows
from svda_analysis.origins import Linear, Origin, Origins, first_reader

Rows = tuple[Tensor | None, Tensor | None, Tensor]  # q, k and v

_FLOAT32_ROUNDING = 1e-5  # distances of unit rows in float32 stay below


class HeadWeights(NamedTuple):
    """The weights of one layer by head: ``w_q, w_k (H, D, C)``, ``w_v (H, Dv, C)``, ``w_o (H, C, Dv)``, without biases.

    What a norm before the projections does to the tokens linearly is folded into ``w_q, w_k, w_v``: its gain, and that
    a layer norm takes the mean off each token. None: not to be told.
    """

    w_q: Tensor | None = None
    w_k: Tensor | None = None
    w_v: Tensor | None = None
    w_o: Tensor | None = None


class LayerInputs:
    """What attention calls of a forward read.

    :meth:`passed` takes note of a call, :meth:`take` tells the tokens that an attention call read, and its projections
    where ``weights`` are wanted: :attr:`weights` holds those of each attention call so far; :meth:`gave` takes note of
    what it gave.
    """

    def __init__(self, *, weights: bool = False) -> None:
        self.weights: list[HeadWeights] = []
        self._wants_weights = weights
        self._origins = Origins()
        self._heads: tuple[int, int] | None = None  # H, Dv of the last attention call, unless it projects by itself
        self._merged: list[Tensor] = []  # what it gave for the first image, (N, H Dv)
        self._projections: list[Linear] = []  # the linear calls that read what it gave
        self._projects_itself = False

    def passed(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Take note of a call that is not one of attention."""
        linear = self._origins.follow(function, args, kwargs, result)
        if linear is not None and self._wants_weights and self.weights:
            self._project(linear)

    def take(self, rows: Rows, given: Sequence[Tensor], multi_head: dict[str, Any] | None = None) -> Tensor | None:
        """The tokens ``(B, N, C)`` that an attention call of ``rows``, q, k and v ``(B, H, N, D)``, read (q and k None:
        not seen); None where the calls do not tell.

        They are the stream that blocks add to: what a norm took in where the projections read what it gave (pre-norm),
        else what the projections read. Behind a norm whose input is the sum of a norm's result and what was made of
        that (post-norm) they are what it gave. Before the first such sum nothing tells pre-norm from post-norm: then
        pre-norm is taken, but right behind patches as they were made, where the norm may be theirs. ``given``: the
        tensors that the call was given, the values last. ``multi_head``: the arguments of
        ``F.multi_head_attention_forward``, which projects by itself.
        """
        self._projects_itself = multi_head is not None
        tokens = self._given_tokens(multi_head) if multi_head else self._read_tokens(rows[2], given)
        if self._wants_weights:
            found = self._given_weights(multi_head) if multi_head else self._matched_weights(rows, given)
            self.weights.append(HeadWeights(*found))
            self._heads = (rows[2].shape[1], rows[2].shape[-1]) if rows[2].ndim == 4 else None
            if multi_head and self._heads:
                w_o = multi_head["out_proj_weight"].detach()
                self.weights[-1] = self.weights[-1]._replace(w_o=_by_head(w_o, self._heads))
        queries = rows[2] if rows[0] is None else rows[0]
        told = tokens is not None and tokens.shape[:2] == (len(queries), queries.shape[-2])
        return tokens if told else None

    def gave(self, output: Tensor) -> None:
        """Take note of what the attention call gave: ``(B, H, N, Dv)`` or ``(B, N, H, Dv)``, if it did not project."""
        self._origins.attention_gave(None if self._projects_itself else output)
        self._projections, self._merged = [], []
        if self._wants_weights and self._heads and not self._projects_itself and output.ndim == 4 and len(output):
            first = output.detach()[0].clone()  # what is done to it in place is not what the heads gave
            sides = [x for x, heads in ((first.transpose(0, 1), first.shape[0]), (first, first.shape[1]))
                     if (heads, x.shape[-1]) == self._heads]  # fmt: skip
            self._merged = [x.flatten(1) for x in sides]

    def _given_tokens(self, call: dict[str, Any]) -> Tensor | None:
        alike = self._origins.of(call["query"]).who is self._origins.of(call["key"]).who
        read = call["value"] if alike else call["query"]  # q and k may hold positions that are not in the stream
        tokens = _stream(read.detach(), self._origins.of(read))
        return tokens.transpose(0, 1) if tokens is not None and tokens.ndim == 3 else None

    def _read_tokens(self, v: Tensor, given: Sequence[Tensor]) -> Tensor | None:
        reader = first_reader(self._origins.of(given[-1]).linears, _width(v))
        tokens = None if reader is None else _stream(reader.read, reader.of)
        if reader is None or tokens is None or tokens.ndim < 3:
            return None
        tokens = tokens.flatten(1, -2)
        square = tokens.shape[0] == tokens.shape[1]  # images may be the second dimension
        return None if square and not any(_matches(x, v) for x in self._origins.of(given[-1]).linears) else tokens

    def _given_weights(self, call: dict[str, Any]) -> list[Tensor | None]:
        separate = call["use_separate_proj_weight"]
        weights = [call[f"{x}_proj_weight"] for x in "qkv"] if separate else call["in_proj_weight"].chunk(3)
        return [
            _behind(self._origins.of(call[name]), weight.detach().unflatten(0, (call["num_heads"], -1)))
            for name, weight in zip(("query", "key", "value"), weights, strict=True)
        ]

    def _matched_weights(self, rows: Rows, given: Sequence[Tensor]) -> list[Tensor | None]:
        """Of each of q, k and v the weights of the linear call that gave it, if that read the layer's tokens."""
        linears = list({id(one): one for x in given for one in self._origins.of(x).linears}.values())
        return [None if x is None else self._matched_weight(linears, x, _width(rows[2])) for x in rows]

    def _matched_weight(self, linears: Sequence[Linear], wanted: Tensor, width: int) -> Tensor | None:
        linear, weight = next(((x, w) for x in linears for w in _matches(x, wanted)), (None, None))
        if linear is None or weight is None or first_reader([linear], width) is not linear:
            return None
        return _behind(linear.of, weight)

    def _project(self, linear: Linear) -> None:
        """The weights of the heads' projection, as long as one linear call alone reads what they gave, and nothing else
        was done to that before or is done by another linear call behind it."""
        if linear.of.attended:
            self._projections.append(linear)
        elif linear.of.norm or not self._projections or linear.of.linears != tuple(self._projections):
            return
        alone = len(self._projections) == 1 and linear.of.attended
        plain = alone and self._heads and any(_reads(linear.read, x) for x in self._merged)
        w_o = _by_head(linear.weight, self._heads) if plain and self._heads else None
        self.weights[-1] = self.weights[-1]._replace(w_o=w_o)


def _width(v: Tensor) -> int:
    """Of all heads together."""
    return v.shape[-1] * (v.shape[1] if v.ndim == 4 else 1)


def _by_head(weight: Tensor, heads: tuple[int, int]) -> Tensor:
    """``(C, H Dv) -> (H, C, Dv)``."""
    return weight.unflatten(1, heads).transpose(0, 1)


def _reads(read: Tensor, merged: Tensor) -> bool:
    """Whether ``read (..., C)`` holds ``merged (N, C)`` for the first image, be images its first or second
    dimension."""
    if read.shape[-1] != merged.shape[-1] or read.numel() % merged.numel():
        return False
    rows, N = read.flatten(0, -2), len(merged)
    wanted = merged.to(read.dtype)
    return any(torch.equal(x, wanted) for x in (rows[:N], rows[:: len(rows) // N]))


def _stream(read: Tensor, of: Origin) -> Tensor | None:
    """The stream where a projection read ``read``."""
    return read if of.norm is None or of.norm.gives_stream else of.given


def _behind(of: Origin, weight: Tensor) -> Tensor | None:
    """``weight (H, D, C)`` on the stream, but for the lengths that a norm before it divides by; None where what it
    reads is no plain norm of the stream."""
    norm = of.norm
    if norm is None or norm.gives_stream:
        return weight
    if of.given is None or not norm.folds:
        return None
    folded = weight if norm.gain is None else weight * norm.gain
    return folded - folded.mean(-1, keepdim=True) if norm.centres else folded


def _matches(linear: Linear, wanted: Tensor) -> list[Tensor]:
    """The rows ``(H, D, C)`` of a projection that give ``wanted (B, H, N, D)``, up to the lengths of its rows."""
    if wanted.ndim != 4 or linear.read.ndim < 3 or not linear.weight.is_floating_point():
        return []
    _, H, N, D = wanted.shape
    read = linear.read.flatten(1, -2)
    if read.shape[:2] != (len(wanted), N) or linear.weight.shape[0] % (H * D):
        return []
    wide = torch.promote_types(wanted.dtype, torch.float32)
    bias = None if linear.bias is None else linear.bias.to(wide)
    out = F.linear(read[0].to(wide), linear.weight.to(wide), bias)  # (N, O)
    coarsest = max(torch.finfo(x.dtype).eps for x in (wanted, read, linear.weight))
    parts = linear.weight.shape[0] // (H * D)
    found = []
    for shape, part_at in (((parts, H, D), 0), ((H, parts, D), 1)):
        for part in range(parts):
            rows = out.unflatten(-1, shape).select(1 + part_at, part).transpose(0, 1)  # (H, N, D)
            if _along(rows, wanted[0].to(wide), max(2 * coarsest, _FLOAT32_ROUNDING)):
                found.append(linear.weight.unflatten(0, shape).select(part_at, part))
    return found


def _along(x: Tensor, y: Tensor, tolerance: float) -> bool:
    """Whether the rows of ``x (H, N, D)`` point along those of y: by the root mean square, in each head, of the
    distances between unit rows."""
    distances = torch.linalg.vector_norm(unit_rows(x) - unit_rows(y), dim=-1)
    return bool((distances.square().mean(-1).sqrt() < tolerance).all())
