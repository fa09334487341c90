"""A document as one HTML page: text, style, scripts and data in the file itself, pictures beside it. No torch here.

The page works without its scripts, which are the files of ``template/``: ``page.js`` (tables that sort and filter,
words explained where they stand) and one for each kind of widget that the page holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from html import escape
from pathlib import Path

from svda_analysis.document import Content, Document, Picture, Points, Section, Table, Widget
from svda_analysis.errors import printable
from svda_analysis.formatting import file_word
from svda_analysis.render.glosses import gloss_html
from svda_analysis.render.markdown import picture_path
from svda_analysis.vocabulary import Quantity

_TEMPLATE = Path(__file__).parent / "template"
_TERM_COLUMNS = ("Indicator", "Quantity")  # of tables: their cells name quantities


def to_html(document: Document, *, figures: str = "figures") -> str:
    """The whole document as a page; its pictures are the files ``figures/<name>.png``. Text is escaped everywhere."""
    writer = _Writer(document, figures)
    body = gloss_html(printable("\n".join(writer.body())))
    return page(document.title or "Report", body, writer.widgets)


def widget_page(widget: Widget, title: str = "") -> str:
    """A page that shows one widget alone."""
    return page(title or widget.title, f"<main>\n{_widget(widget)}\n</main>", [widget])


def fragment(document: Document) -> str:
    """The first screen of a document for a notebook: what was looked at, and what was found."""
    return printable("\n".join(['<div class="svda-analysis">', *_first_screen(document), "</div>"]))


def page(title: str, body: str, widgets: Iterable[Widget] = ()) -> str:
    """A whole page around a body, with the scripts and the data of its widgets."""
    shown = list(widgets)
    kinds = dict.fromkeys(one.kind for one in shown)
    scripts = [_template(f"{name}.js") for name in ("page", *(["colours"] if kinds else []), *kinds)]
    parts = {
        "title": escape(printable(title)),
        "style": _template("page.css"),
        "body": body,
        "data": "\n".join(map(_data, shown)),
        "script": "\n".join([*scripts, "start();"]),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _template("page.html"))


class _Writer:
    """The parts of a page; ``widgets`` are those that were met, ``terms`` the quantities that its tables name."""

    def __init__(self, document: Document, figures: str) -> None:
        self.document, self.figures = document, figures
        self.widgets: list[Widget] = []
        self.known = {one.label: one for one in reversed(document.terms)}
        self.terms: dict[str, Quantity] = {}
        self.anchors: set[str] = set()
        self.links: dict[str, str] = {}  # titles by anchor, of what the contents list

    def body(self) -> list[str]:
        sections = [self._section(section) for section in self.document.sections]
        lead = [self._block(block, Section(name="lead")) for block in self.document.lead]
        head = ['<header class="first">', *_first_screen(self.document), "</header>"]
        return [*head, *self._contents(), "<main>", *lead, *sections, *self._glossary(), "</main>", *self._footer()]

    def _contents(self) -> list[str]:
        """Links to the sections, where there are several."""
        if len(self.links) < 2:
            return []
        items = "".join(f'<li><a href="#{escape(at)}">{escape(title)}</a></li>' for at, title in self.links.items())
        return [f'<nav aria-label="Contents"><ul>{items}</ul></nav>']

    def _section(self, section: Section) -> str:
        """The parts of a section in order; its name is the heading's anchor, the first time that it comes."""
        lines = []
        if section.title:
            mark = self._mark(file_word(section.name), section.title if section.level == 2 else "")
            lines.append(f"<h{section.level}{mark}>{escape(section.title)}</h{section.level}>")
        return "\n".join([*lines, *(self._block(block, section) for block in section.blocks)])

    def _mark(self, anchor: str, title: str) -> str:
        """The anchor of a heading, the first time that it comes; with a title the contents list it."""
        if anchor in self.anchors:
            return ""
        self.anchors.add(anchor)
        if title:
            self.links[anchor] = title
        return f' id="{escape(anchor)}"'

    def _block(self, block: Content, section: Section) -> str:
        if isinstance(block, Table):
            return _html_table(block, section.title, self._term)
        if isinstance(block, Picture):
            source, alt = escape(picture_path(block, self.figures)), escape(block.alt)
            return f'<figure><img src="{source}" alt="{alt}" decoding="async"><figcaption>{alt}</figcaption></figure>'
        if isinstance(block, Points):
            return _bullets(block.lines)
        if isinstance(block, Widget):
            self.widgets.append(block)
            self._mark(block.name, block.title)
            return _widget(block)
        return _paragraph(block)

    def _term(self, text: str) -> str:
        """The cell of a quantity: a link to what is said of it."""
        name = text if text in self.known else text.rpartition(" (")[0]
        if name not in self.known:
            return escape(text)
        self.terms[name] = self.known[name]
        return f'<a class="term" href="#{_term_id(name)}">{escape(text)}</a>'

    def _glossary(self) -> list[str]:
        """What each quantity that the page names tells, and what not; of a page with heat maps of all there are."""
        found = self.known if any(one.kind == "heads" for one in self.widgets) else self.terms
        if not found:
            return []
        entries = "\n".join(map(_entry, sorted(found.values(), key=lambda one: one.label)))
        return ['<h2 id="numbers">What each number says</h2>', f'<dl class="glossary">\n{entries}\n</dl>']

    def _footer(self) -> list[str]:
        lines = []
        if self.document.command:
            made = _inline(self.document.made_by).replace("{command}", escape(self.document.command))
            lines += ['<h2 id="made">How this was made</h2>', f"<p>{made}</p>"]
        if self.document.versions:
            lines.append(_facts(self.document.versions.items()))
        if self.document.cite:
            lines += ['<h2 id="cite">How to cite</h2>', f"<pre>{escape(self.document.cite)}</pre>"]
        return ["<footer>", *lines, "</footer>"] if lines else []


