"""Tables as LaTeX. No torch here, no files."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

import pandas as pd

from svda_analysis.document import Table
from svda_analysis.formatting import MISSING, prose

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "%": r"\%",
    "_": r"\_",
    "&": r"\&",
    "#": r"\#",
    "~": r"\textasciitilde{}",
    "^": r"\^{}",
    "<": "$<$",
    ">": "$>$",
    "|": r"$|$",
    "±": r"$\pm$",
    "\u00d7": r"$\times$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "\u2212": "$-$",
    "√": r"$\surd$",
    "\u03c3": r"$\sigma$",
    "Σ": r"$\Sigma$",
    "λ": r"$\lambda$",
    "μ": r"$\mu$",
    "τ": r"$\tau$",
    "\u00a0": "~",
    "\t": " ",
}
_ACCENTS = set("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327")  # that its base font can set
_LETTERS = set("ßæÆøØœŒłŁ§¶©\u2013\u2014\u2018\u2019\u201c\u201d\u2026")  # so too, and no letter with an accent
_LEFT = ("Source", "Indicator", "Data", "Model", "Claim", "Measure", "Number", "Verdict", "Why", "Changed")
_LONG = 40  # characters, above which a column wraps


_CHARACTER = 0.062  # inches that a character takes at \\footnotesize, on average
_MARGIN = 0.17  # inches between two columns


def to_latex(tables: Iterable[Table], warnings: Iterable[str] = ()) -> str:
    """The tables one after the other, under the warnings as comments."""
    stamps = "".join(f"% WARNING: {prose(line)}\n" for line in warnings)
    return stamps + "\n".join(booktabs(table.text) for table in tables)


def latex_file(table: Table) -> str:
    """One table in a file of its own, its title and note as a comment above it."""
    above = ". ".join(prose(text) for text in (table.title, table.note) if text)
    return (f"% {above}\n" if above else "") + booktabs(table.text)


def latex_table(table: Table, *, width: float, across: bool = False) -> str:
    """A table that floats, with a caption and a label, for a column ``width`` inches wide.

    What is wider at ``\\footnotesize`` stands ``across`` both columns, where there are two, and is scaled down to the
    line if it is still too wide.
    """
    wide = _inches(table.text) > width
    star = "*" if wide and across else ""
    fits = not wide or (across and _inches(table.text) <= 2 * width + 0.25)
    body = booktabs(table.text).rstrip("\n")
    body = body if fits else f"\\resizebox{{\\linewidth}}{{!}}{{%\n{body}}}"
    caption = " ".join(prose(text) for text in (f"{table.title}." if table.title else "", table.note) if text)
    return "\n".join(
        [
            f"\\begin{{table{star}}}[t]",
            "  \\centering\\footnotesize",
            f"  \\caption{{{latex_escape(caption or table.name)}}}",
            f"  \\label{{tab:{latex_label(table.name)}}}",
            body,
            f"\\end{{table{star}}}\n",
        ]
    )


def latex_figure(file: str, caption: str, name: str, *, across: bool = False) -> str:
    """A figure that floats, as wide as it was made; ``across``: over both columns."""
    star = "*" if across else ""
    return "\n".join(
        [
            f"\\begin{{figure{star}}}[t]",
            "  \\centering",
            f"  \\includegraphics{{{file}}}",
            f"  \\caption{{{latex_escape(caption)}}}",
            f"  \\label{{fig:{latex_label(name)}}}",
            f"\\end{{figure{star}}}\n",
        ]
    )


def latex_label(name: str) -> str:
    """A name as that of a label: letters, digits and ``-``."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "unnamed"


def _inches(frame: pd.DataFrame) -> float:
    """About how wide a table is at ``\\footnotesize``; columns that wrap are 3 cm."""
    cells = frame.astype(str)
    widest = [max([len(str(name)), *map(len, cells.iloc[:, at])]) for at, name in enumerate(cells.columns)]
    return sum(min(_CHARACTER * n, 1.18) if n > _LONG else _CHARACTER * n for n in widest) + _MARGIN * len(widest)


def booktabs(frame: pd.DataFrame) -> str:
    """A frame of text as a LaTeX table of the booktabs package; columns of long text wrap. A hyphen before a number is
    a minus sign, and one alone, for what is missing, a dash."""
    cells = frame.astype(str)
    text = pd.DataFrame(
        {at: cells.iloc[:, at].map(_typeset_numbers if name not in _LEFT else str) for at, name in enumerate(cells)}
    )
    text.columns = cells.columns
    escaped = text.map(latex_escape).rename(columns=latex_escape)
    if len(escaped.columns):  # a row that begins with a bracket would be read as an option of the line break before it
        first: Any = escaped.iloc[:, 0].str.replace(r"^([\[*])", r"{\1}", regex=True)
        escaped.isetitem(0, first)
    longest = cells.map(len).max()
    alignment = "".join("p{3cm}" if longest[name] > _LONG else "l" if name in _LEFT else "r" for name in frame.columns)
    return "% needs \\usepackage{booktabs}\n" + escaped.style.hide(axis="index").to_latex(
        hrules=True, column_format=alignment
    )


def _typeset_numbers(text: str) -> str:
    if text == MISSING:
        return "\u2013"
    return re.sub(r"(?<![\w.)\]])-(?=\d|\.\d)", "\u2212", text)


def latex_escape(text: object) -> str:
    """A text with every character that LaTeX reads as its own written out, and those that its fonts lack by number."""
    return "".join(map(_as_latex, prose(text)))


def _as_latex(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    parts = unicodedata.normalize("NFD", character)
    known = parts[0].isascii() and len(parts) < 3 and set(parts[1:]) <= _ACCENTS
    return character if known or character in _LETTERS else f"{{[}}U+{ord(character):04X}]"
