"""A model whose attention was replaced: what it was made of, and how it is kept in a file and made again.

A file holds the weights and what the base is - the spec without its weights, our config, or that of Hugging Face - with
the names of the replaced modules, so that it is opened by itself: ``svda analyze converted.pt --data ...``.
"""

from __future__ import annotations

import copy
import dataclasses
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from svda_analysis.attention import Attention
from svda_analysis.checkpoint import Learned, check_fit, pack_learned, unpack_learned, write_torch
from svda_analysis.data.preprocessing import Preprocessing
from svda_analysis.errors import InputError, reading
from svda_analysis.hosts import make_replacement, put
from svda_analysis.libraries import Spec, make_model, model_of_config
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.stand_in import StandIn
from svda_analysis.weight_files import is_plain, read_weights_only, tensor_digest

CONVERTED = "svda_analysis converted model"
_FORMAT = 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Base:
    """What a converted model was made of: one of ``spec`` (without weights), ``config`` (of our ViT) and ``hf`` (class
    and config of a model of transformers); all None: a module that was given."""

    spec: str | None = None
    config: dict[str, Any] | None = None
    hf: dict[str, Any] | None = None

    def make(self) -> nn.Module:
        """The base again, with random weights."""
        if self.config is not None:
            return ViT(ViTConfig(**self.config))
        if self.hf is not None:
            return model_of_config(**self.hf)
        if self.spec is None:
            raise InputError("it was made of a module of one's own: give that as base (load_converted)")
        library, _, rest = self.spec.partition(":")
        if library == "module":  # what a file names is not imported
            raise InputError(f"it was made of {self.spec}: give what that makes as base (load_converted)")
        return make_model(Spec.parse(library, rest))[0]

    def with_classes(self, classes: Sequence[str]) -> Base:
        """The same base with a head for ``classes``."""
        if self.config is not None:
            return dataclasses.replace(self, config={**self.config, "num_classes": len(classes)})
        if self.hf is not None:
            told = {"id2label": dict(enumerate(classes)), "label2id": {name: at for at, name in enumerate(classes)}}
            return dataclasses.replace(self, hf={**self.hf, "config": {**self.hf["config"], **told}})
        if self.spec is None:
            return self
        name, _, words = self.spec.partition("?")
        kept = [word for word in words.split("&") if word and not word.startswith("num_classes=")]
        return dataclasses.replace(self, spec=f"{name}?{'&'.join([*kept, f'num_classes={len(classes)}'])}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Conversion:
    """``sites``: the arguments of :func:`~svda_analysis.hosts.make_replacement` by the name of the module."""

    base: Base
    sites: dict[str, dict[str, Any]]
    preprocessing: dict[str, Any] = dataclasses.field(default_factory=dict)


def base_of(model: nn.Module, spec: str | None) -> Base:
    """What makes ``model`` again, which was opened by ``spec`` (None: it was given)."""
    if isinstance(model, ViT):
        return Base(config=dataclasses.asdict(model.config))
    library, colon, rest = (spec or "").partition(":")
    if not colon or spec is None:
        return Base()
    told: Any = getattr(model, "config", None)
    if library == "hf" and told is not None:
        return Base(hf={"name": type(model).__name__, "config": told.to_dict()})
    found = Spec.parse(library, rest)
    arguments = dict(found.arguments)
    head = getattr(getattr(model, "heads", None), "head", None)
    classes = getattr(model, "num_classes", getattr(head, "out_features", None))
    if library in ("timm", "torchvision") and found.weights is not None and isinstance(classes, int):
        arguments.setdefault("num_classes", classes)
    words = "&".join(f"{key}={value}" for key, value in arguments.items())
    return Base(spec=f"{library}:{found.name}" + (f"?{words}" if words else ""))


def replaced(model: nn.Module) -> dict[str, Attention]:
    """Our attention layers of a converted model by the name of the module that they replaced, in its order."""
    names = conversion_of(model).sites
    layers = {name: model.get_submodule(name) for name in names}
    return {name: x.attention if isinstance(x, StandIn) else x for name, x in layers.items()}  # type: ignore[misc]


def conversion_of(model: nn.Module) -> Conversion:
    """How a model was converted. Raises :class:`InputError` for one that was not."""
    found = getattr(model, "conversion", None)
    if not isinstance(found, Conversion):
        raise InputError(f"model must be one that convert made, got {type(model).__name__}")
    return found


def learned_of(model: nn.Module) -> Learned | None:
    """What a converted model was trained on here; None: it was not."""
    found = getattr(model, "learned", None)
    return found if isinstance(found, Learned) else None


def rebuild(base: nn.Module, sites: Mapping[str, Mapping[str, Any]]) -> nn.Module:
    """Replace the named modules of ``base``, in place."""
    for name, how in sites.items():
        put(base, name, make_replacement(base.get_submodule(name), **how))
    return base


# --- files ------------------------------------------------------------------------------------------------------------


def save_converted(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Write a converted model: its weights, what it was made of, which modules were replaced, and what it learned since
    (:func:`learned_of`). Atomic, as checkpoints.

    Raises :class:`InputError` for a model that was not converted.
    """
    found, weights = conversion_of(model), weights_of(model)
    content = {"kind": CONVERTED, "format": _FORMAT, "conversion": dataclasses.asdict(found), "model": weights}
    if (learned := learned_of(model)) is not None:
        content["learned"] = pack_learned(learned)
    write_torch({**content, "digest": tensor_digest(weights)}, Path(path))


def load_converted(path: str | os.PathLike[str], base: nn.Module | None = None) -> nn.Module:
    """What :func:`save_converted` wrote, in eval mode on the CPU. Nothing in the file is executed.

    ``base`` is the unconverted model where a file cannot make it: one that was given as a module.

    Raises :class:`InputError` for a file that is none, damaged, of a newer format, or whose base cannot be made.
    """
    content = read_weights_only(Path(path))
    if not isinstance(content, dict) or content.get("kind") != CONVERTED:
        raise InputError(f"{path} is no converted model (made by 'svda convert')")
    if content.get("format") != _FORMAT:
        raise InputError(f"{path} has format {content.get('format')!r}, this version reads {_FORMAT}")
    with reading(f"{path} holds a damaged converted model"):
        state, told = content["model"], content["conversion"]
        if not all(is_plain(x) for x in state.values()) or tensor_digest(state) != content["digest"]:
            raise InputError(f"{path} is damaged: its tensors are not those that were saved")
        found = Conversion(**{**told, "base": Base(**told["base"])})
        model = _rebuilt(found, path, base)
        check_fit(model.state_dict(), state, f"{path} holds weights that do not fit its base")
        model.load_state_dict(state, assign=True)
        if (learned := content.get("learned")) is not None:
            model.learned = unpack_learned(learned)  # type: ignore[assignment]  # no tensor and no module
    model.conversion = found  # type: ignore[assignment]  # likewise
    return model.requires_grad_(True).eval()


def _rebuilt(found: Conversion, path: str | os.PathLike[str], base: nn.Module | None) -> nn.Module:
    try:
        return rebuild(found.base.make() if base is None else copy.deepcopy(base), found.sites)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def preprocessing_of(found: Conversion) -> Preprocessing:
    """How images are brought to a converted model."""
    fields: dict[str, Any] = {key: tuple(x) if isinstance(x, list) else x for key, x in found.preprocessing.items()}
    return Preprocessing(**fields)


def preprocessing_fields(given: Preprocessing) -> dict[str, Any]:
    """The plain fields of a way with images, as :func:`preprocessing_of` reads them."""
    names = [field.name for field in dataclasses.fields(given) if field.name != "processor"]
    return {name: list(x) if isinstance(x := getattr(given, name), tuple) else x for name in names}


def is_converted(path: str | os.PathLike[str]) -> bool:
    """Whether a file says that it holds a converted model; its tensors are not read, and nothing is unpacked."""
    if not os.path.isfile(path):  # a pipe would be waited for
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            member = next(one for one in archive.infolist() if one.filename.endswith("data.pkl"))
            return member.compress_type == zipfile.ZIP_STORED and CONVERTED.encode() in archive.read(member)
    except Exception:  # what is wrong with it shows when it is read
        return False


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """The state dict on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