def _first_screen(document: Document) -> list[str]:
    lines = [f"<h1>{escape(document.title)}</h1>"] if document.title else []
    if document.about:
        lines.append(_facts(document.about))
    lines += [f'<p class="warning">Warning: {escape(line)}</p>' for line in document.warnings]
    return [*lines, _bullets(document.answer, "answer")] if document.answer else lines


def _facts(pairs: Iterable[tuple[str, str]]) -> str:
    items = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(text)}</dd></div>" for name, text in pairs)
    return f'<dl class="about">{items}</dl>'


def _entry(one: Quantity) -> str:
    """An entry of the glossary."""
    said = [f"Higher: {one.higher_means}."] if one.higher_means else []
    said += [f"Asks: {one.question}"] if one.question else []
    said += [f"Does not say: {one.not_said}."] if one.not_said else []
    said += [f"Reference: {one.reference}."] if one.reference else []
    lines = "".join(f"<p>{escape(line)}</p>" for line in said or ["Nothing more is known of it here."])
    return f'<dt id="{_term_id(one.label)}">{escape(one.label)}</dt><dd>{lines}</dd>'


def _term_id(label: str) -> str:
    return f"term-{escape(file_word(label))}"


def _bullets(lines: Iterable[str], kind: str = "") -> str:
    mark = f' class="{kind}"' if kind else ""
    return f"<ul{mark}>\n" + "\n".join(f"<li>{_inline(line)}</li>" for line in lines) + "\n</ul>"


def _paragraph(text: str) -> str:
    """A paragraph of markdown; one of ``- `` lines alone is a list."""
    lines = text.split("\n")
    if all(line.startswith("- ") for line in lines):
        return _bullets(line[2:] for line in lines)
    return f"<p>{_inline(text)}</p>"


def _inline(text: str) -> str:
    """Escaped text with markdown's ``code`` and bold marks as tags."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", marked)


# --- tables -----------------------------------------------------------------------------------------------------------


def _html_table(table: Table, above: str, term: Callable[[str], str]) -> str:
    """A table; ``above`` is the heading that it stands under, ``term`` writes the cells that name a quantity."""
    columns = [str(name) for name in table.text.columns]
    cells = table.text.astype(str)
    marks = [_marked(cells.iloc[:, at].tolist()) for at in range(len(columns))]
    writes = [term if name in _TERM_COLUMNS else escape for name in columns]
    head = "".join(f'<th scope="col"{mark}>{escape(name)}</th>' for name, mark in zip(columns, marks, strict=True))
    rows = [
        "<tr>"
        + "".join(f"<td{mark}>{write(x)}</td>" for x, mark, write in zip(row, marks, writes, strict=True))
        + "</tr>"
        for row in cells.itertuples(index=False)
    ]
    titled = table.title and table.title != above
    caption = f"<caption>{escape(table.title)}</caption>\n" if titled else ""
    note = f"\n<p>{_inline(table.note)}</p>" if table.note else ""
    inner = f"{caption}<thead>\n<tr>{head}</tr>\n</thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody>"
    name = escape(table.title or above or table.name)
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name}">\n<table>\n{inner}\n</table>\n</div>{note}'
    )


_WRAPPED_FROM = 24  # characters of a cell


def _marked(cells: list[str]) -> str:
    """How a column is shown: numbers to the right, long texts not narrow."""
    if _is_numeric(cells):
        return ' class="number"'
    return ' class="text"' if max(map(len, cells), default=0) > _WRAPPED_FROM else ""


def _is_numeric(cells: list[str]) -> bool:
    return bool(cells) and all(re.match(r"[-+<\[x ]*\d|-$|\[no interval]$", cell) for cell in cells)


# --- widgets ----------------------------------------------------------------------------------------------------------


def _widget(widget: Widget) -> str:
    """Where a widget's script draws it."""
    name = escape(widget.name)
    heading = f"<h2>{escape(printable(widget.title))}</h2>" if widget.title else ""
    empty = '<p class="waiting">This part needs JavaScript.</p>'
    return f'<section class="widget" id="{name}" data-kind="{escape(widget.kind)}">{heading}{empty}</section>'


def _data(widget: Widget) -> str:
    """What a widget shows, as JSON in which no tag can begin."""
    text = (
        json.dumps(widget.data(), separators=(",", ":"), allow_nan=False)
        .replace("<", "\\u003c")
        .replace("&", "\\u0026")
    )
    return f'<script type="application/json" data-of="{escape(widget.name)}">{text}</script>'


def _template(name: str) -> str:
    return (_TEMPLATE / name).read_text(encoding="utf-8").rstrip("\n")
