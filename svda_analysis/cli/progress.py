"""Bars and lines that say how far a command has come; bars in a terminal alone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from svda_analysis.bars import Bars, bars, in_terminal
from svda_analysis.cli.live import drawn_below, live_view
from svda_analysis.cli.shared import is_quiet, say


def progress_bars(unit: str = "") -> contextlib.AbstractContextManager[Bars]:
    """A bar for each label in a terminal; nothing elsewhere, nor with ``--quiet``."""
    return bars(unit, shown=not is_quiet())


def with_estimate(bars: Bars, runs: int) -> Bars:
    """The same bars, which also say how long ``runs`` runs take on all images, once, where that is more than a
    minute."""
    return _Estimate(bars, runs)


_MEASURED_FOR, _LONG = 3.0, 60.0  # seconds before an estimate, and of an estimate that is worth a line


class _Estimate:
    def __init__(self, bars: Bars, runs: int) -> None:
        self.bars, self.runs = bars, runs
        self.first: tuple[str, int, float] | None = None  # a label, how many were done, and when
        self.said = False

    def __call__(self, label: str, done: int, total: int) -> None:
        self.bars(label, done, total)
        if self.said:
            return
        if self.first is None:  # the first batch takes longer than those that follow
            self.first = label, done, time.monotonic()
            return
        seconds, images = time.monotonic() - self.first[2], done - self.first[1]
        if label == self.first[0] and seconds >= _MEASURED_FOR and images > 0:
            self.said = True
            left = seconds / images * total * self.runs
            if left >= _LONG:
                each = f" for {self.runs} models" if self.runs > 1 else ""
                self.note(f"about {left / 60:.0f} min at most{each}; --images 1000 for a quick look")

    def note(self, line: str) -> None:
        self.bars.note(line)


def say_start(lines: Sequence[str]) -> None:
    for line in lines:
        say(line)


def say_run(run: Any, at: int, total: int) -> None:
    say(f"run {at} of {total}: {run.dataset} {run.name} seed {run.recipe.seed}")


@contextlib.contextmanager
def training_display(live: bool = False) -> Iterator[Callable[[Any], None]]:
    """A bar with speed, loss, accuracy and time left in a terminal, ``live``: with heads and sigma drawn below it; a
    line for each epoch everywhere."""
    if is_quiet() or not in_terminal():
        yield lambda state: None if state.epoch_rows is None else say(epoch_line(state))
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    console = Console(stderr=True)
    columns = (TextColumn("epoch {task.fields[epoch]}"), BarColumn(bar_width=20), TextColumn("{task.fields[numbers]}"))
    bar = Progress(*columns, console=console, transient=True)
    with contextlib.ExitStack() as shown:
        draw = shown.enter_context(drawn_below(bar, console)) if live else None
        if draw is None:
            shown.enter_context(bar)
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
                if draw is not None:
                    draw(live_view(state.epoch_rows, state.sigma))

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
