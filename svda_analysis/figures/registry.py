"""Which figures there are, and where each is drawn: one decorator enters one. No torch here.

    @figure("my_figure", where=("analysis",), needs="one number of my_indicator")
    def my_figure(analysis: Analysis) -> Iterator[Picture]:
        if len(analysis.table):
            yield Picture(name="my_figure", draw=partial(plot_mine, analysis.table, models=analysis.models))

A figure yields a :class:`~svda_analysis.document.Picture` for each of its files, and none where its data are missing.
Where it is drawn says what it gets (:data:`PLACES`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pandas as pd

from svda_analysis.document import Picture
from svda_analysis.errors import InputError
from svda_analysis.figures.captions import caption_of
from svda_analysis.figures.style import Drawn, Models, Names, kinds_in, model_styles
from svda_analysis.formatting import file_names
from svda_analysis.results import Analysis

PLACES = {  # and what a figure is drawn from there
    "analysis": "the Analysis of a report",
    "study": "the Analysis of one data set in a study of models",
    "variants": "the same in a study of one model's variants",
    "frontier": "the runs on a study's dials, a frame of frames.FRONTIER_COLUMNS",
    "compression": "the Compressions of a report",
    "explanations": "the Explanations of a few images",
}
Draw = TypeVar("Draw", bound=Callable[[Any], Iterator[Picture]])


@dataclasses.dataclass(frozen=True)
class FigureSpec:
    """A figure by name: ``where`` it is drawn, which data it ``needs`` in words, and what gives its pictures."""

    name: str
    where: tuple[str, ...]
    needs: str
    draw: Callable[[Any], Iterator[Picture]]


FIGURES: dict[str, FigureSpec] = {}


def figure(name: str, where: tuple[str, ...] = ("analysis",), *, needs: str = "") -> Callable[[Draw], Draw]:
    """Decorator: enter the function in :data:`FIGURES` (in the place of one of that name) and return it unchanged.

    Figures are drawn in the order in which they were entered. ``needs`` says to who asks for it in vain what it is
    drawn from.
    """
    if unknown := [place for place in where if place not in PLACES]:
        raise InputError(f"where must hold only {', '.join(PLACES)}, got {', '.join(map(str, unknown))}")

    def enter(draw: Draw) -> Draw:
        FIGURES[name] = FigureSpec(name, tuple(where), needs, draw)
        return draw

    return enter


def pictures(found: Any, where: str = "analysis", *, models: Models = None) -> list[Picture]:
    """Every picture of :data:`FIGURES` at that place that the data allow; each is drawn when its ``draw`` is called.

    ``found`` is what the figures at that place are drawn from (:data:`PLACES`). ``models`` are the only ones drawn of
    an analysis, in that order (default: baselines first, then by name): the figures get an analysis whose ``models``
    they are, so that each model keeps its colour through all of them.
    """
    if where not in PLACES:
        raise InputError(f"where must be one of {', '.join(PLACES)}, got {where!r}")
    shown = _InOrder.of(found, models or drawing_order(found)) if isinstance(found, Analysis) else found
    drawn = [picture for spec in FIGURES.values() if where in spec.where for picture in spec.draw(shown)]
    names = file_names(picture.name for picture in drawn)  # models' names may be in them, and those may hold anything
    captions = [one.caption or (caption_of(one.name, shown) if isinstance(shown, Analysis) else "") for one in drawn]
    return [
        dataclasses.replace(picture, name=name, caption=caption or picture.name)
        for picture, name, caption in zip(drawn, names, captions, strict=True)
    ]


def drawing_order(analysis: Analysis) -> list[str]:
    """The models of an analysis, baselines first, then by name."""
    frames = (frame for frame in (analysis.table, analysis.spectra, analysis.history) if len(frame))
    return list(dict.fromkeys(model for frame in frames for model in model_styles(frame)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class _InOrder(Analysis):
    """An analysis of chosen models, in the order in which they are drawn."""

    order: tuple[str, ...] = ()

    @functools.cached_property
    def models(self) -> list[str]:
        frames = (frame for frame in (self.history, self.table) if len(frame) and "attention" in frame)
        return Drawn(self.order, {name: kind for frame in frames for name, kind in kinds_in(frame).items()})

    @functools.cached_property
    def comparison(self) -> pd.DataFrame | None:
        return super().comparison

    @staticmethod
    def of(analysis: Analysis, models: Names) -> _InOrder:
        fields: dict[str, Any] = {f.name: getattr(analysis, f.name) for f in dataclasses.fields(Analysis)}
        for name in ("table", "spectra", "history"):
            fields[name] = fields[name][fields[name]["model"].isin(models)]
        if fields["baseline"] not in models:
            fields["baseline"] = None
        return _InOrder(**fields, order=tuple(models))
