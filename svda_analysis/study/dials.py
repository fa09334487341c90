"""The dials of a study: fields that its variants turn step by step, each a way to a lower rank. No torch here."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping
from fractions import Fraction
from typing import Any, NamedTuple

from svda_analysis.formatting import capital


def _share(value: float) -> str:
    return str(Fraction(value).limit_denominator(100))


class Turn(NamedTuple):
    """A field that can be a dial: what it is, in which direction it turns towards less rank (+1: larger values), what
    stands for the model without the field (empty: that model is no setting of it), and how a setting is written."""

    title: str
    direction: int
    without: str = ""
    written: Callable[[float], str] = "{:g}".format


TURNS = {  # by field of ViTConfig or TrainConfig
    "target_rank": Turn("a target for the rank of sigma", -1, written=_share),
    "qk_dim": Turn("fewer directions of queries and keys", -1, "all"),
    "qk_weight_decay": Turn("weight decay on W_q and W_k", +1, "none"),
}


class Dial(NamedTuple):
    """Models that differ in one field alone, from its loosest setting to its tightest; ``settings`` in words."""

    field: str
    title: str
    models: tuple[str, ...]
    settings: tuple[str, ...]

    @property
    def opening(self) -> str:
        """Its title as a sentence begins with it."""
        return capital(self.title)


def dials_of(variants: Mapping[str, Mapping[str, Any]], names: Collection[str]) -> list[Dial]:
    """The dials that two or more of the models ``names`` are settings of; ``variants`` has the fields of each model."""
    found = []
    for field, turn in TURNS.items():
        groups: dict[str, dict[str, float]] = {}  # by the other fields
        for name, fields in variants.items():
            if field in fields and name in names:
                groups.setdefault(_but(fields, field), {})[name] = fields[field]
        for rest, values in groups.items():
            turned = sorted((turn.direction * value, turn.written(value), name) for name, value in values.items())
            steps = [(name, setting) for _, setting, name in turned]
            if turn.without:
                whole = (name for name, fields in variants.items() if name in names and _but(fields) == rest)
                steps = [*((name, turn.without) for name in itertools.islice(whole, 1)), *steps]
            if len(steps) > 1:
                found.append(Dial(field, turn.title, *map(tuple, zip(*steps, strict=True))))
    return found


def _but(fields: Mapping[str, Any], left_out: str = "") -> str:
    return repr(sorted((key, value) for key, value in fields.items() if key != left_out))
