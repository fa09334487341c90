"""A document -> a folder of files: the page, its HTML, pictures, tables, frames. No torch here.

Everything is made in a hidden folder beside it first, which takes its place at the end (``staging.py``): a report
appears whole, and a failed call leaves what was there.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from svda_analysis.document import Document, Picture, Table
from svda_analysis.errors import check_writable
from svda_analysis.formatting import file_names
from svda_analysis.render.html import to_html
from svda_analysis.render.latex import latex_file
from svda_analysis.render.markdown import markdown_table, to_markdown
from svda_analysis.render.staging import inside, staged
from svda_analysis.results import MARK, META


def write_document(
    document: Document,
    folder: str | os.PathLike[str],
    *,
    page: str = "summary.md",
    html: str = "report.html",
    figures: str = "figures",
    tables: str | None = None,
    frames: Mapping[str, pd.DataFrame] | None = None,
    texts: Mapping[str, str] | None = None,
    save: Callable[[Path], Any] | None = None,
    meta: Mapping[str, Any] | None = None,
    meta_file: str = META,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write a document into ``folder`` and return its files, the ``page`` first.

    ``page`` is its markdown and ``html`` the same as one HTML page. Each picture is drawn, saved as pdf and png into
    the sub-folder ``figures`` ("" for the folder itself) and closed before the next; ``progress`` is called with how
    many are done and how many there are. ``tables`` names a sub-folder for every table that has numbers, as csv, md and
    tex (None: none are written). ``frames`` are written as csv with six digits and ``texts`` as they stand, both by
    their path in the folder (frames without ``.csv``); ``save`` may put more into the folder that it is called with.

    ``meta`` goes into ``meta_file``: ``command`` first, then what is given, our mark and ``files`` last. None: there is
    none.

    Files that an earlier report of ours lists in its ``meta_file`` and that are not written now go away, and nothing
    else: reports whose ``meta_file`` differ stand in one folder. Files that did not change keep their date. Raises
    :class:`~svda_analysis.errors.InputError` as :func:`~svda_analysis.render.staging.staged` does.
    """
    place = Path(folder)
    check_writable(place, "output folder")
    with staged(place, meta_file) as stage:
        if save is not None:
            save(stage)
        for name, frame in (frames or {}).items():
            _write_frame(frame, stage / f"{name}.csv")
        kept = [table for table in document.tables if tables is not None and table.numbers is not None]
        for table, name in zip(kept, file_names(table.name for table in kept), strict=True):
            _write_table_files(dataclasses.replace(table, name=name), stage / (tables or ""))
        _write_pictures(document.pictures, stage / figures, progress)
        pages = {page: to_markdown(document, figures=figures), html: to_html(document, figures=figures)}
        for name, text in {**pages, **(texts or {})}.items():
            _write_text(text, stage / name)
        if meta is not None:
            write_meta({"command": document.command, **meta}, stage / meta_file)
        written = inside(stage)
    return sorted((place / name for name in written), key=lambda path: (path != place / page, path))


# --- the files of a report --------------------------------------------------------------------------------------------


def _write_pictures(pictures: list[Picture], folder: Path, progress: Callable[[int, int], None] | None) -> None:
    drawn = [picture for picture in pictures if picture.draw is not None]
    for at, picture in enumerate(drawn):
        if progress:
            progress(at, len(drawn))
        save_picture(picture, folder)
    if progress:
        progress(len(drawn), len(drawn))


def save_picture(picture: Picture, folder: Path) -> tuple[Path, ...]:
    """Draw a picture, write it into ``folder`` as pdf and png, and close it; returns both, nothing of one that is not
    drawn."""
    if picture.draw is None:
        return ()
    import matplotlib.pyplot as plt  # it takes a while, and not every report has pictures

    from svda_analysis.figures.saving import save_figure

    figure = picture.draw()
    written = save_figure(figure, folder, picture.name)
    plt.close(figure)
    return written


def _write_table_files(table: Table, folder: Path) -> None:
    """A table as csv of its numbers, and its text as markdown and LaTeX."""
    if table.numbers is not None:
        _write_frame(table.numbers, folder / f"{table.name}.csv")
    paragraphs = [markdown_table(table.text), *([table.note] if table.note else [])]
    _write_text("\n\n".join(paragraphs) + "\n", folder / f"{table.name}.md")
    _write_text(latex_file(table), folder / f"{table.name}.tex")


def _write_frame(frame: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False, float_format="%.6g", errors="backslashreplace")


def _write_text(text: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_meta(meta: Mapping[str, Any], path: Path) -> None:
    """What is given, our mark, and the files beside ``path``, which lists them."""
    files = sorted({*inside(path.parent), Path(path.name)})
    content = {**meta, **MARK, "files": [file.as_posix() for file in files]}
    _write_text(json.dumps(content, indent=2, default=str) + "\n", path)
