"""Attention of three kinds: pure functions, and one layer of plain numbers that goes into any model.

- ``dot``: ``A = softmax(Q K^T / sqrt(D))`` (Vaswani et al. 2017, eq. 1);
- ``svda``: ``A = softmax(Q_hat diag(sigma) K_hat^T / sqrt(D))`` with unit-norm rows and a learned diagonal per head
  (SVD-Inspired Attention, arXiv 2602.10994);
- ``cosine``: the control, unit rows with one learned temperature per head and no spectrum (our definition).

Shapes: ``B`` images, ``H`` heads, ``N`` tokens, ``D`` head dimension, ``C = H * D`` model dimension.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from svda_analysis.errors import InputError
from svda_analysis.kinds import attention_kind

SigmaForm = Literal["shape", "linear"]
_LEAST_NORM = 1e-12  # what a shorter row is divided by, as in F.normalize


# --- attention as pure functions ------------------------------------------------------------------------------------


class _UnitRows(torch.autograd.Function):
    """``x (..., D) -> (x / ||x||, 1 / ||x||)`` with a gradient of few passes; autograd's own of :func:`F.normalize`
    takes several times as long. Both outputs are differentiable, as often as one likes."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, Tensor]:
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(_LEAST_NORM).reciprocal()
        return x * scale, scale

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(*output)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, grad_scale: Tensor | None) -> Tensor | None:
        unit, scale = ctx.saved_tensors
        along = None if grad_scale is None else -grad_scale * scale.square() * unit
        if grad is None:
            return along
        across = torch.addcmul(grad, unit, (grad * unit).sum(-1, keepdim=True), value=-1) * scale
        return across if along is None else across + along


def unit_rows(x: Tensor) -> Tensor:
    """Scale each row of ``x (..., D)`` to unit Euclidean norm; a zero row stays zero. Keeps shape and dtype."""
    wide = x if x.dtype == torch.float64 else x.float()  # the smallest norm that is divided by is 0 in half precision
    return _UnitRows.apply(wide)[0].to(x.dtype)


def dot_product_attention(q: Tensor, k: Tensor, v: Tensor, *, dropout_p: float = 0.0) -> Tensor:
    """``softmax(q k^T / sqrt(D)) v`` (Vaswani et al. 2017, eq. 1), by torch's fused kernel.

    ``q, k (B, H, N, D)`` and ``v (B, H, N, Dv)`` of one floating dtype; returns ``(B, H, N, Dv)``.
    """
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout_p)


def svda_attention(q_hat: Tensor, k_hat: Tensor, v: Tensor, sigma: Tensor, *, dropout_p: float = 0.0) -> Tensor:
    """``softmax(q_hat diag(sigma) k_hat^T / sqrt(D)) v`` (arXiv 2602.10994), folded into torch's fused kernel.

    ``q_hat, k_hat (B, H, N, D)`` must be unit rows (see :func:`unit_rows`), ``v (B, H, N, Dv)``, ``sigma (H, D)``;
    returns ``(B, H, N, Dv)``. The fold is exact: diag(sigma) multiplies the columns of ``q_hat``.
    """
    if has_torch_function((q_hat, k_hat, v, sigma)):
        return handle_torch_function(
            svda_attention, (q_hat, k_hat, v, sigma), q_hat, k_hat, v, sigma, dropout_p=dropout_p
        )
    return F.scaled_dot_product_attention(q_hat * sigma.unsqueeze(-2).to(q_hat.dtype), k_hat, v, dropout_p=dropout_p)


def cosine_attention(q_hat: Tensor, k_hat: Tensor, v: Tensor, temperature: Tensor, *, dropout_p: float = 0.0) -> Tensor:
    """``softmax(temperature q_hat k_hat^T / sqrt(D)) v``: SVDA with a flat spectrum (our definition, the control).

    As :func:`svda_attention`, with ``temperature (H,)`` in the place of sigma.
    """
    return F.scaled_dot_product_attention(
        q_hat * temperature[:, None, None].to(q_hat.dtype), k_hat, v, dropout_p=dropout_p
    )


