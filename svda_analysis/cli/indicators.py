"""``svda indicators``: what can be measured, and what it means."""

from __future__ import annotations

import difflib
import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from svda_analysis.cli.shared import CONTEXT, conclude, output_options, speaks
from svda_analysis.errors import InputError

if TYPE_CHECKING:
    from svda_analysis.vocabulary import Quantity


@click.command("indicators", context_settings=CONTEXT)
@click.argument("names", nargs=-1, metavar="[NAME...]")
@output_options
def indicators_command(names: tuple[str, ...]) -> None:
    """List what a table can hold: what each is called, its range, what a higher number means, where it comes from,
    which question it answers and what it does not say.

    NAME is an indicator, a metric of faithfulness or another quantity, or a group of them: those that --indicators
    and --metrics take, faithfulness, or other.

    \b
    Examples:
      svda indicators
      svda indicators effective_rank mass_90
      svda indicators faithfulness
    """
    groups = _groups()
    every: dict[str, list[Quantity]] = {one.name: [one] for held in groups.values() for one in held}
    for group, held in groups.items():
        for one in held:
            for name in {group, getattr(one, "group", "")} - {""}:
                every.setdefault(name, []).append(one)
    for name in names:
        if name not in every:
            near = difflib.get_close_matches(name, every, 1, 0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"NAME must be one that 'svda indicators' lists, or a group of them, got {name!r}{hint}")
    chosen = {"": [one for name in names for one in every[name]]} if names else groups
    entries = list({one.name: one for held in chosen.values() for one in held}.values())
    if not speaks():
        conclude([one.name for one in entries], {"indicators": [_entry_of(one) for one in entries]})
        return
    for group, held in chosen.items():
        if group:
            click.echo("\n" + click.wrap_text(f"{_heading(group)}:", shutil.get_terminal_size().columns) + "\n")
        _print_entries({one.name: one for one in held}.values())


def _entry_of(one: Quantity) -> dict[str, Any]:
    """What is known of a quantity, for a program."""
    fields = ("name", "label", "unit", "sources", "low", "high", "higher_means", "reference", "question", "not_said")
    return {**{key: getattr(one, key) for key in fields}, "group": getattr(one, "group", "")}


def _groups() -> dict[str, Sequence[Quantity]]:
    """Everything that is registered, by group; the indicators that are always measured come first, under no name."""
    from svda_analysis.indicators import INDICATORS, choose_indicators
    from svda_analysis.metrics import METRICS
    from svda_analysis.vocabulary import FAITHFULNESS, QUANTITIES, groups_of, register_all

    register_all()
    others = [one for one in QUANTITIES.values() if one.name not in {*INDICATORS, *METRICS}]
    return {
        "": choose_indicators(),
        **{group: choose_indicators([group]) for group in groups_of(INDICATORS)},
        FAITHFULNESS: list(METRICS.values()),
        "other": others,
    }


def _heading(group: str) -> str:
    known = {
        "faithfulness": "Metrics of faithfulness, of each method of attribution, with --faithfulness N; those of a "
        "group with --metrics GROUP",
        "other": "Other quantities of a table",
    }
    return known.get(group, f"Measured only when asked for by name, or with --indicators {group}")


def _print_entries(quantities: Iterable[Quantity]) -> None:
    width = shutil.get_terminal_size().columns
    for one in quantities:
        of = f"{', '.join(one.sources)}; " if one.sources else ""
        click.echo(f"{one.name}  ({of}{_limit(one.low)} to {_limit(one.high)})")
        for line in _about(one):
            click.echo(click.wrap_text(line, width, initial_indent="    ", subsequent_indent="    "))


def _about(one: Quantity) -> Iterator[str]:
    means, reference = f" Higher: {one.higher_means}." if one.higher_means else "", one.reference
    group = getattr(one, "group", "")
    yield f"{one.label}.{means}" + f" Reference: {reference}." * bool(reference) + f" Group: {group}." * bool(group)
    if one.question:
        yield f"Asks: {one.question} Does not say: {one.not_said}."
    if one.varies_with:
        alone = "" if one.compares_kinds else "; compared within one kind of attention only"
        yield f"Varies with: {', '.join(one.varies_with)}{alone}."
    if whole := [source for source in one.sources if getattr(one, "needs_whole", lambda _: False)(source)]:
        yield f"Needs whole maps ({', '.join(whole)}): left out where they do not fit in --memory."
    if one.needs_living:
        yield "A uniform map reaches the same end: read it beside living_maps."


def _limit(limit: float | str) -> str:
    words: dict[float | str, str] = {
        "D": "D, the head dimension",
        "N": "N, the tokens",
        "grid": "the grid's diagonal",
        "ln D": "ln D, D the head dimension",
        "1 - 1/N": "1 - 1/N, N the tokens",
        math.inf: "infinity",
        -math.inf: "-infinity",
    }
    return words.get(limit) or (limit if isinstance(limit, str) else f"{limit:g}")
