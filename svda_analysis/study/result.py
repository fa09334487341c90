"""What a study found, as plain data: one :class:`DatasetResult` for each data set, and the study of them. No torch."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from svda_analysis.comparison import compare, compare_blocked, living
from svda_analysis.frames import each_row
from svda_analysis.kinds import ATTENTIONS
from svda_analysis.results import Analysis
from svda_analysis.stats import Equivalence, tost
from svda_analysis.study.costs import Size

NOT_AT_HAND = "not run here: data not at hand"
WITHOUT_PENALTIES = {"shape_penalty": 0, "norm_penalty": 0}
FROM_HISTORY = ("accuracy", "loss")  # over all test images, as they stood after the last epoch


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetResult:
    """All runs on one data set.

    ``analysis`` holds their final numbers (``table``), those of each epoch (``history``), spectra, examples, traces and
    maps; it is empty where ``missing`` says why nothing was run. ``sizes`` go by model, in the order in which models
    are shown; ``source`` says which images were seen; ``untraced`` are the models whose checkpoints hold no trace;
    ``carried`` names the figures of an earlier report that the analysis cannot draw and that are kept as files;
    ``broken`` has a line for each run that is left out because its numbers are not finite.
    """

    name: str
    title: str
    analysis: Analysis
    sizes: dict[str, Size]
    missing: str = ""
    source: str = ""
    untraced: tuple[str, ...] = ()
    carried: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()

    @property
    def table(self) -> pd.DataFrame:
        return self.analysis.table

    @property
    def history(self) -> pd.DataFrame:
        return self.analysis.history

    @functools.cached_property
    def _compared(self) -> dict[tuple[str, str, str | None, float | None], pd.DataFrame]:
        """What :func:`compare_pair` found: each claim, table and sentence asks again."""
        return {}

    @functools.cached_property
    def _blocked(self) -> dict[tuple[str, str, str], pd.DataFrame]:
        """What :func:`compare_variants` found."""
        return {}

    def models(self, attention: str) -> list[str]:
        return [name for name, size in self.sizes.items() if size.attention == attention]

    def in_role(self, role: str) -> list[str]:
        """The models whose kind of attention has that part in a comparison (``kinds.ROLES``)."""
        kinds = [name for name, kind in ATTENTIONS.items() if kind.role == role]
        return [name for name, size in self.sizes.items() if size.attention in kinds]

    @property
    def trained(self) -> list[str]:
        present = set(self.table["model"])
        return [name for name in self.sizes if name in present]

    @property
    def baseline(self) -> str | None:
        """The model to compare with: the first trained one with the attention of a baseline."""
        return self.first_of("baseline", self.trained)

    @property
    def control(self) -> str | None:
        return self.first_of("control", self.trained)

    @functools.cached_property
    def alive(self) -> list[str]:
        """The trained models whose maps are not all but uniform (:func:`~svda_analysis.comparison.living`)."""
        known = living(self.table)
        dead = set(known.loc[known["layer"].isna() & ~known["alive"], "model"])
        return [name for name in self.trained if name not in dead]

    @functools.cached_property
    def living(self) -> pd.DataFrame:
        """The rows of ``table`` of the models that are ``alive``. Not to be written to."""
        return self.table[self.table["model"].isin(self.alive)]

    def first_of(self, role: str, names: Iterable[str]) -> str | None:
        """The first of the models ``names`` in that role; None where there is none."""
        return next((name for name in self.in_role(role) if name in names), None)


def asks_for_variants(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest, as ``meta.json`` holds it, compares variants of one model (in older ones: ``study``)."""
    return bool(manifest.get("of_variants", manifest.get("study", False)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyResult:
    """A study: what its report is made of.

    ``variants`` are the models that the manifest asks for, each with the fields that it changes; ``of_variants`` says
    that they are compared as variants of one model; ``margin`` is how many points of accuracy count as the same;
    ``notes`` are what the manifest has the report say.
    """

    title: str
    datasets: tuple[DatasetResult, ...]
    variants: Mapping[str, Mapping[str, Any]]
    of_variants: bool = False
    margin: float = 0.5
    notes: tuple[str, ...] = ()

    @staticmethod
    def of(manifest: Mapping[str, Any], results: Iterable[DatasetResult]) -> StudyResult:
        """The results of a study whose manifest is given as plain values, as ``meta.json`` holds it."""
        return StudyResult(
            title=manifest["title"],
            datasets=tuple(results),
            variants=manifest["variants"],
            of_variants=asks_for_variants(manifest),
            margin=manifest["analysis"]["margin"],
            notes=tuple(manifest.get("notes", ())),
        )

    @property
    def base(self) -> str:
        """The model that the others are variants of: the first with SVDA, else the first."""
        svda = (name for name, fields in self.variants.items() if fields["attention"] == "svda")
        return next(svda, next(iter(self.variants)))


def svda_but_for(
    fields: Mapping[str, Any], variants: Mapping[str, Mapping[str, Any]], names: Iterable[str]
) -> str | None:
    """The first of the models ``names`` that is SVDA with these ``fields`` changed and no others, if there is one."""
    return next((name for name in names if variants.get(name) == {"attention": "svda", **fields}), None)


# --- comparing two models of one data set -----------------------------------------------------------------------------


def compare_pair(
    result: DatasetResult, model: str, baseline: str, indicator: str | None = None, margin: float | None = None
) -> pd.DataFrame:
    """:func:`~svda_analysis.comparison.compare` of two models of a data set alone, or of one indicator of theirs, with
    a study's ``margin`` of accuracy in points (None: that of the vocabulary); empty where one was not run. Not to be
    written to."""
    key = model, baseline, indicator, margin
    if key not in result._compared:
        result._compared[key] = _compare_pair(result, *key)
    return result._compared[key]


def _compare_pair(
    result: DatasetResult, model: str, baseline: str, indicator: str | None, margin: float | None
) -> pd.DataFrame:
    rows = result.table[result.table["model"].isin([model, baseline])]
    if indicator is not None:
        rows = rows[rows["indicator"] == indicator]
    if len(set(rows["model"])) < 2:
        return pd.DataFrame(columns=["indicator", "source", "layer"])
    return compare(rows, baseline, margins=None if margin is None else {"accuracy": margin / 100})


def compare_variants(result: DatasetResult, indicator: str, source: str, against: str) -> pd.DataFrame:
    """:func:`~svda_analysis.comparison.compare_blocked` of the living models of a data set with the model ``against``.
    Not to be written to."""
    key = indicator, source, against
    if key not in result._blocked:
        result._blocked[key] = compare_blocked(result.living, *key)
    return result._blocked[key]


def whole_model_row(frame: pd.DataFrame, indicator: str, source: str) -> Any | None:
    """The whole-model row of one indicator in a comparison or a summary, as a named tuple."""
    at = (frame["indicator"] == indicator) & (frame["source"] == source) & frame["layer"].isna()
    return next(each_row(frame[at]), None)


def accuracy_difference(result: DatasetResult, model: str, baseline: str) -> dict[str, Any]:
    """What :func:`compare_pair` says of test accuracy: difference, ends of its interval, p, unit, number of seeds."""
    found = compare_pair(result, model, baseline, "accuracy").iloc[0]
    return {key: found[key] for key in ("difference", "ci_low", "ci_high", "p", "unit", "n_seeds")}


def equivalence(result: DatasetResult, model: str, baseline: str, margin: float) -> Equivalence | None:
    """:func:`~svda_analysis.stats.tost` of test accuracy, paired by seed; ``margin`` in points. One pair: None."""
    rows = result.table[result.table["indicator"] == "accuracy"].dropna(subset="seed")
    ours, theirs = (rows[rows["model"] == name].set_index("seed")["mean"] for name in (model, baseline))
    difference = (ours - theirs).dropna()
    return tost(difference, margin / 100) if len(difference) > 1 else None
