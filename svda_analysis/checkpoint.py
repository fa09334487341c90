"""Checkpoints: a versioned plain dict on disk, written atomically, read with ``weights_only=True``, never pickle.

Randomness is derived from (seed, epoch) while training and the learning rate from the step, so a checkpoint needs no
generator or scheduler state to resume exactly.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import re
import struct
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from svda_analysis.errors import InputError
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.results import TABLE_COLUMNS, make_frame

FORMAT = 1
_MAGIC = "svda_analysis checkpoint"

# What torch.load was seen to raise on broken bytes; anything else is a fault of ours and may show its traceback.
_UNREADABLE = (
    RuntimeError, pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError, AttributeError, OSError,
    OverflowError, MemoryError, struct.error, zipfile.BadZipFile, AssertionError, NotImplementedError, ImportError,
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One training run at the end of an epoch.

    ``recipe`` is the training recipe (the fields of ``TrainConfig``), ``model`` and ``optimizer`` are state dicts
    (``optimizer`` is ``None`` once exported), ``epoch`` counts the epochs done, ``history`` has
    :data:`~svda_analysis.results.TABLE_COLUMNS`, ``data`` says what the images were (name, mean, std, classes, source).
    """

    config: ViTConfig
    model: dict[str, Tensor]
    epoch: int
    recipe: dict[str, Any] = dataclasses.field(default_factory=dict)
    data: dict[str, Any] = dataclasses.field(default_factory=dict)
    history: pd.DataFrame = dataclasses.field(default_factory=lambda: make_frame([], TABLE_COLUMNS))
    optimizer: dict[str, Any] | None = None
    versions: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def seed(self) -> int | None:
        return self.recipe.get("seed")


def save(checkpoint: Checkpoint, path: str | os.PathLike[str]) -> None:
    """Write ``checkpoint`` to ``path`` atomically: a reader sees the old file or the new one, never a part."""
    fields = {field.name: getattr(checkpoint, field.name) for field in dataclasses.fields(checkpoint)}
    content = {
        **fields,
        "kind": _MAGIC,
        "format": FORMAT,
        "config": dataclasses.asdict(checkpoint.config),
        "history": _pack(checkpoint.history),
    }
    path = Path(path)
    with _naming_the_output(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:  # also on Ctrl-C: no half-written file stays behind
            os.unlink(temporary)
            raise


def load(path: str | os.PathLike[str]) -> Checkpoint:
    """Read a checkpoint onto the CPU. Nothing in the file is executed.

    Raises :class:`InputError` when the file is missing, a directory, empty, not a checkpoint, damaged, of a newer
    format, or when its config is invalid or its weights do not fit the config.
    """
    content = _read(Path(path))
    if not isinstance(content, dict) or content.get("kind") != _MAGIC:
        raise InputError(f"{path} is not a checkpoint of svda_analysis (made by 'svda train')")
    if content.get("format") != FORMAT:
        raise InputError(f"{path} has checkpoint format {content.get('format')!r}, this version reads format {FORMAT}")
    try:
        config = ViTConfig(**content["config"])
        history = make_frame([], TABLE_COLUMNS) if not content["history"] else _unpack(content["history"])
        names = [field.name for field in dataclasses.fields(Checkpoint)]
        checkpoint = Checkpoint(**{**{name: content[name] for name in names}, "config": config, "history": history})
    except InputError as error:
        raise InputError(f"{path} holds an invalid config: {error}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is a damaged checkpoint: {type(error).__name__} {error}") from None
    _check_weights(checkpoint, path)
    return checkpoint


def load_model(path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> ViT:
    """The trained model of a checkpoint, in eval mode on ``device``. Errors as :func:`load`."""
    return build_model(load(path)).to(device)


def build_model(checkpoint: Checkpoint) -> ViT:
    """The model of a checkpoint that is already in memory, in eval mode on the CPU."""
    with torch.device("meta"):
        model = ViT(checkpoint.config)
    model.load_state_dict(checkpoint.model, assign=True)
    return model.requires_grad_(True).eval()


def export(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Copy a checkpoint without its optimizer state, for sharing."""
    save(dataclasses.replace(load(source), optimizer=None), target)


def _read(path: Path) -> object:
    if path.is_dir():
        raise InputError(f"{path} is a directory, expected a checkpoint file")
    if not path.exists():
        raise InputError(f"no such file: {path}")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty, expected a checkpoint file")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except PermissionError:
        raise InputError(f"{path} cannot be read: permission denied") from None
    except _UNREADABLE as error:
        raise InputError(_why_unreadable(path, str(error))) from None


def _why_unreadable(path: Path, message: str) -> str:
    refused = re.search(r"(?:Unsupported global: GLOBAL|Can only .*?|Trying to (?:load|call).*?) ([\w.]+)", message)
    if "Weights only load failed" in message and refused:
        return f"{path} was refused: it holds {refused[1]}, and loading it could run code; only plain weights are read"
    with open(path, "rb") as file:
        if file.read(4) == b"PK\x03\x04" and not zipfile.is_zipfile(path):
            return f"{path} is cut off or damaged: it begins as a checkpoint and has no end"
    return f"{path} is not a checkpoint, or is damaged"


def _check_weights(checkpoint: Checkpoint, path: str | os.PathLike[str]) -> None:
    with torch.device("meta"):
        expected = ViT(checkpoint.config).state_dict()
    found = checkpoint.model
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise InputError(f"{path} is a damaged checkpoint: its weights are not a state dict")
    for name in sorted(expected.keys() | found.keys()):
        wanted, got = _shape(expected, name), _shape(found, name)
        if wanted != got:
            raise InputError(f"{path} holds weights that do not fit its config: {name} is {got}, expected {wanted}")


def _shape(state: Mapping[str, Tensor], name: str) -> str:
    return str(tuple(state[name].shape)) if name in state else "absent"


def _pack(history: pd.DataFrame) -> dict[str, list[Any]]:
    return {name: [None if pd.isna(x) else x for x in history[name].tolist()] for name in TABLE_COLUMNS}


def _unpack(columns: dict[str, list[Any]]) -> pd.DataFrame:
    return pd.DataFrame({name: columns[name] for name in TABLE_COLUMNS}).astype(TABLE_COLUMNS)


@contextlib.contextmanager
def _naming_the_output(path: Path):  # type: ignore[no-untyped-def]  # a generator context manager
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from None
