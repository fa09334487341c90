"""What an author takes from a report: figures as wide as a column, tables, and LaTeX that includes them. No torch here.

Nothing is measured: all is drawn from what lies in the report's folder.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from svda_analysis.document import Picture, Table
from svda_analysis.errors import InputError, check_writable
from svda_analysis.figures.style import ONE_COLUMN, TWO_COLUMNS, on_page
from svda_analysis.formatting import file_names
from svda_analysis.render.latex import latex_figure, latex_table
from svda_analysis.render.staging import staged
from svda_analysis.render.writer import save_picture, write_meta
from svda_analysis.reports import documents_in

WIDTHS = {"column": ONE_COLUMN, "text": TWO_COLUMNS}  # inches, of a page of two columns
Named = TypeVar("Named", Picture, Table)
FIGURES_TEX, TABLES_TEX, FIGURES_META = "figures.tex", "tables.tex", "figures.json"


def width_in_inches(word: str) -> float:
    """``column``, ``text``, or a number of inches. Raises :class:`InputError` for anything else."""
    with contextlib.suppress(ValueError):
        return WIDTHS[word] if word in WIDTHS else float(word)
    raise InputError(f"width must be column, text or inches like 5.5, got {word!r}")


def write_figures(
    report: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    width: str = "column",
    font: str = "sans",
    only: Sequence[str] = (),
    command: str = "",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Path]:
    """Draw the figures of each report in ``report`` again at the width of a page, and write them into ``folder``.

    Each is ``<name>.pdf`` as wide as it is to be printed, its type at the size that is read there. ``figures.tex``
    includes them, each with a caption and a label, and ``tables.tex`` holds the tables with theirs. ``width`` is what
    :func:`width_in_inches` takes, ``font`` one of :data:`~svda_analysis.figures.style.FONTS`; ``only``: names of
    figures and tables (``*`` stands for anything). Returns the files, ``figures.tex`` first.

    Raises :class:`InputError` as :func:`~svda_analysis.reports.documents_in` does, and for a name that nothing has.
    """
    inches, place = width_in_inches(width), Path(folder)
    check_writable(place, "output folder")
    with on_page(inches, font), staged(place, FIGURES_META) as stage:
        documents = documents_in(report)
        pictures = _under_names([one for document in documents for one in document.pictures if one.draw is not None])
        tables = [one for document in documents for one in document.tables if len(one.text)]
        tables = [dataclasses.replace(one, name=name) for one, name in _with_names(tables)]
        _check_names([*(one.name for one in pictures), *(one.name for one in tables)], only)
        pictures, tables = _chosen(pictures, only), _chosen(tables, only)
        for at, picture in enumerate(pictures):
            progress(at, len(pictures))
            for path in save_picture(picture, stage):
                if path.suffix != ".pdf":
                    path.unlink()
        progress(len(pictures), len(pictures))
        texts = {
            FIGURES_TEX: [
                latex_figure(f"{one.name}.pdf", one.alt, one.name, across=width == "text") for one in pictures
            ],
            TABLES_TEX: [latex_table(one, width=inches, across=width == "column") for one in tables],
        }
        for name, parts in texts.items():
            (stage / name).write_text("\n".join([_needs(name), *parts]), encoding="utf-8", errors="backslashreplace")
        about = {"command": command, "kind": "figures", "report": str(report), "width": width, "font": font}
        write_meta(about, stage / FIGURES_META)
        written = sorted(path.name for path in stage.iterdir())
    return sorted((place / name for name in written), key=lambda path: (path.name != FIGURES_TEX, path))


def _needs(name: str) -> str:
    package = "graphicx" if name == FIGURES_TEX else "booktabs,graphicx"
    return f"% needs \\usepackage{{{package}}}; the pdf files are made at the width at which they are printed\n"


def _under_names(pictures: Sequence[Picture]) -> list[Picture]:
    names = file_names(one.name for one in pictures)
    return [dataclasses.replace(one, name=name) for one, name in zip(pictures, names, strict=True)]


def _with_names(tables: Sequence[Table]) -> list[tuple[Table, str]]:
    return list(zip(tables, file_names(one.name for one in tables), strict=True))


def _chosen(found: Sequence[Named], only: Sequence[str]) -> list[Named]:
    return [one for one in found if not only or any(fnmatch.fnmatchcase(one.name, name) for name in only)]


def _check_names(names: Sequence[str], only: Sequence[str]) -> None:
    from svda_analysis.figures.registry import FIGURES  # matplotlib, for those who draw

    for name in only:
        if not fnmatch.filter(names, name):
            needs = FIGURES[name].needs if name in FIGURES else ""
            lacking = f", which needs {needs}" if needs else ""
            raise InputError(f"only must hold names among {', '.join(names)}, got {name!r}{lacking}")
