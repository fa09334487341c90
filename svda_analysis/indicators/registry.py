"""The registry of indicators: :data:`INDICATORS`, what enters one, and which of them are asked for."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor

from svda_analysis.vocabulary import Quantity, choose_quantities, register, register_all

SOURCES = ("sigma", "scores", "attention", "tokens", "qk", "ov", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Indicator(Quantity):
    """A quantity that a function computes from a record. Its name is the function's, ``needs`` its parameter names."""

    function: Callable[..., Tensor | None]
    needs: tuple[str, ...]


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
    unchanged. Arguments as for :class:`~svda_analysis.vocabulary.Quantity`, and ``group``."""

    def enter(function: Function) -> Function:
        name, needs = function.__name__, tuple(inspect.signature(function).parameters)
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
