"""A model opened to be looked at: :class:`Subject`, which every measurement takes."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from svda_analysis.checkpoint import Checkpoint
from svda_analysis.data.preprocessing import Preprocessing
from svda_analysis.errors import InputError
from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.maps import WholeMaps, whole_maps
from svda_analysis.results import Trace
from svda_analysis.tap import evaluating


@dataclasses.dataclass(frozen=True, kw_only=True)
class Subject:
    """A model in eval mode and all that is known of it; :func:`~svda_analysis.specs.open_model` makes one.

    ``spec`` is what the user named it by (None: a module was given), ``attention`` its kind where it is ours,
    ``checkpoint`` what was read (None: not one of ours). ``preprocessing`` is how images are brought to it,
    ``prefix_tokens`` the tokens before the first patch (None: the model says it), ``device`` where it is measured.
    ``untrained``: the spec names no weights, and they are random.
    """

    model: nn.Module
    name: str
    spec: str | None = None
    attention: str | None = None
    checkpoint: Checkpoint | None = None
    preprocessing: Preprocessing = dataclasses.field(default_factory=Preprocessing)
    prefix_tokens: int | None = None
    device: torch.device = dataclasses.field(default_factory=lambda: torch.device("cpu"))
    untrained: bool = False

    @property
    def seed(self) -> int | None:
        return self.checkpoint.seed if self.checkpoint else None

    @property
    def epoch(self) -> int | None:
        return self.checkpoint.epoch if self.checkpoint else None

    @property
    def data(self) -> dict[str, Any]:
        """What it was trained on (name, mean, std, classes, source); empty where that is not known."""
        return self.checkpoint.data if self.checkpoint else {}

    @property
    def recipe(self) -> dict[str, Any]:
        return self.checkpoint.recipe if self.checkpoint else {}

    @property
    def history(self) -> pd.DataFrame:
        return self.checkpoint.history if self.checkpoint else make_frame([], TABLE_COLUMNS)

    @property
    def trace(self) -> Trace | None:
        return self.checkpoint.trace if self.checkpoint else None

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

    def maps_of(self, images: Tensor, *, gradients: bool = False, tokens: bool = False) -> WholeMaps:
        """:func:`~svda_analysis.maps.whole_maps` of images that are where the model is (:func:`for_model`)."""
        known = {"gradients": gradients, "tokens": tokens}
        return whole_maps(self.model, images, prefix_tokens=self.prefix_tokens, **known)


def for_model(images: Tensor, model: nn.Module) -> Tensor:
    """Images where the model is, in the precision of its weights."""
    weights = next((p for p in model.parameters() if p.is_floating_point()), images)
    return images.to(weights.device, weights.dtype)


def resolve_device(wanted: str | torch.device | None) -> torch.device:
    """A device of this machine; None: CUDA where there is one. Raises :class:`InputError` for any other."""
    try:
        device = torch.device(wanted or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, TypeError):  # what torch raises for a device it does not know or have
        raise InputError(f"device must be cpu or an accelerator of this machine, got {str(wanted)!r}") from None
    return device
