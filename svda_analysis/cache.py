"""What was measured before: a folder of analyses, each under a key of all that its numbers depend on.

An entry is what :meth:`~svda_analysis.results.Analysis.save` writes. It is made in a hidden folder that then takes its
place, so that a killed run leaves no half of one; a damaged entry counts as none. Of two that make the same entry at
once, the first has it there and both go on with what they measured.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svda_analysis.errors import InputError
from svda_analysis.indicators import Indicator
from svda_analysis.kinds import ATTENTIONS
from svda_analysis.metrics import Metric
from svda_analysis.results import Analysis
from svda_analysis.sources import ImageFeed
from svda_analysis.subject import Subject
from svda_analysis.team import ALONE, Team

UNFINISHED = ".unfinished-"  # how the folder of an entry that is being written begins
# A change in any other file of the package is another key: numbers may come from there.
NOT_MEASURING = ("cli", "figures", "formatting", "render", "reports", "sections", "study", "training")
_PACKAGE = Path(__file__).parent
_SAMPLED, _BATCH = 16, 64  # images whose pixels are part of the key, at once


def kept(entry: Callable[[], Path], measure: Callable[[], Analysis], team: Team = ALONE) -> Analysis:
    """The analysis that lies in ``entry()``; where there is none, what ``measure()`` gives, which then lies there.

    All of a ``team`` measure; its first process alone asks for the entry, reads and writes. Raises :class:`InputError`
    for an entry that cannot be read back.
    """
    place, found = team.first(lambda: (place := entry(), _read_entry(place)))
    if found is not None:
        return found
    made = measure()
    return team.first(lambda: _write_entry(place, made))


def _read_entry(entry: Path) -> Analysis | None:
    """What lies there; None where there is none, or it is damaged."""
    try:
        return Analysis.load(entry)
    except (InputError, KeyError, TypeError, ValueError):
        return None


def _write_entry(entry: Path, analysis: Analysis) -> Analysis:
    """Put an analysis there, and return it as it is read back."""
    entry.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=entry.parent, prefix=UNFINISHED) as made:
        stage = Path(made) / entry.name
        analysis.save(stage)
        if (found := _read_entry(stage)) is None:
            raise InputError(f"what was measured for {entry} cannot be read back")
        try:
            os.replace(stage, entry)
        except OSError:
            if not os.path.lexists(entry):
                raise
            _replace_damaged(entry, stage)
    return found


def _replace_damaged(entry: Path, stage: Path) -> None:
    """Where something lies in the place of an entry already: a whole one, as another process made it, stays."""
    if _read_entry(entry) is not None:
        return
    with contextlib.suppress(OSError):  # another process takes it away, or has put a whole one there: that one stays
        os.replace(entry, stage.with_name("damaged"))
        os.replace(stage, entry)


# --- keys -------------------------------------------------------------------------------------------------------------


def run_key(subject: Subject, feed: ImageFeed, settings: dict[str, Any], measures: Iterable[Indicator | Metric]) -> str:
    """A name for all that the numbers of one run depend on: weights, what the model is and the text of its classes,
    seed and epoch, the images in the model's way, ``settings``, the indicators and metrics, and the code that measures.

    Of a data set found by name count the first images of each class as the model gets them, and the labels of all; of
    any other images, all. Of a measure counts what :func:`measure_source` tells. What a function of one's own calls in
    other files is not seen.
    """
    config = getattr(subject.model, "config", None)
    about: list[Any] = [subject.seed, subject.epoch, repr(config), repr(subject.model), *subject.tokens.values()]
    about += [settings, feed.name, feed.total, feed.scores, feed.normalisation, measuring_code()]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode())
    for text in [*(measure_source(one) for one in measures), *_model_source(subject)]:
        digest.update(json.dumps(text).encode())
    for name, weights in sorted(subject.model.state_dict().items()):
        digest.update(name.encode() + _bytes(weights))
    shown = feed.batches(_BATCH, None, 0) if feed.labels is None else [feed.examples(_SAMPLED)[:2]]
    for tensor in (tensor for batch in (*shown, (feed.labels,)) for tensor in batch):
        digest.update(b"" if tensor is None else _bytes(tensor))
    return digest.hexdigest()[:24]


def _model_source(subject: Subject) -> list[list[str]]:
    """The text of what is the user's own in a model: the classes of its modules, and the rule of its attention."""
    own = {type(module) for module in subject.model.modules()}
    classes = sorted(
        _code_text(one) for one in own if one.__module__.partition(".")[0] not in ("torch", "svda_analysis")
    )
    kind = ATTENTIONS.get(subject.attention or "")
    rule = [] if kind is None else [getattr(kind.rule, field.name) for field in dataclasses.fields(kind.rule)]
    return [classes, *(_function_text(function) for function in rule)]


def _bytes(x: Tensor) -> bytes:
    return x.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def joint_key(*parts: Any) -> str:
    """A name for plain values, such as the keys of several subjects."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:24]


def measure_source(one: Indicator | Metric) -> list[str]:
    """All that tells an indicator or a metric from another of its name: sources, bounds, and its function's text, or
    its bytecode where there is no text, with default arguments and the plain values that it closes over."""
    return [one.name, *one.sources, str(one.low), str(one.high), str(one.is_share), *_function_text(one.function)]


def _function_text(function: Callable[..., Any]) -> list[str]:
    bound = [*(getattr(function, "__defaults__", None) or ())]
    bound += [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    code = getattr(function, "__code__", None)
    constants = [value for value in code.co_consts if isinstance(value, str | int | float)] if code else []
    return [_code_text(function), *(_value_text(value) for value in [*constants, *bound])]


def _code_text(function: Callable[..., Any] | type) -> str:
    code = getattr(function, "__code__", None)
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return code.co_code.hex() + repr(code.co_names) if code else type(function).__qualname__


def _value_text(value: Any) -> str:
    """A value as text that is the same in every process."""
    if callable(value):
        return _code_text(value)
    return repr(value) if isinstance(value, str | bytes | int | float | tuple | None) else type(value).__qualname__


@functools.cache
def measuring_code() -> str:
    """A digest of :func:`measuring_files`."""
    digest = hashlib.sha256()
    for file in measuring_files():
        digest.update(file.relative_to(_PACKAGE).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def measuring_files() -> list[Path]:
    """The source files of the package, less those of :data:`NOT_MEASURING`."""
    files = sorted(_PACKAGE.rglob("*.py"))
    return [file for file in files if file.relative_to(_PACKAGE).parts[0].removesuffix(".py") not in NOT_MEASURING]
