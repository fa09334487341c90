"""All reports below a folder on one page, ``index.html``: the figure of each, what it found, its command."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from html import escape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote

from svda_analysis.errors import InputError, check_writable, printable
from svda_analysis.render.html import page
from svda_analysis.results import read_own_meta

INDEX = "index.html"
_HEADING = "Reports"
_MARK = '<main class="gallery">'
_VERDICTS = (
    "supported",
    "more structured",
    "more faithful",
    "opposed",
    "equivalent",
)  # what a finding says, best first


@dataclasses.dataclass(frozen=True)
class Card:
    """A report as the gallery shows it; ``page`` and ``picture`` are addresses relative to the folder ("": none)."""

    title: str
    page: str
    finding: str
    command: str
    picture: str


def write_gallery(folder: str | os.PathLike[str]) -> Path:
    """Write ``index.html`` over all reports below ``folder`` and return it.

    It opens from its file and from any host of static files. Raises :class:`InputError` where there is no report, or
    the folder cannot be written.
    """
    place = Path(folder)
    cards = list(_cards(place)) if place.is_dir() else []
    if not cards:
        raise InputError(f"{folder} must hold reports of svda-analysis, got none")
    check_writable(place, "folder")
    _check_ours(place / INDEX)
    body = "\n".join(["<header>", f"<h1>{_HEADING}</h1>", "</header>", _MARK, *map(_shown, cards), "</main>"])
    (place / INDEX).write_text(page(_HEADING, body), encoding="utf-8")
    return place / INDEX


def _check_ours(index: Path) -> None:
    """Raise :class:`InputError` where a page that no gallery wrote would be lost, or a link followed."""
    if not os.path.lexists(index):
        return
    plain = index.is_file() and not index.is_symlink()
    if not plain or _MARK.encode() not in index.read_bytes():
        raise InputError(f"{index} is no gallery of svda-analysis: move it away")


def _cards(place: Path) -> Iterator[Card]:
    """A card for each page that a report of ours lists, in the order of their names."""
    for meta_file in sorted(place.rglob("*.json")):
        meta = read_own_meta(meta_file) or {}
        names = meta.get("files")
        for name in names if isinstance(names, list) else ():
            path = meta_file.parent / str(name).replace("\0", "")
            if path.suffix == ".html" and path.parent == meta_file.parent and path.is_file():
                yield _card(path, place, str(meta.get("command", "")))


def _card(path: Path, place: Path, command: str) -> Card:
    read = _Page()
    read.feed(path.read_text(encoding="utf-8", errors="replace"))
    folder = path.parent.relative_to(place).as_posix()
    picture = quote(f"{folder}/{read.picture}") if read.picture else ""
    title = read.title if folder in read.title else f"{read.title} ({folder})" if read.title else folder
    return Card(title, quote(path.relative_to(place).as_posix()), _best(read.answers), command, picture)


def _best(answers: list[str]) -> str:
    """The finding that says most: the first that decides something, else the first."""
    decided = (line for word in _VERDICTS for line in answers if word in line and not line.startswith("Verdicts over"))
    return next(decided, answers[0] if answers else "")


def _shown(card: Card) -> str:
    address, title = escape(card.page), escape(printable(card.title))
    picture = f'<a href="{address}" tabindex="-1" aria-hidden="true"><img src="{escape(card.picture)}" alt=""></a>'
    finding = f"<p>{escape(printable(card.finding))}</p>" if card.finding else ""
    command = f"<p><code>{escape(printable(card.command))}</code></p>" if card.command else ""
    text = f'<div class="text"><h2><a href="{address}">{title}</a></h2>{finding}{command}</div>'
    return f"<article>{picture if card.picture else ''}{text}</article>"


class _Page(HTMLParser):
    """The title, the answers and the first picture of a page of ours."""

    def __init__(self) -> None:
        super().__init__()
        self.title, self.picture, self.answers = "", "", list[str]()
        self._at, self._answering = "", False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        if tag == "ul":
            self._answering = known.get("class") == "answer"
        if tag == "li" and self._answering:
            self.answers.append("")
        if tag == "img" and not self.picture and (source := known.get("src") or "").endswith(".png"):
            self.picture = source
        if tag in ("h1", "li"):
            self._at = tag

    def handle_endtag(self, tag: str) -> None:
        if tag in ("h1", "li"):
            self._at = ""
        if tag == "ul":
            self._answering = False

    def handle_data(self, data: str) -> None:
        if self._at == "h1":
            self.title += data
        elif self._at == "li" and self._answering:
            self.answers[-1] += data
