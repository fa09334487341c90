"""Which tokens an attention layer reads, told from the calls that come before it: no hooks, no names of modules."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor

_NORMS = (F.layer_norm, F.rms_norm)


class TokenTrail:
    """The tokens ``(B, N, C)`` that the next attention layer reads, from the calls of a forward in their order.

    They are the stream that blocks add to: what the last norm took in where the layer's projections read what it gave
    (pre-norm), else what the projections read themselves.
    """

    def __init__(self) -> None:
        self._normed: tuple[Tensor, Tensor] | None = None  # in, out
        self._read: Tensor | None = None

    def passed(self, function: Callable[..., Any], args: tuple[Any, ...], result: Any) -> None:
        """Take note of a call; only norms and projections of tokens ``(B, N, C)`` count."""
        if not args or not isinstance(args[0], Tensor) or args[0].ndim != 3:
            return
        if function in _NORMS:
            self._normed = (args[0].detach(), result.detach())
        elif function is F.linear:
            self._read = args[0].detach()

    def take(self, a: Tensor, query: Tensor | None = None) -> Tensor | None:
        """The tokens that a layer with the maps ``a (B, H, N, N)`` read; None where the calls do not tell.

        ``query (N, B, C)``: what a layer read that projects by itself.
        """
        read = self._read if query is None else query.detach()
        normed, self._normed, self._read = self._normed, None, None
        if read is None or read.ndim != 3:
            return None
        if query is not None:
            read = read.transpose(0, 1)  # (B, N, C)
        if normed and normed[1].data_ptr() == read.data_ptr() and normed[1].numel() == read.numel():
            read = normed[0] if normed[0].shape == read.shape else normed[0].transpose(0, 1)
        return read if read.shape[:2] == (len(a), a.shape[-1]) else None
