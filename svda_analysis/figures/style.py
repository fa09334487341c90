"""The look of all figures: theme, widths, colours, and who is drawn in which of them. No torch here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import matplotlib as mpl
import pandas as pd

from svda_analysis.errors import InputError
from svda_analysis.kinds import ATTENTIONS

ONE_COLUMN, TWO_COLUMNS = 3.4, 7.0  # inches, the widths of a two-column page
BLACK, GREY = "#222222", "#777777"
# Okabe & Ito's colours for every kind of colour vision, without their yellow, which is too pale for lines on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
DASHES = ("-", (0, (4, 1.2)), (0, (1, 1)), (0, (5, 1, 1, 1)))
THEME: dict[Any, Any] = {
    "figure.figsize": (ONE_COLUMN, 2.4),
    "figure.constrained_layout.use": True,
    "figure.dpi": 100,
    "figure.facecolor": "white",
    "savefig.facecolor": "auto",
    "savefig.bbox": "standard",  # the width on paper is the width asked for
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same figure on every machine
    "font.size": 7,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.5,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "figure.titlesize": 8,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "axes.linewidth": 0.6,
    "axes.edgecolor": BLACK,
    "axes.labelcolor": BLACK,
    "text.color": BLACK,
    "xtick.color": BLACK,
    "ytick.color": BLACK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "axes.titlepad": 3,
    "axes.titley": 1.0,  # else it is looked for anew, by all ticks, each time that panels are arranged or drawn
    "axes.labelpad": 2,
    "axes.prop_cycle": f"cycler('color', {list(COLORS)})",
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 3.5,
    "pdf.fonttype": 42,  # text stays text in the PDF
    "ps.fonttype": 42,
    "svg.fonttype": "none",
}
HEAT = "viridis"
Names = Sequence[str]
Models = Names | None


def verbatim(text: str) -> str:
    """``text`` for matplotlib to write as it is: what a name has of ``$`` opens no mathematics."""
    return text.replace("$", r"\$")


# --- the page that figures are made for ------------------------------------------------------------------------------

FONTS: dict[str, dict[Any, Any]] = {  # both ship with matplotlib; the second is cut as Times is
    "sans": {},
    "serif": {"font.family": ["STIXGeneral", "DejaVu Sans"], "mathtext.fontset": "stix"},
}
NARROWEST, WIDEST = 2.5, 12.0  # inches


class _PageLook(NamedTuple):
    width: float = TWO_COLUMNS
    font: str = "sans"


_TWO = _PageLook()
_PAGE: ContextVar[_PageLook] = ContextVar("page", default=_TWO)


@contextmanager
def on_page(width: float = TWO_COLUMNS, font: str = "sans") -> Iterator[None]:
    """Within the block figures are made ``width`` inches wide at most, at their type size, in one of :data:`FONTS`: put
    into a page of that column width as they are, nothing shrinks."""
    if not NARROWEST <= width <= WIDEST:
        raise InputError(f"width must be {NARROWEST:g} to {WIDEST:g} inches, got {width:g}")
    if font not in FONTS:
        raise InputError(f"font must be one of {', '.join(FONTS)}, got {font!r}")
    token = _PAGE.set(_PageLook(width, font))
    try:
        yield
    finally:
        _PAGE.reset(token)


def page_width() -> float:
    """The width of the widest figures, inches."""
    return _PAGE.get().width


def beside(most: int) -> int:
    """How many panels stand side by side where ``most`` do on two columns."""
    return max(1, min(most, round(most * page_width() / TWO_COLUMNS)))


def theme() -> AbstractContextManager[None]:
    """The paper style for the length of a ``with`` block; nothing changes outside it."""
    look: dict[Any, Any] = THEME | FONTS[_PAGE.get().font]
    return mpl.rc_context(look)


# --- who is drawn how -------------------------------------------------------------------------------------------------


class Style(NamedTuple):
    """How a model looks in every figure."""

    color: str
    marker: str
    dash: Any


class Drawn(list[str]):
    """Names of models in drawing order that know their kinds of attention, and so how each looks in every figure."""

    def __init__(self, names: Sequence[str], kinds: Mapping[str, str | None]) -> None:
        super().__init__(names)
        self.styles = styles_of(names, kinds)


def styles_of(names: Sequence[str], kinds: Mapping[str, str | None]) -> dict[str, Style]:
    """The look of each model: the first of a kind of attention has that kind's, which is the same in every report, the
    others those that are left."""
    order = list(ATTENTIONS)
    first = {kind: name for name in reversed(names) if (kind := kinds.get(name)) in order}
    places = {name: order.index(str(kind)) for kind, name in first.items()}
    free = iter([*range(len(order), len(order) + len(names)), *set(range(len(order))).difference(places.values())])
    return {name: style_at(places[name] if name in places else next(free)) for name in names}


def model_styles(frame: pd.DataFrame, models: Models = None) -> dict[str, Style]:
    """Colour, marker and dash of each model, in drawing order.

    Of ``models`` only these are drawn: a :class:`Drawn` says how, else the place in ``models`` does. Without, baselines
    come first, then the other kinds of attention as they are registered, by name; each kind has a look of its own
    (:func:`styles_of`). Where the frame holds no kinds, the first style belongs to the ``baseline`` of a comparison.
    """
    present = [str(name) for name in frame["model"].unique()]
    if isinstance(models, Drawn):
        return {name: look for name, look in models.styles.items() if name in present}
    if models is not None:
        return {name: style_at(i) for i, name in enumerate(models) if name in present}
    if "attention" in frame:
        kinds = kinds_in(frame)
        order = list(ATTENTIONS)
        place = {name: order.index(str(kind)) if kind in order else len(order) for name, kind in kinds.items()}
        return styles_of(sorted(present, key=lambda name: (place[name], name)), kinds)
    first = set(frame["baseline"].astype(str)) & set(present) if "baseline" in frame else set()
    names = sorted(present, key=lambda name: (name not in first, name))
    return {name: style_at(i + (not first)) for i, name in enumerate(names)}


def kinds_in(frame: pd.DataFrame) -> dict[str, str | None]:
    """The kind of attention of each model of a frame; None where it is not known."""
    named = frame[["model", "attention"]].drop_duplicates("model")
    return {str(m): None if pd.isna(kind) else str(kind) for m, kind in named.itertuples(index=False)}


def style_at(i: int) -> Style:
    """The look of the model at place ``i``; colours and markers run through their lists apart."""
    return Style(COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)])
