"""Bars and lines that say how far a command has come; bars in a terminal alone."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from svda_analysis.cli.shared import say


@contextlib.contextmanager
def progress_bars(unit: str, quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each label in a terminal; nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield lambda label, done, total: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit))
    tasks: dict[str, Any] = {}
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:

        def advance(label: str, done: int, total: int) -> None:
            if label not in tasks:
                tasks[label] = bar.add_task(escape(label), total=total)
            bar.update(tasks[label], completed=done, total=total)

        yield advance


def say_start(lines: Sequence[str]) -> None:
    for line in lines:
        say(line)


def say_run(run: Any, at: int, total: int) -> None:
    say(f"run {at} of {total}: {run.dataset} {run.name} seed {run.recipe.seed}")


@contextlib.contextmanager
def training_display() -> Iterator[Callable[[Any], None]]:
    """A live bar with speed, loss, accuracy and time left in a terminal; a line for each epoch everywhere."""
    if not sys.stderr.isatty():
        yield lambda state: None if state.epoch_rows is None else say(epoch_line(state))
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("epoch {task.fields[epoch]}"), BarColumn(bar_width=20), TextColumn("{task.fields[numbers]}"))
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("train", total=None, epoch="", numbers="")

        def observe(state: Any) -> None:
            numbers = (
                f"{state.images_per_second:.0f} images/s  loss {state.loss:.3f}  accuracy {state.accuracy:.1%}  "
                f"{_clock(state.seconds_left)} left"
            )
            epoch = f"{state.epoch}/{state.epochs}"
            bar.update(task, completed=state.step, total=state.steps, epoch=epoch, numbers=numbers)
            if state.epoch_rows is not None:
                console.print(epoch_line(state), highlight=False)

        yield observe


def epoch_line(state: Any) -> str:
    """What an epoch came to, on one line of at most 80 columns; the columns of all epochs stand below each other."""
    rows = state.epoch_rows.groupby(["indicator", "source"])["mean"].mean()
    epoch = f"{state.epoch:>{len(str(state.epochs))}}/{state.epochs}"
    return (
        f"epoch {epoch}  loss {rows['loss', 'train']:.3f}, test {rows['loss', 'test']:.3f}  "
        f"accuracy {rows['accuracy', 'test']:6.2%}  entropy {rows['attention_entropy', 'attention']:.3f}  "
        f"{_clock(state.seconds_left)} left"
    )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
