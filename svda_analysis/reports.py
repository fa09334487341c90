"""Write the report of an analysis or of a study again from what lies in its folder."""

from __future__ import annotations

import json
import os
from pathlib import Path

from svda_analysis.errors import InputError
from svda_analysis.results import META
from svda_analysis.sections import render_again
from svda_analysis.study import render_study_again

_KINDS = {"analysis": render_again, "study": render_study_again}


def render_folder(folder: str | os.PathLike[str]) -> list[Path]:
    """Write the report in ``folder`` again without measuring; returns its files, the page first.

    Raises :class:`InputError` for a folder that holds no report of these kinds.
    """
    path = Path(folder) / META
    try:
        kind = json.loads(path.read_text(encoding="utf-8")).get("kind")
    except (OSError, ValueError, AttributeError):
        raise InputError(f"{folder} holds no report: there is no readable {META} in it") from None
    if kind not in _KINDS:
        raise InputError(f"{path} must be of one of the kinds {', '.join(_KINDS)}, got {kind!r}")
    return _KINDS[kind](folder)
