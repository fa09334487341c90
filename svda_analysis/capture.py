"""One tap on torch's attention functions: any model -> a stream of attention records, one layer at a time.

A :class:`torch.overrides.TorchFunctionMode` sees each call of an attention function while ``model`` runs, so the model
is not edited, the fused kernels stay on, and nothing is left behind.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from svda_analysis.errors import InputError
from svda_analysis.model import svda_attention


class AttentionRecord(NamedTuple):
    """One attention call: ``a = softmax(q diag(sigma) k^T * scale)``.

    ``layer`` counts from 0 in the order of calls. ``q, k (B, H, N, D)``, ``v (B, H, N, Dv)``, ``a (B, H, N, N)`` float
    after the softmax. ``sigma (H, D)`` for SVDA, where ``q`` and ``k`` are the unit rows; else ``None`` (identity).
    """

    layer: int
    q: Tensor
    k: Tensor
    v: Tensor
    scale: float
    a: Tensor
    sigma: Tensor | None


@contextlib.contextmanager
def capture(
    model: nn.Module, on_record: Callable[[AttentionRecord], None], *, output: Literal["kernel", "map"] = "kernel"
) -> Iterator[None]:
    """While the context is open, call ``on_record`` at each attention call inside ``model``'s forward.

    ``output="kernel"``: the model's own kernel answers, logits are bit-identical to those without capture, and records
    carry no graph. ``output="map"``: the layer's output is the explicit ``a @ v`` (equal to about 1e-5), the map is
    computed once, and gradients reach ``record.a``. Speaks of forwards in the thread that opened the context.
    """
    if output not in ("kernel", "map"):
        raise InputError(f"output must be 'kernel' or 'map', got {output!r}")
    tap = _Tap(on_record, output)
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
    """Raise :class:`InputError` when a forward gave no attention record."""
    if not number:
        raise InputError(
            f"{type(model).__name__} made no call of torch's attention function: a model without attention, or one "
            "that multiplies its maps by hand (switch it to scaled_dot_product_attention)"
        )


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


class _Tap(TorchFunctionMode):
    def __init__(self, on_record: Callable[[AttentionRecord], None], output: str) -> None:
        super().__init__()
        self.on_record, self.output = on_record, output
        self.owner, self.depth, self.layer = threading.get_ident(), 0, 0

    def start(self) -> None:
        if threading.get_ident() == self.owner:
            if not self.depth:
                self.layer = 0
            self.depth += 1

    def stop(self) -> None:
        if threading.get_ident() == self.owner:
            self.depth -= 1

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        reader = _READERS.get(func) if self.depth else None
        if reader is None:
            return func(*args, **kwargs)
        if self.output == "kernel":
            result = func(*args, **kwargs)
            with torch.no_grad():
                record, _ = reader(self.layer, *args, **kwargs)
        else:
            record, dropout_p = reader(self.layer, *args, **kwargs)
            result = F.dropout(record.a, dropout_p).to(record.v.dtype) @ record.v
        self.layer += 1
        self.on_record(record)
        return result


def _read_svda(
    layer: int, q_hat: Tensor, k_hat: Tensor, v: Tensor, sigma: Tensor, *, dropout_p: float = 0.0
) -> tuple[AttentionRecord, float]:
    scale = 1 / math.sqrt(q_hat.shape[-1])
    a = _softmax_map(q_hat * sigma.unsqueeze(-2).to(q_hat.dtype), k_hat, scale)
    return AttentionRecord(layer, q_hat, k_hat, v, scale, a, sigma), dropout_p


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
) -> tuple[AttentionRecord, float]:
    if enable_gqa:
        key, value = (x.repeat_interleave(query.shape[-3] // x.shape[-3], dim=-3) for x in (key, value))
    if is_causal:
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    a = _softmax_map(query, key, scale, attn_mask)
    return AttentionRecord(layer, query, key, value, scale, a, None), dropout_p


def _softmax_map(q: Tensor, k: Tensor, scale: float, mask: Tensor | None = None) -> Tensor:
    scores = (q * scale @ k.transpose(-2, -1)).to(torch.promote_types(q.dtype, torch.float32))  # (B, H, N, N)
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, -math.inf)
    elif mask is not None:
        scores = scores + mask
    return scores.softmax(dim=-1)


_READERS: dict[Callable[..., Any], Callable[..., tuple[AttentionRecord, float]]] = {
    svda_attention: _read_svda,
    F.scaled_dot_product_attention: _read_sdpa,
}


def token_layout(model: nn.Module, tokens: int) -> tuple[tuple[int, int], int]:
    """How a model's ``tokens`` are laid out: ``(rows, columns)`` of its patch grid, and the tokens before them.

    The number of prefix tokens (CLS and the like) is the model's own ``num_prefix_tokens`` where it has one, else
    what is left above the largest square. Raises :class:`InputError` when no square grid remains.
    """
    prefix = getattr(model, "num_prefix_tokens", tokens - math.isqrt(tokens) ** 2)
    side = math.isqrt(max(tokens - prefix, 0))
    if side < 1 or side * side + prefix != tokens:
        raise InputError(f"{tokens} tokens with {prefix} before the patches leave no square grid of patches")
    return (side, side), prefix
