"""Bars that say how far something has come, by rich in a terminal, as HTML in a notebook; and where a process runs. No
torch here."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from html import escape
from importlib import import_module
from typing import Any, Protocol

_SECONDS = 0.1  # between two pictures of a notebook's bars


class Bars(Protocol):
    """A bar for each label that it is called with, how many of it are done and how many there are."""

    def __call__(self, label: str, done: int, total: int) -> None:
        """Show the bar of ``label`` at ``done`` of ``total``."""

    def note(self, line: str) -> None:
        """Say a line above the bars."""


class _NoBars:
    def __call__(self, label: str, done: int, total: int) -> None:
        pass

    def note(self, line: str) -> None:
        pass


@contextlib.contextmanager
def bars(unit: str = "", *, shown: bool = True) -> Iterator[Bars]:
    """Bars for as long as it lasts: on stderr where that is a terminal, in the output cell of a notebook; where there
    is neither, or they are not to be ``shown``, nothing. ``unit`` is what is counted."""
    if not shown:
        yield _NoBars()
    elif in_notebook():
        yield _NotebookBars(unit)
    elif not in_terminal():
        yield _NoBars()
    else:
        with _terminal_bars(unit) as found:
            yield found


def bars_unless(given: object, unit: str = "") -> contextlib.AbstractContextManager[Bars]:
    """:func:`bars` where nothing was given that follows the progress; ``False`` says that nothing is to be shown."""
    return bars(unit, shown=given is None)


def in_terminal() -> bool:
    """Whether stderr is a terminal; what rich puts in its place while it draws does not say so in all versions."""
    stderr = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
    return stderr is not None and bool(stderr.isatty())


def are_several() -> bool:
    """Whether torchrun, or what is like it, started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Whether this is the first of the processes that torchrun started, which alone speaks; or the only one."""
    return not are_several() or os.environ.get("RANK", "0") == "0"


def in_notebook() -> bool:
    """Whether this runs in a cell of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


@contextlib.contextmanager
def _terminal_bars(unit: str) -> Iterator[Bars]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(), TextColumn(unit))
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as shown:
        yield _TerminalBars(shown)


class _TerminalBars:
    def __init__(self, shown: Any) -> None:
        self.shown, self.tasks = shown, {}  # type: ignore[var-annotated]  # ids of rich, which comes later

    def __call__(self, label: str, done: int, total: int) -> None:
        from rich.markup import escape as as_it_stands

        if label not in self.tasks:
            self.tasks[label] = self.shown.add_task(as_it_stands(label), total=total)
        self.shown.update(self.tasks[label], completed=done, total=total)

    def note(self, line: str) -> None:
        self.shown.console.print(line, markup=False, highlight=False)


class _NotebookBars:
    """All bars in one display of IPython, which is there where a notebook is."""

    def __init__(self, unit: str) -> None:
        self.unit, self.at, self.lines = unit, {}, []  # type: ignore[var-annotated]
        self.display: Any = None
        self.last = -_SECONDS

    def __call__(self, label: str, done: int, total: int) -> None:
        self.at[label] = (done, total)
        if done >= total or time.monotonic() - self.last >= _SECONDS:
            self._show()

    def note(self, line: str) -> None:
        self.lines.append(line)
        self._show()

    def _show(self) -> None:
        ipython: Any = import_module("IPython.display")  # which is there where a notebook is
        self.last = time.monotonic()
        page = ipython.HTML(self.html())
        if self.display is None:
            self.display = ipython.display(page, display_id=True)
        else:
            self.display.update(page)

    def html(self) -> str:
        said = "".join(f"<div>{escape(line)}</div>" for line in self.lines)
        return said + "".join(
            f'<div>{escape(label)} <progress value="{done}" max="{total}"></progress> '
            f"{done}/{total} {escape(self.unit)}</div>"
            for label, (done, total) in self.at.items()
        )
