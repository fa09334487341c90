"""One Vision Transformer with three kinds of attention: the whole model, top to bottom.

- ``dot``: ``A = softmax(Q K^T / sqrt(D))`` (Vaswani et al. 2017, eq. 1);
- ``svda``: ``A = softmax(Q_hat diag(sigma) K_hat^T / sqrt(D))`` with unit-norm rows and a learned diagonal per head
  (SVD-Inspired Attention, arXiv 2602.10994);
- ``cosine``: the control, unit rows with one learned temperature per head and no spectrum (our definition).

Shapes: ``B`` images, ``H`` heads, ``N`` tokens, ``D`` head dimension, ``C = H * D`` model dimension.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal, NamedTuple, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from svda_analysis.errors import InputError

AttentionKind = Literal["dot", "svda", "cosine"]
SigmaForm = Literal["shape", "linear"]


# --- attention as pure functions ------------------------------------------------------------------------------------


def unit_rows(x: Tensor) -> Tensor:
    """Scale each row of ``x (..., D)`` to unit Euclidean norm; a zero row stays zero. Keeps shape and dtype."""
    wide = x if x.dtype == torch.float64 else x.float()  # the smallest norm that is divided by is 0 in half precision
    return F.normalize(wide, dim=-1).to(x.dtype)


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


# --- configuration --------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Everything that defines a :class:`ViT`; two models that are compared differ in ``attention`` alone.

    ``sigma_form``: ``"shape"`` parts sigma into a temperature and a shape, ``tau sqrt(D) u / ||u||`` (our definition);
    ``"linear"`` learns sigma itself (the literal reading of arXiv 2602.10994).
    ``sigma_start``: sigma's value at the start, a positive number or a rule: ``"dim"`` (D, logits of unit deviation for
    random rows), ``"double_dim"``, ``"sqrt_dim"`` or ``"one"`` (attention stays uniform: unit rows give logits of at
    most 1/sqrt(D)).
    ``score_dims``, ``norm_dims``: of a compressed model alone (``compress.py``), for each layer and head: the
    directions kept in the scores, and the rows kept beside them that feed the unit rows' norm alone (SVDA).
    """

    image_size: int = 28
    in_channels: int = 1
    patch_size: int = 4
    dim: int = 96
    depth: int = 6
    heads: int = 3
    mlp_ratio: float = 4.0
    num_classes: int = 10
    attention: AttentionKind = "dot"
    sigma_form: SigmaForm = "shape"
    sigma_start: float | str = "double_dim"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    score_dims: tuple[tuple[int, ...], ...] | None = None
    norm_dims: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        for name in ("image_size", "in_channels", "patch_size", "dim", "depth", "heads", "num_classes"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.image_size % self.patch_size:
            raise InputError(f"image_size must be a multiple of patch_size {self.patch_size}, got {self.image_size}")
        if self.dim % self.heads:
            raise InputError(f"dim must be a multiple of heads {self.heads}, got {self.dim}")
        if self.dim == self.heads:
            raise InputError(f"dim must give each head at least 2 dimensions, got {self.dim} for {self.heads} heads")
        if self.dim % 4:
            raise InputError(f"dim must be a multiple of 4 (the position code needs it), got {self.dim}")
        if not self.dim * self.mlp_ratio >= 1:
            raise InputError(f"mlp_ratio must be above 0 and give at least one hidden feature, got {self.mlp_ratio!r}")
        _check_choice("attention", self.attention, get_args(AttentionKind))
        _check_choice("sigma_form", self.sigma_form, get_args(SigmaForm))
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(f"{name} must lie in [0, 1), got {getattr(self, name)!r}")
        self.sigma_start_value  # noqa: B018  (reads the property for its check)
        if self.score_dims is not None or self.norm_dims is not None:
            self._check_kept()

    def _check_kept(self) -> None:
        """Bring the sizes of a compressed model into tuples (files hold lists) and refuse what fits no head."""
        if self.attention == "cosine":
            raise InputError("score_dims must be None for cosine attention, which has no spectrum to shorten")
        none = ((0,) * self.heads,) * self.depth
        score = _whole_table("score_dims", self.score_dims, self.depth, self.heads, least=1)
        norm = _whole_table("norm_dims", self.norm_dims or none, self.depth, self.heads, least=0)
        if self.attention == "dot" and norm != none:
            raise InputError("norm_dims must be 0 for dot attention, whose rows have no norm to keep")
        widest = max(s + n for pair in zip(score, norm, strict=True) for s, n in zip(*pair, strict=True))
        if widest > self.head_dim:
            raise InputError(f"score_dims and norm_dims must fit the head dimension {self.head_dim}, got {widest}")
        object.__setattr__(self, "score_dims", score)
        object.__setattr__(self, "norm_dims", norm)

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @property
    def sigma_start_value(self) -> float:
        dim = self.head_dim
        rules = {"one": 1.0, "sqrt_dim": math.sqrt(dim), "dim": float(dim), "double_dim": 2.0 * dim}
        if isinstance(self.sigma_start, str) and self.sigma_start in rules:
            return rules[self.sigma_start]
        if isinstance(self.sigma_start, int | float) and 0 < self.sigma_start < math.inf:
            return float(self.sigma_start)
        raise InputError(
            f"sigma_start must be a positive number or one of {', '.join(rules)}, got {self.sigma_start!r}"
        )

    @classmethod
    def preset(cls, name: str, **changes: Any) -> ViTConfig:
        """A named configuration from :data:`PRESETS`, with ``changes`` applied."""
        _check_choice("preset", name, tuple(PRESETS))
        return cls(**{**PRESETS[name], **changes})


def _check_choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")


def _whole_table(name: str, value: Any, rows: int, columns: int, least: int) -> tuple[tuple[int, ...], ...]:
    try:
        table = tuple(tuple(row) for row in value)
    except TypeError:
        table = ()
    if len(table) != rows or any(len(row) != columns for row in table):
        raise InputError(f"{name} must hold {columns} numbers for each of {rows} layers, got {value!r}")
    if any(type(x) is not int or x < least for row in table for x in row):
        raise InputError(f"{name} must hold whole numbers of at least {least}, got {value!r}")
    return table


_AT_224 = {"image_size": 224, "in_channels": 3, "patch_size": 16, "depth": 12, "num_classes": 1000}
_CIFAR = {"image_size": 32, "in_channels": 3, "patch_size": 4, "dim": 96, "depth": 6, "heads": 3}
PRESETS: dict[str, dict[str, Any]] = {
    "fashion_mnist": {"image_size": 28, "in_channels": 1, "patch_size": 4, "dim": 96, "depth": 4, "heads": 3},
    "cifar10": {**_CIFAR, "num_classes": 10},
    "cifar100": {**_CIFAR, "num_classes": 100},
    "imagenet100": {**_AT_224, "dim": 192, "heads": 3, "num_classes": 100},
    "vit_tiny": {**_AT_224, "dim": 192, "heads": 3},
    "vit_small": {**_AT_224, "dim": 384, "heads": 6},
    "vit_base": {**_AT_224, "dim": 768, "heads": 12},
}


# --- modules --------------------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """Multi-head self-attention of one of the three kinds; owns the weights and calls the pure function.

    For SVDA the learned diagonal is :attr:`sigma` ``(H, D)``. While training, ``row_energy (H, D)`` holds the mean of
    ``(q_hat_i^2 + k_hat_i^2) / 2`` over the batch's images and tokens (sums to 1 over D): each direction's share of the
    unit rows' squared norm, with its graph, for the norm-share penalty.

    Compressed (``config.score_dims``), ``qkv`` holds the kept rows alone: head by head those of q (score rows, then
    norm rows), those of k, then all of v; ``norm_length (2, H)`` is the length that rows of q and k have along what was
    removed. The kept columns are followed by zeros up to D, so that one fused kernel serves all heads, the scale stays
    1/sqrt(D), and indicators see a spectrum of D values (other layouts: ``benchmarks/ragged_heads.py``).
    """

    row_slots: Tensor
    sigma_slots: Tensor

    def __init__(self, config: ViTConfig, layer: int = 0) -> None:
        super().__init__()
        self.kind, self.heads, self.dropout = config.attention, config.heads, config.attention_dropout
        self.head_dim = config.head_dim
        self.kept = None if config.score_dims is None else _Kept.of(config, layer)
        self.qkv = nn.Linear(config.dim, 3 * config.dim if self.kept is None else 2 * sum(self.kept.rows) + config.dim)
        self.proj = nn.Linear(config.dim, config.dim)
        start, shape = config.sigma_start_value, (config.heads, config.head_dim)
        if self.kept is not None:
            if self.kind == "svda":
                self.sigma_linear = nn.Parameter(torch.full((sum(self.kept.score),), start))
                self.norm_length = nn.Parameter(torch.zeros(2, config.heads))
            slots = self.kept.slots(config.dim)
            self.register_buffer("row_slots", slots[0], persistent=False)
            self.register_buffer("sigma_slots", slots[1], persistent=False)
        elif self.kind == "svda" and config.sigma_form == "linear":
            self.sigma_linear = nn.Parameter(torch.full(shape, start))
        elif self.kind == "svda":
            self.sigma_shape = nn.Parameter(torch.ones(shape))
        if self.kept is None and (self.kind == "cosine" or (self.kind == "svda" and config.sigma_form == "shape")):
            self.log_temperature = nn.Parameter(torch.full((config.heads,), math.log(start)))
        self.track_row_energy = False
        self.row_energy: Tensor | None = None

    @property
    def sigma(self) -> Tensor | None:
        """The learned diagonal ``(H, D)`` with its graph; ``None`` unless this is SVDA."""
        if self.kind != "svda":
            return None
        if self.kept is not None:
            padded = self.sigma_linear.new_zeros(self.heads * self.head_dim)
            return padded.index_copy(0, self.sigma_slots, self.sigma_linear).view(self.heads, self.head_dim)
        if hasattr(self, "sigma_linear"):
            return self.sigma_linear
        scale = self.log_temperature.exp() * math.sqrt(self.sigma_shape.shape[-1])
        return scale[:, None] * unit_rows(self.sigma_shape)

    def forward(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        if self.kept is None:
            qkv = self.qkv(x).view(B, N, 3, self.heads, C // self.heads)  # (B, N, 3, H, D)
            qk, v = qkv[:, :, :2], qkv[:, :, 2].transpose(1, 2)  # (B, N, 2, H, D), (B, H, N, D)
            if self.kind != "dot":
                qk = unit_rows(qk)
        else:
            qk, v = self._kept_rows(x)
        if self.track_row_energy and self.training:
            self.row_energy = qk.float().square().mean((0, 1, 2))  # (H, D)
        q, k = qk.permute(2, 0, 3, 1, 4)  # each (B, H, N, D)
        dropout_p = self.dropout if self.training else 0.0
        if self.kind == "svda":
            out = svda_attention(q, k, v, self.sigma, dropout_p=dropout_p)  # type: ignore[arg-type]  # SVDA has a sigma
        elif self.kind == "cosine":
            out = cosine_attention(q, k, v, self.log_temperature.exp(), dropout_p=dropout_p)
        else:
            out = dot_product_attention(q, k, v, dropout_p=dropout_p)
        return self.proj(out.transpose(1, 2).reshape(B, N, C))  # (B, N, C)

    def _kept_rows(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``qk (B, N, 2, H, D)``, zero in the columns that were removed, and ``v (B, H, N, D)``."""
        B, N, C = x.shape
        assert self.kept is not None
        R = max(self.kept.rows)
        weight: Tensor = self.qkv.weight
        bias: Tensor = self.qkv.bias
        if min(self.kept.rows) < R:  # zero rows bring all heads to the size of the widest
            slots, size = self.row_slots, 2 * self.heads * R + C
            weight = weight.new_zeros(size, C).index_copy(0, slots, weight)
            bias = bias.new_zeros(size).index_copy(0, slots, bias)
        qk, v = F.linear(x, weight, bias).split([2 * self.heads * R, C], dim=-1)
        qk = qk.reshape(B, N, 2, self.heads, R)
        if self.kind == "svda":
            wide = qk if qk.dtype == torch.float64 else qk.float()
            squared = wide.square().sum(-1, keepdim=True) + self.norm_length.to(wide.dtype).square()[..., None]
            qk = (wide * squared.clamp_min(torch.finfo(wide.dtype).tiny).rsqrt()).to(qk.dtype)
        return F.pad(qk, (0, self.head_dim - R)), v.view(B, N, self.heads, self.head_dim).transpose(1, 2)


class _Kept(NamedTuple):
    """What a compressed layer kept of each head: score directions, and rows of q and of k (norm rows among them)."""

    score: tuple[int, ...]
    rows: tuple[int, ...]
    head_dim: int

    @classmethod
    def of(cls, config: ViTConfig, layer: int) -> _Kept:
        score, norm = config.score_dims[layer], config.norm_dims[layer]  # type: ignore[index]  # checked together
        return cls(score, tuple(s + n for s, n in zip(score, norm, strict=True)), config.head_dim)

    def slots(self, dim: int) -> tuple[Tensor, Tensor]:
        """Where each stored row goes among heads of the widest's size, and each stored sigma among ``H * D``."""
        widest, heads = max(self.rows), len(self.rows)
        rows = [head * widest + i for head, count in enumerate(self.rows * 2) for i in range(count)]
        rows += range(2 * heads * widest, 2 * heads * widest + dim)
        sigma = [head * self.head_dim + i for head, count in enumerate(self.score) for i in range(count)]
        return torch.tensor(rows, device="cpu"), torch.tensor(sigma, device="cpu")  # real on the meta device as well


class Block(nn.Module):
    """Pre-norm transformer block (Dosovitskiy et al. 2021, eq. 2-3)."""

    def __init__(self, config: ViTConfig, layer: int = 0) -> None:
        super().__init__()
        hidden = int(config.dim * config.mlp_ratio)
        self.norm1 = nn.LayerNorm(config.dim)
        self.attention = Attention(config, layer)
        self.norm2 = nn.LayerNorm(config.dim)
        self.mlp = nn.Sequential(
            nn.Linear(config.dim, hidden), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(hidden, config.dim)
        )
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))


