"""Signs that the attention of a model in training goes wrong: each with its threshold, its source and what to do.

They warn and never stop a training. The phenomena are the papers'; none of them prints a threshold on these quantities,
so the thresholds are ours, and may be changed: ``ALARMS["rank_collapse"].at(0.2)``. No torch here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import pandas as pd

from svda_analysis.errors import InputError
from svda_analysis.vocabulary import ALIVE_FROM


class AttentionWarning(UserWarning):
    """An alarm about the attention of a model in training."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Alarm:
    """Raised where ``indicator`` of a head, or the mean of a layer's heads (``per``), is beyond ``threshold``.

    ``beyond`` is "above" or "below"; ``reference`` is who described it, ``advice`` one line of what to do.
    """

    name: str
    indicator: str
    beyond: str
    threshold: float
    per: str
    reference: str
    advice: str

    def at(self, threshold: float) -> Alarm:
        """The same alarm at another threshold."""
        return dataclasses.replace(self, threshold=threshold)

    def where(self, table: pd.DataFrame) -> pd.DataFrame:
        """The heads or layers of a table of one measurement that it is raised for: ``layer``, ``mean`` and, of heads,
        ``head``."""
        every = table[(table["indicator"] == self.indicator) & table["layer"].notna()]
        rows = every.groupby("layer", as_index=False).agg({"mean": "mean"}) if self.per == "layer" else every
        wrong = rows["mean"] > self.threshold if self.beyond == "above" else rows["mean"] < self.threshold
        return rows[wrong][["layer", "mean", *(["head"] if self.per == "head" else [])]]

    def line(self, found: pd.DataFrame, step: int) -> str:
        """What to say of :meth:`where`, on one line."""
        names = [f"{row.layer}.{row.head}" if self.per == "head" else f"{row.layer}" for row in found.itertuples()]
        shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        worst = found["mean"].max() if self.beyond == "above" else found["mean"].min()
        return (
            f"step {step}: {self.name.replace('_', ' ')} in {self.per} {shown}: {self.indicator} {worst:.3g}, "
            f"{self.beyond} {self.threshold:g} ({self.reference}; the threshold is ours): {self.advice}"
        )


ALARMS = {
    alarm.name: alarm
    for alarm in (
        Alarm(
            name="entropy_collapse",
            indicator="attention_entropy",
            beyond="below",
            threshold=0.1,
            per="layer",
            reference="Zhai et al. 2023",
            advice="lower the learning rate, warm up for longer, or normalise the rows of q and k",
        ),
        Alarm(
            name="saturation",
            indicator="largest_logit",
            beyond="above",
            threshold=30.0,  # nats: other keys get 1e-13 of the largest, below what any precision adds up
            per="head",
            reference="Dehghani et al. 2023, growth of the attention logits",
            advice="normalise the rows of q and k, decay W_q and W_k, or lower the learning rate",
        ),
        Alarm(
            name="dead_heads",
            indicator="attention_entropy",
            beyond="above",
            threshold=1 - ALIVE_FROM,
            per="head",
            reference="our definition: a uniform map tells no key from another",
            advice="early in a training this passes; later raise the scale of the scores (sigma), or remove the head",
        ),
        Alarm(
            name="rank_collapse",
            indicator="rank_one_residual",
            beyond="below",
            threshold=0.1,
            per="layer",
            reference="Dong et al. 2021",
            advice="check that the residual connections are in use, and lower the weight decay of the value path",
        ),
    )
}


def choose_alarms(given: Iterable[str | Alarm] | None) -> tuple[Alarm, ...]:
    """Alarms by name or as they are; None is none, ``"all"`` each of :data:`ALARMS`."""
    if given is None:
        return ()
    wanted: Sequence[str | Alarm] = list(ALARMS) if given == "all" else [given] if isinstance(given, str) else [*given]
    for one in wanted:
        if not isinstance(one, Alarm) and one not in ALARMS:
            raise InputError(f"alarms must be 'all', or of {', '.join(ALARMS)}, got {one!r}")
    return tuple(one if isinstance(one, Alarm) else ALARMS[one] for one in wanted)
