"""Models of other libraries by name: timm, torchvision, Hugging Face, a function of one's own, our own sizes."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from svda_analysis.checkpoint import check_fit
from svda_analysis.data.preprocessing import Preprocessing
from svda_analysis.errors import InputError
from svda_analysis.kinds import ATTENTIONS
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.weight_files import is_plain, read_safetensors, read_weights_only

Made = tuple[nn.Module, str, Preprocessing]


class Spec(NamedTuple):
    """``library:name?arguments@weights``, taken apart."""

    library: str
    name: str
    arguments: dict[str, Any]
    weights: Path | None

    @classmethod
    def parse(cls, library: str, rest: str) -> Spec:
        """Read what stands behind the colon. The name ends at the first ``?`` or ``@``; a folder is taken whole."""
        if library == "hf" and Path(rest).is_dir():
            return cls(library, rest, {}, None)
        named, _, weights = rest.partition("@")
        name, _, words = named.partition("?")
        arguments = dict(_argument(word, f"{library}:{rest}") for word in words.split("&") if word)
        return cls(library, name, arguments, Path(weights) if weights else None)


def _argument(word: str, spec: str) -> tuple[str, Any]:
    key, equals, text = word.partition("=")
    if not equals or not key.isidentifier():
        raise InputError(f"{spec}: arguments must be like ?img_size=224&num_classes=0, got {word!r}")
    plain = {"true": True, "false": False, "none": None}
    if text.lower() in plain:
        return key, plain[text.lower()]
    for kind in (int, float):
        try:
            return key, kind(text)
        except ValueError:
            continue
    return key, text


_ARGUMENTS = {  # what people make such models with
    "timm": "img_size=384&in_chans=1&global_pool=avg&reg_tokens=4&num_classes=0",
    "torchvision": "image_size=384&num_classes=10",
}


def model_libraries() -> list[str]:
    """What may stand before the colon of a spec."""
    return [*_LIBRARIES, *ATTENTIONS]


def is_library(name: str) -> bool:
    return name in _LIBRARIES or name in ATTENTIONS


def make_model(spec: Spec) -> Made:
    """The model, its name and its own way with images. Raises :class:`InputError` with one line to act on."""
    make = _LIBRARIES.get(spec.library) or partial(_from_preset, spec.library)
    return make(spec)


def _made(spec: Spec, make: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """What ``make`` gives with the spec's arguments; its complaint about them becomes one line."""
    try:
        return make(*given, **{**named, **spec.arguments})
    except InputError:
        raise
    except Exception as error:
        if not spec.arguments:
            raise
        shown = "&".join(f"{key}={value}" for key, value in spec.arguments.items())
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{spec.library}:{spec.name} cannot be made with {shown}: {said}") from None


def _from_timm(spec: Spec) -> Made:
    name, weights = spec.name, spec.weights
    timm = _library("timm", "timm")
    _check_name("timm", name, [*timm.list_models(), *timm.list_pretrained()])  # with a tag: NAME.dino
    state = None if weights is None else _state_dict(weights)
    classifier = timm.get_pretrained_cfg(name).classifier if timm.get_pretrained_cfg(name) else None
    model = _made(spec, timm.create_model, name, pretrained=False, **_classes(state, classifier))
    _fit(model, state, spec)
    config = timm.data.resolve_model_data_config(model)
    size = spec.arguments.get("img_size", config["input_size"][-1])
    side = size if isinstance(size, int) else config["input_size"][-1]
    usual = spec.arguments.get("in_chans", 3) == len(config["mean"])  # of other channels nothing is known
    made = Preprocessing(
        image_size=side,
        resize=int(side / config["crop_pct"]),
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]) if usual else None,
        std=tuple(config["std"]) if usual else None,
    )
    return model, name, made


def _from_torchvision(spec: Spec) -> Made:
    name, weights = spec.name, spec.weights
    from torchvision import models

    _check_name("torchvision", name, models.list_models(module=models))
    state = None if weights is None else _state_dict(weights)
    model = _made(spec, models.get_model, name, weights=None, **_classes(state, "heads.head"))
    _fit(model, state, spec)
    default = models.get_model_weights(name).DEFAULT.transforms()  # how torchvision's own weights were evaluated
    crop, shorter = default.crop_size[0], default.resize_size[0]
    size = spec.arguments.get("image_size", crop)
    return (
        model,
        name,
        Preprocessing(
            image_size=size,
            resize=round(size * shorter / crop),
            interpolation=default.interpolation.value,
            mean=tuple(default.mean),
            std=tuple(default.std),
        ),
    )


