"""``svda indicators``: what can be measured, and what it means."""

from __future__ import annotations

import math
import shutil
from typing import TYPE_CHECKING

import click

from svda_analysis.cli.shared import CONTEXT

if TYPE_CHECKING:
    from svda_analysis.indicators import Indicator


@click.command("indicators", context_settings=CONTEXT)
@click.argument("names", nargs=-1, metavar="[NAME...]")
def indicators_command(names: tuple[str, ...]) -> None:
    """List the indicators: what each is called, its range, what a higher number means, and where it comes from.

    NAME is an indicator, or a group of them such as source.

    \b
    Examples:
      svda indicators
      svda indicators effective_rank mass_90
    """
    from svda_analysis.indicators import choose_indicators, indicator_groups
    from svda_analysis.vocabulary import register_all

    if names:
        _print_entries(choose_indicators(names, argument="NAME"))
        return
    register_all()
    _print_entries(choose_indicators())
    for group in indicator_groups():
        click.echo(f"\nMeasured only when asked for by name, or all at once with --indicators {group}:\n")
        _print_entries(choose_indicators([group]))


def _print_entries(indicators: list[Indicator]) -> None:
    for one in indicators:
        click.echo(f"{one.name}  ({', '.join(one.sources)}; {one.low:g} to {_limit(one.high)})")
        about = f"{one.label}. Higher: {one.higher_means}. Reference: {one.reference}."
        width = shutil.get_terminal_size().columns
        click.echo(click.wrap_text(about, width, initial_indent="    ", subsequent_indent="    "))


def _limit(high: float | str) -> str:
    words: dict[float | str, str] = {
        "D": "D, the head dimension",
        "N": "N, the tokens",
        "grid": "the grid's diagonal",
        "ln D": "ln D, D the head dimension",
        "1 - 1/N": "1 - 1/N, N the tokens",
        math.inf: "infinity",
    }
    return words.get(high) or (high if isinstance(high, str) else f"{high:g}")
