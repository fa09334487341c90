"""What a user may name on the command line -> a :class:`~svda_analysis.subject.Subject`, ready to look at.

A spec is the path of one of our checkpoints, or a model from elsewhere:

- ``timm:vit_tiny_patch16_224@weights.pt`` - a model of timm, with one's own weights;
- ``torchvision:vit_b_16@weights.safetensors``;
- ``hf:FOLDER`` - a model of Hugging Face transformers as ``save_pretrained`` left it, or of timm by ``save_for_hf``;
- ``module:package.module:function@weights.pt`` - what a function of one's own returns;
- ``dot:vit_tiny``, ``svda:vit_tiny``, ``cosine:vit_tiny`` - our own model in one of its sizes (``model.PRESETS``).

A file that ``svda convert`` wrote is opened by its path too.

``?key=value&key=value`` behind the name are arguments of what makes the model: ``timm:NAME?img_size=384&in_chans=1``.
``@weights`` is a ``.safetensors`` file, or a ``.pt`` read with ``weights_only=True``; without it the model is random.
``@weights#key`` names the weights in a file that holds those of several models.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from svda_analysis.checkpoint import build_model, load
from svda_analysis.converted import conversion_of, is_converted, learned_of, load_converted, preprocessing_of
from svda_analysis.data.catalog import DATASETS
from svda_analysis.data.preprocessing import ImageSize, Preprocessing, sides, usual_resize
from svda_analysis.errors import InputError, check_name, one_line
from svda_analysis.forward import own_size
from svda_analysis.libraries import Spec, is_library, make_model, model_libraries
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.recipe import with_all_fields
from svda_analysis.subject import Subject, resolve_device
from svda_analysis.tokens import GivenLayout

OpenModel = Subject  # its name in earlier versions
Given = Subject | nn.Module | str | os.PathLike[str]  # what is opened


def open_models(given: Given | Sequence[Given]) -> list[Subject]:
    """:func:`open_model` of one or several."""
    every = [given] if isinstance(given, str | os.PathLike | nn.Module | Subject) else given
    return [open_model(one) for one in every]


def open_model(
    given: Given,
    *,
    preprocessing: Preprocessing | Mapping[str, Any] | None = None,
    prefix_tokens: int | None = None,
    suffix_tokens: int | None = None,
    grid: tuple[int, int] | None = None,
    frames: int | None = None,
    text: str | Sequence[str] = (),
    device: str | torch.device | None = None,
    name: str | None = None,
) -> Subject:
    """Open a spec (see above), or wrap a module; a checkpoint is read once.

    ``preprocessing`` takes the place of the model's own way with images, or changes some of its fields (a mapping);
    ``grid`` (rows, columns of patches), ``prefix_tokens`` and ``suffix_tokens`` (before the first patch and behind the
    last) and ``frames`` (steps in time) say how tokens lie, where the model does not show it; ``device`` where to
    measure (default: where a module is; for a spec, CUDA where there is one); ``name`` the model's in results.
    ``text`` makes a classifier of a model of images and texts (CLIP, SigLIP): its outputs are how well each text fits.
    Raises :class:`InputError` with one line to act on.
    """
    found = _opened(given, (text,) if isinstance(text, str) else tuple(text))
    said = GivenLayout(grid, prefix_tokens, suffix_tokens, frames).checked()._asdict()
    changes: dict[str, Any] = {key: value for key, value in said.items() if value is not None}
    if isinstance(preprocessing, Preprocessing):
        changes["preprocessing"] = preprocessing
    elif preprocessing:
        changes["preprocessing"] = _changed(found.preprocessing, preprocessing)
    if device is not None:
        changes["device"] = resolve_device(device)
    if name is not None:
        changes["name"] = name
    return dataclasses.replace(found, **changes) if changes else found


def open_folder(folder: str | os.PathLike[str]) -> tuple[list[Subject], list[str]]:
    """The checkpoints under ``folder``, sub-folders included, in the order of their paths, and a line for each that is
    left out: one that is damaged, or whose training is not done.

    Raises :class:`InputError` where there is none, or where they learned from several data sets.
    """
    place, found, left_out = Path(folder), [], []
    for path in sorted(place.rglob("*.pt")):
        try:
            opened = open_model(path)
        except InputError as error:
            left_out.append(f"left out: {error}")
            continue
        epochs = opened.recipe.get("epochs", opened.epoch)
        if opened.epoch == epochs:
            found.append(opened)
        else:
            left_out.append(f"left out: {path}, epoch {opened.epoch} of {epochs}")
    if not found:
        other = f": hf:{place} opens what save_pretrained wrote" if (place / "config.json").is_file() else ""
        raise InputError("; ".join([f"no finished checkpoint (*.pt) in {place}{other}", *left_out[:3]]))
    learned = sorted({str(one.data["name"]) for one in found if one.data.get("name")})
    if len(learned) > 1:
        raise InputError(
            f"{place} must hold checkpoints of one data set, got {', '.join(learned)}: name a folder of one"
        )
    return found, left_out


def _changed(own: Preprocessing, fields: Mapping[str, Any]) -> Preprocessing:
    """Some fields changed, which the model's own processor knows nothing of; a size alone brings what pictures are
    resized to with it, in the proportion that the model has, or the usual one."""
    known = [field.name for field in dataclasses.fields(Preprocessing) if field.name != "processor"]
    if unknown := next((name for name in fields if name not in known), None):
        raise InputError(f"preprocessing must change {', '.join(known)}, got {unknown!r}")
    if (size := fields.get("image_size")) is not None and "resize" not in fields:
        fields = {"resize": _in_proportion(own, size), **fields}
    return dataclasses.replace(own, **fields, processor=None)


def _in_proportion(own: Preprocessing, size: ImageSize) -> ImageSize:
    if own.resize is None or own.image_size is None or not isinstance(size, int):
        return usual_resize(size)
    if isinstance(own.resize, int):
        return round(own.resize * size / min(sides(own.image_size)))
    height, width = (round(a * size / b) for a, b in zip(own.resize, sides(own.image_size), strict=True))
    return height, width


def _opened(given: Given, texts: tuple[str, ...] = ()) -> Subject:
    if texts and not os.fspath(given if isinstance(given, str | os.PathLike) else "").startswith("hf:"):
        raise InputError("text needs a model of images and texts that is named hf:FOLDER")
    if isinstance(given, Subject):
        return given
    if isinstance(given, nn.Module):
        check_takes_images(given, type(given).__name__)
        home = next((p.device for p in given.parameters()), torch.device("cpu"))
        own = Preprocessing(image_size=own_size(given))
        return Subject(model=given, name=type(given).__name__, attention=_kind(given), preprocessing=own, device=home)
    text = os.fspath(given)
    check_name(text, "the name of a model")
    library, colon, rest = text.partition(":")
    if colon and is_library(library):
        return _from_library(Spec.parse(library, rest)._replace(texts=texts), text)
    if colon and re.fullmatch(r"[a-z_]{2,}", library) and not Path(text).exists():
        raise InputError(f"{text}: no such file, and {library!r} is not one of {', '.join(model_libraries())}")
    return _from_converted(text) if is_converted(text) else _from_checkpoint(text)


def _from_converted(path: str) -> Subject:
    model = load_converted(path)
    found = conversion_of(model)
    kinds = {str(how["kind"]) for how in found.sites.values()}
    return Subject(
        model=model,
        name=one_line(Path(path).stem),
        spec=path,
        attention=kinds.pop() if len(kinds) == 1 else None,
        learned=learned_of(model),
        preprocessing=preprocessing_of(found),
        device=resolve_device(None),
    )


def _from_library(spec: Spec, text: str) -> Subject:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a model without weights is the same one each time
        model, name, preprocessing, left_out = make_model(spec)
    check_takes_images(model, text)
    return Subject(
        model=model.eval(),
        name=name,
        spec=text,
        attention=_kind(model),
        preprocessing=preprocessing,
        device=resolve_device(None),
        untrained=not spec.weights and spec.library not in ("hf", "module"),  # these may bring their own
        left_out=left_out,
    )


def _from_checkpoint(path: str) -> Subject:
    checkpoint = load(path)
    mean, std = (tuple(checkpoint.data.get(key) or ()) or None for key in ("mean", "std"))
    size, learned = checkpoint.config.image_size, DATASETS.get(checkpoint.data.get("name", ""))
    whole = learned is not None and learned.fixed_size  # it learned from images as they are, to their edges
    return Subject(
        model=build_model(checkpoint),
        name=one_line(Path(path).stem),
        spec=path,
        attention=checkpoint.config.attention,
        checkpoint=checkpoint,
        preprocessing=Preprocessing(image_size=size, resize=size if whole else None, mean=mean, std=std),
        device=resolve_device(None),
    )


def _kind(model: nn.Module) -> str | None:
    return model.config.attention if isinstance(model, ViT) else None


def check_takes_images(model: nn.Module, given: str) -> None:
    """Raise :class:`InputError` for a model of something else, where it says what it takes."""
    takes = getattr(model, "main_input_name", "pixel_values")  # what Hugging Face's models say of themselves
    if not takes.startswith("pixel_values"):  # videos too
        way = ": say the texts that images are compared with (--text)" if hasattr(model, "get_image_features") else ""
        raise InputError(f"{given} must be a model of images, got {type(model).__name__}, which takes {takes}{way}")


# --- the names of runs ------------------------------------------------------------------------------------------------

_COMPRESSED = re.compile(r"(_[lebt][\d.]+(e[+-]?\d+)?)+$")  # what `svda compress` puts behind a file's name


def run_names(opened: Iterable[Subject]) -> list[str]:
    """A model name for each run: runs that differ in the seed alone, trained as long, share one.

    Compressed runs share one as well though their sizes differ, which depend on the weights; not with whole ones, nor
    with runs whose files say that they were compressed otherwise (``_b30`` and ``_e90``). The name is the file's
    without its seed (``svda_s2.pt`` -> ``svda``, ``svda_s2_b30.pt`` -> ``svda_b30``), with the folder's name before it,
    or a number behind it, where two recipes would share it.
    """
    groups: list[tuple[str, Any, set[int | None]]] = []
    names, opened = [], list(opened)
    counts = Counter(run.name for run in opened)
    for run in opened:
        if counts[run.name] > 1 and (weights := _weights_file(run)):  # one architecture: the file says which
            run = dataclasses.replace(run, name=f"{run.name}-{weights}")
        recipe = (*_config(run), run.epoch, _recipe(run))
        fitting = (g for g in groups if g[1] == recipe and run.seed is not None and run.seed not in g[2])
        group = next(fitting, None)
        if group is None:
            group = (_new_name(run, {name for name, _, _ in groups}), recipe, set())
            groups.append(group)
        group[2].add(run.seed)
        names.append(group[0])
    return names


def _weights_file(run: Subject) -> str | None:
    """What the file that a spec names after its ``@`` is called, without its suffix."""
    library, colon, rest = (run.spec or "").partition(":")
    if not colon or not is_library(library) or (weights := Spec.parse(library, rest).weights) is None:
        return None
    return weights.stem


def _config(run: Subject) -> tuple[Any, str | None]:
    """Its config without the sizes that compression gave it, and how it was compressed (None: it was not)."""
    config = getattr(run.model, "config", None)
    if not isinstance(config, ViTConfig) or not config.compressed:
        return config, None
    found = _COMPRESSED.search(run.name)
    return dataclasses.replace(config, score_dims=None, norm_dims=None), found.group() if found else ""


def _recipe(run: Subject) -> dict[str, Any]:
    """Its recipe but for the seed, whichever version wrote it; empty where it has none."""
    return {key: value for key, value in with_all_fields(run.recipe).items() if key != "seed"} if run.recipe else {}


def _new_name(run: Subject, taken: set[str]) -> str:
    how = _config(run)[1] or ""
    start = run.name.removesuffix(how)
    stem = re.sub(r"[_-]?s(?:eed)?[_-]?\d+$", "", start) if run.seed is not None else start
    stem, folder = (stem or start) + how, Path((run.spec or "").partition("@")[2] or run.spec or "").parent.name
    options = [stem, *([f"{folder}/{stem}"] if folder else [])]
    numbered = (f"{stem}-{i}" for i in range(2, len(taken) + 3))
    return next(option for option in (*options, *numbered) if option not in taken)
