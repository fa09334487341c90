"""Tables as LaTeX. No torch here, no files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from svda_analysis.document import Table
from svda_analysis.errors import one_line

_ESCAPES = str.maketrans(
    {
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
    }
)
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
    """A text with every character that LaTeX reads as its own written out."""
    return one_line(text).translate(_ESCAPES)