def _from_hugging_face(spec: Spec) -> Made:
    folder, weights = spec.name, spec.weights
    transformers = _library("transformers", "transformers")
    if weights is not None:
        raise InputError(f"hf:{folder} brings its own weights, got @{weights} as well")
    if spec.arguments:
        raise InputError(
            f"hf:{folder} takes no arguments, its config.json says them all, got {', '.join(spec.arguments)}"
        )
    if not (Path(folder) / "config.json").is_file():
        raise InputError(f"hf: must name a folder that save_pretrained wrote (with config.json), got {folder!r}")
    try:
        config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        kind = getattr(transformers, (config.architectures or ["AutoModel"])[0], transformers.AutoModel)
        model = kind.from_pretrained(folder, local_files_only=True, attn_implementation="sdpa")
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise InputError(f"hf:{folder} cannot be loaded: {' '.join(str(error).split())[:300]}") from None
    return model, Path(folder).resolve().name, _processor(transformers, folder)


def _processor(transformers: Any, folder: str) -> Preprocessing:
    if not (Path(folder) / "preprocessor_config.json").is_file():
        return Preprocessing()
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


def _from_preset(attention: str, spec: Spec) -> Made:
    name, weights = spec.name, spec.weights
    state = None if weights is None else _state_dict(weights)
    model = ViT(_made(spec, ViTConfig.preset, name, attention=attention, **_classes(state, "head")))
    _fit(model, state, spec)
    return model, f"{attention}_{name}", Preprocessing(image_size=model.config.image_size)


def _from_module(spec: Spec) -> Made:
    name, weights = spec.name, spec.weights
    path, colon, function = name.partition(":")
    if not colon:
        raise InputError(f"module: must be module:package.module:function, got {name!r}")
    try:
        build = getattr(importlib.import_module(path), function)
    except ImportError as error:
        raise InputError(f"module: {path} cannot be imported: {error}") from None
    except AttributeError:
        raise InputError(f"module: {path} has no function {function!r}") from None
    model = _made(spec, build)
    if not isinstance(model, nn.Module):
        raise InputError(f"module: {path}:{function} must return an nn.Module, got {type(model).__name__}")
    _fit(model, None if weights is None else _state_dict(weights, model.state_dict()), spec)
    return model, function, Preprocessing()


_LIBRARIES: dict[str, Callable[[Spec], Made]] = {
    "timm": _from_timm,
    "torchvision": _from_torchvision,
    "hf": _from_hugging_face,
    "module": _from_module,
}


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


def _state_dict(path: Path, known: Iterable[str] = ()) -> dict[str, Tensor]:
    """A state dict: bare, under the usual keys, or with the prefixes of the wrappers that trained it.

    ``known`` are the model's own names, where its parameters may begin like such a prefix.
    """
    found: Any = read_safetensors(path) if path.suffix == ".safetensors" else read_weights_only(path)
    for key in ("state_dict", "model", "model_state_dict"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(f"{path} holds no state dict (names and tensors)")
    if broken := [name for name, value in found.items() if not isinstance(name, str) or not is_plain(value)]:
        raise InputError(f"{path} holds no plain tensor as {broken[0]!r}")
    return _unwrapped(found, set(known))


def _unwrapped(state: dict[str, Tensor], known: set[str]) -> dict[str, Tensor]:
    """Names without what data-parallel training (``module.``), ``torch.compile`` and Lightning put before all."""
    for prefix in ("module.", "_orig_mod.", "model.", "net."):
        if known.isdisjoint(state) and all(name.startswith(prefix) for name in state):
            return _unwrapped({name.removeprefix(prefix): value for name, value in state.items()}, known)
    return state


def _classes(state: dict[str, Tensor] | None, classifier: Any) -> dict[str, int]:
    """The number of classes that the weights tell apart, where they are named as the library names them."""
    weight = (state or {}).get(f"{classifier}.weight")
    return {} if weight is None else {"num_classes": weight.shape[0]}


def _fit(model: nn.Module, state: dict[str, Tensor] | None, spec: Spec) -> None:
    if state is None:
        return
    how = _ARGUMENTS.get(spec.library, "")
    told = f" (made otherwise? say how, as in {spec.library}:{spec.name}?{how})" if how else ""
    complaint = f"{spec.weights} holds weights that do not fit the model{told}"
    check_fit(model.state_dict(), state, complaint, dtypes=False)
    with torch.no_grad():
        model.load_state_dict(state)
