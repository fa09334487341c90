"""The recipe of a training run, and what follows from it alone: the rate of each step, the rates of each parameter."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from torch import nn

from svda_analysis.attention import check_count
from svda_analysis.checkpoint import Checkpoint
from svda_analysis.errors import InputError
from svda_analysis.model import ViTConfig

_MOST_THINGS, _WIDEST_PADDING = 2**31 - 1, 512  # of any number of things; pixels
Precision = Literal["auto", "no", "bf16", "fp16"]  # what training computes in; auto: bf16 on CUDA


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The recipe. Rates of sigma's parameters are factors on ``lr``; none of them is decayed.

    Penalties, each averaged over layers and heads and added to the loss (they touch SVDA alone, but for
    ``orthogonality``): ``shape_penalty`` and ``norm_penalty`` weigh :func:`~svda_analysis.penalties.shape_entropy` and
    :func:`~svda_analysis.penalties.norm_share`, ``sigma_l1`` the mean of ``|sigma|``, ``orthogonality`` the squared
    distance of each head's W_q and W_k rows from an orthogonal set. ``warmup_share`` is the share of all steps with a
    rising rate; a cosine to zero follows. ``train_images`` trains on at most so many images, drawn once and the same
    for every seed and model (None: all). ``flip`` flips half the images, ``crop_padding`` pads small images by so many
    pixels and crops them at random (None: the data set's own number; folders are cropped anyway). ``monitor_images``
    measures loss and accuracy after each epoch but the last on at most so many test images, the same each time (None:
    all).
    """

    dataset: str = "fashion_mnist"
    seed: int = 0
    epochs: int = 17
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_share: float = 0.08
    label_smoothing: float = 0.1
    clip_norm: float = 1.0
    flip: bool = True
    crop_padding: int | None = None
    temperature_lr_factor: float = 1.0
    shape_lr_factor: float = 20.0
    sigma_lr_factor: float = 20.0
    shape_penalty: float = 0.05
    norm_penalty: float = 0.3
    sigma_l1: float = 0.0
    orthogonality: float = 0.0
    probe_images: int = 256
    train_images: int | None = None
    monitor_images: int | None = None

    def __post_init__(self) -> None:
        for name in ("train_images", "monitor_images"):
            if (number := getattr(self, name)) is not None:
                check_count(name, number, _MOST_THINGS)
        for name in ("epochs", "batch_size", "probe_images"):
            check_count(name, getattr(self, name), _MOST_THINGS)
        padding = 0 if self.crop_padding is None else self.crop_padding
        if type(padding) is not int or not 0 <= padding <= _WIDEST_PADDING:
            raise InputError(f"crop_padding must be a whole number from 0 to {_WIDEST_PADDING}, got {padding!r}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "float" and not 0 <= value < math.inf:
                raise InputError(f"{field.name} must be at least 0, got {value}")
        for name in ("warmup_share", "label_smoothing"):
            if getattr(self, name) >= 1:
                raise InputError(f"{name} must be below 1, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed must lie in [0, 2^63), got {self.seed}")

    @property
    def penalties(self) -> dict[str, float]:
        """The weights of :func:`~svda_analysis.penalties.penalty`, by its argument."""
        names = ("shape_penalty", "norm_penalty", "sigma_l1", "orthogonality")
        return {name: getattr(self, name) for name in names}


def lr_share(step: int, steps: int, warmup: float) -> float:
    """The share of the full learning rate at ``step`` of ``steps``: a linear rise, then a cosine to zero."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def parameter_groups(model: nn.Module, recipe: TrainConfig) -> list[dict[str, Any]]:
    """Matrices decay; vectors, embeddings and sigma's parameters do not, and the latter have rates of their own."""
    factors = {
        "log_temperature": recipe.temperature_lr_factor,
        "sigma_shape": recipe.shape_lr_factor,
        "sigma_linear": recipe.sigma_lr_factor,
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        factor = factors.get(name.rsplit(".", 1)[-1], 1.0)
        decays = parameter.ndim > 1 and factor == 1.0 and name not in ("cls_token", "pos_embed")
        decays = decays and "sigma" not in name and not name.endswith("norm_length")
        groups.setdefault((factor, recipe.weight_decay if decays else 0.0), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "peak_lr": recipe.lr * factor, "lr": recipe.lr * factor}
        for (factor, decay), parameters in groups.items()
    ]


def changes(checkpoint: Checkpoint, config: ViTConfig, recipe: TrainConfig) -> list[str]:
    """What differs between a checkpoint and a plan, as ``"lr 0.001 -> 0.01"``; empty where it can be resumed."""
    wanted, found = all_fields(config, recipe), {**all_fields(checkpoint.config), **checkpoint.recipe}
    return [f"{key} {found.get(key)!r} -> {wanted[key]!r}" for key in wanted if wanted[key] != found.get(key)]


def all_fields(*parts: ViTConfig | TrainConfig) -> dict[str, Any]:
    """The fields of a config and a recipe, which share no name, in one dict."""
    return {key: value for part in parts for key, value in dataclasses.asdict(part).items()}
