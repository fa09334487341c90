"""Stands where an attention module of another library stood, and is called as that was."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from svda_analysis.compact import OwnAttention
from svda_analysis.errors import InputError

OF_TIMM = ("x", "attn_mask", "is_causal")
OF_TORCH = (
    *("query", "key", "value", "key_padding_mask", "need_weights", "attn_mask", "average_attn_weights"),
    "is_causal",
)
OF_HUGGING_FACE = ("hidden_states", "attention_mask", "head_mask", "output_attentions")
_MASKS = ("attn_mask", "key_padding_mask", "is_causal", "attention_mask", "head_mask")


def read_call(names: Sequence[str], given: Sequence[Any], named: dict[str, Any]) -> tuple[Any, str | None]:
    """What a call with arguments ``names`` attends over, and why a replaced module cannot answer it (None: it can).

    It attends from all tokens of one tensor to all of them, and has no weights to give. Weights are asked for by an
    explicit ``need_weights=True`` or ``output_attentions=True``: torch's default is True too, and most who leave it at
    that ignore them. Further arguments may be None or False.
    """
    call = {**dict(zip(names, given, strict=False)), **named}
    x = call.get(names[0])
    unknown = [name for name, value in call.items() if name not in names and value is not None and value is not False]
    if len(given) > len(names) or unknown or x is None:
        return x, f"a replaced attention must be called with {', '.join(names)} alone, {names[0]} among them"
    for name in ("key", "value"):
        if call.get(name, x) is not x:
            return x, f"{name} must be the query itself: a replaced attention takes all three from one tensor"
    for name in _MASKS:
        if name == "attention_mask" and isinstance(call.get(name), Tensor) and _hides_nothing(call[name]):
            continue
        if call.get(name) is not None and call[name] is not False:
            got = "a mask" if isinstance(call[name], Tensor) else repr(call[name])
            return x, f"{name} must be left out: all tokens of a replaced attention attend to all, got {got}"
    for name in ("need_weights", "output_attentions"):
        if call.get(name):
            return x, f"{name} must be False or left out: a replaced attention gives no weights, got True"
    return x, None


def _hides_nothing(mask: Tensor) -> bool:
    """Whether a mask of Hugging Face (True or 0: attended to), which a compiled model may make of none, lets all by."""
    return bool((mask if mask.dtype == torch.bool else mask == 0).all())


class StandIn(nn.Module):
    """Stands where an attention module of timm, torchvision or Hugging Face stood: the same call, another layer.

    ``names`` are the arguments of that call, ``after`` what follows the last projection, ``pair`` whether the module
    gave its weights too.
    """

    def __init__(self, attention: OwnAttention, after: nn.Module, pair: bool, names: Sequence[str] = OF_TIMM) -> None:
        super().__init__()
        self.attention, self.after, self.pair, self.names = attention, after, pair, tuple(names)

    def forward(self, *given: Any, **named: Any) -> Any:
        """The call of the module that it replaces: ``x (B, N, C) -> (B, N, C)``, with None for the weights behind it
        where that gave a pair. Raises :class:`InputError` for what it cannot do (:func:`read_call`)."""
        x, why = read_call(self.names, given, named)
        if why:
            raise InputError(why)
        out = self.after(self.attention(x))
        return (out, None) if self.pair else out
