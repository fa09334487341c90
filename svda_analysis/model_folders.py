"""A folder of Hugging Face or timm: what is about to be read of it is checked before a library sees it.

Nothing in it is run or fetched: files of weights are plain (``weight_files.py``), no field names code, a kernel of the
hub, an adapter's other model or a file elsewhere, no file is waited for, and no number is one that no model has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from svda_analysis.errors import InputError, check_file
from svda_analysis.weight_files import check_holds_weights, check_torch_file

_LARGEST_TABLE = 10**7  # bytes of a file of settings
_DEEPEST, _LARGEST, _WIDEST = 1000, 2**17, 2**12  # layers; any other number; sides of pictures, in pixels
_OF_IMAGES = ("preprocessor_config.json", "processor_config.json", "video_preprocessor_config.json")
_REFUSED = {
    "quantization_config": "quantized weights, which are read by code of others",
    "transformers_weights": "weights under another name",
}


def check_model_folder(place: Path) -> dict[str, Any]:
    """The table of ``config.json``. Raises :class:`InputError` with one line for what must not be read."""
    for file in sorted([*place.iterdir(), *place.glob("*/*")]):
        if file.parent == place and file.suffix in (".json", ".safetensors"):
            check_file(file)
        elif file.exists() and not file.is_dir() and not file.is_file():
            raise InputError(f"{file.name} is a pipe, a socket or a device")
    for file in sorted({*place.glob("pytorch_model*.bin"), *_shards(place)}):
        check_file(file)
        if file.suffix != ".safetensors":
            check_torch_file(file)
            check_holds_weights(file)
    if (place / "adapter_config.json").exists():
        raise InputError("it holds an adapter to another model (adapter_config.json): merge it, and save the whole")
    fields = _json_table(place / "config.json")
    for _, key, value in _entries(fields):
        if key in _REFUSED and value:
            raise InputError(f"config.json must not name {key}: {_REFUSED[key]}")
        if key.endswith("_implementation") and _names_a_kernel(value):
            raise InputError(f"config.json must not name code of the hub, got {key} {value!r}")
    check_numbers({key: value for key, value in fields.items() if not key.endswith("token_id")}, "config.json")
    for name in _OF_IMAGES:
        if (place / name).exists():
            _check_sizes(_json_table(place / name), name)
    return fields


def _shards(place: Path) -> Iterator[Path]:
    """The files of weights that an index names, each in the folder itself."""
    for index in place.glob("*.index.json"):
        names = _json_table(index).get("weight_map")
        if not isinstance(names, dict):
            raise InputError(f"{index.name} must hold a table weight_map")
        for name in {str(name) for name in names.values()}:
            if name in ("", "..") or Path(name).name != name:
                raise InputError(f"{index.name} must name files in the folder itself, got {name!r}")
            yield place / name


def _names_a_kernel(value: Any) -> bool:
    """Whether a library would fetch what computes attention: ``owner/repository``, alone or in a table of parts."""
    parts = value.values() if isinstance(value, dict) else [value]
    return any(isinstance(part, str) and "/" in part for part in parts)


def _json_table(file: Path) -> dict[str, Any]:
    check_file(file)
    if file.stat().st_size > _LARGEST_TABLE:
        raise InputError(f"{file.name} must have at most {_LARGEST_TABLE:,} bytes")
    fields = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(fields, dict):
        raise InputError(f"{file.name} must hold a table")
    return fields


def _check_sizes(fields: dict[str, Any], where: str) -> None:
    """Sizes that pictures are brought to; an edge may be the largest number of pixels that a processor lets be."""
    for of, key, value in _entries(fields):
        side = isinstance(value, int) and "size" in of + key and not key.endswith(("edge", "pixels"))
        if side and abs(value) > _WIDEST:
            raise InputError(f"{where}: {key} must be at most {_WIDEST}, got {value:.3e}")


def check_numbers(fields: Any, where: str) -> None:
    """Raise :class:`InputError` for a number in a table or a list, or in those that it holds, that no model has."""
    for _, key, value in _entries(fields):
        if isinstance(value, int):
            most = _DEEPEST if re.search(r"layers|depth|blocks", key) else max(_LARGEST, 2**21 * ("vocab" in key))
            if abs(value) > most:
                raise InputError(f"{where}: {key} must be at most {most}, got {value:.3e}")


def _entries(fields: Any) -> Iterator[tuple[str, str, Any]]:
    """Every value in a table or a list and in those that it holds, with the key of what holds it and its own."""
    left = [("", "", fields)]
    while left:
        of, key, value = left.pop()
        if isinstance(value, dict):
            left += [(key, str(name), held) for name, held in value.items()]
        elif isinstance(value, list | tuple):
            left += [(of, key, held) for held in value]
        yield of, key, value
