"""The weights of a model in the files that people have: under which key, behind which prefixes, beside what else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from svda_analysis.errors import InputError
from svda_analysis.weight_files import is_plain, read_safetensors, read_weights_only

_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.")
_DEEPEST = 10  # tables in tables: no training script puts weights below
_WITHOUT_WEIGHTS = ("optim", "sched", "scaler", "loss")  # what keys of other states begin with


def read_state_dict(path: Path, part: str | None = None, known: Iterable[str] = ()) -> dict[str, Tensor]:
    """The state dict of a file: bare, or under a key, without what data-parallel training (``module.``),
    ``torch.compile`` (``_orig_mod.``), Lightning and others put before all names.

    ``part`` names the key where a file holds several; ``known`` are the model's own names, where its parameters may
    begin like such a prefix. Raises :class:`InputError` that says what the file holds.
    """
    found: Any = read_safetensors(path) if path.suffix == ".safetensors" else read_weights_only(path)
    held = dict(_state_dicts(found))
    if part is None and len(held) > 1:
        keys = ", ".join(held)
        raise InputError(f"{path} holds the weights of several models: {keys}; name one, as {path}#{next(iter(held))}")
    if part is not None and part not in held:
        raise InputError(f"{path} holds no state dict {part!r}; {_in_file(found, held)}")
    if not held:
        raise InputError(f"{path} holds no state dict (names and tensors); {_in_file(found, held)}")
    state = held[part] if part is not None else next(iter(held.values()))
    if broken := [name for name, value in state.items() if not isinstance(name, str) or not is_plain(value)]:
        raise InputError(f"{path} holds no plain tensor as {broken[0]!r}")
    return _unwrapped(state, set(known))


def _state_dicts(found: Any) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The tables of tensors in a file, each once, with the keys that lead to them, joined by points."""
    left, seen = [("", found, 0)], set()
    while left:
        key, table, depth = left.pop(0)
        if not isinstance(table, Mapping) or not table or id(table) in seen:  # a table may hold itself
            continue
        seen.add(id(table))
        if tensors := _tensors_of(table, words=not key):
            yield key, tensors
        elif depth < _DEEPEST:
            left += [
                (f"{key}.{name}" if key else name, value, depth + 1)
                for name, value in table.items()
                if isinstance(name, str) and not name.lower().startswith(_WITHOUT_WEIGHTS)
            ]


def _tensors_of(table: Mapping[Any, Any], *, words: bool) -> dict[Any, Tensor] | None:
    """The tensors of a table of tensors; ``words``: numbers and words may stand beside them (an epoch, a name)."""
    found = {name: value for name, value in table.items() if isinstance(value, Tensor)}
    if len(found) == len(table):
        return found
    plain = all(isinstance(value, Tensor | int | float | str | None) for value in table.values())
    return found if words and plain and any(value.ndim for value in found.values()) else None


def _in_file(found: Any, held: Mapping[str, Any]) -> str:
    if held:
        return f"it has {', '.join(held)}"
    if isinstance(found, Mapping) and found:
        keys = [f"{str(name)[:40]} ({type(value).__name__})" for name, value in list(found.items())[:8]]
        return f"it has {', '.join(keys)}; save model.state_dict() alone"
    return f"it has a {type(found).__name__}; save model.state_dict() alone"


def part_of(state: dict[str, Tensor], own: Iterable[str]) -> tuple[dict[str, Tensor], list[str]]:
    """The weights whose names are a model's ``own`` behind one prefix, whatever it is - those of an encoder in a larger
    model, of a student, or beside what belongs to a loss - and the names of those that are left out. All, as they are,
    where no prefix leads to all."""
    names = list(own)
    if not names or not set(names).isdisjoint(state):
        return state, []
    longest = max(names, key=len)
    prefixes = sorted((name.removesuffix(longest) for name in state if name.endswith(f".{longest}")), key=len)
    whole = [prefix for prefix in prefixes if all(prefix + name in state for name in names)]
    if len(whole) != 1:
        return state, []
    inside = {name.removeprefix(whole[0]): x for name, x in state.items() if name.startswith(whole[0])}
    return inside, [name for name in state if not name.startswith(whole[0])]


def entry(state: Mapping[str, Tensor], name: str) -> Tensor | None:
    """The tensor of that name, or the only one whose name ends in it behind a point."""
    found = [value for key, value in state.items() if key == name or key.endswith(f".{name}")]
    return state.get(name, found[0] if len(found) == 1 else None)


def _unwrapped(state: dict[str, Tensor], known: set[str]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if known.isdisjoint(state) and all(name.startswith(prefix) for name in state):
            return _unwrapped({name.removeprefix(prefix): value for name, value in state.items()}, known)
    return state
