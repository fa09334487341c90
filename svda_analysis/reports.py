"""Write the reports of any kind that a folder holds again, from what lies in it."""

from __future__ import annotations

import os
from pathlib import Path

from svda_analysis.compression.report import render_compression_again
from svda_analysis.compression.result import COMPRESSION_META, Compressions
from svda_analysis.compression.sections import compression_document
from svda_analysis.document import Document
from svda_analysis.errors import InputError, reading
from svda_analysis.render.staging import is_unfinished, recover
from svda_analysis.results import META, Analysis, read_json
from svda_analysis.sections import render_again
from svda_analysis.sections.analysis import analysis_document
from svda_analysis.study import render_study_again
from svda_analysis.study.report import read_study
from svda_analysis.study.sections import study_document
from svda_analysis.writing import only_writer

_KINDS = {"analysis": render_again, "study": render_study_again, "compression": render_compression_again}
_METAS = {META: None, COMPRESSION_META: "compression"}  # by file: the kind where it names none


def render_folder(folder: str | os.PathLike[str]) -> list[list[Path]]:
    """Write each report in ``folder``, or where that holds none in the folders in it, again without measuring; returns
    the files of each, its page first.

    Raises :class:`InputError` for a folder that holds no report, or one of an unknown kind, before any is written.
    """
    places = _places_of_reports(Path(folder))
    for place in places:
        if is_unfinished(place):
            with only_writer(place, "folder"):
                recover(place)
    kinds, written = [_kinds_in(place) for place in places], list[list[Path]]()
    for place, held in zip(places, kinds, strict=True):
        with reading(f"{place} holds numbers or words that make no report"):
            written += [_KINDS[kind](place) for kind in held]
    return written


def _places_of_reports(folder: Path) -> list[Path]:
    """The folder, or where it holds no report those in it that do, by name."""

    def holds(place: Path) -> bool:
        return is_unfinished(place) or any((place / name).is_file() for name in _METAS)

    inside = sorted(folder.iterdir()) if folder.is_dir() and not holds(folder) else []
    return [place for place in inside if place.is_dir() and holds(place)] or [folder]


def documents_in(folder: str | os.PathLike[str]) -> list[Document]:
    """Each report in ``folder`` as a document, from what lies in it. Errors as :func:`render_folder`."""
    kinds = _kinds_in(folder)
    with reading(f"{folder} holds numbers or words that make no report"):
        return [_DOCUMENTS[kind](folder) for kind in kinds]


def _document_of_analysis(folder: str | os.PathLike[str]) -> Document:
    return analysis_document(Analysis.load(folder), title=Path(folder).resolve().name)


def _document_of_study(folder: str | os.PathLike[str]) -> Document:
    return study_document(read_study(folder)[0])


def _document_of_compression(folder: str | os.PathLike[str]) -> Document:
    return compression_document(Compressions.load(folder))


_DOCUMENTS = {"analysis": _document_of_analysis, "study": _document_of_study, "compression": _document_of_compression}


def _kinds_in(folder: str | os.PathLike[str]) -> list[str]:
    """The kinds of the reports in a folder; at least one."""
    found = [Path(folder) / name for name in _METAS if (Path(folder) / name).is_file()]
    if not found:
        raise InputError(f"{folder} holds no report: there is no {' or '.join(_METAS)} in it")
    return [_kind_of(path) for path in found]


def _kind_of(meta: Path) -> str:
    try:
        found = read_json(meta)
        kind = found.get("kind", "study" if "manifest" in found else _METAS[meta.name])  # studies of 0.1 name no kind
    except (InputError, AttributeError):
        raise InputError(f"{meta.parent} holds no report: its {meta.name} cannot be read") from None
    if not isinstance(kind, str) or kind not in _KINDS:
        raise InputError(f"{meta} must be of one of the kinds {', '.join(_KINDS)}, got {kind!r}")
    return kind