# --- the rule of each kind ------------------------------------------------------------------------------------------


def _nothing_learned(heads: int, head_dim: int, form: str, start: float) -> dict[str, Tensor]:
    return {}


def _as_they_are(qk: Tensor) -> Tensor:
    return qk


def _no_sigma(layer: Any) -> None:
    return None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rule:
    """What one kind of attention adds to the projections that all share, as four functions.

    ``attend(layer, q, k, v, dropout_p)``: rows ``(B, H, N, D)`` -> the heads' outputs ``(B, H, N, D)``.
    ``rows(qk)``: how q and k ``(B, N, 2, H, D)`` are prepared for that.
    ``learned(heads, head_dim, sigma_form, start)``: the parameters that the layer owns beside its projections, by name,
    at their start. ``sigma(layer)``: the learned diagonal ``(H, D)`` with its graph, or None.
    Registered with :func:`svda_analysis.kinds.register_attention`.
    """

    attend: Callable[[Any, Tensor, Tensor, Tensor, float], Tensor]
    rows: Callable[[Tensor], Tensor] = _as_they_are
    learned: Callable[[int, int, str, float], dict[str, Tensor]] = _nothing_learned
    sigma: Callable[[Any], Tensor | None] = _no_sigma


def _attend_dot(layer: Any, q: Tensor, k: Tensor, v: Tensor, dropout_p: float) -> Tensor:
    return dot_product_attention(q, k, v, dropout_p=dropout_p)


def _attend_svda(layer: Any, q: Tensor, k: Tensor, v: Tensor, dropout_p: float) -> Tensor:
    return svda_attention(q, k, v, layer.sigma, dropout_p=dropout_p)


def _attend_cosine(layer: Any, q: Tensor, k: Tensor, v: Tensor, dropout_p: float) -> Tensor:
    return cosine_attention(q, k, v, layer.log_temperature.exp(), dropout_p=dropout_p)


def _learned_sigma(heads: int, head_dim: int, form: str, start: float) -> dict[str, Tensor]:
    if form == "linear":
        return {"sigma_linear": torch.full((heads, head_dim), start)}
    return {"sigma_shape": torch.ones((heads, head_dim)), **_learned_temperature(heads, head_dim, form, start)}


def _learned_temperature(heads: int, head_dim: int, form: str, start: float) -> dict[str, Tensor]:
    return {"log_temperature": torch.full((heads,), math.log(start))}


def _sigma(layer: Any) -> Tensor:
    """sigma itself, or ``tau sqrt(D) u / ||u||`` of temperature and shape (our definition)."""
    if layer.sigma_form == "linear":
        return layer.sigma_linear
    scale = layer.log_temperature.exp() * math.sqrt(layer.head_dim)
    return scale[:, None] * unit_rows(layer.sigma_shape)


DOT = Rule(attend=_attend_dot)
SVDA = Rule(attend=_attend_svda, rows=unit_rows, learned=_learned_sigma, sigma=_sigma)
COSINE = Rule(attend=_attend_cosine, rows=unit_rows, learned=_learned_temperature)


