"""An analysis in an output cell of a notebook: its summary, and the explorer of its maps. No torch here."""

from __future__ import annotations

import dataclasses
import os
from html import escape
from pathlib import Path
from typing import Any

from svda_analysis.bars import in_notebook
from svda_analysis.document import Document
from svda_analysis.errors import InputError
from svda_analysis.render.html import fragment, widget_page
from svda_analysis.results import Analysis
from svda_analysis.sections.explorer import explorer_widget
from svda_analysis.sections.page import about_analysis, first_findings

_HEIGHT = 1100  # pixels of a cell that shows the explorer


@dataclasses.dataclass(frozen=True)
class Page:
    """A whole page: a notebook shows it in a frame of its own, :meth:`save` writes it into a file."""

    html: str

    def _repr_html_(self) -> str:
        frame = f'width="100%" height="{_HEIGHT}" style="border: 0" title="Explorer of attention"'
        return f'<iframe srcdoc="{escape(self.html)}" {frame}></iframe>'

    def __repr__(self) -> str:
        return f"Page of {len(self.html) / 1e6:.1f} MB: shown by a notebook, written by save(FILE)"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page; returns its file. Raises :class:`InputError` where it cannot be written."""
        try:
            Path(path).write_text(self.html, encoding="utf-8")
        except OSError as error:
            raise InputError(f"path {path} cannot be written: {error.strerror}") from None
        return Path(path)


def summary_html(analysis: Analysis) -> str:
    """What was analysed and what was found, as a piece of HTML."""
    first = Document(
        title="Attention analysis",
        sections=(),
        about=about_analysis(analysis),
        answer=first_findings(analysis),
        warnings=analysis.warnings,
    )
    return fragment(first)


def figure_of(analysis: Analysis, name: str | None) -> Any:
    """One of the figures that a report of the analysis would show, drawn; None: the first.

    Raises :class:`InputError` for another name, and says of one that is registered what it needs."""
    from svda_analysis.figures.registry import FIGURES, pictures  # matplotlib, for those who draw

    found = {picture.name: picture for picture in pictures(analysis)}
    name = next(iter(found), None) if name is None else name
    if name is None or name not in found:
        needs = FIGURES[name].needs if name in FIGURES else ""
        why = f"{name!r}, which needs {needs}" if needs else repr(name)
        raise InputError(f"name must be one of {', '.join(found)}, got {why}")
    if (draw := found[name].draw) is None:
        return None
    figure = draw()
    if in_notebook():  # which shows what a cell returns, and what pyplot holds a second time
        import matplotlib.pyplot as plt

        plt.close(figure)
    return figure


def explorer_page(analysis: Analysis) -> Page:
    """The explorer of an analysis. Raises :class:`InputError` where the analysis holds no example images."""
    widget = explorer_widget(analysis)
    if widget is None:
        raise InputError("the analysis must hold example images with their maps, got none: measure with examples=4")
    return Page(widget_page(widget))
