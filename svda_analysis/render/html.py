"""A document as one HTML page: all text and style in the file itself, pictures beside it. No torch here, no files."""

from __future__ import annotations

import re
from html import escape

from svda_analysis.document import Content, Document, Picture, Points, Section, Table
from svda_analysis.errors import printable
from svda_analysis.formatting import file_word
from svda_analysis.render.markdown import picture_path

_STYLE = """
:root { color-scheme: light; }
body { margin: 2rem auto; max-width: 62rem; padding: 0 1rem; color: #222; background: #fff;
  font: 1rem/1.5 system-ui, sans-serif; }
h1, h2, h3 { line-height: 1.25; margin: 2rem 0 0.75rem; }
h1 { margin-top: 0; }
p, ul { max-width: 46rem; }
code { font: 0.9em ui-monospace, monospace; overflow-wrap: anywhere; }
figure { margin: 1.5rem 0; }
img { max-width: 100%; height: auto; }
figcaption { color: #555; font-size: 0.875rem; }
.warning { border-left: 0.25rem solid #d55e00; padding-left: 0.75rem; font-weight: bold; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.875rem; }
caption { text-align: left; font-weight: bold; padding: 0.25rem 0; }
th, td { padding: 0.2rem 0.75rem 0.2rem 0; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #222; }
td { border-bottom: 1px solid #ddd; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
"""


def to_html(document: Document, *, figures: str = "figures") -> str:
    """The whole document as a page; its pictures are the files ``figures/<name>.png``. Text is escaped everywhere."""
    title = escape(document.title)
    body = [f"<h1>{title}</h1>"] if title else []
    body += [f'<p class="warning">Warning: {escape(line)}</p>' for line in document.warnings]
    if document.command:
        body.append(f"<p>{_inline(document.made_by).replace('{command}', escape(document.command))}</p>")
    body += [_html_block(block, Section(name="lead"), figures) for block in document.lead]
    known: set[str] = set()
    for section in document.sections:
        body += _html_section(section, figures, known)
    return printable(_PAGE.format(title=title or "Report", style=_STYLE, body="\n".join(body)))


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def _html_section(section: Section, figures: str, known: set[str]) -> list[str]:
    """The parts of a section in order; its name is the heading's anchor, the first time that it comes."""
    anchor = file_word(section.name)
    made = [_html_block(block, section, figures) for block in section.blocks]
    if not section.title:
        return made
    mark = "" if anchor in known else f' id="{escape(anchor)}"'
    known.add(anchor)
    return [f"<h{section.level}{mark}>{escape(section.title)}</h{section.level}>", *made]


def _html_block(block: Content, section: Section, figures: str) -> str:
    if isinstance(block, Table):
        return _html_table(block, titled=bool(block.title) and block.title != section.title)
    if isinstance(block, Picture):
        source, alt = escape(picture_path(block, figures)), escape(block.alt)
        return f'<figure><img src="{source}" alt="{alt}" loading="lazy"><figcaption>{alt}</figcaption></figure>'
    if isinstance(block, Points):
        return "<ul>\n" + "\n".join(f"<li>{_inline(line)}</li>" for line in block.lines) + "\n</ul>"
    return _paragraph(block)


def _paragraph(text: str) -> str:
    """A paragraph of markdown; one of ``- `` lines alone is a list."""
    lines = text.split("\n")
    if all(line.startswith("- ") for line in lines):
        return "<ul>\n" + "\n".join(f"<li>{_inline(line[2:])}</li>" for line in lines) + "\n</ul>"
    return f"<p>{_inline(text)}</p>"


def _inline(text: str) -> str:
    """Escaped text with markdown's ``code`` and bold marks as tags."""
    marked = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", marked)


def _html_table(table: Table, *, titled: bool) -> str:
    numeric = {name for name in table.text if _is_numeric([str(cell) for cell in table.text[name]])}
    marks = ['class="number"' if name in numeric else "" for name in table.text.columns]
    head = "".join(_cell("th", str(name), mark) for name, mark in zip(table.text.columns, marks, strict=True))
    rows = [
        "<tr>" + "".join(_cell("td", str(x), mark) for x, mark in zip(row, marks, strict=True)) + "</tr>"
        for row in table.text.itertuples(index=False)
    ]
    caption = f"<caption>{escape(table.title)}</caption>\n" if titled else ""
    note = f"\n<p>{_inline(table.note)}</p>" if table.note else ""
    inner = f"{caption}<thead>\n<tr>{head}</tr>\n</thead>\n<tbody>\n" + "\n".join(rows) + "\n</tbody>"
    return f'<div class="scroll">\n<table>\n{inner}\n</table>\n</div>{note}'


def _cell(tag: str, text: str, mark: str) -> str:
    kind = f' scope="col" {mark}'.rstrip() if tag == "th" else f" {mark}".rstrip()
    return f"<{tag}{kind}>{escape(text)}</{tag}>"


def _is_numeric(cells: list[str]) -> bool:
    return bool(cells) and all(re.match(r"[-+<\[x ]*\d|-$|\[no interval]$", cell) for cell in cells)
