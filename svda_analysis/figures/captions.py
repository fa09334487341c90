"""What stands under each figure: what is drawn, and what it found. No torch here.

A finding is a row of the comparison of whole models, with its interval and its verdict; where there is none, the figure
says what is drawn alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pandas as pd

from svda_analysis.comparison import judged_rows
from svda_analysis.formatting import counted, estimate, number
from svda_analysis.frames import each_row
from svda_analysis.results import Analysis
from svda_analysis.verdicts import EQUIVALENT, INCONCLUSIVE, OPPOSED, SUPPORTED, UNIFORM
from svda_analysis.vocabulary import label

_RANK, _SELECTIVITY = ("effective_rank", "scores"), ("selectivity_index", "attention")
_SPARSITY, _ACCURACY = ("attention_sparsity", "attention"), ("accuracy", "test")
_STRUCTURE = (_RANK, _SELECTIVITY, _SPARSITY)
_OVER = "Intervals are 95 %, over training runs where a model has several, else over images."
_LOOK = "attention that the class token pays to the patches (without a class token: that all patches pay on average)"


def caption_of(name: str, analysis: Analysis) -> str:
    """What stands under the figures of that name (those that end in a model's or a source's name, too): what they show,
    and what was found. Empty for a figure that is not known here."""
    known = [key for key in _CAPTIONS if name == key or name.startswith(f"{key}_")]
    if not known:
        return ""
    shown, find = _CAPTIONS[max(known, key=len)]
    return " ".join([shown, *find(analysis, name)])


def found_of(analysis: Analysis, pairs: Sequence[tuple[str, str]]) -> list[str]:
    """A sentence for each of these (indicator, source) of the whole models: both means, difference, verdict."""
    rows = analysis.comparison
    if rows is None:
        return []
    whole = rows[rows["layer"].isna()]
    return [
        _sentence(row)
        for indicator, source in pairs
        for row in each_row(whole[(whole["indicator"] == indicator) & (whole["source"] == source)])
    ]


def _sentence(row: Any) -> str:
    said = "" if pd.isna(row.verdict) else f", {row.verdict}"
    return (
        f"{label(row.indicator, row.source)}: {number(row.model_mean)} in {row.model} against "
        f"{number(row.baseline_mean)} in {row.baseline} (difference {estimate(row.difference, row.ci_low, row.ci_high)}"
        f"{said})."
    )


# --- what each figure finds -------------------------------------------------------------------------------------------

FindingsOf = Callable[[Analysis, str], Iterable[str]]


def _nothing(analysis: Analysis, name: str) -> list[str]:
    return []


def _of(*pairs: tuple[str, str]) -> FindingsOf:
    return lambda analysis, name: found_of(analysis, pairs)


def _verdicts(analysis: Analysis, name: str) -> list[str]:
    """How many of the differences decide something."""
    if analysis.comparison is None:
        return []
    words = [row.verdict for row, _ in judged_rows(analysis.comparison, "structured")]
    told = [f"{words.count(word)} {word}" for word in _WORDS if word in words]
    return [f"Of {counted(len(words), 'verdict')}: {', '.join(told)}."] if told else []


def _gains(analysis: Analysis, name: str) -> list[str]:
    methods = dict.fromkeys(str(source) for source in analysis.table["source"].dropna().unique())
    return found_of(analysis, [("deletion_gain", method) for method in methods])


def _spectrum(analysis: Analysis, name: str) -> list[str]:
    return found_of(analysis, [("effective_rank", name.removeprefix("spectra_"))])


def _likeness(analysis: Analysis, name: str) -> list[str]:
    """How alike the same layers of two models are, beside two runs of one model."""
    found = analysis.maps.get("similarity")
    if found is None:
        return []
    measure = "cka" if name.startswith("token") else "js"
    rows = found[(found["measure"] == measure) & (found["images"] == "same") & (found["layer_a"] == found["layer_b"])]
    means = rows.groupby(["model", "baseline"], sort=False)["similarity"].mean().reset_index()
    said = [
        f"{row.model} and {row.baseline if row.model != row.baseline else 'itself of another seed'} "
        f"{number(row.similarity)}"
        for row in each_row(means)
    ]
    return [f"At the same layer, on the same image: {'; '.join(said)}."] if said else []


_WORDS = (SUPPORTED, OPPOSED, EQUIVALENT, UNIFORM, INCONCLUSIVE)
_CAPTIONS: dict[str, tuple[str, FindingsOf]] = {
    "overview": (
        f"Structure of the attention by layer, and test accuracy where it was measured. {_OVER}",
        _of(*_STRUCTURE, _ACCURACY),
    ),
    "accuracy_structure": (
        "Test accuracy against the structure of attention: large, the mean over the runs of a model; small, its runs.",
        _of(*_STRUCTURE, _ACCURACY),
    ),
    "comparison": (
        "Differences from the baseline over the whole model, in units of their spread over the training runs, with "
        "95 % intervals; filled: the adjusted p is below 0.05. At the right both means.",
        _verdicts,
    ),
    "faithfulness": (
        f"How much better each method's map ranks the patches than chance does. {_OVER}",
        _gains,
    ),
    "faithfulness_fillers": ("The same gains under each filler of patches that are taken away.", _nothing),
    "faithfulness_metrics": (f"Further metrics of faithfulness, by method. {_OVER}", _nothing),
    "by_layer": (
        f"Every indicator by layer, mean over heads: rows are indicators, columns what they were computed from. {_OVER}"
        " A faint dot is a head of a single run.",
        _nothing,
    ),
    "distributions": ("Every head of every run by layer, with a bar at their median.", _of(*_STRUCTURE)),
    "heatmaps": ("Heads by layers of one run of each model, one colour scale for each indicator.", _nothing),
    "spectra": (
        "Sorted singular values over the largest, against rank. Faint: heads of single runs; strong: their median.",
        _spectrum,
    ),
    "attention_maps": (f"Where each model looks: {_LOOK}, mean over heads.", _nothing),
    "training": (
        "Loss and test accuracy against epoch, mean over training runs with its 95 % interval. The loss of training is "
        "that of augmented images with smoothed labels, where the recipe has these, and stands above that of the test.",
        _of(_ACCURACY),
    ),
    "epochs": ("Indicators over training, mean over layers and heads; thin lines are single runs.", _of(*_STRUCTURE)),
    "epochs_by_layer": ("How the layers come to differ over training: darker is deeper.", _nothing),
    "source_epochs": ("The six indicators that the source logged of SVDA, and those of our runs of it.", _nothing),
    "sigma_over_epochs": ("The learned diagonal of one run over training, sorted, by layer.", _nothing),
    "maps_over_epochs": ("Where the class token looks in the last layer while training goes on.", _nothing),
    "map_similarity": (
        "How alike the maps of two models are, layer by layer (1 - Jensen-Shannon distance).",
        _likeness,
    ),
    "token_similarity": ("How alike the tokens of two models are, layer by layer (linear CKA).", _likeness),
    "matched_heads": (f"Heads matched one to one: the {_LOOK}; a box holds a pair.", _nothing),
}
