"""The first screen of a page and its end: what was looked at, what was found, how to cite it. No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from svda_analysis.comparison import judged_rows
from svda_analysis.formatting import counted, thousands
from svda_analysis.results import Analysis, Run
from svda_analysis.sections.sentences import accuracy_lines, gain_lines, statements
from svda_analysis.verdicts import EQUIVALENT, INCONCLUSIVE, OPPOSED, SUPPORTED, UNIFORM
from svda_analysis.vocabulary import Quantity, quantity

_MOST_ANSWERS = 6  # sentences on the first screen, beside the accuracies
_FEW = 2  # of those that decide nothing
_DECIDED = (SUPPORTED, OPPOSED, EQUIVALENT)


def about_analysis(analysis: Analysis) -> tuple[tuple[str, str], ...]:
    """What was analysed, on which data."""
    sound = [run for run in analysis.runs if not run.broken]
    names = list(dict.fromkeys(run.model for run in sound))
    found = [("Models" if len(names) > 1 else "Model", "; ".join(_model(name, sound) for name in names))]
    found.append(("Data", "; ".join(dict.fromkeys(run.data for run in sound if run.data))))
    images = sorted({run.images for run in sound})
    few = _fewer(sound)
    beside = f"; spectra and robustness: {from_to(few)}" if few else ""
    enough = f" ({why})" if (why := why_stopped(sound)) else ""
    found.append(("Images measured", from_to(images) + enough + beside))
    found.append(("Preprocessing", "; ".join(dict.fromkeys(run.preprocessing for run in sound if run.preprocessing))))
    return tuple((name, text) for name, text in found if text)


def _fewer(runs: Iterable[Run]) -> list[int]:
    """On how many images spectra and robustness were measured, where these are fewer than the others."""
    return sorted({n for run in runs if (n := run.settings.get("costly_measured") or run.images) < run.images})


def why_stopped(runs: Iterable[Run]) -> str:
    """Why fewer images were measured than there are: empty where none were left, or a number was asked for."""
    stopped = [run for run in runs if run.settings.get("precision") and run.images < run.settings.get("at_hand", 0)]
    shares = sorted({float(run.settings["precision"]) for run in stopped})
    return f"every interval within {' or '.join(f'{100 * one:g}' for one in shares)} %" if shares else ""


def stopped_lines(runs: Iterable[Run]) -> list[str]:
    """A line on how many images were enough, where a precision decided it."""
    sound = [run for run in runs if not run.broken]
    why, few = why_stopped(sound), _fewer(sound)
    if not why:
        return []
    images, total = (sorted(found) for found in ({r.images for r in sound}, {r.settings["at_hand"] for r in sound}))
    beside = f" (spectra and robustness: {from_to(few)} images)" if few else ""
    return [f"stopped after {from_to(images)} of {from_to(total)} images: {why}{beside}"]


def result_of(analysis: Analysis) -> dict[str, Any]:
    """An analysis in short, for a program: its runs, what was found, the numbers and comparisons of whole models."""
    shown = ("model", "attention", "seed", "epoch", "dataset", "path", "parameters", "images", "data", "broken")
    compared = analysis.comparison
    return {
        "runs": [{key: getattr(run, key) for key in shown} for run in analysis.runs],
        "findings": first_findings(analysis),
        "summary": analysis.summary(),
        "comparison": [] if compared is None else compared[compared["layer"].isna()].drop(columns="layer"),
    }


def from_to(numbers: list[int]) -> str:
    """The least and the most of sorted numbers."""
    return " to ".join(thousands(n) for n in numbers[:: max(len(numbers) - 1, 1)])


def _model(name: str, runs: Iterable[Run]) -> str:
    """One model and its runs in a few words."""
    mine = [run for run in runs if run.model == name]
    first = mine[0]
    kind = f"{first.attention} attention" if first.attention else ""
    size = f"{thousands(first.parameters)} parameters" if first.parameters else ""
    seeds = [str(run.seed) for run in mine if run.seed is not None]
    trained = f"seed {seeds[0]}" if len(seeds) == 1 else f"{counted(len(mine), 'run')}, seeds {', '.join(seeds)}"
    return f"{name} ({', '.join(one for one in (kind, trained if seeds else '', size) if one)})"


def first_findings(analysis: Analysis) -> tuple[str, ...]:
    """The accuracies, then the sentences that decide something; where none does, that none does, and the first few."""
    lines = [f"Test accuracy, {line}" for line in accuracy_lines(analysis.table)]
    comparison = analysis.comparison
    if comparison is None:
        return (*lines, *gain_lines(analysis.table))
    said = [*statements(comparison), *statements(comparison, "faithful")]
    decided = [line for line in said if f": {INCONCLUSIVE} (" not in line and UNIFORM not in line]
    shown = decided[:_MOST_ANSWERS] or said[:_FEW]
    words = [row.verdict for row, _ in judged_rows(comparison)]
    count = ", ".join(f"{words.count(word)} {word}" for word in (*_DECIDED, UNIFORM, INCONCLUSIVE) if word in words)
    more = [f"Verdicts over the whole model: {count}."] if words else []
    return (*lines, *more, *shown)


def terms_of(table: pd.DataFrame) -> tuple[Quantity, ...]:
    """The quantities of a table, each once."""
    return tuple(quantity(str(name)) for name in table["indicator"].unique())


def citation(versions: Mapping[str, str]) -> str:
    """An entry for a bibliography, and what to cite beside it."""
    version = versions.get("svda-analysis", "")
    line = f"  version = {{{version}}},\n" if version else ""
    return f"""@software{{svda_analysis,
  title   = {{svda_analysis: how does a Vision Transformer attend?}},
  author  = {{{{The authors of svda_analysis}}}},
{line}  license = {{Apache-2.0}}
}}

Please cite, too, the papers whose measures you report: they are named at each number."""