class ViT(nn.Module):
    """Vision Transformer classifier with a CLS token (Dosovitskiy et al. 2021) and the chosen attention.

    ``forward(images (B, channels, size, size) float) -> logits (B, num_classes)``. Token 0 is CLS; token
    ``1 + row * grid + column`` is that patch.
    """

    num_prefix_tokens = 1

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = nn.Conv2d(config.in_channels, config.dim, config.patch_size, stride=config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + config.grid**2, config.dim))
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.Sequential(*[Block(config, layer) for layer in range(config.depth)])
        self.norm = nn.LayerNorm(config.dim)
        self.head = nn.Linear(config.dim, config.num_classes)
        self._init_weights()

    def _init_weights(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                for weight in module.weight.chunk(3 if name.endswith("qkv") and self.config.score_dims is None else 1):
                    nn.init.xavier_uniform_(weight)
                nn.init.zeros_(module.bias)
        fan_in = self.config.in_channels * self.config.patch_size**2
        nn.init.trunc_normal_(self.patch_embed.weight, std=fan_in**-0.5)
        nn.init.zeros_(self.patch_embed.bias)  # type: ignore[arg-type]  # Conv2d has a bias here
        nn.init.zeros_(self.head.weight)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        with torch.no_grad():
            self.pos_embed[0, 1:] = _sincos_positions(self.config.grid, self.config.dim)

    def attention_layers(self) -> list[Attention]:
        return [block.attention for block in self.blocks]  # type: ignore[misc]  # blocks holds Block alone

    def forward(self, images: Tensor) -> Tensor:
        B, channels, height, width = images.shape
        expected = (self.config.in_channels, self.config.image_size, self.config.image_size)
        if (channels, height, width) != expected:
            raise InputError(f"images must be (B, {', '.join(map(str, expected))}), got {tuple(images.shape)}")
        x = self.patch_embed(images).flatten(2).transpose(1, 2)  # (B, grid^2, C)
        x = torch.cat([self.cls_token.expand(B, -1, -1), x], dim=1)  # (B, N, C)
        x = self.norm(self.blocks(self.dropout(x + self.pos_embed)))
        return self.head(x[:, 0])  # (B, num_classes)


def _sincos_positions(grid: int, dim: int) -> Tensor:
    """Sine-cosine code of a square grid, ``(grid^2, dim)`` (He et al. 2022, supplement): where learning starts."""
    frequency = 1 / 10000 ** (torch.arange(dim // 4) / (dim // 4))  # (dim/4,)
    angle = torch.arange(grid)[:, None] * frequency  # (grid, dim/4)
    code = torch.cat([angle.sin(), angle.cos()], dim=-1)  # (grid, dim/2)
    rows, columns = code[:, None].expand(-1, grid, -1), code[None].expand(grid, -1, -1)
    return torch.cat([rows, columns], dim=-1).reshape(grid * grid, dim)