# --- the layer ------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Multi-head self-attention of one kind; owns the weights and calls the pure function.

    ``forward(x (B, N, C)) -> (B, N, C)``. ``kind`` is one of :data:`~svda_analysis.kinds.ATTENTIONS`; ``sigma_form``,
    ``sigma_start`` and ``sigma_noise`` as for :class:`~svda_analysis.model.ViTConfig`; ``dropout`` is that of the
    attention map. Raises :class:`InputError` for numbers that make no layer.

    For SVDA the learned diagonal is :attr:`sigma` ``(H, D)``. While training with ``track_row_energy``,
    ``row_energy (H, D)`` holds the mean of ``(q_hat_i^2 + k_hat_i^2) / 2`` over the batch's images and tokens (sums to
    1 over D): each direction's share of the unit rows' squared norm, with its graph, for the norm-share penalty.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        kind: str = "svda",
        sigma_form: str = "shape",
        sigma_start: float | str = "double_dim",
        sigma_noise: float = 0.0,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.rule: Rule = attention_kind(kind).rule
        check_heads(dim, heads)
        check_choice("sigma_form", sigma_form, get_args(SigmaForm))
        check_dropout("dropout", dropout)
        check_amount("sigma_noise", sigma_noise)
        self.kind, self.heads, self.head_dim = kind, heads, dim // heads
        self.sigma_form, self.dropout = sigma_form, dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        start = start_of_sigma(sigma_start, self.head_dim)
        for name, value in self.rule.learned(heads, self.head_dim, sigma_form, start).items():
            if sigma_noise and value.ndim == 2 and not value.is_meta:  # where shapes alone are asked for
                value = value + sigma_noise * torch.randn_like(value)
            self.register_parameter(name, nn.Parameter(value))
        self.track_row_energy = False
        self.row_energy: Tensor | None = None

    @property
    def sigma(self) -> Tensor | None:
        """The learned diagonal ``(H, D)`` with its graph; ``None`` unless the kind has one (SVDA)."""
        return self.rule.sigma(self)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).view(B, N, 3, self.heads, self.head_dim)  # (B, N, 3, H, D)
        qk, v = qkv.split((2, 1), dim=2)  # two slices would each fill a gradient of all three
        qk, v = self.rule.rows(qk), v.squeeze(2).transpose(1, 2)  # (B, N, 2, H, D), (B, H, N, D)
        if self.track_row_energy and self.training:
            self.row_energy = row_energy(qk)
        q, k = qk.permute(2, 0, 3, 1, 4)  # each (B, H, N, D)
        out = self.rule.attend(self, q, k, v, self.dropout if self.training else 0.0)  # (B, H, N, D)
        return self.proj(out.transpose(1, 2).reshape(B, N, C))  # (B, N, C)


def row_energy(qk: Tensor) -> Tensor:
    """Mean square of each coordinate of rows ``qk (B, N, 2, H, D)`` over images, tokens, q and k: ``(H, D)`` float."""
    return qk.float().square().mean((0, 1, 2))


# --- checks ---------------------------------------------------------------------------------------------------------


def start_of_sigma(start: float | str, head_dim: int) -> float:
    """sigma's value at the start: a positive number itself, or a rule for the head dimension."""
    rules = {"one": 1.0, "sqrt_dim": math.sqrt(head_dim), "dim": float(head_dim), "double_dim": 2.0 * head_dim}
    if isinstance(start, str) and start in rules:
        return rules[start]
    if isinstance(start, int | float) and 0 < start < math.inf:
        return float(start)
    raise InputError(f"sigma_start must be a positive number or one of {', '.join(rules)}, got {start!r}")


def check_heads(dim: int, heads: int) -> None:
    """Raise :class:`InputError` unless ``dim`` gives each of ``heads`` the same number of dimensions, at least 2."""
    check_count("dim", dim)
    check_count("heads", heads)
    if dim % heads:
        raise InputError(f"dim must be a multiple of heads {heads}, got {dim}")
    if dim == heads:
        raise InputError(f"dim must give each head at least 2 dimensions, got {dim} for {heads} heads")


def check_count(name: str, value: object, most: int | None = None) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, got {value!r}")
    if most is not None and value > most:
        raise InputError(f"{name} must be at most {most}, got {value if value < 2**63 else 'more'}")


def check_amount(name: str, value: float) -> None:
    if not 0 <= value <= sys.float_info.max:
        raise InputError(f"{name} must be a finite number of at least 0, got {value!r}")


def check_dropout(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise InputError(f"{name} must lie in [0, 1), got {value!r}")


def check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
