"""A model opened to be looked at: :class:`Subject`, which every measurement takes."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from svda_analysis.answers import own_outputs
from svda_analysis.checkpoint import Checkpoint, Learned
from svda_analysis.data.preprocessing import Preprocessing
from svda_analysis.errors import InputError
from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.maps import WholeMaps, whole_maps
from svda_analysis.results import Trace
from svda_analysis.tap import evaluating
from svda_analysis.tokens import TokensGiven


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A model in eval mode and all that is known of it; :func:`~svda_analysis.specs.open_model` makes one.

    ``spec`` is what the user named it by (None: a module was given), ``attention`` its kind where it is ours,
    ``checkpoint`` what was read (None: not one of ours), ``learned`` what a converted model was trained on since.
    ``preprocessing`` is how images are brought to it,
    ``prefix_tokens`` and ``suffix_tokens`` the tokens before the first patch and behind the last, ``grid`` the rows and
    columns of patches, ``frames`` the steps in time (None: the model shows it), ``device`` where it is measured.
    ``untrained``: the spec names no weights, and they are random. ``left_out``: what of its weights' file is none of
    it.
    """

    model: nn.Module
    name: str
    spec: str | None = None
    attention: str | None = None
    checkpoint: Checkpoint | None = None
    learned: Learned | None = None
    preprocessing: Preprocessing = dataclasses.field(default_factory=Preprocessing)
    prefix_tokens: int | None = None
    suffix_tokens: int | None = None
    grid: tuple[int, int] | None = None
    frames: int | None = None
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    untrained: bool = False
    left_out: str = ""

    @property
    def tokens(self) -> TokensGiven:
        """What was said of its tokens, as the functions that read maps take it."""
        return {
            "grid": self.grid,
            "prefix_tokens": self.prefix_tokens,
            "suffix_tokens": self.suffix_tokens,
            "frames": self.frames,
        }

    @property
    def _training(self) -> Checkpoint | Learned | None:
        return self.checkpoint or self.learned

    @property
    def seed(self) -> int | None:
        return self._training.seed if self._training else None

    @property
    def epoch(self) -> int | None:
        return self._training.epoch if self._training else None

    @property
    def data(self) -> dict[str, Any]:
        """What it was trained on (name, mean, std, classes, source); empty where that is not known."""
        return self._training.data if self._training else {}

    @property
    def classes(self) -> tuple[str, ...]:
        """What its outputs stand for, in their order: what it was trained on, or its config, names them; empty where
        that is not known."""
        if known := self.data.get("classes"):
            return tuple(known)
        if isinstance(told := getattr(self.model, "classes", None), list | tuple):
            return tuple(map(str, told))
        names = getattr(getattr(self.model, "config", None), "id2label", None) or {}
        named = [str(names[at]) for at in range(len(names)) if at in names]
        meant = len(named) == len(names) and not all(re.fullmatch(r"LABEL_\d+", name) for name in named)
        return tuple(named) if meant and (own_outputs(self.model) or len(named)) == len(named) else ()

    @property
    def outputs(self) -> int | None:
        """How many classes it says that it tells apart; None: not known."""
        return own_outputs(self.model) or len(self.classes) or None

    @property
    def recipe(self) -> dict[str, Any]:
        return self._training.recipe if self._training else {}

    @property
    def history(self) -> pd.DataFrame:
        return self._training.history if self._training else make_frame([], TABLE_COLUMNS)

    @property
    def trace(self) -> Trace | None:
        return self._training.trace if self._training else None

    @property
    def identity(self) -> dict[str, Any]:
        """The columns that say whose number a row of a table is."""
        return {"model": self.name, "attention": self.attention, "seed": self.seed, "epoch": self.epoch}

    def like(self, model: nn.Module) -> Subject:
        """Another model, such as a smaller one made of this, seen as this one is: same images, prefix and device."""
        return dataclasses.replace(self, model=model)

    @contextlib.contextmanager
    def running(self) -> Iterator[nn.Module]:
        """The model in eval mode on :attr:`device`; it lies and is afterwards as before."""
        home = next((p.device for p in self.model.parameters()), self.device)
        try:
            with evaluating(self.model.to(self.device)):
                yield self.model
        finally:
            self.model.to(home)

    def maps_of(self, images: Tensor, *, gradients: bool = False, inputs: bool = False) -> WholeMaps:
        """:func:`~svda_analysis.maps.whole_maps` of images that are where the model is (``forward.for_model``)."""
        return whole_maps(self.model, images, gradients=gradients, inputs=inputs, **self.tokens)


def run_label(subject: Subject) -> str:
    """A subject in a sentence: its model's name, and its seed where it has one."""
    return subject.name if subject.seed is None else f"{subject.name} seed {subject.seed}"


def resolve_device(wanted: str | torch.device | None) -> torch.device:
    """A device of this machine; None: CUDA where there is one. Raises :class:`InputError` for any other."""
    try:
        device = torch.device(wanted or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, TypeError):  # what torch raises for a device it does not know or have
        raise InputError(f"device must be cpu or an accelerator of this machine, got {str(wanted)!r}") from None
    return device
