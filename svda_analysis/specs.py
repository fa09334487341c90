"""What a user may name on the command line -> a model, ready to look at.

A spec is the path of one of our checkpoints, or a model from elsewhere:

- ``timm:vit_tiny_patch16_224@weights.pt`` - a model of timm, with one's own weights;
- ``torchvision:vit_b_16@weights.safetensors``;
- ``hf:FOLDER`` - a model of Hugging Face transformers as ``save_pretrained`` left it;
- ``module:package.module:function@weights.pt`` - what a function of one's own returns;
- ``dot:vit_tiny``, ``svda:vit_tiny``, ``cosine:vit_tiny`` - our own model in one of its sizes (``model.PRESETS``).

``@weights`` is a ``.safetensors`` file, or a ``.pt`` read with ``weights_only=True``; without it the model is random.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import torch
from torch import Tensor, nn

from svda_analysis.checkpoint import build_model, check_fit, load, read_weights_only
from svda_analysis.data import Preprocessing
from svda_analysis.errors import InputError
from svda_analysis.model import AttentionKind, ViT, ViTConfig
from svda_analysis.results import TABLE_COLUMNS, make_frame


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenModel:
    """A model in eval mode and what is known of it; ``attention``, ``seed`` and ``epoch`` are None where they are not.

    ``data`` and ``recipe`` are those of a checkpoint; ``preprocessing`` is the model's own for images from files;
    ``untrained``: the spec names no weights, and they are random.
    """

    model: nn.Module
    name: str
    path: str | None = None
    attention: str | None = None
    seed: int | None = None
    epoch: int | None = None
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    recipe: dict[str, Any] = dataclasses.field(default_factory=dict)
    history: pd.DataFrame = dataclasses.field(default_factory=lambda: make_frame([], TABLE_COLUMNS))
    preprocessing: Preprocessing | None = None
    untrained: bool = False


def open_model(given: OpenModel | nn.Module | str | os.PathLike[str]) -> OpenModel:
    """Open a spec (see above), or wrap a module. Raises :class:`InputError` with one line to act on."""
    if isinstance(given, OpenModel):
        return given
    if isinstance(given, nn.Module):
        _check_images_in(given, type(given).__name__)
        return OpenModel(model=given, name=type(given).__name__, attention=_kind(given))
    spec = os.fspath(given)
    library, colon, rest = spec.partition(":")
    if colon and library in _LIBRARIES:
        name, _, weights = rest.rpartition("@") if "@" in rest else (rest, "", "")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # a model without weights is the same one each time
            model, shown, preprocessing = _LIBRARIES[library](name, Path(weights) if weights else None)
        _check_images_in(model, spec)
        return OpenModel(
            model=model.eval(),
            name=shown,
            path=spec,
            attention=_kind(model),
            preprocessing=preprocessing,
            untrained=not weights and library not in ("hf", "module"),  # these may bring their own
        )
    if colon and re.fullmatch(r"[a-z_]{2,}", library) and not Path(spec).exists():
        raise InputError(f"{spec}: no such file, and {library!r} is not one of {', '.join(_LIBRARIES)}")
    checkpoint = load(given)
    return OpenModel(
        model=build_model(checkpoint),
        name=Path(given).stem,
        path=spec,
        attention=checkpoint.config.attention,
        seed=checkpoint.seed,
        epoch=checkpoint.epoch,
        data=checkpoint.data,
        recipe=checkpoint.recipe,
        history=checkpoint.history,
    )


_COMPRESSED = re.compile(r"(_[lebt][\d.]+(e[+-]?\d+)?)+$")  # what `svda compress` puts behind a file's name


def run_names(opened: Sequence[OpenModel]) -> list[str]:
    """A model name for each run: runs that differ in the seed alone, trained as long, share one.

    Compressed runs share one as well though their sizes differ, which depend on the weights; not with whole ones, nor
    with runs whose files say that they were compressed otherwise (``_b30`` and ``_e90``). The name is the file's
    without its seed (``svda_s2.pt`` -> ``svda``, ``svda_s2_b30.pt`` -> ``svda_b30``), with the folder's name before it,
    or a number behind it, where two recipes would share it.
    """
    groups: list[tuple[str, Any, set[int | None]]] = []
    names = []
    for run in opened:
        recipe = (*_config(run), run.epoch, _recipe(run))
        fitting = (g for g in groups if g[1] == recipe and run.seed is not None and run.seed not in g[2])
        group = next(fitting, None)
        if group is None:
            group = (_new_name(run, {name for name, _, _ in groups}), recipe, set())
            groups.append(group)
        group[2].add(run.seed)
        names.append(group[0])
    return names


def _config(run: OpenModel) -> tuple[Any, str | None]:
    """Its config without the sizes that compression gave it, and how it was compressed (None: it was not)."""
    config = getattr(run.model, "config", None)
    if not isinstance(config, ViTConfig) or config.score_dims is None:
        return config, None
    found = _COMPRESSED.search(run.name)
    return dataclasses.replace(config, score_dims=None, norm_dims=None), found.group() if found else ""


def _recipe(run: OpenModel) -> dict[str, Any]:
    """Its recipe but for the seed; a field that is None may be one that an older version did not have."""
    return {key: value for key, value in run.recipe.items() if key != "seed" and value is not None}


def _new_name(run: OpenModel, taken: set[str]) -> str:
    how = _config(run)[1] or ""
    start = run.name.removesuffix(how)
    stem = re.sub(r"[_-]?s(?:eed)?[_-]?\d+$", "", start) if run.seed is not None else start
    stem, folder = (stem or start) + how, Path(run.path or "").parent.name
    options = [stem, *([f"{folder}/{stem}"] if folder else [])]
    numbered = (f"{stem}-{i}" for i in range(2, len(taken) + 3))
    return next(option for option in (*options, *numbered) if option not in taken)


def _kind(model: nn.Module) -> str | None:
    return model.config.attention if isinstance(model, ViT) else None


# --- libraries ------------------------------------------------------------------------------------------------------


def _from_timm(name: str, weights: Path | None) -> tuple[nn.Module, str, Preprocessing]:
    timm = _library("timm", "timm")
    _check_name("timm", name, timm.list_models())
    state = None if weights is None else _weights(weights)
    classifier = timm.get_pretrained_cfg(name).classifier if timm.get_pretrained_cfg(name) else None
    model = timm.create_model(name, pretrained=False, **_classes(state, classifier))
    _fit(model, state, weights)
    config = timm.data.resolve_model_data_config(model)
    size = config["input_size"][-1]
    return (
        model,
        name,
        Preprocessing(
            image_size=size,
            resize=int(size / config["crop_pct"]),
            interpolation=config["interpolation"],
            mean=tuple(config["mean"]),
            std=tuple(config["std"]),
        ),
    )


def _from_torchvision(name: str, weights: Path | None) -> tuple[nn.Module, str, Preprocessing]:
    from torchvision import models

    _check_name("torchvision", name, models.list_models(module=models))
    state = None if weights is None else _weights(weights)
    model = models.get_model(name, weights=None, **_classes(state, "heads.head"))
    _fit(model, state, weights)
    default = models.get_model_weights(name).DEFAULT.transforms()  # how torchvision's own weights were evaluated
    return (
        model,
        name,
        Preprocessing(
            image_size=default.crop_size[0],
            resize=default.resize_size[0],
            interpolation=default.interpolation.value,
            mean=tuple(default.mean),
            std=tuple(default.std),
        ),
    )


def _from_hugging_face(folder: str, weights: Path | None) -> tuple[nn.Module, str, Preprocessing | None]:
    transformers = _library("transformers", "transformers")
    if weights is not None:
        raise InputError(f"hf:{folder} brings its own weights, got @{weights} as well")
    if not (Path(folder) / "config.json").is_file():
        raise InputError(f"hf: must name a folder that save_pretrained wrote (with config.json), got {folder!r}")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        kind = getattr(transformers, (config.architectures or ["AutoModel"])[0], transformers.AutoModel)
        model = kind.from_pretrained(folder, local_files_only=True, attn_implementation="sdpa")
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise InputError(f"hf:{folder} cannot be loaded: {' '.join(str(error).split())[:300]}") from None
    return model, Path(folder).resolve().name, _processor(transformers, folder)


def _processor(transformers: Any, folder: str) -> Preprocessing | None:
    if not (Path(folder) / "preprocessor_config.json").is_file():
        return None
    found = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True).to_dict()
    size, crop = found.get("size") or {}, found.get("crop_size") or {}
    shorter = int(size.get("shortest_edge") or size.get("height") or 224)
    return Preprocessing(
        image_size=int(crop.get("height", shorter)) if found.get("do_center_crop") else shorter,
        resize=shorter,
        interpolation={0: "nearest", 2: "bilinear", 3: "bicubic"}.get(found.get("resample"), "bilinear"),
        mean=tuple(found["image_mean"]),
        std=tuple(found["image_std"]),
    )


def _from_preset(attention: str, name: str, weights: Path | None) -> tuple[nn.Module, str, None]:
    state = None if weights is None else _weights(weights)
    model = ViT(ViTConfig.preset(name, attention=attention, **_classes(state, "head")))
    _fit(model, state, weights)
    return model, f"{attention}_{name}", None


def _from_module(name: str, weights: Path | None) -> tuple[nn.Module, str, None]:
    path, colon, function = name.partition(":")
    if not colon:
        raise InputError(f"module: must be module:package.module:function, got {name!r}")
    try:
        build = getattr(importlib.import_module(path), function)
    except ImportError as error:
        raise InputError(f"module: {path} cannot be imported: {error}") from None
    except AttributeError:
        raise InputError(f"module: {path} has no function {function!r}") from None
    model = build()
    if not isinstance(model, nn.Module):
        raise InputError(f"module: {path}:{function} must return an nn.Module, got {type(model).__name__}")
    _fit(model, None if weights is None else _weights(weights), weights)
    return model, function, None


_LIBRARIES: dict[str, Callable[[str, Path | None], tuple[nn.Module, str, Preprocessing | None]]] = {
    "timm": _from_timm,
    "torchvision": _from_torchvision,
    "hf": _from_hugging_face,
    "module": _from_module,
    **{kind: partial(_from_preset, kind) for kind in get_args(AttentionKind)},
}


def _check_images_in(model: nn.Module, given: str) -> None:
    takes = getattr(model, "main_input_name", "pixel_values")  # what Hugging Face's models say of themselves
    if takes != "pixel_values":
        raise InputError(f"{given} must be a model of images, got {type(model).__name__}, which takes {takes}")


def _library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise InputError(f'this model needs {name}: pip install "svda-analysis[{extra}]"') from None


def _check_name(library: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise InputError(f"{library} has no model {name!r}{hint}")


def _weights(path: Path) -> dict[str, Tensor]:
    """A state dict: bare, under the usual keys, or from data-parallel training."""
    found: Any = _safetensors(path) if path.suffix == ".safetensors" else read_weights_only(path)
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(f"{path} holds no state dict (names and tensors)")
    return {name.removeprefix("module."): value for name, value in found.items()}


def _safetensors(path: Path) -> dict[str, Tensor]:
    error = _library("safetensors", "timm").SafetensorError
    safetensors = _library("safetensors.torch", "timm")
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    try:
        return safetensors.load_file(path)
    except error as why:
        raise InputError(f"{path} is not a safetensors file, or is damaged: {why}") from None


def _classes(state: dict[str, Tensor] | None, classifier: Any) -> dict[str, int]:
    """The number of classes that the weights tell apart, where they are named as the library names them."""
    weight = (state or {}).get(f"{classifier}.weight")
    return {} if weight is None else {"num_classes": weight.shape[0]}


def _fit(model: nn.Module, state: dict[str, Tensor] | None, path: Path | None) -> None:
    if state is None:
        return
    check_fit(model.state_dict(), state, f"{path} holds weights that do not fit the model", dtypes=False)
    with torch.no_grad():
        model.load_state_dict(state)
