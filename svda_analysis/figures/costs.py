"""What a compression costs. No torch here."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from svda_analysis.figures.panels import own_figure, shared_legend
from svda_analysis.figures.style import BLACK, GREY, Style, page_width, style_at, verbatim
from svda_analysis.frames import check_columns

_CURVE = ("criterion", "directions_removed", "rows_removed", "masked_change", "removed_change")


def plot_compression(curves: Mapping[str, pd.DataFrame], *, fig: Figure | None = None) -> Figure:
    """What a compression costs: change in accuracy (points, with 95 % intervals) by share removed, one row a model.

    Left the score directions masked, right the rows of W_q and W_k truly removed. ``curves`` holds by model frames of
    ``frames.SWEEP_COLUMNS``, of one run or pooled over runs; each criterion is a line, the random control in grey;
    budgets, met by one threshold for all heads, are a line of their own. What lies far below is out of sight, and so is
    its interval.
    """
    for model, curve in curves.items():
        check_columns(curve, _CURVE, f"curve of {model}")
    fig, styled = own_figure(fig, page_width(), 0.4 + 2.2 * len(curves))
    with styled:
        axes = fig.subplots(len(curves), 2, sharey="row", squeeze=False)
        for row, (model, curve) in zip(axes, curves.items(), strict=True):
            for ax, how, share in zip(row, ("masked", "removed"), ("directions_removed", "rows_removed"), strict=True):
                _draw_cost(ax, curve, how, share)
            row[0].set(ylabel="Change in accuracy (points)", title=verbatim(model) if len(curves) > 1 else "")
        axes[-1, 0].set(xlabel="Score directions masked (%)")
        axes[-1, 1].set(xlabel=r"Rows of $W_q$ and $W_k$ removed (%)")
        shared_legend(fig, [axes[0, 0]])
    return fig


def _draw_cost(ax: Axes, curve: pd.DataFrame, how: str, share: str) -> None:
    bottom = _bottom(curve, how)
    by_budget = curve.get("budget", pd.Series(index=curve.index)).notna()
    names = curve["criterion"].astype(object).mask(by_budget, curve["criterion"] + ", one threshold")
    colored = [name for name in names.unique() if name != "random"]
    for criterion, rows in curve.groupby(names, sort=False):
        style = Style(GREY, "x", ":") if criterion == "random" else style_at(colored.index(criterion))
        rows = rows.sort_values(share)
        x = 100 * rows[share]
        ax.plot(x, 100 * rows[f"{how}_change"], color=style.color, marker=style.marker, ls=style.dash, label=criterion)
        shown = (100 * rows[f"{how}_change"] >= bottom).to_numpy()  # a band of what is out of sight hides the rest
        low, high = (100 * rows[f"{how}_{end}"] for end in ("low", "high"))
        ax.fill_between(x, low, high, where=shown, color=style.color, alpha=0.1, lw=0)
    ax.axhline(0, color=BLACK, lw=0.6)
    good = 100 * curve.loc[curve["criterion"] != "random", f"{how}_change"]
    if good.notna().any():
        ax.set_ylim(bottom, max(float(good.max()), 0) + 1)
        control = 100 * curve.loc[curve["criterion"] == "random", f"{how}_change"].dropna()
        if len(control) and control.max() < bottom:
            ax.text(0.02, 0.03, f"random: below, {control.max():.0f} at best", transform=ax.transAxes, color=GREY)


def _bottom(curve: pd.DataFrame, how: str) -> float:
    """The least change that is shown: a random choice, or far too little kept, costs most of the accuracy and would
    flatten all."""
    good = 100 * curve.loc[curve["criterion"] != "random", f"{how}_change"]
    return max(float(good.min()), -5) - 1 if good.notna().any() else -math.inf
