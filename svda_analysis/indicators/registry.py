"""The registry of indicators: :data:`INDICATORS`, what enters one, and which of them are asked for."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor

from svda_analysis.indicators.blocks import OfQueries
from svda_analysis.vocabulary import Quantity, choose_quantities, register, register_all

SOURCES = ("sigma", "scores", "attention", "tokens", "qk", "ov", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Indicator(Quantity):
    """A quantity that a function computes from a record. Its name is the function's, ``needs`` its parameter names.

    ``rows`` gives its share of a block of queries, and ``finish`` makes it of the value of all blocks
    (:mod:`~svda_analysis.indicators.blocks`), within its bounds. Where ``rows`` is None, it needs the whole map, if it
    needs a map at all (:meth:`needs_whole`).
    """

    function: Callable[..., Tensor | None]
    needs: tuple[str, ...]
    rows: Callable[..., OfQueries | None] | None = None
    row_needs: tuple[str, ...] = ()
    finish: Callable[[Tensor], Tensor] | None = None

    @property
    def is_costly(self) -> bool:
        """Whether it takes a forward of its own, or longer."""
        return bool({"spectrum", "a_noisy", "a_pixel_noisy"} & set(self.needs))

    def needs_whole(self, source: str) -> bool:
        """Whether its number of this source is made of the whole map, and not of its rows one after the other."""
        if source not in self.sources:
            return False
        of_map = {"a", "a_noisy", "a_pixel_noisy", "position_map"} & set(self.needs)
        return (bool(of_map) and self.rows is None) or (source == "attention" and "spectrum" in self.needs)


INDICATORS: dict[str, Indicator] = {}
Function = TypeVar("Function", bound=Callable[..., Tensor | None])


def indicator(
    *,
    label: str,
    sources: tuple[str, ...],
    low: float | str,
    high: float | str,
    higher_means: str,
    reference: str,
    **more: Any,
) -> Callable[[Function], Function]:
    """Decorator: enter the function in :data:`INDICATORS` and in the vocabulary under its own name, and return it
    unchanged. Arguments as for :class:`~svda_analysis.vocabulary.Quantity`, and ``group``, ``rows`` and ``finish``."""

    def enter(function: Function) -> Function:
        name, needs = function.__name__, tuple(inspect.signature(function).parameters)
        if rows := more.get("rows"):
            more["row_needs"] = tuple(inspect.signature(rows).parameters)
        about: dict[str, Any] = {"label": label, "sources": sources, "low": low, "high": high}
        made = Indicator(
            name=name,
            function=function,
            needs=needs,
            higher_means=higher_means,
            reference=reference,
            **about,
            **more,
        )
        INDICATORS[name] = made
        register(made)
        return function

    return enter


def choose_indicators(names: Sequence[str] | None = None, *, argument: str = "indicators") -> list[Indicator]:
    """The indicators of these names, as :func:`~svda_analysis.vocabulary.choose_quantities` has it."""
    if names is not None and not set(names) <= INDICATORS.keys():
        register_all()
    return choose_quantities(INDICATORS, names, argument)
