"""The look of all figures: theme, widths, colours, and who is drawn in which of them. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import matplotlib as mpl
import pandas as pd

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


def theme() -> AbstractContextManager[None]:
    """The paper style for the length of a ``with`` block; nothing changes outside it."""
    return mpl.rc_context(THEME)


class Style(NamedTuple):
    """How a model looks in every figure."""

    color: str
    marker: str
    dash: Any


def model_styles(frame: pd.DataFrame, models: Models = None) -> dict[str, Style]:
    """Colour, marker and dash of each model, in drawing order.

    The first style belongs to the baseline (``attention`` of the role "baseline", or the ``baseline`` of a comparison),
    and is left unused where the frame has none, so that SVDA looks the same alone and beside its baseline. With
    ``models``, the place in ``models`` decides, and only these are drawn.
    """
    present = [str(name) for name in frame["model"].unique()]
    if models is not None:
        return {name: style_at(i) for i, name in enumerate(models) if name in present}
    if "attention" in frame:
        kinds = [kind.name for kind in ATTENTIONS.values() if kind.role == "baseline"]
        first = {str(name) for name in frame.loc[frame["attention"].isin(kinds), "model"].unique()}
    else:
        first = set(frame["baseline"].astype(str)) & set(present) if "baseline" in frame else set()
    order = sorted(present, key=lambda name: (name not in first, name))
    return {name: style_at(i + (not first)) for i, name in enumerate(order)}


def style_at(i: int) -> Style:
    """The look of the model at place ``i``; colours and markers run through their lists apart."""
    return Style(COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)], DASHES[i % len(DASHES)])
