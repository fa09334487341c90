"""Models of other libraries by name: timm, torchvision, Hugging Face, a function of one's own, our own sizes."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import inspect
import logging
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from svda_analysis.checkpoint import check_fit
from svda_analysis.data.preprocessing import Preprocessing
from svda_analysis.errors import InputError, reading
from svda_analysis.forward import own_channels, own_size
from svda_analysis.image_text import with_texts
from svda_analysis.kinds import ATTENTIONS
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.model_folders import check_model_folder, check_numbers
from svda_analysis.processors import Processor, processed, processor_of, proved
from svda_analysis.state_dicts import entry, part_of, read_state_dict


class Made(NamedTuple):
    """A model, its name and its own way with images; ``left_out`` says what of its weights' file is none of it."""

    model: nn.Module
    name: str
    preprocessing: Preprocessing
    left_out: str = ""


class Spec(NamedTuple):
    """``library:name?arguments@weights#part``, taken apart; ``texts`` are what images are compared with."""

    library: str
    name: str
    arguments: dict[str, Any]
    weights: Path | None
    part: str | None = None  # the key of the weights in their file
    texts: tuple[str, ...] = ()

    @classmethod
    def parse(cls, library: str, rest: str) -> Spec:
        """Read what stands behind the colon. The name ends at the first ``?`` or ``@``; a folder is taken whole."""
        if library == "hf" and Path(rest).is_dir():
            return cls(library, rest, {}, None)
        named, _, weights = rest.partition("@")
        name, _, words = named.partition("?")
        arguments = dict(_argument(word, f"{library}:{rest}") for word in words.split("&") if word)
        path, mark, part = weights.rpartition("#")
        if not mark or Path(weights).exists():
            path, part = weights, ""
        return cls(library, name, arguments, Path(path) if path else None, part or None)


def _argument(word: str, spec: str) -> tuple[str, Any]:
    key, equals, text = word.partition("=")
    if not equals or not key.isidentifier():
        raise InputError(f"{spec}: arguments must be like ?img_size=224&num_classes=0, got {word!r}")
    plain = {"true": True, "false": False, "none": None}
    if text.lower() in plain:
        return key, plain[text.lower()]
    if re.fullmatch(r"\d+([x,]\d+)+", text):  # height and width, and the like
        return key, tuple(map(int, re.split("[x,]", text)))
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


def model_of_config(name: str, config: Mapping[str, Any]) -> nn.Module:
    """A model of transformers' own class ``name`` with random weights, of its configuration as ``to_dict`` gives it."""
    transformers = _library("transformers", "transformers")
    check_numbers({key: value for key, value in config.items() if not key.endswith("token_id")}, name)
    kind = getattr(transformers, name, None)
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        raise InputError(f"{name[:100]!r} is no model of transformers itself")
    with reading(f"{name} cannot be made of its config"), _quietly(transformers):
        told = transformers.CONFIG_MAPPING[config["model_type"]].from_dict(dict(config))
        _check_size(lambda: kind(told), f"{name} asks for too much")
        model: Any = kind(told)
        model.set_attn_implementation("sdpa")
    return model


def _made(spec: Spec, make: Callable[..., Any], *given: Any, **named: Any) -> Any:
    """What ``make`` gives with the spec's arguments; its complaint about them becomes one line."""
    _check_arguments(spec)
    shown = "&".join(f"{key}={value}" for key, value in spec.arguments.items())
    complaint = f"{spec.library}:{spec.name} cannot be made{' with ' * bool(shown)}{shown}"
    with reading(complaint):
        if spec.arguments:
            _check_size(lambda: make(*given, **{**named, **spec.arguments}), complaint)
        return make(*given, **{**named, **spec.arguments})


