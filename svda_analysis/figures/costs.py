"""What a compression costs. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svda_analysis.figures.panels import own_figure, shared_legend
from svda_analysis.figures.style import BLACK, GREY, Style, page_width, style_at, verbatim
from svda_analysis.frames import check_columns

_CURVE = ("criterion", "directions_removed", "rows_removed", "masked_change", "removed_change")


_NAMES = {  # of criteria, as they are drawn, the best first; at most three lines
    "operator": "by singular value of the scores",
    "sigma": "by sigma",
    "data": "by sigma and the data",
    "random": "at random",
}
_LINES = 2  # and the random control


def plot_compression(curves: Mapping[str, pd.DataFrame], *, fig: Figure | None = None) -> Figure:
    """What a compression costs: change in accuracy (points, with 95 % intervals) by share removed, one row a model.

    Left the score directions masked, right the rows of W_q and W_k truly removed, all on one scale of shares.
    ``curves`` holds by model frames of ``frames.SWEEP_COLUMNS``, of one run or pooled over runs. At most two criteria
    are lines, those named first in the list of criteria, beside the random control in grey; what meets a budget by one
    threshold for all heads is left out. What lies far below is out of sight.
    """
    for model, curve in curves.items():
        check_columns(curve, _CURVE, f"curve of {model}")
    fig, styled = own_figure(fig, page_width(), 0.4 + 2.0 * len(curves))
    with styled:
        axes = fig.subplots(len(curves), 2, sharey="row", sharex=True, squeeze=False)
        for row, (model, curve) in zip(axes, curves.items(), strict=True):
            shown = _shown_lines(curve)
            for ax, how, share in zip(row, ("masked", "removed"), ("directions_removed", "rows_removed"), strict=True):
                _draw_cost(ax, shown, how, share)
            row[0].set(ylabel="Change in accuracy (points)", title=verbatim(model) if len(curves) > 1 else "")
        axes[-1, 0].set(xlabel="Score directions masked (%)", xlim=(_leftmost(curves), 100))
        axes[-1, 1].set(xlabel=r"Rows of $W_q$ and $W_k$ removed (%)")
        shared_legend(fig, axes[:, 0])
    return fig


def _leftmost(curves: Mapping[str, pd.DataFrame]) -> float:
    """Where the common scale of shares begins: a tenth below the least that is drawn."""
    shares = [_shown_lines(one)[["directions_removed", "rows_removed"]].to_numpy(float) for one in curves.values()]
    return max(0.0, 10 * math.floor(10 * min(float(np.nanmin(found)) for found in shares) - 0.5))


def _shown_lines(curve: pd.DataFrame) -> pd.DataFrame:
    """The rows that are drawn, in the order of the lines."""
    rows = curve[curve["budget"].isna()] if "budget" in curve and curve["budget"].isna().any() else curve
    found = [name for name in [*_NAMES, *rows["criterion"].unique()] if name in set(rows["criterion"])]
    lines = [*[name for name in dict.fromkeys(found) if name != "random"][:_LINES], "random"]
    return rows[rows["criterion"].isin(lines)].sort_values(
        "criterion", key=lambda names: names.map(lines.index), kind="stable"
    )


def _draw_cost(ax: Axes, curve: pd.DataFrame, how: str, share: str) -> None:
    bottom = _bottom(curve, how)
    looks = {name: style_at(at + 2) for at, name in enumerate(_NAMES)} | {"random": Style(GREY, "x", ":")}
    for criterion, rows in curve.groupby("criterion", sort=False):
        style = looks.get(str(criterion), style_at(5))
        rows = rows.sort_values(share)
        x, y = 100 * rows[share], 100 * rows[f"{how}_change"]
        named = _NAMES.get(str(criterion), str(criterion))
        ax.plot(x, y, color=style.color, marker=style.marker, ls=style.dash, label=named)
        low, high = (100 * rows[f"{how}_{end}"] for end in ("low", "high"))
        if criterion != "random":
            ax.vlines(x, low, high, color=style.color, lw=0.8, alpha=0.6)
    ax.axhline(0, color=BLACK, lw=0.6)
    good = 100 * curve.loc[curve["criterion"] != "random", f"{how}_change"]
    if good.notna().any():
        ax.set_ylim(bottom, max(float(good.max()), 0) + 1)
        control = 100 * curve.loc[curve["criterion"] == "random", f"{how}_change"].dropna()
        if len(control) and control.max() < bottom:
            text = f"at random: below, {control.max():.0f} at best".replace("-", "\u2212")
            ax.text(0.02, 0.03, text, transform=ax.transAxes, color=GREY)


def _bottom(curve: pd.DataFrame, how: str) -> float:
    """The least change that is shown: a random choice, or far too little kept, costs most of the accuracy and would
    flatten all."""
    good = 100 * curve.loc[curve["criterion"] != "random", f"{how}_change"]
    return max(float(good.min()), -5) - 1 if good.notna().any() else -math.inf
