"""The attention layer of a compressed model: heads of unequal size, in the place of :class:`Attention`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svda_analysis.attention import Attention, Rule, check_dropout, check_heads, row_energy, start_of_sigma
from svda_analysis.errors import InputError
from svda_analysis.kinds import attention_kind

COMPACT_KINDS = ("dot", "svda")  # those whose scores have directions that can be removed


class CompactSelfAttention(nn.Module):
    """Multi-head self-attention that kept only some rows of W_q and W_k; made by compression.

    ``forward(x (B, N, C)) -> (B, N, C)``. Of each head ``score_dims`` directions stay in the scores, and beside them
    ``norm_dims`` rows that feed the unit rows' norm alone (SVDA). ``qkv`` holds the kept rows: head by head those of q
    (score rows, then norm rows), those of k, then all of v; ``norm_length (2, H)`` is the length that rows of q and k
    have along what was removed. The kept columns are followed by zeros up to D, so that one fused kernel serves all
    heads, the scale stays 1/sqrt(D), and indicators see a spectrum of D values (other layouts:
    ``benchmarks/ragged_heads.py``). ``sigma``, ``track_row_energy`` and ``row_energy`` as in
    :class:`~svda_analysis.attention.Attention`. Raises :class:`InputError` for sizes that fit no layer.
    """

    row_slots: Tensor
    sigma_slots: Tensor

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        kind: str,
        score_dims: Sequence[int],
        norm_dims: Sequence[int] | None = None,
        sigma_start: float | str = "double_dim",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_heads(dim, heads)
        check_dropout("dropout", dropout)
        self.kind, self.heads, self.head_dim, self.dropout = kind, heads, dim // heads, dropout
        ((self.score_dims,), (self.norm_dims,)) = check_kept(
            kind, [score_dims], [[0] * heads if norm_dims is None else norm_dims], (1, heads, self.head_dim)
        )
        self.row_counts = tuple(s + n for s, n in zip(self.score_dims, self.norm_dims, strict=True))
        self.rule: Rule = attention_kind(kind).rule
        self.qkv = nn.Linear(dim, 2 * sum(self.row_counts) + dim)
        self.proj = nn.Linear(dim, dim)
        if kind == "svda":
            start = start_of_sigma(sigma_start, self.head_dim)
            self.sigma_linear = nn.Parameter(torch.full((sum(self.score_dims),), start))
            self.norm_length = nn.Parameter(torch.zeros(2, heads))
        row_slots, sigma_slots = _slots(self.score_dims, self.row_counts, dim)
        self.register_buffer("row_slots", row_slots, persistent=False)
        self.register_buffer("sigma_slots", sigma_slots, persistent=False)
        self.track_row_energy = False
        self.row_energy: Tensor | None = None

    @property
    def sigma(self) -> Tensor | None:
        """The learned diagonal ``(H, D)``, zero where a direction was removed, with its graph; ``None`` for dot."""
        if self.kind != "svda":
            return None
        padded = self.sigma_linear.new_zeros(self.heads * self.head_dim)
        return padded.index_copy(0, self.sigma_slots, self.sigma_linear).view(self.heads, self.head_dim)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        qk, v = self.rows(x)
        if self.track_row_energy and self.training:
            self.row_energy = row_energy(qk)
        q, k = qk.permute(2, 0, 3, 1, 4)  # each (B, H, N, D)
        out = self.rule.attend(self, q, k, v, self.dropout if self.training else 0.0)  # (B, H, N, D)
        return self.proj(out.transpose(1, 2).reshape(B, N, C))  # (B, N, C)

    def rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``qk (B, N, 2, H, D)``, zero in the columns that were removed, and ``v (B, H, N, D)``."""
        B, N, C = x.shape
        R = max(self.row_counts)
        qk, v = F.linear(x, *self._padded()).split([2 * self.heads * R, C], dim=-1)
        qk = qk.reshape(B, N, 2, self.heads, R)
        if self.kind == "svda":
            wide = qk if qk.dtype == torch.float64 else qk.float()
            squared = wide.square().sum(-1, keepdim=True) + self.norm_length.to(wide.dtype).square()[..., None]
            qk = (wide * squared.clamp_min(torch.finfo(wide.dtype).tiny).rsqrt()).to(qk.dtype)
        return F.pad(qk, (0, self.head_dim - R)), v.view(B, N, self.heads, self.head_dim).transpose(1, 2)

    def _padded(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of ``qkv`` with zero rows that bring all heads to the size of the widest."""
        weight: Tensor = self.qkv.weight
        bias: Tensor = self.qkv.bias
        R, C = max(self.row_counts), self.qkv.in_features
        if min(self.row_counts) < R:
            size = 2 * self.heads * R + C
            weight = weight.new_zeros(size, C).index_copy(0, self.row_slots, weight)
            bias = bias.new_zeros(size).index_copy(0, self.row_slots, bias)
        return weight, bias


OwnAttention = Attention | CompactSelfAttention  # our layers, whole or compressed


def _slots(score: Sequence[int], rows: tuple[int, ...], dim: int) -> tuple[Tensor, Tensor]:
    """Where each stored row goes among heads of the widest's size, and each stored sigma among ``H * D``."""
    widest, heads = max(rows), len(rows)
    row_slots = [head * widest + i for head, count in enumerate(rows * 2) for i in range(count)]
    row_slots += range(2 * heads * widest, 2 * heads * widest + dim)
    sigma_slots = [head * (dim // heads) + i for head, count in enumerate(score) for i in range(count)]
    return torch.tensor(row_slots, device="cpu"), torch.tensor(sigma_slots, device="cpu")  # real on meta as well


# --- checks ---------------------------------------------------------------------------------------------------------

Sizes = tuple[tuple[int, ...], ...]  # of each layer's heads


def check_kept(kind: str, score: object, norm: object, shape: tuple[int, int, int]) -> tuple[Sizes, Sizes]:
    """``score_dims`` and ``norm_dims`` as tuples (files hold lists), for ``shape``: layers, heads, head dimension.

    Raises :class:`InputError` for what fits no head; ``norm`` None is none.
    """
    depth, heads, head_dim = shape
    if kind not in COMPACT_KINDS:
        raise InputError(f"score_dims must be None for {kind} attention, which has no spectrum to shorten")
    none = ((0,) * heads,) * depth
    score_dims = _whole_table("score_dims", score, depth, heads, least=1)
    norm_dims = _whole_table("norm_dims", norm or none, depth, heads, least=0)
    if kind == "dot" and norm_dims != none:
        raise InputError("norm_dims must be 0 for dot attention, whose rows have no norm to keep")
    widest = max(s + n for pair in zip(score_dims, norm_dims, strict=True) for s, n in zip(*pair, strict=True))
    if widest > head_dim:
        raise InputError(f"score_dims and norm_dims must fit the head dimension {head_dim}, got {widest}")
    return score_dims, norm_dims


def _whole_table(name: str, value: object, rows: int, columns: int, least: int) -> Sizes:
    try:
        table = tuple(tuple(row) for row in value)  # type: ignore[attr-defined]  # else a TypeError
    except TypeError:
        table = ()
    if len(table) != rows or any(len(row) != columns for row in table):
        raise InputError(f"{name} must hold {columns} numbers for each of {rows} layers, got {value!r}")
    if any(type(x) is not int or x < least for row in table for x in row):
        raise InputError(f"{name} must hold whole numbers of at least {least}, got {value!r}")
    return table
