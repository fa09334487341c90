"""What an attention layer reads, and with which weights, told from the calls around it: no names of modules.

A projection is known by what it gives: a linear call after which the rows of q (k, v) stand in its output, up to their
lengths. So rotary embeddings, and norms of q and k that weigh axes, leave no weights to read: there the scores are not
those of ``W_q^T W_k``.
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
        self._merging: tuple[int, int] | None = None  # H, Dv of the last attention call, until it is projected
        self._projects_itself = False

    def passed(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Take note of a call that is not one of attention."""
        linear = self._origins.follow(function, args, kwargs, result)
        if linear is not None and self._merging:
            self._project(linear.weight)

    def take(self, rows: Rows, given: Sequence[Tensor], multi_head: dict[str, Any] | None = None) -> Tensor | None:
        """The tokens ``(B, N, C)`` that an attention call of ``rows``, q, k and v ``(B, H, N, D)``, read (q and k None:
        not seen); None where the calls do not tell.

        They are the stream that blocks add to: what a norm took in where the projections read what it gave (pre-norm),
        else what the projections read. Behind a norm whose input is the sum of a norm's result and what was made of
        that (post-norm) they are what it gave; before the first such sum nothing tells pre-norm from post-norm, and
        pre-norm is taken. ``given``: the tensors that the call was given, the values last. ``multi_head``: the
        arguments of ``F.multi_head_attention_forward``, which projects by itself.
        """
        self._projects_itself = multi_head is not None
        tokens = self._given_tokens(multi_head) if multi_head else self._read_tokens(rows[2], given)
        if self._wants_weights:
            found = self._given_weights(multi_head) if multi_head else self._matched_weights(rows, given)
            self.weights.append(HeadWeights(*found))
            self._merging = (rows[2].shape[1], rows[2].shape[-1]) if rows[2].ndim == 4 else None
            if multi_head:
                self._project(multi_head["out_proj_weight"].detach())
        queries = rows[2] if rows[0] is None else rows[0]
        told = tokens is not None and tokens.shape[:2] == (len(queries), queries.shape[-2])
        return tokens if told else None

    def gave(self, output: Tensor) -> None:
        """Take note of what the attention call gave."""
        self._origins.attention_gave(None if self._projects_itself else output)

    def _given_tokens(self, call: dict[str, Any]) -> Tensor | None:
        alike = self._origins.of(call["query"]).who is self._origins.of(call["key"]).who
        read = call["value"] if alike else call["query"]  # q and k may hold positions that are not in the stream
        tokens = _stream(read.detach(), self._origins.of(read))
        return tokens.transpose(0, 1) if tokens is not None and tokens.ndim == 3 else None

    def _read_tokens(self, v: Tensor, given: Sequence[Tensor]) -> Tensor | None:
        reader = first_reader(self._origins.of(given[-1]).linears)
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
        return [None if wanted is None else self._matched_weight(linears, wanted) for wanted in rows]

    def _matched_weight(self, linears: Sequence[Linear], wanted: Tensor) -> Tensor | None:
        linear, weight = next(((x, w) for x in linears for w in _matches(x, wanted)), (None, None))
        if linear is None or weight is None or first_reader([linear]) is not linear:
            return None
        return _behind(linear.of, weight)

    def _project(self, weight: Tensor) -> None:
        """The first projection after an attention call is that of its heads, if it reads as many columns."""
        if self._merging and weight.shape[1] == self._merging[0] * self._merging[1]:
            w_o = weight.unflatten(1, self._merging).transpose(0, 1)  # (H, C, Dv)
            self.weights[-1] = self.weights[-1]._replace(w_o=w_o)
        self._merging = None


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
    out = F.linear(read[:1], linear.weight, linear.bias)[0]  # (N, O)
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
