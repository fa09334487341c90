"""The committed reports, as tests read them."""

from __future__ import annotations

import re
from pathlib import Path

REPORTS = Path(__file__).parents[1] / "reports"


def text_of(page: str) -> str:
    """The markdown of ``reports/page`` without the marks of its footnotes."""
    return re.sub(r"\[\^\w+\](?!:)", "", (REPORTS / page).read_text(encoding="utf-8"))
