"""Files of weights - torch's archives, safetensors - read as data: checked before a library sees them, never run.

What a file says of its own soundness is checked: an archive of ``torch.save`` has a checksum (CRC-32) for each member,
which torch itself does not look at. A safetensors file and the formats of torch before 1.6 have none: there only a
header, a size or a pickle that makes no sense is seen, a flipped bit in a weight is not.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import mmap
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeGuard

import torch
from torch import Tensor

from svda_analysis.errors import InputError, check_file, reading

_ARCHIVE_START = b"PK\x03\x04"
# Plain to torch, and yet they take memory of any size that a pickle asks for; or sparse, which no weights are: what is
# wrong with them torch finds late or never, and one that was refused spoils the reading of the next file.
_GREEDY = re.compile(rb"c(__builtin__\nbytearray|builtins\nbytearray|torch(?:\.\w+)*\n\w*Tensor)\n")
_SPARSE = re.compile(rb"ctorch\._utils\n_rebuild_sparse\w*\n")

# What torch.load was seen to raise on broken bytes; anything else is a fault of ours and may show its traceback.
_UNREADABLE = (
    RuntimeError, pickle.UnpicklingError, EOFError, LookupError, ValueError, TypeError, AttributeError, OSError,
    OverflowError, MemoryError, struct.error, zipfile.BadZipFile, AssertionError, NotImplementedError, ImportError,
)  # fmt: skip


def read_weights_only(path: Path, expected: str = "a checkpoint file") -> object:
    """What ``torch.save`` put into a file, onto the CPU, if it is plain weights and values; nothing is executed.

    Raises :class:`InputError` when the file is missing, not such a file, damaged (the member is named whose checksum
    does not fit), or holds anything else.
    """
    check_file(path, expected)
    try:
        check_torch_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on a file that is refused in the next line anyway
            with _settings_unread(path):
                return torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except PermissionError:
        raise InputError(f"{path} cannot be read: permission denied") from None
    except _UNREADABLE as error:
        raise InputError(_why_unreadable(path, str(error))) from None


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, on the CPU. Raises :class:`InputError` with one line."""
    check_file(path, "a safetensors file")
    try:
        safetensors = importlib.import_module("safetensors.torch")
    except ImportError:
        raise InputError('these weights need safetensors: pip install "svda-analysis[timm]"') from None
    with reading(f"{path} is not a safetensors file, or is damaged"):
        return safetensors.load_file(path)


class Unread:
    """What stands in a file beside its weights and is none of torch's: it takes what comes, and keeps nothing."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


_SETTINGS = ("argparse.Namespace", "numpy.", "pathlib.", "datetime.")  # what training scripts save beside weights


@contextlib.contextmanager
def _settings_unread(path: Path) -> Iterator[None]:
    """Inside, plain settings and numbers in a file are read as :class:`Unread`: nothing of their code runs."""
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # an older format, or a damaged file: what is wrong shows when it is read
        named = []
    known = named if all(name.startswith(_SETTINGS) for name in named) else []
    with torch.serialization.safe_globals([(Unread, name) for name in known]):
        yield


def check_holds_weights(path: Path) -> None:
    """Raise :class:`InputError` for a file of ``torch.save`` that asks for anything but weights and plain values."""
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # an older format, or a damaged file: what is wrong shows when it is read
        return
    if named:
        raise InputError(_refusal(path, sorted(named)[0]))


def check_torch_file(path: Path) -> None:
    """Raise :class:`InputError` for a file of ``torch.save`` that is damaged, holds code or grows when it is read."""
    with open(path, "rb") as file:
        if file.read(4) != _ARCHIVE_START:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                _check_pickle(path, content)
            return
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is cut off or damaged: it begins as a checkpoint and has no end")
    with reading(f"{path} is not a checkpoint, or is damaged"), zipfile.ZipFile(path) as archive:
        _check_members(path, archive)
        if damaged := archive.testzip():
            raise InputError(f"{path} is damaged: the checksum of its member {damaged} does not fit")
        for name in archive.namelist():
            if name.endswith("data.pkl"):
                _check_pickle(path, archive.read(name))


def _check_members(path: Path, archive: zipfile.ZipFile) -> None:
    """``torch.save`` stores its members as they are, each once; a script of TorchScript holds code."""
    members = archive.infolist()
    for member in members:
        parts = member.filename.split("/")
        if "code" in parts[:-1] or parts[-1] == "constants.pkl" or parts[-1].endswith(".py"):
            raise InputError(
                f"{path} was refused: it holds code ({member.filename}), as a TorchScript does; only plain weights are "
                "read: save the model's state_dict()"
            )
        if member.compress_type != zipfile.ZIP_STORED:
            raise InputError(f"{path} was refused: its member {member.filename} is packed, which torch.save never does")
    if len({member.filename for member in members}) < len(members):
        raise InputError(f"{path} was refused: it holds two members of one name")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise InputError(f"{path} was refused: its members are larger than the file")


def _check_pickle(path: Path, content: Any) -> None:
    if found := _GREEDY.search(content):
        what = found[1].decode().replace("\n", ".")
        raise InputError(f"{path} was refused: it holds {what}, which can ask for any memory; only weights are read")
    if _SPARSE.search(content):
        raise InputError(f"{path} was refused: it holds sparse tensors; only dense ones are read")


def _why_unreadable(path: Path, message: str) -> str:
    with open(path, "rb") as file:
        start = file.read(4)
    named = re.search(r"GLOBAL ([\w.]+)", message)
    if "Weights only load failed" in message and (named or start.startswith((b"\x80", b"PK"))):
        what = named[1] if named else "more than plain weights"
        return _refusal(path, what)
    return f"{path} is not a checkpoint, or is damaged"


def _refusal(path: Path, what: str) -> str:
    refused = f"it holds {what}, and loading it could run code; only plain weights are read"
    return f"{path} was refused: {refused}: save model.state_dict() alone"


# --- tensors ----------------------------------------------------------------------------------------------------------


def is_dense(x: object) -> TypeGuard[Tensor]:
    """Whether ``x`` is a tensor of one shape with a number in each place."""
    return (
        isinstance(x, Tensor) and not x.is_nested and x.layout is torch.strided and not x.is_meta and not x.is_quantized
    )


def is_plain(x: object) -> bool:
    """Whether ``x`` is a tensor that holds its own numbers, each of them."""
    return is_dense(x) and x.numel() * x.element_size() <= x.untyped_storage().nbytes()


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, over names in their order, dtypes, shapes and bytes of tensors of any device."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        x = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {x.dtype} {tuple(x.shape)}\n".encode())
        digest.update(x.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
