"""Checkpoints: a versioned plain dict on disk, written atomically, read with ``weights_only=True``, never pickle.

Randomness is derived from (seed, epoch, step) while training and the learning rate from the step, so a checkpoint needs
no generator or scheduler state to resume exactly.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from svda_analysis.data.readers import without_place
from svda_analysis.earlier import as_measured_now
from svda_analysis.errors import InputError, check_name, one_line
from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.results import Trace
from svda_analysis.vocabulary import known_bounds
from svda_analysis.weight_files import is_plain, read_weights_only, tensor_digest
from svda_analysis.writing import check_target, only_writer, unfinished_name

FORMAT = 1
_MAGIC = "svda_analysis checkpoint"
_LONGEST_TEXT = 10_000  # characters of a name or a value

# What the contents of a file that was read can make its config, table and model raise.
_UNFIT = (LookupError, TypeError, ValueError, AttributeError, RuntimeError, OverflowError)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Learned:
    """What is known of the training of a model, wherever its weights lie.

    ``epoch`` counts the epochs done, ``recipe`` is the training recipe (the fields of ``TrainConfig``), ``data`` says
    what the images were (name, mean, std, classes, source), ``history`` has
    :data:`~svda_analysis.frames.TABLE_COLUMNS`. ``trace`` holds the learned diagonals and a few maps of each epoch, or
    None.
    """

    epoch: int
    recipe: dict[str, Any] = dataclasses.field(default_factory=dict)
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    history: pd.DataFrame = dataclasses.field(default_factory=lambda: make_frame([], TABLE_COLUMNS))
    trace: Trace | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def seed(self) -> int | None:
        return self.recipe.get("seed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint(Learned):
    """One training run at the end of an epoch, or where it was stopped in one.

    ``model`` and ``optimizer`` are state dicts (``optimizer`` is ``None`` once exported). ``under_way`` says of a run
    that was stopped within an epoch how many of its steps are done, the sums of loss, hits and images over them, and
    their seconds; None at the end of an epoch.
    """

    config: ViTConfig
    model: dict[str, Tensor]
    optimizer: dict[str, Any] | None = None
    under_way: dict[str, Any] | None = None


def save(checkpoint: Checkpoint, path: str | os.PathLike[str]) -> None:
    """Write ``checkpoint`` to ``path`` atomically: a reader sees the old file or the new one, never a part."""
    fields = {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)}
    content = {
        **fields,
        "kind": _MAGIC,
        "format": FORMAT,
        "config": dataclasses.asdict(checkpoint.config),
        "history": _pack(checkpoint.history),
        "trace": None if checkpoint.trace is None else _pack_trace(checkpoint.trace),
    }
    content["digest"] = tensor_digest(_tensors(content))
    write_torch(content, Path(path))


def write_torch(content: Mapping[str, Any], path: Path) -> None:
    """``torch.save`` of plain tensors and values, atomically. Raises :class:`InputError` where that cannot be."""
    buffer = io.BytesIO()
    torch.save(content, buffer)  # in memory first: torch hides a full disk behind an error of its own
    with _naming_the_output(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        start, end = unfinished_name(path)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=start, suffix=end)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(buffer.getbuffer())
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:  # also on Ctrl-C: no half-written file stays behind
            os.unlink(temporary)
            raise


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint onto the CPU. Nothing in the file is executed.

    What it holds is checked against its checksums, and its tensors against the digest that was saved with them (files
    of earlier versions have no digest). Raises :class:`InputError` when the file is missing, a directory, empty, not a
    checkpoint, damaged, of a newer format, or when its config is invalid or its weights do not fit the config.
    """
    content = read_weights_only(Path(path))
    if not isinstance(content, dict) or content.get("kind") != _MAGIC:
        raise InputError(f"{path} is not a checkpoint of svda_analysis (made by 'svda train')")
    version = content.get("format")
    if not isinstance(version, int) or version != FORMAT:
        raise InputError(f"{path} has checkpoint format {one_line(repr(version))}, this version reads {FORMAT}")
    try:
        return _from_content(content)
    except InputError as error:
        raise InputError(f"{path} {one_line(error)}") from None
    except _UNFIT as error:
        raise InputError(f"{path} is a damaged checkpoint: {type(error).__name__} {one_line(error)}") from None


