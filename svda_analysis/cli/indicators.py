"""``svda indicators``: what can be measured, and what it means."""

from __future__ import annotations

import click

from svda_analysis.cli.shared import CONTEXT


@click.command("indicators", context_settings=CONTEXT)
@click.argument("names", nargs=-1, metavar="[NAME...]")
def indicators_command(names: tuple[str, ...]) -> None:
    """List the indicators: what each is called, its range, what a higher number means, and where it comes from.

    \b
    Examples:
      svda indicators
      svda indicators effective_rank mass_90
    """
    from svda_analysis.errors import InputError
    from svda_analysis.indicators import INDICATORS

    for name in names:
        if name not in INDICATORS:
            raise InputError(f"NAME must be among {', '.join(INDICATORS)}, got {name!r}")
    for name in names or INDICATORS:
        one = INDICATORS[name]
        click.echo(f"{name}  ({', '.join(one.sources)}; {one.low:g} to {_limit(one.high)})")
        click.echo(f"    {one.label}. Higher: {one.higher_means}. {one.reference}.")


def _limit(high: float | str) -> str:
    sizes = {"D": "D, the head dimension", "N": "N, the tokens", "grid": "the grid's diagonal"}
    return sizes.get(high, high) if isinstance(high, str) else f"{high:g}"
