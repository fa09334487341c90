"""A Vision Transformer whose attention is of any registered kind: the whole model, top to bottom.

Shapes: ``B`` images, ``N`` tokens, ``C`` model dimension. The attention layer is in ``attention.py``.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from svda_analysis.attention import (
    Attention,
    SigmaForm,
    check_amount,
    check_choice,
    check_count,
    check_dropout,
    check_heads,
    start_of_sigma,
)
from svda_analysis.compact import CompactSelfAttention, OwnAttention, check_kept
from svda_analysis.data.catalog import DatasetSpec
from svda_analysis.errors import InputError, check_fields
from svda_analysis.kinds import attention_kind

# The most that a config may ask for: far beyond any model, and short of what would never end or take all memory.
_AT_MOST = {
    "image_size": 2**14,
    "in_channels": 1024,
    "patch_size": 2**14,
    "dim": 2**16,
    "depth": 1000,
    "heads": 2**15,
    "num_classes": 2**20,
}
_CHOICES = {"norm": ("pre", "post"), "positions": ("learned", "none"), "init": ("xavier", "torch", "source")}
_WIDEST_MLP, _MOST_TOKENS, _MOST_WEIGHTS = 64, 2**16, 2**31


@dataclasses.dataclass(frozen=True, kw_only=True)
class ViTConfig:
    """Everything that defines a :class:`ViT`; two models that are compared differ in ``attention`` alone.

    ``sigma_form``: ``"shape"`` parts sigma into a temperature and a shape, ``tau sqrt(D) u / ||u||`` (our definition);
    ``"linear"`` learns sigma itself (the literal reading of arXiv 2602.10994).
    ``sigma_start``: sigma's value at the start, a positive number or a rule: ``"dim"`` (D, logits of unit deviation for
    random rows), ``"double_dim"``, ``"sqrt_dim"`` or ``"one"`` (attention stays uniform: unit rows give logits of at
    most 1/sqrt(D)). ``sigma_noise``: the standard deviation of sigma's entries about that (of the shape's about 1).

    ``norm``: blocks normalise before their parts (``"pre"``, Dosovitskiy et al. 2021) or after them (``"post"``,
    Vaswani et al. 2017). ``positions``: a learned code of the patches' places (``"learned"``), or ``"none"``.
    ``init``: ``"xavier"``, the same for every kind of attention; ``"torch"``, PyTorch's own; or ``"source"``, which is
    ``"torch"`` but that dot-product attention starts as ``nn.MultiheadAttention`` does and the others as linear layers
    do, as in the source's public code: its two models start differently.

    ``score_dims``, ``norm_dims``: of a compressed model alone (``compression/``), for each layer and head: the
    directions kept in the scores, and the rows kept beside them that feed the unit rows' norm alone (SVDA).
    ``qk_dim``: how long the queries and keys of each head are, of a plain ViT (None: ``dim / heads``).
    """

    image_size: int = 28
    in_channels: int = 1
    patch_size: int = 4
    dim: int = 96
    depth: int = 6
    heads: int = 3
    mlp_ratio: float = 4.0
    num_classes: int = 10
    attention: str = "dot"
    sigma_form: SigmaForm = "shape"
    sigma_start: float | str = "double_dim"
    sigma_noise: float = 0.0
    norm: Literal["pre", "post"] = "pre"
    positions: Literal["learned", "none"] = "learned"
    init: Literal["xavier", "torch", "source"] = "xavier"
    dropout: float = 0.0
    attention_dropout: float = 0.0
    qk_dim: int | None = None
    score_dims: tuple[tuple[int, ...], ...] | None = None
    norm_dims: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        attention_kind(self.attention)
        check_fields(self)
        for name, most in _AT_MOST.items():
            check_count(name, getattr(self, name), most)
        if self.image_size % self.patch_size:
            raise InputError(f"image_size must be a multiple of patch_size {self.patch_size}, got {self.image_size}")
        check_heads(self.dim, self.heads)
        for name, allowed in _CHOICES.items():
            check_choice(name, getattr(self, name), allowed)
        check_amount("sigma_noise", self.sigma_noise)
        if self.dim % 4 and self.positions == "learned":
            raise InputError(f"dim must be a multiple of 4 (the position code needs it), got {self.dim}")
        if not self.dim * self.mlp_ratio >= 1 or self.mlp_ratio > _WIDEST_MLP:
            raise InputError(
                f"mlp_ratio must be above 0, give at least one hidden feature and be at most {_WIDEST_MLP}, "
                f"got {self.mlp_ratio!r}"
            )
        if (tokens := self.grid**2) > _MOST_TOKENS:
            raise InputError(f"image_size and patch_size must give at most {_MOST_TOKENS} patches, got {tokens}")
        if (weights := self._weights()) > _MOST_WEIGHTS:
            raise InputError(f"dim and depth must give at most {_MOST_WEIGHTS:,} weights, got {weights:,}")
        check_choice("sigma_form", self.sigma_form, get_args(SigmaForm))
        for name in ("dropout", "attention_dropout"):
            check_dropout(name, getattr(self, name))
        start_of_sigma(self.sigma_start, self.head_dim)
        if self.qk_dim is not None and self.score_dims is None:
            check_count("qk_dim", self.qk_dim, self.head_dim)
            object.__setattr__(self, "score_dims", self._dims_from_the_start())
        if self.score_dims is not None or self.norm_dims is not None:
            shape = (self.depth, self.heads, self.head_dim)
            score, norm = check_kept(self.attention, self.score_dims, self.norm_dims, shape)
            object.__setattr__(self, "score_dims", score)  # files hold lists
            object.__setattr__(self, "norm_dims", norm)

    @property
    def head_dim(self) -> int:
        return self.dim // self.heads

    @property
    def compressed(self) -> bool:
        """Whether directions were removed from its heads; not where ``qk_dim`` made them short from the start."""
        return self.score_dims is not None and self.score_dims != self._dims_from_the_start()

    def _dims_from_the_start(self) -> tuple[tuple[int, ...], ...] | None:
        return None if self.qk_dim is None else ((self.qk_dim,) * self.heads,) * self.depth

    def _weights(self) -> int:
        """The weights of the matrices, which are nearly all."""
        patch = self.in_channels * self.patch_size**2
        layer = (4 + 2 * self.mlp_ratio) * self.dim
        return int(self.dim * (self.depth * layer + patch + self.grid**2 + self.num_classes))

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.image_size // self.patch_size

    @classmethod
    def preset(cls, name: str, **changes: Any) -> ViTConfig:
        """A named configuration from :data:`PRESETS`, with ``changes`` applied."""
        check_choice("preset", name, tuple(PRESETS))
        return cls(**{**PRESETS[name], **changes})


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


def preset_for(spec: DatasetSpec) -> tuple[str, dict[str, Any]]:
    """The preset for a data set where none is named: its own, else that of the nearest size of image; and the fields in
    which its images and classes differ from that."""
    small = spec.image_size <= 32
    nearest = "vit_tiny" if not small else "fashion_mnist" if spec.channels == 1 else "cifar10"
    name = spec.name if spec.name in PRESETS else nearest
    known = {"image_size": spec.image_size, "in_channels": spec.channels}
    known |= {"num_classes": len(spec.classes)} if spec.classes else {}
    usual = dataclasses.asdict(ViTConfig.preset(name))
    return name, {key: value for key, value in known.items() if value != usual[key]}


# --- modules --------------------------------------------------------------------------------------------------------


class Block(nn.Module):
    """Transformer block, pre-norm (Dosovitskiy et al. 2021, eq. 2-3) or post-norm (Vaswani et al. 2017, sec. 3.1)."""

    def __init__(self, config: ViTConfig, layer: int = 0) -> None:
        super().__init__()
        hidden = int(config.dim * config.mlp_ratio)
        self.norm1 = nn.LayerNorm(config.dim)
        self.attention = _attention(config, layer)
        self.norm2 = nn.LayerNorm(config.dim)
        self.mlp = nn.Sequential(
            nn.Linear(config.dim, hidden), nn.GELU(), nn.Dropout(config.dropout), nn.Linear(hidden, config.dim)
        )
        self.dropout = nn.Dropout(config.dropout)
        self.post_norm = config.norm == "post"

    def forward(self, x: Tensor) -> Tensor:
        if self.post_norm:
            x = self.norm1(x + self.dropout(self.attention(x)))
            return self.norm2(x + self.dropout(self.mlp(x)))
        x = x + self.dropout(self.attention(self.norm1(x)))
        return x + self.dropout(self.mlp(self.norm2(x)))


def _attention(config: ViTConfig, layer: int) -> OwnAttention:
    shared: dict[str, Any] = {"dim": config.dim, "heads": config.heads, "kind": config.attention}
    shared |= {"sigma_start": config.sigma_start, "dropout": config.attention_dropout}
    if config.score_dims is None or config.norm_dims is None:
        return Attention(sigma_form=config.sigma_form, sigma_noise=config.sigma_noise, **shared)
    return CompactSelfAttention(score_dims=config.score_dims[layer], norm_dims=config.norm_dims[layer], **shared)


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
        self.pos_embed = (
            nn.Parameter(torch.zeros(1, 1 + config.grid**2, config.dim)) if config.positions == "learned" else None
        )
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.Sequential(*[Block(config, layer) for layer in range(config.depth)])
        self.norm = nn.LayerNorm(config.dim)
        self.head = nn.Linear(config.dim, config.num_classes)
        if config.init == "xavier":
            self._init_xavier()
        elif config.init == "source" and config.attention == "dot":
            self._init_as_multihead_attention()
        if self.pos_embed is not None and not self.pos_embed.is_meta:
            with torch.no_grad():
                self.pos_embed[0, 1:] = _sincos_positions(config.grid, config.dim)

    def _init_as_multihead_attention(self) -> None:
        for layer in self.attention_layers():
            if isinstance(layer, Attention):
                nn.init.xavier_uniform_(layer.qkv.weight)  # of all three as one matrix
                nn.init.zeros_(layer.qkv.bias)
                nn.init.zeros_(layer.proj.bias)

    def _init_xavier(self) -> None:
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                if name.endswith("qkv") and self.config.score_dims is not None:  # each row as in the whole model
                    bound = (6 / (2 * self.config.dim)) ** 0.5
                    nn.init.uniform_(module.weight, -bound, bound)
                else:
                    for weight in module.weight.chunk(3 if name.endswith("qkv") else 1):
                        nn.init.xavier_uniform_(weight)
                nn.init.zeros_(module.bias)
        fan_in = self.config.in_channels * self.config.patch_size**2
        nn.init.trunc_normal_(self.patch_embed.weight, std=fan_in**-0.5)
        nn.init.zeros_(self.patch_embed.bias)  # type: ignore[arg-type]  # Conv2d has a bias here
        nn.init.zeros_(self.head.weight)
        nn.init.trunc_normal_(self.cls_token, std=0.02)

    def attention_layers(self) -> list[OwnAttention]:
        return [block.attention for block in self.blocks]  # type: ignore[misc]  # blocks holds Block alone

    def forward(self, images: Tensor) -> Tensor:
        B, channels, height, width = images.shape
        expected = (self.config.in_channels, self.config.image_size, self.config.image_size)
        if (channels, height, width) != expected:
            raise InputError(f"images must be (B, {', '.join(map(str, expected))}), got {tuple(images.shape)}")
        x = self.patch_embed(images).flatten(2).transpose(1, 2)  # (B, grid^2, C)
        x = torch.cat([self.cls_token.expand(B, -1, -1), x], dim=1)  # (B, N, C)
        x = x if self.pos_embed is None else x + self.pos_embed
        x = self.norm(self.blocks(self.dropout(x)))
        return self.head(x[:, 0])  # (B, num_classes)


def _sincos_positions(grid: int, dim: int) -> Tensor:
    """Sine-cosine code of a square grid, ``(grid^2, dim)`` (He et al. 2022, supplement): where learning starts."""
    frequency = 1 / 10000 ** (torch.arange(dim // 4) / (dim // 4))  # (dim/4,)
    angle = torch.arange(grid)[:, None] * frequency  # (grid, dim/4)
    code = torch.cat([angle.sin(), angle.cos()], dim=-1)  # (grid, dim/2)
    rows, columns = code[:, None].expand(-1, grid, -1), code[None].expand(grid, -1, -1)
    return torch.cat([rows, columns], dim=-1).reshape(grid * grid, dim)