def load_model(path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> ViT:
    """The trained model of a checkpoint, in eval mode on ``device``. Errors as :func:`load`."""
    return build_model(load(path)).to(device)


def build_model(checkpoint: Checkpoint) -> ViT:
    """The model of a checkpoint that is already in memory, in eval mode on the CPU."""
    with torch.device("meta"):
        model = ViT(checkpoint.config)
    model.load_state_dict(checkpoint.model, assign=True)
    return model.requires_grad_(True).eval()


def export(source: str | os.PathLike[str], target: str | os.PathLike[str], *, force: bool = False) -> None:
    """Copy a checkpoint for sharing, without its optimizer state and the place where the images lay.

    Raises :class:`InputError` for a target that exists (``force`` writes over it) or is the source itself, under
    whatever name, and for a source that was stopped within an epoch.
    """
    with only_writer(target, "target"):
        check_target(target, [source], force=force)
        checkpoint = load(source)
        if checkpoint.under_way is not None:
            raise InputError(f"{source} was stopped within an epoch: resume it before it is exported")
        data = {**checkpoint.data}
        if "source" in data:
            data["source"] = without_place(str(data["source"]))
        save(dataclasses.replace(checkpoint, data=data, optimizer=None), target)


def _tensors(content: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a checkpoint under names of their own: of its weights, its trace and its optimizer."""
    state = (content["optimizer"] or {}).get("state", {})
    parts = {"model": content["model"], "trace": content.get("trace") or {}}
    parts |= {f"optimizer.{key}": values for key, values in state.items()}
    return {f"{part}.{name}": x for part, held in parts.items() for name, x in held.items() if isinstance(x, Tensor)}


def _check_digest(content: Mapping[str, Any]) -> None:
    if "digest" not in content:  # files of earlier versions have none
        return
    tensors = _tensors(content)
    if broken := next((name for name, x in tensors.items() if not is_plain(x)), None):
        raise InputError(f"is a damaged checkpoint: {broken} is no plain tensor")
    if tensor_digest(tensors) != content["digest"]:
        raise InputError("is damaged: its tensors are not those that were saved, their digest does not fit")


def _from_content(content: dict[str, Any]) -> Checkpoint:
    try:
        config = ViTConfig(**content["config"])
    except InputError as error:
        raise InputError(f"holds an invalid config: {error}") from None
    names = [field.name for field in dataclasses.fields(Checkpoint) if field.name not in ("trace", "under_way")]
    given = {
        **{name: content[name] for name in names},
        "config": config,
        "history": _unpack(content["history"], content["versions"]),
    }
    trace, given["under_way"] = content.get("trace"), content.get("under_way")  # files of earlier versions have none
    checkpoint = Checkpoint(**given, trace=None if trace is None else _unpack_trace(trace))
    _check_fields(checkpoint)
    _check_weights(checkpoint)
    _check_digest(content)
    return checkpoint


def _pack_trace(trace: Trace) -> dict[str, Tensor | None]:
    arrays = {field.name: getattr(trace, field.name) for field in dataclasses.fields(Trace)}
    return {name: None if value is None else torch.from_numpy(value) for name, value in arrays.items()}


def _unpack_trace(packed: dict[str, Any]) -> Trace:
    sigma = packed["sigma"]
    if not all(is_plain(x) for x in packed.values() if x is not None):
        raise TypeError("trace holds something else than tensors")
    return Trace(packed["epochs"].numpy(), None if sigma is None else sigma.numpy(), packed["maps"].numpy())


def _check_fields(checkpoint: Checkpoint) -> None:
    kinds = {"epoch": int, "recipe": dict, "data": dict, "versions": dict, "optimizer": dict | None}
    for name, kind in kinds.items():
        if not isinstance(getattr(checkpoint, name), kind):
            raise TypeError(f"{name} is a {type(getattr(checkpoint, name)).__name__}")
    if (stopped := checkpoint.under_way) is not None:
        numbers = [*stopped["sums"], stopped["seconds"]]
        if type(stopped["step"]) is not int or len(numbers) != 4 or not all(0 <= float(x) < math.inf for x in numbers):
            raise ValueError("the epoch under way is not of numbers at least 0")
    for name in ("recipe", "data", "versions"):
        for key, value in getattr(checkpoint, name).items():
            _check_plain(f"{name}.{key}", value)
    seed = checkpoint.recipe.get("seed")
    for number in (checkpoint.epoch, 0 if seed is None else seed):
        if type(number) is not int or not 0 <= number < 2**63:
            raise ValueError(f"epoch or seed is {number}")
    if checkpoint.data:
        _check_data(checkpoint.data, checkpoint.config)
    if checkpoint.trace is not None:
        _check_trace(checkpoint.trace, checkpoint)


def _check_plain(name: str, value: object) -> None:
    """Words, numbers and flat lists of them: what can be shown and compared at no cost."""
    for part in value if isinstance(value, list | tuple) else [value]:
        if part is not None and not isinstance(part, str | int | float):
            raise TypeError(f"{name} holds a {type(part).__name__}")
        if isinstance(part, str) and (len(part) > _LONGEST_TEXT or "\0" in part):
            raise ValueError(f"{name} holds a text of {len(part)} characters")
        if isinstance(part, str):
            check_name(part, name)
        if isinstance(part, int) and abs(part) >= 2**63:
            raise ValueError(f"{name} holds a number beyond 64 bits")


def _check_data(data: dict[str, Any], config: ViTConfig) -> None:
    if not isinstance(data.get("name"), str):
        raise TypeError("data has no name")
    for key in ("mean", "std"):
        values = data.get(key) or []
        right = isinstance(values, list | tuple) and all(type(x) in (int, float) and math.isfinite(x) for x in values)
        if (
            not right
            or (values and len(values) != config.in_channels)
            or (key == "std" and min(values, default=1) <= 0)
        ):
            raise ValueError(f"data.{key} must be finite numbers, of std above 0")
    classes = data.get("classes") or []
    if not isinstance(classes, list | tuple) or not all(isinstance(name, str) for name in classes):
        raise TypeError("data.classes must be names")
    if len(classes) > config.num_classes:
        raise ValueError(f"data.classes are {len(classes)} names, the model has {config.num_classes} classes")


def _check_trace(trace: Trace, checkpoint: Checkpoint) -> None:
    config, epochs = checkpoint.config, trace.epochs.tolist()
    if epochs != sorted(set(epochs)) or not all(type(e) is int and 1 <= e <= checkpoint.epoch for e in epochs):
        raise ValueError("trace.epochs must rise from 1 to the checkpoint's epoch")
    if trace.maps.shape[2:] != (config.depth, config.grid**2) or trace.maps.dtype.kind != "f":
        raise ValueError(f"trace.maps is {trace.maps.dtype} of shape {trace.maps.shape}")
    heads = (config.depth, config.heads, config.head_dim)
    if trace.sigma is not None and (trace.sigma.shape[1:] != heads or trace.sigma.dtype.kind != "f"):
        raise ValueError(f"trace.sigma is {trace.sigma.dtype} of shape {trace.sigma.shape}")


def _check_weights(checkpoint: Checkpoint) -> None:
    found, depth = checkpoint.model, checkpoint.config.depth
    if not isinstance(found, dict) or not all(isinstance(k, str) and is_plain(v) for k, v in found.items()):
        raise InputError("is a damaged checkpoint: its weights are not a state dict")
    if depth > len(found):  # to build the model of a wrong depth could take for ever
        raise InputError(f"holds weights that do not fit its config: {len(found)} tensors for depth {depth}")
    with torch.device("meta"):
        expected = ViT(checkpoint.config).state_dict()
    check_fit(expected, found, "holds weights that do not fit its config")


def check_fit(
    expected: Mapping[str, Tensor], found: Mapping[str, Tensor], complaint: str, *, dtypes: bool = True
) -> None:
    """Raise :class:`InputError` beginning with ``complaint`` unless names and shapes (and ``dtypes``) are the same."""
    for name in sorted(expected.keys() | found.keys()):
        wanted, got = (_describe(state, name, dtypes) for state in (expected, found))
        if wanted != got:
            raise InputError(f"{complaint}: {name} is {got}, expected {wanted}")


def _describe(state: Mapping[str, Tensor], name: str, dtypes: bool) -> str:
    if name not in state:
        return "absent"
    shape = str(tuple(state[name].shape))
    return f"{shape} {str(state[name].dtype).removeprefix('torch.')}" if dtypes else shape


def _pack(history: pd.DataFrame) -> dict[str, list[Any]]:
    return {name: [None if pd.isna(x) else x for x in history[name].tolist()] for name in TABLE_COLUMNS}


def _unpack(columns: dict[str, list[Any]], versions: dict[str, str]) -> pd.DataFrame:
    if not isinstance(columns, dict):
        raise TypeError(f"history is a {type(columns).__name__}")
    given = dict(columns)
    for at, name in enumerate(("low", "high")):  # files of earlier versions have no limits
        if name not in given:
            given[name] = [known_bounds(str(indicator))[at] for indicator in columns["indicator"]]
    frame = pd.DataFrame({name: given[name] for name in TABLE_COLUMNS}).astype(TABLE_COLUMNS)
    return as_measured_now(frame, str(versions.get("svda-analysis", "")))


def pack_learned(learned: Learned) -> dict[str, Any]:
    """Its plain values, without a trace."""
    about = {name: getattr(learned, name) for name in ("epoch", "recipe", "data", "versions")}
    return {**about, "history": _pack(learned.history)}


def unpack_learned(packed: Mapping[str, Any]) -> Learned:
    """What :func:`pack_learned` made. Raises what the contents of a damaged file can."""
    about = {name: packed[name] for name in ("recipe", "data", "versions")}
    for name, held in about.items():
        for key, value in held.items():
            _check_plain(f"{name}.{key}", value)
    for number in (packed["epoch"], about["recipe"].get("seed", 0)):
        if type(number) is not int or not 0 <= number < 2**63:
            raise ValueError(f"epoch or seed is {number}")
    return Learned(**about, epoch=packed["epoch"], history=_unpack(packed["history"], about["versions"]))


@contextlib.contextmanager
def _naming_the_output(path: Path):  # type: ignore[no-untyped-def]  # a generator context manager
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from None
