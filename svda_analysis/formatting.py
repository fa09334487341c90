"""Numbers, intervals and names as the text of tables and sentences, each way of writing once. No torch here.

What is missing (NaN, NA, None) is a dash, an interval that does not exist says so.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pandas as pd

from svda_analysis.errors import one_line

MISSING, NO_ENDS = "-", "[no interval]"
_LONGEST_PROSE = 20_000  # characters
_LONGEST = 150  # bytes of a file's name, with room for what is put behind it


def prose(text: object) -> str:
    """A text of a report on one line (:func:`~svda_analysis.errors.one_line`), whole where it is not beyond reading."""
    return one_line(text, most=_LONGEST_PROSE)


# --- numbers ----------------------------------------------------------------------------------------------------------


def number(x: float) -> str:
    """Three decimals below ten, then fewer; tiny numbers keep one digit; a dash for a missing number.

    Below 1e-15 is what rounding leaves of a difference between equal numbers: 0.
    """
    if pd.isna(x):
        return MISSING
    if 1e-15 <= abs(x) < 0.0005:
        return f"{x:.0e}"
    return f"{x:z.3f}" if abs(x) < 10 else f"{x:.2f}" if abs(x) < 100 else f"{x:.1f}"


def signed(x: float) -> str:
    """:func:`number` with its sign."""
    return f"+{number(x)}" if x >= 1e-15 else number(x)


def fixed(x: float, digits: int, *, sign: bool = False) -> str:
    """So many decimals, always; a dash for a missing number."""
    if pd.isna(x):
        return MISSING
    return f"{x:+.{digits}f}" if sign else f"{x:.{digits}f}"


def percent(share: float, digits: int = 1, *, sign: bool = False) -> str:
    """A share as a percentage: ``0.905`` as ``90.5%``; a dash for a missing one."""
    if pd.isna(share):
        return MISSING
    return f"{share:+.{digits}%}" if sign else f"{share:.{digits}%}"


def short_number(x: float) -> str:
    """Three significant digits; from a thousand on whole, with commas: ``12,345``. A dash for a missing number."""
    if pd.isna(x):
        return MISSING
    return f"{x:,.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def thousands(n: int) -> str:
    """A count with spaces: ``455 446``."""
    return f"{n:,}".replace(",", " ")


def p_value(p: float) -> str:
    """Three decimals; a dash for a missing one."""
    if pd.isna(p):
        return MISSING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def dash(x: Any) -> str:
    """``x`` as text; None as a dash."""
    return MISSING if x is None else str(x)


# --- estimates --------------------------------------------------------------------------------------------------------


def interval(
    low: float, high: float, *, percent: bool = False, digits: int | None = None, missing: str = NO_ENDS
) -> str:
    """``[low, high]`` as :func:`number` writes them, or as percentages, or with so many ``digits``; ``missing`` where
    there is none."""
    if pd.isna(low) or pd.isna(high):
        return missing
    if percent:
        return f"[{low:.2%}, {high:.2%}]"
    ends = [number(x) if digits is None else f"{x:.{digits}f}" for x in (low, high)]
    return f"[{', '.join(ends)}]"


def estimate(difference: float, low: float, high: float) -> str:
    """A difference with its interval: ``+0.067 [0.025, 0.108]``."""
    return f"{signed(difference)} {interval(low, high)}"


def points(share: float, low: float, high: float, *, missing: str = NO_ENDS) -> str:
    """A difference of shares in percentage points with its interval: ``-0.73 [-3.97, +2.50]``; ``missing`` in the place
    of an interval that does not exist, a dash where there is no difference."""
    if pd.isna(share):
        return MISSING
    ends = missing if pd.isna(low) or pd.isna(high) else f"[{100 * low:+.2f}, {100 * high:+.2f}]"
    return f"{100 * share:+.2f} {ends}".rstrip()


def mean_and_spread(mean: float, std: float, digits: int) -> str:
    """``90.47 ± 0.81``; the mean alone where there is no deviation, a dash where there is no mean."""
    if pd.isna(mean):
        return MISSING
    return fixed(mean, digits) if pd.isna(std) else f"{fixed(mean, digits)} ± {fixed(std, digits)}"


# --- words ------------------------------------------------------------------------------------------------------------


def counted(n: int, what: str) -> str:
    """``1 epoch``, ``2 epochs``, ``0 epochs``."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def shorten(name: str, room: int) -> str:
    """``name`` in at most ``room`` characters."""
    return name if len(name) <= room else name[: room - 1].rstrip() + "…"


def capital(text: str) -> str:
    """A text that begins with a capital, and else as it stands."""
    return text[:1].upper() + text[1:]


def spoken(name: str) -> str:
    """A file's name as words: ``accuracy_structure`` as ``Accuracy structure``."""
    return name.replace("_", " ").capitalize()


def file_names(names: Iterable[str]) -> list[str]:
    """Names as those of files: letters, digits, ``-`` and ``_`` alone, of a length that every system takes, no two
    alike even where upper and lower case are one."""
    taken: set[str] = set()
    found = []
    for name in names:
        clean = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)
        clean = clean.encode()[:_LONGEST].decode(errors="ignore") or "unnamed"
        numbered = (f"{clean}-{at}" for at in itertools.count(2))
        found.append(next(x for x in itertools.chain([clean], numbered) if x.casefold() not in taken))
        taken.add(found[-1].casefold())
    return found


def file_word(name: str) -> str:
    """A name as part of a file's; of a folder its last part alone."""
    last = name.rstrip("/").rpartition("/")[2] if ":" in name else name
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in last) or "data"


def in_bytes(n: float) -> str:
    """A number of bytes with three digits: ``2 GB``, ``119 MB``; 1 GB is ``10^9``."""
    for name, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n >= size:
            return f"{n / size:.3g} {name}"
    return f"{n:.0f} bytes"
