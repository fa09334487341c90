"""What every quantity is called, what it can be, which way it points: one vocabulary for all tables and figures.

A quantity is whatever stands in the column ``indicator`` of a table. Each is registered once, where it is computed
(indicators beside their functions, metrics of faithfulness beside theirs); what comes from several places is registered
here. Labels, axes, ranges, the families of Holm's adjustment and the words of sentences are all read from here. No
torch here.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import NamedTuple, TypeVar

from svda_analysis.errors import InputError, several

FAITHFULNESS = "faithfulness"  # the family of what is measured by taking patches away
DEFAULT = "default"  # stands for the quantities of no group, which are measured where nothing is asked for
FAITHFULNESS_CHECKS = "checks of faithfulness"  # that of what stands beside it, and says which numbers to trust

# Where quantities are registered. Imported when a name is asked for that is not known yet, so that a label does not
# depend on what happened to be imported before.
REGISTRANTS = [
    "svda_analysis.indicators",
    "svda_analysis.source_indicators",
    "svda_analysis.directions",
    "svda_analysis.faithful",
    "svda_analysis.compression.result",
]

# What a number may change with while the model's function stays as it is: the axes of q and k, which mean nothing in
# dot-product attention, and the part of the scores that all keys share, which the softmax drops.
SAME_FUNCTION = ("basis", "row constants")
TOKEN_ORDER = "token order"  # where the tokens lie, as any measure of distance must
ALIVE_FROM = 0.05  # selectivity below which a map is all but uniform, and its rank and steadiness say nothing

# The words for limits that follow from a size: which size, and the limit that it gives.
LIMITS: dict[str, tuple[str, Callable[[float], float]]] = {
    "D": ("D", float),
    "N": ("N", float),
    "grid": ("grid", float),
    "ln D": ("D", math.log),
    "1 - 1/N": ("N", lambda tokens: 1 - 1 / tokens),
}


class Gloss(NamedTuple):
    """A word that not everybody knows: ``pattern`` finds it in a text, ``said`` says in a sentence what it means."""

    pattern: str
    said: str


GLOSSES = {  # explained where a report first uses them (render/glosses.py)
    "Holm": Gloss(
        r"Holm('s method)?\b",
        "Holm's method raises each p for the number of questions that are asked together, so that the chance of "
        "any false finding among them stays below 5 % (Holm 1979).",
    ),
    "Hedges": Gloss(
        r"Hedges' (correction|g)\b",
        "A difference in units of its spread comes out too large of few runs; Hedges' correction makes it smaller "
        "accordingly (Hedges 1981). Of runs paired by seed the unit is the spread of their differences, which is "
        "smaller than that of runs.",
    ),
    "equivalence": Gloss(
        r"two one-sided (t )?tests( \(TOST\))?|\bTOST\b|for equivalence\b",
        "Two one-sided tests (TOST) show that a difference lies above minus a margin and below the margin, each "
        "at 5 %. That no difference is shown does not say so (Schuirmann 1987).",
    ),
    "McNemar": Gloss(
        r"McNemar('s( exact)? (test|p))?\b",
        "McNemar's test asks whether, of the images on which just one of two models is right, either is right "
        "more often (McNemar 1947).",
    ),
    "sigma": Gloss(
        r"\b[Ss]igma\b",
        "Sigma is SVDA's learned diagonal: one weight for each direction of a head's queries and keys.",
    ),
    "scores": Gloss(r"\bscores\b", "Scores are what queries and keys come to before the softmax."),
    "attention": Gloss(
        r"\(attention\)",
        "Of attention: computed from the maps, which the softmax makes of the scores; a row says how much one "
        "token takes from each other.",
    ),
    "operator": Gloss(
        r"\boperator\b",
        "The operator of a head is the one matrix behind its scores, between queries and keys as the data spread "
        "them; its singular values say how many directions the scores use.",
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantity:
    """One named number of a table.

    ``label`` heads axes and rows; ``unit`` follows it where there is one. ``low`` and ``high`` are what it can be at
    least and at most: numbers (infinite: no limit), or words of :data:`LIMITS`, which :meth:`bounds` resolves.
    ``sources`` are the spectra or maps that it can speak of. ``direction`` says by source (``"*"``: any other) which
    sign of a difference means more of ``quality`` ("structured", "faithful"): of these a comparison makes sentences.
    Holm's adjustment runs over each ``family`` apart; a source of ``other_families`` has another one. ``reference`` is
    the source of the formula, ``question`` what a user may ask that it answers, ``not_said`` what it does not answer.
    What is no ``headline`` stands in files of numbers alone, not in the tables of a report. Those of a ``group`` are
    measured only when they, or their group, are asked for (:func:`choose_quantities`).

    ``varies_with`` names what it changes with: members of :data:`SAME_FUNCTION`, though the model's function stays (no
    comparison of different kinds of attention uses it then, :attr:`compares_kinds`), or :data:`TOKEN_ORDER`.
    ``beside``: our quantity of the same name, of a quantity that is as somebody else computes it. ``needs_living``: a
    uniform map reaches the good end too, so that it counts only where maps are alive
    (:data:`ALIVE_FROM`).

    ``restates`` names the quantity that it is one minus of: a second name, which is tested once and in no sentence.
    ``margin`` is the difference below which two models count as the same (None: 2 % of what it can be).
    """

    name: str
    label: str
    unit: str = ""
    sources: tuple[str, ...] = ()
    low: float | str = -math.inf
    high: float | str = math.inf
    higher_means: str = ""
    is_share: bool = False  # of images: its interval over them is Wilson's
    direction: Mapping[str, int] = dataclasses.field(default_factory=dict)
    quality: str = "structured"
    family: str = "indicators"
    other_families: Mapping[str, str] = dataclasses.field(default_factory=dict)
    reference: str = ""
    headline: bool = True
    group: str = ""
    question: str = ""
    not_said: str = ""
    varies_with: tuple[str, ...] = ()
    needs_living: bool = False
    beside: str = ""
    restates: str = ""
    margin: float | None = None

    def __post_init__(self) -> None:
        allowed = (*SAME_FUNCTION, TOKEN_ORDER)
        if isinstance(self.varies_with, str) or not set(self.varies_with) <= set(allowed):
            raise InputError(f"varies_with must hold some of {', '.join(allowed)}, got {self.varies_with!r}")

    @property
    def compares_kinds(self) -> bool:
        """Whether it may stand beside the same quantity of a model with another kind of attention."""
        return not set(self.varies_with) & set(SAME_FUNCTION)

    def margin_within(self, span: float) -> float:
        """The margin of equivalence for a quantity whose limits lie ``span`` apart; NaN where it has none."""
        if self.margin is not None:
            return self.margin
        return 0.02 * span if math.isfinite(span) and span > 0 else math.nan

    def sign(self, source: str) -> int:
        """Which sign of a difference means more of :attr:`quality`: +1, -1, or 0 where neither does."""
        return self.direction.get(source, self.direction.get("*", 0))

    def family_of(self, source: str) -> str:
        """The family within which a difference of this ``source`` is adjusted."""
        return self.other_families.get(source, self.family)

    def bounds(
        self,
        source: str | None = None,
        *,
        D: int | None = None,
        N: int | None = None,
        grid: tuple[int, ...] | None = None,
    ) -> tuple[float, float]:
        """The numeric range for one of :attr:`sources`; only the sizes that the range depends on are needed.

        ``"D"`` is the length of the spectrum: ``D`` for sigma, ``min(N - 1, D)`` for scores, whose keys are centred (at
        least 1). ``"grid"`` is the distance
        between opposite corner patches, ``hypot(rows - 1, columns - 1)``, which no mean distance can exceed. Raises
        :class:`InputError` for another source or a missing size.
        """
        if self.sources and source not in self.sources:
            raise InputError(f"source must be one of {', '.join(self.sources)} for {self.name}, got {source!r}")
        low, high = (_resolve(limit, source, D, N, grid) for limit in (self.low, self.high))
        return low, high


def _resolve(
    limit: float | str, source: str | None, D: int | None, N: int | None, grid: tuple[int, ...] | None
) -> float:
    if not isinstance(limit, str):
        return float(limit)
    size_word, of_size = LIMITS[limit]
    of_scores = size_word == "D" and source == "scores"
    needed = ("D", "N") if of_scores else (size_word,)
    sizes = {"D": D, "N": N, "grid": None if grid is None else math.hypot(*(side - 1 for side in grid))}
    given = [size for name in needed if (size := sizes[name]) is not None]
    if len(given) < len(needed):
        raise InputError(f"{' and '.join(needed)} must be given for the range of {source}, got {D=}, {N=}, {grid=}")
    return of_size(max(min(given[0], given[1] - 1), 1) if of_scores else given[0])


QUANTITIES: dict[str, Quantity] = {}


def register(quantity: Quantity) -> Quantity:
    """Enter a quantity under its name (in the place of one of that name) and return it."""
    QUANTITIES[quantity.name] = quantity
    return quantity


def register_all() -> None:
    """Import every module that registers quantities."""
    for module in REGISTRANTS:
        import_module(module)


def quantity(name: str) -> Quantity:
    """The quantity of that name; of an unknown one what its name tells."""
    if name not in QUANTITIES:
        register_all()
    return QUANTITIES.get(name) or Quantity(name=name, label=name.replace("_", " ").capitalize())


Known = TypeVar("Known", bound=Quantity)


def choose_quantities(registry: Mapping[str, Known], names: Sequence[str] | None, argument: str) -> list[Known]:
    """The quantities of a registry that have these names, each once; the name of a group stands for all of it,
    :data:`DEFAULT` (or None) for those of no group.

    Raises :class:`InputError`, which speaks of ``argument``, for any other name.
    """
    chosen: dict[str, Known] = {}
    for name in several(DEFAULT if names is None else names):
        found = [one for one in registry.values() if name in (one.name, one.group or DEFAULT)]
        if not found:
            allowed = ", ".join([DEFAULT, *groups_of(registry), *registry])
            raise InputError(f"{argument} must be among {allowed}, got {name!r}")
        chosen |= {one.name: one for one in found}
    return list(chosen.values())


def groups_of(registry: Mapping[str, Known]) -> list[str]:
    """The names of the groups of a registry."""
    return list(dict.fromkeys(one.group for one in registry.values() if one.group))


def label(name: str, source: str | None = None) -> str:
    """The label of a quantity, with ``source`` in brackets where it is given."""
    text = quantity(name).label
    return f"{text} ({source})" if source else text


def known_bounds(name: str) -> tuple[float, float]:
    """The range of a quantity as far as it is a number: a size that differs from layer to layer is infinite here."""
    found = quantity(name)
    low, high = found.low, found.high
    return (-math.inf if isinstance(low, str) else low), (math.inf if isinstance(high, str) else high)


for _quantity in (
    Quantity(
        name="accuracy",
        label="Accuracy",
        low=0.0,
        high=1.0,
        is_share=True,
        higher_means="more images classified right",
        margin=0.005,
        question="How many images does the model classify right?",
        not_said="why, or by which patches",
    ),
    Quantity(
        name="loss",
        label="Loss",
        low=0.0,
        higher_means="further from the labels",
        question="How far are the predicted probabilities from the labels?",
        not_said="how many images are right: one sure mistake weighs more than many near ones",
    ),
    Quantity(
        name="parameters",
        label="Parameters",
        low=0.0,
        family="cost",
        question="How many numbers does the model learn?",
        not_said="the time that it takes, nor the bytes: those depend on the precision",
    ),
    Quantity(
        name="macs",
        label="MACs",
        low=0.0,
        family="cost",
        higher_means="more multiply-adds an image",
        question="How many multiply-adds does one image take?",
        not_said="the time that it takes: memory and kernels decide that too",
    ),
    Quantity(
        name="epoch_seconds",
        label="Seconds an epoch",
        unit="s",
        low=0.0,
        family="cost",
        question="How long did an epoch of training take?",
        not_said="how long it takes on another machine, or on this one when nothing else runs",
    ),
    Quantity(
        name="peak_memory_mb",
        label="Peak memory",
        unit="MB",
        low=0.0,
        family="cost",
        question="How much memory did training take at most?",
        not_said="how much of it is the model's: libraries and data are in it",
    ),
):
    register(_quantity)
