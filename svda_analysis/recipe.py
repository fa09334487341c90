"""The recipe of a training run, and what follows from it alone: the rate of each step, the rates of each parameter."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

from torch import nn

from svda_analysis.attention import check_amount, check_choice, check_count
from svda_analysis.checkpoint import Checkpoint
from svda_analysis.errors import InputError, check_fields
from svda_analysis.indicators import choose_indicators
from svda_analysis.model import ViTConfig

_MOST_THINGS, _WIDEST_PADDING = 2**31 - 1, 512  # of any number of things; pixels
Precision = Literal["auto", "no", "bf16", "fp16"]  # what training computes in; auto: bf16 on CUDA


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The recipe. Rates of sigma's parameters are factors on ``lr``; none of them is decayed.

    Penalties, each averaged over layers and heads and added to the loss (they touch SVDA alone, but for
    ``orthogonality``): ``shape_penalty`` and ``norm_penalty`` weigh :func:`~svda_analysis.penalties.shape_entropy` and
    :func:`~svda_analysis.penalties.norm_share`, ``sigma_l1`` the mean of ``|sigma|``, ``orthogonality`` the squared
    distance of each head's W_q and W_k rows from an orthogonal set, ``sigma_entropy`` and ``soft_orthogonality``
    :func:`~svda_analysis.penalties.energy_entropy` and :func:`~svda_analysis.penalties.projection_gap`. With a
    ``target_rank``, a share of each head's directions, the shape penalty acts on what lies above it alone.
    ``qk_weight_decay`` is decay on W_q and W_k beside ``weight_decay``. ``warmup_share`` is the share of all steps with
    a rising rate; a cosine to zero follows, or with ``schedule="constant"`` nothing. ``clip_norm`` of 0 does not clip.

    ``train_images`` trains on at most so many images, drawn once and the same for every seed and model (None: all).
    ``validation_images`` more are kept from training, and loss and accuracy on them are in the history as
    ``validation``: what is chosen is to be chosen there. ``normalise`` brings pixels to the data set's mean and
    deviation, else they lie in [0, 1]. ``flip`` flips half the images, ``rotation`` turns them by up to so many
    degrees, ``crop_padding`` pads small images by so many pixels and crops them at random (None: the data set's own
    number; folders are cropped anyway). ``monitor_images`` measures loss and accuracy after each epoch but
    the last on at most so many test images, the same each time (None: all). ``monitor_indicators`` are measured after
    each epoch on ``probe_images`` of them: names or groups of indicators, with commas between.
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
    schedule: Literal["cosine", "constant"] = "cosine"
    beta2: float = 0.99
    normalise: bool = True
    flip: bool = True
    rotation: float = 0.0
    crop_padding: int | None = None
    temperature_lr_factor: float = 1.0
    shape_lr_factor: float = 20.0
    sigma_lr_factor: float = 20.0
    shape_penalty: float = 0.05
    target_rank: float = 0.0
    norm_penalty: float = 0.3
    sigma_l1: float = 0.0
    sigma_entropy: float = 0.0
    orthogonality: float = 0.0
    soft_orthogonality: float = 0.0
    qk_weight_decay: float = 0.0
    probe_images: int = 256
    train_images: int | None = None
    validation_images: int | None = None
    monitor_images: int | None = None
    monitor_indicators: str = "default"

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("train_images", "validation_images", "monitor_images"):
            if (number := getattr(self, name)) is not None:
                check_count(name, number, _MOST_THINGS)
        for name in ("epochs", "batch_size", "probe_images"):
            check_count(name, getattr(self, name), _MOST_THINGS)
        if self.crop_padding is not None and not 0 <= self.crop_padding <= _WIDEST_PADDING:
            raise InputError(
                f"crop_padding must be a whole number from 0 to {_WIDEST_PADDING}, got {self.crop_padding}"
            )
        for field in dataclasses.fields(self):
            if field.type == "float":
                check_amount(field.name, getattr(self, field.name))
        for name in ("warmup_share", "label_smoothing", "beta2"):
            if getattr(self, name) >= 1:
                raise InputError(f"{name} must be below 1, got {getattr(self, name)}")
        for name, most in (("target_rank", 1), ("rotation", 180)):
            if getattr(self, name) > most:
                raise InputError(f"{name} must be at most {most}, got {getattr(self, name)}")
        check_choice("schedule", self.schedule, ("cosine", "constant"))
        choose_indicators(self.monitored, argument="monitor_indicators")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed must lie in [0, 2^63), got {self.seed}")

    @property
    def monitored(self) -> list[str]:
        """The names in ``monitor_indicators``."""
        return [name.strip() for name in self.monitor_indicators.split(",")]

    @property
    def penalties(self) -> dict[str, float]:
        """The weights of :func:`~svda_analysis.penalties.penalty`, by its argument."""
        names = ("shape_penalty", "target_rank", "norm_penalty", "sigma_l1", "sigma_entropy")
        return {name: getattr(self, name) for name in (*names, "orthogonality", "soft_orthogonality")}


def lr_share(step: int, steps: int, warmup: float, schedule: str = "cosine") -> float:
    """The share of the full learning rate at ``step`` of ``steps``: a linear rise, then a cosine to zero, or one."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    if schedule == "constant":
        return 1.0
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
    return changed_fields(all_fields(checkpoint.config), checkpoint.recipe, config, recipe)


