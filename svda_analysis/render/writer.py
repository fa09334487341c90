"""A document -> a folder of files: the page, its HTML, pictures, tables, frames. No torch here.

Everything is made in a hidden folder inside it first and moved at the end, so that a failed call leaves what was there.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from svda_analysis.document import Document, Picture, Table
from svda_analysis.errors import InputError, check_writable
from svda_analysis.render.html import to_html
from svda_analysis.render.latex import latex_file
from svda_analysis.render.markdown import markdown_table, to_markdown
from svda_analysis.results import META


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

    ``meta`` goes into ``meta_file``: ``command`` first, then what is given, ``files`` last. None: there is none.

    Files that an earlier report lists in its ``meta_file`` and that are not written now go away, and nothing else:
    reports whose ``meta_file`` differ stand in one folder. Files that did not change keep their date. Raises
    :class:`InputError` when the folder cannot be written.
    """
    place = Path(folder)
    check_writable(place, "output folder")
    with staged(place, meta_file) as stage:
        if save is not None:
            save(stage)
        for name, frame in (frames or {}).items():
            _write_frame(frame, stage / f"{name}.csv")
        for table in document.tables:
            if tables is not None and table.numbers is not None:
                _write_table_files(table, stage / tables)
        _write_pictures(document.pictures, stage / figures, progress)
        pages = {page: to_markdown(document, figures=figures), html: to_html(document, figures=figures)}
        for name, text in {**pages, **(texts or {})}.items():
            _write_text(text, stage / name)
        if meta is not None:
            _write_meta({"command": document.command, **meta}, stage / meta_file)
        written = _inside(stage)
    return sorted((place / name for name in written), key=lambda path: (path != place / page, path))


@contextlib.contextmanager
def staged(folder: Path, meta_file: str = META) -> Iterator[Path]:
    """A folder to write into; when all went well its files take the place of those of an earlier report.

    What an earlier report lists in its ``meta_file`` and is not written now goes away; equal files are left alone.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".unfinished-") as made:
            stage = Path(made)
            yield stage
            fresh = _inside(stage)
            for old in _files_of(folder / meta_file):
                if Path(old) not in fresh:
                    (folder / old).unlink(missing_ok=True)
            for name in fresh:
                _move(stage / name, folder / name)
    except OSError as error:
        raise InputError(f"output folder {folder} cannot be written: {error.strerror or error}") from None


def _move(made: Path, target: Path) -> None:
    """Put a file in its place; what did not change keeps its date."""
    if target.is_file() and target.read_bytes() == made.read_bytes():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(made, target)


def _inside(folder: Path) -> list[Path]:
    """Every file in a folder and below, relative to it, in order."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def _files_of(meta: Path) -> list[str]:
    """What the report with this file ``meta`` says it consists of; nothing where there is none."""
    try:
        files = json.loads(meta.read_text(encoding="utf-8"))["files"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [
        name for name in files if isinstance(name, str) and ".." not in Path(name).parts and not name.startswith("/")
    ]


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
    frame.to_csv(path, index=False, float_format="%.6g")


def _write_text(text: str, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _write_meta(meta: Mapping[str, Any], path: Path) -> None:
    files = sorted({*_inside(path.parent), Path(path.name)})
    content = {**meta, "files": [file.as_posix() for file in files]}
    _write_text(json.dumps(content, indent=2, default=str) + "\n", path)
