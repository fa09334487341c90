"""Tables as LaTeX. No torch here, no files."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Any

import pandas as pd

from svda_analysis.document import Table
from svda_analysis.errors import one_line

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


def to_latex(tables: Iterable[Table], warnings: Iterable[str] = ()) -> str:
    """The tables one after the other, under the warnings as comments."""
    stamps = "".join(f"% WARNING: {one_line(line)}\n" for line in warnings)
    return stamps + "\n".join(booktabs(table.text) for table in tables)


def latex_file(table: Table) -> str:
    """One table in a file of its own, its title and note as a comment above it."""
    above = ". ".join(one_line(text) for text in (table.title, table.note) if text)
    return (f"% {above}\n" if above else "") + booktabs(table.text)


def booktabs(frame: pd.DataFrame) -> str:
    """A frame of text as a LaTeX table of the booktabs package; columns of long text wrap."""
    escaped = frame.astype(str).map(latex_escape).rename(columns=latex_escape)
    if len(escaped.columns):  # a row that begins with a bracket would be read as an option of the line break before it
        first: Any = escaped.iloc[:, 0].str.replace(r"^([\[*])", r"{\1}", regex=True)
        escaped.isetitem(0, first)
    longest = frame.astype(str).map(len).max()
    alignment = "".join("p{3cm}" if longest[name] > 40 else "l" if name in _LEFT else "r" for name in frame.columns)
    return "% needs \\usepackage{booktabs}\n" + escaped.style.hide(axis="index").to_latex(
        hrules=True, column_format=alignment
    )


def latex_escape(text: object) -> str:
    """A text with every character that LaTeX reads as its own written out, and those that its fonts lack by number."""
    return "".join(map(_as_latex, one_line(text)))


def _as_latex(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    parts = unicodedata.normalize("NFD", character)
    known = parts[0].isascii() and len(parts) < 3 and set(parts[1:]) <= _ACCENTS
    return character if known or character in _LETTERS else f"{{[}}U+{ord(character):04X}]"
