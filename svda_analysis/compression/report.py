"""Compressions of one or several runs -> a folder, beside whatever else lies in it: their numbers and their report.

``compression.json`` and ``compression.csv`` hold all numbers, so that the report can be written again without
measuring.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

from svda_analysis.compression.result import COMPRESSION_META, Compression, Compressions, read_compression_meta
from svda_analysis.compression.sections import compression_document
from svda_analysis.render.writer import write_document

COMPRESSION_FILES = (COMPRESSION_META, *(f"compression.{kind}" for kind in ("md", "html", "csv", "pdf", "png")))


def write_compression(
    runs: Compressions | Sequence[Compression],
    folder: str | os.PathLike[str],
    *,
    command: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Write ``compression.md`` and ``.html``, ``.json`` (what was verified, and how), and of a sweep ``.csv``, ``.pdf``
    and ``.png``.

    Runs of one model are pooled, models stand side by side. Beside whatever else lies in ``folder``; returns the files,
    the document first. What an earlier report of compressions lists in its json and is not written now goes. Raises
    :class:`~svda_analysis.errors.InputError` when the folder cannot be written, or for the same run twice.
    """
    found = runs if isinstance(runs, Compressions) else Compressions(tuple(runs))
    return write_document(
        compression_document(found, command=command),
        folder,
        page="compression.md",
        html="compression.html",
        figures="",
        save=found.save,
        meta=found.meta,
        meta_file=COMPRESSION_META,
        progress=progress,
    )


def render_compression_again(folder: str | os.PathLike[str]) -> list[Path]:
    """Write the report of compressions in ``folder`` again from what lies in it, without measuring; returns the files.

    Raises :class:`~svda_analysis.errors.InputError` when there is none in it, or a part of it is missing.
    """
    command = str(read_compression_meta(Path(folder)).get("command", ""))
    return write_compression(Compressions.load(folder), folder, command=command)