_WEIGHTS = {"pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "weights", "weights_backbone"}
_MOST_PARAMETERS = 2**31


def _check_arguments(spec: Spec) -> None:
    """Weights come as a file that is checked, not by arguments of a library; numbers that no model has are refused."""
    if spec.library in ("timm", "torchvision") and (named := sorted(_WEIGHTS & spec.arguments.keys())):
        raise InputError(f"{spec.library}:{spec.name} takes weights as @FILE, not by {named[0]}")
    if spec.library != "module":  # a function of one's own may take any number
        check_numbers(spec.arguments, f"{spec.library}:{spec.name}")


class _WithoutMemory(TorchFunctionMode):
    """Tensors that become weights are made without their memory; a few numbers that a model is built by are made."""

    made = (torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.normal)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if func in self.made and given.get("device") is None:
            given = {**given, "device": "meta"}
        return func(*args, **given)


def _check_size(make: Callable[[], Any], complaint: str) -> None:
    """Raise :class:`InputError` for a model of too many parameters before its memory is taken."""
    try:
        with _WithoutMemory(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            parameters = sum(x.numel() for x in make().parameters())
    except Exception:  # not every model can be made without its numbers; what is wrong shows when it is made with them
        return
    if parameters > _MOST_PARAMETERS:
        raise InputError(f"{complaint}: a model has at most {_MOST_PARAMETERS:,} parameters here, got {parameters:,}")


def _from_timm(spec: Spec, own: Mapping[str, Any] | None = None) -> Made:
    """``own`` is the configuration that came with the weights (default: that of the name)."""
    name = spec.name
    timm = _library("timm", "timm")
    _check_name("timm", name, [*timm.list_models(), *timm.list_pretrained()])  # with a tag: NAME.dino
    state = _weights_of(spec)
    classifier = timm.get_pretrained_cfg(name).classifier if timm.get_pretrained_cfg(name) else None
    model = _made(spec, timm.create_model, name, pretrained=False, **_classes(state, classifier))
    left_out = _fit(model, state, spec)
    config = timm.data.resolve_data_config({}, pretrained_cfg=dict(own), model=model) if own else None
    way = _images_of_timm(timm, spec, config or timm.data.resolve_model_data_config(model))
    return Made(model, name, way, left_out)


def _images_of_timm(timm: Any, spec: Spec, config: dict[str, Any]) -> Preprocessing:
    size = spec.arguments.get("img_size", config["input_size"][1:])
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    shorter, squashed = config["crop_pct"], config.get("crop_mode") == "squash"
    channels = spec.arguments.get("in_chans", 3)
    usual = channels == len(config["mean"])  # of other channels nothing is known
    told = Preprocessing(
        image_size=(height, width),
        resize=(int(height / shorter), int(width / shorter)) if squashed else int(min(height, width) / shorter),
        interpolation=config["interpolation"],
        mean=tuple(config["mean"]) if usual else None,
        std=tuple(config["std"]) if usual else None,
    )
    if not usual:
        return told
    config = {**config, "input_size": (channels, height, width)}
    own = timm.data.create_transform(**config, is_training=False)
    return proved(told, Processor("timm's transform", own), channels)


def _from_torchvision(spec: Spec) -> Made:
    name = spec.name
    from torchvision import models

    _check_name("torchvision", name, models.list_models(module=models))
    state = _weights_of(spec)
    model = _made(spec, models.get_model, name, weights=None, **_classes(state, "heads.head"))
    left_out = _fit(model, state, spec)
    default = models.get_model_weights(name).DEFAULT.transforms()  # how torchvision's own weights were evaluated
    crop, shorter = default.crop_size[0], default.resize_size[0]
    size = spec.arguments.get("image_size", crop)
    way = Preprocessing(
        image_size=size,
        resize=round(size * shorter / crop),
        interpolation=default.interpolation.value,
        mean=tuple(default.mean),
        std=tuple(default.std),
    )
    return Made(model, name, way, left_out)


def _from_hugging_face(spec: Spec) -> Made:
    folder, weights = spec.name, spec.weights
    transformers = _library("transformers", "transformers")
    if weights is not None:
        raise InputError(f"hf:{folder} brings its own weights, got @{weights} as well")
    if spec.arguments:
        raise InputError(
            f"hf:{folder} takes no arguments, its config.json says them all, got {', '.join(spec.arguments)}"
        )
    if (Path(folder) / "adapter_config.json").is_file() and not (Path(folder) / "config.json").is_file():
        raise InputError(
            f"hf:{folder} holds an adapter alone: merge_and_unload() it, and save the model that this gives"
        )
    if not (Path(folder) / "config.json").is_file():
        raise InputError(f"hf: must name a folder that save_pretrained wrote (with config.json), got {folder!r}")
    try:
        with reading("it fails with"), _quietly(transformers):
            fields = check_model_folder(Path(folder))
            if _is_of_timm(fields):
                return _from_folder_of_timm(Path(folder), fields)
            return _from_folder_of_weights(transformers, Path(folder), spec.texts)
    except InputError as error:
        raise InputError(f"hf:{folder} cannot be loaded: {error}") from None


def _is_of_timm(fields: Mapping[str, Any]) -> bool:
    """Whether timm's ``save_for_hf`` wrote a configuration, and not transformers."""
    return isinstance(fields.get("architecture"), str) and "architectures" not in fields


def _from_folder_of_timm(place: Path, fields: dict[str, Any]) -> Made:
    """A folder that timm wrote for the hub: the architecture and its arguments stand in its configuration."""
    own = fields.get("pretrained_cfg") if isinstance(fields.get("pretrained_cfg"), dict) else None
    given = fields.get("model_args") if isinstance(fields.get("model_args"), dict) else {}
    known = ("model.safetensors", "pytorch_model.bin")
    weights = next((place / name for name in known if (place / name).is_file()), None)
    if weights is None:
        raise InputError(f"it has no {' or '.join(known)}")
    classes = {key: fields[key] for key in ("num_classes", "global_pool") if fields.get(key) is not None}
    made = _from_timm(Spec("timm", fields["architecture"], {**classes, **(given or {})}, weights), own)
    return made._replace(name=place.resolve().name)


def _from_folder_of_weights(transformers: Any, place: Path, texts: Sequence[str]) -> Made:
    local = {"local_files_only": True, "trust_remote_code": False}
    config = transformers.AutoConfig.from_pretrained(str(place), **local)
    config._attn_implementation = "sdpa"  # in all parts: others may be fetched, even to look at the size
    kind = _architecture(transformers, config)
    base = kind is transformers.AutoModel
    _check_size(lambda: kind.from_config(config) if base else kind(config), "config.json asks for too much")
    strict = {"output_loading_info": True, "ignore_mismatched_sizes": True}  # these are told, and refused below
    options = {"attn_implementation": "sdpa", **strict, **local}
    model, found = kind.from_pretrained(str(place), **options)
    if _lacks_its_pooler_alone(kind, found):  # which many encoders are saved without
        model, found = kind.from_pretrained(str(place), add_pooling_layer=False, **options)
    _check_loaded(found)
    if texts:
        model = with_texts(transformers, model, str(place), texts, local)
    return Made(model, place.resolve().name, _images_of(transformers, model, place, local))


def _images_of(transformers: Any, model: nn.Module, place: Path, local: dict[str, bool]) -> Preprocessing:
    """How the model's processor brings images; without one the size that the model says."""
    processor = processor_of(transformers, place, local)
    if processor is None:
        return Preprocessing(image_size=own_size(model))
    return processed(processor, own_channels(model) or 3)


def _architecture(transformers: Any, config: Any) -> Any:
    """The class of transformers' own that the config names; code that lies in a folder is not run."""
    named = config.architectures or ["AutoModel"]
    kind = getattr(transformers, str(named[0]), None)
    if kind is transformers.AutoModel or (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        return kind
    raise InputError(f"{str(named[0])[:100]!r} is no model of transformers itself, and code in a folder is not run")


def _lacks_its_pooler_alone(kind: Any, found: Mapping[str, Any]) -> bool:
    """Whether all that a model's weights lack is a layer behind the last that it can be made without."""
    lacking = [str(name) for name in found.get("missing_keys") or ()]
    can = "add_pooling_layer" in inspect.signature(kind.__init__).parameters
    return can and bool(lacking) and all(name.startswith("pooler.") for name in lacking)


def _check_loaded(found: Mapping[str, Any]) -> None:
    """As strict as with ``@weights``: what the files lack would be random, what they have too much another model's."""
    kinds = {"missing_keys": "lack", "mismatched_keys": "have in another size", "unexpected_keys": "have too much"}
    for key, how in kinds.items():
        if names := sorted(str(name[0] if isinstance(name, tuple) else name) for name in found.get(key) or ()):
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise InputError(f"its weights do not fit the model: they {how} {', '.join(names[:3])}{more}")
    if errors := found.get("error_msgs"):
        raise InputError(f"its weights do not fit the model: {errors}")


@contextlib.contextmanager
def _quietly(transformers: Any) -> Iterator[None]:
    """Without the library's own lines and bars: what is wrong is said by what is raised."""
    said, bars = transformers.logging.get_verbosity(), transformers.logging.is_progress_bar_enabled()
    transformers.logging.set_verbosity(logging.CRITICAL + 1)
    transformers.logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers.logging.set_verbosity(said)
        if bars:
            transformers.logging.enable_progress_bar()


def _from_preset(attention: str, spec: Spec) -> Made:
    name, state = spec.name, _weights_of(spec)
    model = ViT(_made(spec, ViTConfig.preset, name, attention=attention, **_classes(state, "head")))
    left_out = _fit(model, state, spec)
    return Made(model, f"{attention}_{name}", Preprocessing(image_size=model.config.image_size), left_out)


def _from_module(spec: Spec) -> Made:
    name = spec.name
    path, colon, function = name.partition(":")
    if not colon:
        raise InputError(f"module: must be module:package.module:function, got {name!r}")
    with reading(f"module: {path} cannot be imported"):
        module = importlib.import_module(path)
    if (build := getattr(module, function, None)) is None:
        raise InputError(f"module: {path} has no function {function!r}")
    model = _made(spec, build)
    if not isinstance(model, nn.Module):
        raise InputError(f"module: {path}:{function} must return an nn.Module, got {type(model).__name__}")
    left_out = _fit(model, _weights_of(spec, model.state_dict()), spec)
    return Made(model, function, Preprocessing(image_size=own_size(model)), left_out)


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


def _weights_of(spec: Spec, known: Iterable[str] = ()) -> dict[str, Tensor] | None:
    return None if spec.weights is None else read_state_dict(spec.weights, spec.part, known)


def _classes(state: dict[str, Tensor] | None, classifier: Any) -> dict[str, int]:
    """The number of classes that the weights tell apart, where they are named as the library names them."""
    weight = entry(state or {}, f"{classifier}.weight")
    if weight is None or not weight.ndim or not weight.numel():  # what does not fit is told when it is loaded
        return {}
    classes = {"num_classes": weight.shape[0]}
    check_numbers(classes, f"{classifier}.weight")
    return classes


def _fit(model: nn.Module, state: dict[str, Tensor] | None, spec: Spec) -> str:
    """Load weights, if there are any; a line on those of the file that are none of the model's."""
    if state is None:
        return ""
    how = _ARGUMENTS.get(spec.library, "")
    told = f" (made otherwise? say how, as in {spec.library}:{spec.name}?{how})" if how else ""
    complaint = f"{spec.weights} holds weights that do not fit the model{told}"
    own = model.state_dict()
    state, beside = part_of(state, own)
    for name in sorted(own.keys() & state.keys()):
        if own[name].is_floating_point() != state[name].is_floating_point():
            raise InputError(f"{complaint}: {name} holds {state[name].dtype}, expected {own[name].dtype}")
    check_fit(own, state, complaint, dtypes=False)
    with torch.no_grad():
        model.load_state_dict(state)
    return _said_of(beside, spec)


def _said_of(beside: list[str], spec: Spec) -> str:
    if not beside:
        return ""
    more = f" and {len(beside) - 3} more" if len(beside) > 3 else ""
    names = ", ".join(name[:80] for name in beside[:3]) + more
    return f"{len(beside)} weights of {spec.weights} are left out, which stand beside the model's: {names}"