def changed_fields(
    found_config: Mapping[str, Any], found_recipe: Mapping[str, Any], config: ViTConfig, recipe: TrainConfig
) -> list[str]:
    """Likewise of a config and a recipe as plain values."""
    wanted, found = all_fields(config, recipe), {**found_config, **with_all_fields(found_recipe)}
    return [f"{key} {found.get(key)!r} -> {wanted[key]!r}" for key in wanted if wanted[key] != found.get(key)]


def precision_change(made_with: Mapping[str, str], wanted: Precision) -> list[str]:
    """Likewise of the precision that a run was trained in, as far as its ``versions`` say it; ``auto`` is any."""
    found = made_with.get("mixed_precision", wanted)
    return [] if wanted in ("auto", found) else [f"mixed_precision {found!r} -> {wanted!r}"]


def with_all_fields(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as a checkpoint holds it, with the usual values of fields that the version that wrote it did not have:
    they leave a training as it was before."""
    return {**dataclasses.asdict(TrainConfig()), **recipe}


def all_fields(*parts: ViTConfig | TrainConfig) -> dict[str, Any]:
    """The fields of a config and a recipe, which share no name, in one dict."""
    return {key: value for part in parts for key, value in dataclasses.asdict(part).items()}


# --- recipes by name --------------------------------------------------------------------------------------------------


def source_recipe(dataset: str) -> dict[str, Any]:
    """What the source's public code trained, where it differs from ours: fields of ``ViTConfig`` and
    :class:`TrainConfig` (arXiv 2602.10994; its facts, not its code).

    Post-norm blocks without positions, sigma from N(1, 0.1^2), Adam at a constant rate on pixels in [0, 1], for SVDA a
    soft orthogonality of the projections (weighed by layer there, by the mean over layers here) and the entropy of
    sigma squared. ImageNet images are cropped as ours are, not only resized. Raises :class:`InputError` for a data set
    that it did not have.
    """
    if dataset not in _OF_SOURCE:
        raise InputError(f"recipe source is for {', '.join(_OF_SOURCE)}, got {dataset!r}")
    large = dataset == "imagenet100"
    depth, weight = (8, 3e-4) if large else (4, 1e-3)
    model: dict[str, Any] = {"norm": "post", "positions": "none", "init": "source", "depth": depth, "mlp_ratio": 4.0}
    model |= {"sigma_form": "linear", "sigma_start": 1.0, "sigma_noise": 0.1}
    model |= {"dim": 96, "heads": 2, "patch_size": 8} if large else {"dim": 256, "heads": 4, "patch_size": 4}
    recipe: dict[str, Any] = {"epochs": 100, "batch_size": 32 if large else 64, "lr": 1e-4 if large else 3e-4}
    recipe |= {"weight_decay": 0.0, "warmup_share": 0.0, "schedule": "constant", "clip_norm": 0.0, "beta2": 0.999}
    recipe |= {"label_smoothing": 0.0, "normalise": False, "sigma_lr_factor": 1.0}
    recipe |= {"monitor_indicators": "default,source"}
    recipe |= {"shape_penalty": 0.0, "norm_penalty": 0.0, "sigma_entropy": 1e-3, "soft_orthogonality": weight * depth}
    return {**model, **recipe, **_OF_SOURCE[dataset]}


_CIFAR_CROPS = {"flip": True, "crop_padding": 4, "rotation": 15.0}
_OF_SOURCE: dict[str, dict[str, Any]] = {
    "fashion_mnist": {"flip": False, "crop_padding": 0},
    "cifar10": _CIFAR_CROPS,
    "cifar100": _CIFAR_CROPS,
    "imagenet100": {"flip": True},
}

RECIPES: dict[str, Callable[[str], dict[str, Any]]] = {"ours": lambda dataset: {}, "source": source_recipe}


def late_blocks_recipe(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of the replaced attention and of :class:`TrainConfig` by which the last blocks of a pretrained model
    are trained, where they differ from ours for a whole model: ours, or the source's, whose sigma starts at 1 (without
    its noise of 0.005) and whose soft orthogonality is a sum over both layers."""
    check_choice("recipe", name, tuple(RECIPES))
    if name == "ours":
        return {"sigma_form": "linear"}, {"epochs": 10, "lr": 3e-4}
    recipe: dict[str, Any] = {
        "epochs": 20,
        "batch_size": 8,
        "lr": 2e-5,
        "weight_decay": 1e-4,
        "beta2": 0.999,
        "warmup_share": 0.0,
    }
    recipe |= {"schedule": "constant", "clip_norm": 0.0, "label_smoothing": 0.0, "sigma_lr_factor": 1.0}
    recipe |= {"shape_penalty": 0.0, "norm_penalty": 0.0, "sigma_entropy": 5e-5, "soft_orthogonality": 2 * 5e-6}
    return {"sigma_form": "linear", "sigma_start": 1.0}, {**recipe, "monitor_indicators": "default,source"}


def named_recipe(name: str, dataset: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of ``ViTConfig`` and of :class:`TrainConfig` in which one of :data:`RECIPES` differs from ours."""
    check_choice("recipe", name, tuple(RECIPES))
    fields, of_model = RECIPES[name](dataset), {field.name for field in dataclasses.fields(ViTConfig)}
    model = {key: value for key, value in fields.items() if key in of_model}
    return model, {key: value for key, value in fields.items() if key not in of_model}
