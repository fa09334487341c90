"""What ``--live`` draws in a terminal while a model is trained: heads as a heat map, and the spectra of sigma."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

_SHADES, _HEIGHTS = " ░▒▓█", " ▁▂▃▄▅▆▇█"
_WIDTH = 78  # columns
_LABEL = 10  # columns before the numbers of a layer


def live_view(rows: Any, sigma: Any = None, *, indicator: str = "attention_entropy") -> list[str]:
    """An epoch as lines of at most 78 columns: layer x head of an indicator of its history's ``rows`` (the first that
    heads have where that is not among them), darkest where it is largest, and of ``sigma (layers, heads, D)`` each
    layer's sizes, largest first, mean over heads."""
    return [*_heat_map(rows, indicator), *([] if sigma is None else _sigma_sizes(sigma))]


def _heat_map(rows: Any, wanted: str) -> list[str]:
    heads = rows[rows["head"].notna()]
    if heads.empty:
        return []
    name = wanted if (heads["indicator"] == wanted).any() else heads["indicator"].iloc[0]
    chosen = heads[heads["indicator"] == name]
    chosen = chosen[chosen["source"] == chosen["source"].iloc[0]]  # one of several, such as of sigma and scores
    finite = [x for x in chosen["mean"] if math.isfinite(x)]
    low, high = (min(finite), max(finite)) if finite else (0.0, 0.0)
    number = int(chosen["head"].max()) + 1
    cell = max(1, min(3, (_WIDTH - _LABEL) // number))
    lines = [f"{name} by layer and head, {low:.3f} to {high:.3f}:"]
    for layer, found in chosen.groupby("layer"):
        cells = dict(zip(found["head"], found["mean"], strict=True))
        text = "".join(cell * _step(cells.get(head, math.nan), low, high, _SHADES) for head in range(number))
        lines.append(f"{f'layer {layer}':<{_LABEL}}{text}"[:_WIDTH])
    return lines


def _sigma_sizes(sigma: Any) -> list[str]:
    sizes = -abs(sigma)
    sizes.sort(axis=-1)
    means = -sizes.mean(axis=1)  # (layers, D)
    lines = [f"sigma's sizes by layer, largest first, 0 to {means.max():.3f}:"]
    for layer, found in enumerate(_thinned(row, _WIDTH - _LABEL) for row in means.tolist()):
        bars = "".join(_step(x, 0.0, float(means.max()), _HEIGHTS) for x in found)
        lines.append(f"{f'layer {layer}':<{_LABEL}}{bars}")
    return lines


def _thinned(values: Sequence[float], most: int) -> list[float]:
    """At most so many of the values, evenly spread."""
    every = max(1, math.ceil(len(values) / most))
    return list(values[::every])


def _step(value: float, low: float, high: float, marks: str) -> str:
    """The mark for where a value lies between two; a question mark for no number."""
    if not math.isfinite(value):
        return "?"
    share = (value - low) / (high - low) if high > low else 0.5
    return marks[min(len(marks) - 1, max(0, round(share * (len(marks) - 1))))]


@contextlib.contextmanager
def drawn_below(bar: Any, console: Any) -> Iterator[Callable[[list[str]], None]]:
    """Inside, rich's ``bar`` with the lines below it that the yielded function is given, redrawn in place."""
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    def picture(lines: Sequence[str]) -> Any:
        return Group(bar, Text("\n".join(lines), style="cyan", no_wrap=True, overflow="crop"))

    with Live(picture([]), console=console, transient=False) as shown:
        yield lambda lines: shown.update(picture(lines), refresh=True)
