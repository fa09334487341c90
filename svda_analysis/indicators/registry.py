"""The registry of indicators: :data:`INDICATORS`, what enters one, and which of them are asked for."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from torch import Tensor

from svda_analysis.errors import InputError
from svda_analysis.vocabulary import Quantity, register, register_all

DEFAULT = "default"  # stands for the indicators of no group
SOURCES = ("sigma", "scores", "attention", "tokens", "qk", "ov", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Indicator(Quantity):
    """A quantity that a function computes from a record. Its name is the function's, ``needs`` its parameter names.

    Those of a ``group`` are measured only when they, or their group, are asked for (:func:`choose_indicators`).
    """

    function: Callable[..., Tensor | None]
    needs: tuple[str, ...]
    group: str = ""


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
    """The indicators of these names, each once; the name of a group stands for all of it, ``default`` for those of no
    group. None: ``default``.

    Raises :class:`InputError`, which speaks of ``argument``, for a name that is neither.
    """
    if names is None:
        return [one for one in INDICATORS.values() if not one.group]
    if not set(names) <= INDICATORS.keys():
        register_all()
    chosen: dict[str, Indicator] = {}
    for name in names:
        found = [one for one in INDICATORS.values() if name in (one.name, one.group or DEFAULT)]
        if not found:
            allowed = [*INDICATORS, DEFAULT, *indicator_groups()]
            raise InputError(f"{argument} must be among {', '.join(allowed)}, got {name!r}")
        chosen |= {one.name: one for one in found}
    return list(chosen.values())


def indicator_groups() -> list[str]:
    """The names of the groups that are registered."""
    return list(dict.fromkeys(one.group for one in INDICATORS.values() if one.group))
