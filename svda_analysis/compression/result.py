"""What compressing runs gave, how it is kept in a folder, and several runs as one. No torch here."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from svda_analysis.earlier import as_measured_now
from svda_analysis.errors import InputError, one_line
from svda_analysis.frames import BUDGET_COLUMNS, NORM_COLUMNS, SWEEP_COLUMNS, VERIFICATION_COLUMNS, make_frame
from svda_analysis.results import quantity_entries, read_frame, read_json, register_entries
from svda_analysis.stats import paired_test
from svda_analysis.vocabulary import QUANTITIES, Quantity, known_bounds, register

RATIOS = ("parameters", "macs", "bytes", "seconds_1", "seconds_32")  # whose change is after / before
ACCURACIES = ("accuracy", "before_finetuning", "finetuning")  # whose change lies in [-1, 1]
COMPRESSION_META, CURVES = "compression.json", "compression.csv"
COMPRESSION_FORMAT = 1
COMPRESSION = "compression"  # the family of what is verified of a smaller model
_CURVE_COLUMNS = {"model": "string", "seed": "Int64", **SWEEP_COLUMNS}


_OF_A_MACHINE = "how long it takes on another machine, or on this one when nothing else runs"
for _name, _label, _high, _question, _not_said in (
    (
        "agreement",
        "Predictions that agree",
        1.0,
        "On how many images do the whole and the smaller model name the same class?",
        "which of the two is right where they differ",
    ),
    (
        "map_divergence",
        "Map divergence (Jensen-Shannon)",
        math.inf,
        "How far are the smaller model's attention maps from the whole model's?",
        "what the change does to the answer: agreement and accuracy say that",
    ),
    ("bytes", "Bytes of the weights", math.inf, "How large are the weights in a file?", "the memory that a pass takes"),
    ("seconds_1", "Seconds for one image", math.inf, "How long does one image take?", _OF_A_MACHINE),
    ("seconds_32", "Seconds for 32 images", math.inf, "How long does a batch of 32 take?", _OF_A_MACHINE),
    (
        "before_finetuning",
        "Accuracy, without fine-tuning",
        1.0,
        "How accurate is the smaller model as it was cut?",
        "what some training would bring back",
    ),
    (
        "finetuning",
        "Accuracy, compressed, by fine-tuning",
        1.0,
        "How much accuracy did fine-tuning bring back?",
        "what the same training would give the whole model",
    ),
):
    register(
        Quantity(
            name=_name,
            label=_label,
            low=0.0,
            high=_high,
            family=COMPRESSION,
            question=_question,
            not_said=_not_said,
        )
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compression:
    """What compressing one run changed, as it was verified.

    ``verification`` has ``frames.VERIFICATION_COLUMNS``, ``norms`` has ``NORM_COLUMNS`` (empty where no norm stands in
    the way), ``curve`` has ``SWEEP_COLUMNS`` (empty where no sweep was asked for), ``budgets`` has ``BUDGET_COLUMNS``
    (likewise), ``meta`` says what was done on what.
    """

    verification: pd.DataFrame
    norms: pd.DataFrame
    curve: pd.DataFrame
    meta: dict[str, Any]
    budgets: pd.DataFrame = dataclasses.field(default_factory=lambda: make_frame([], BUDGET_COLUMNS))

    @property
    def model(self) -> str:
        return str(self.meta["model"])

    @property
    def seed(self) -> int | None:
        return None if self.meta["seed"] is None else int(self.meta["seed"])


@dataclasses.dataclass(frozen=True)
class Compressions:
    """The compressions of several runs: what a report is made of. Raises :class:`InputError` for none, or when a run
    (model and seed) is there twice."""

    runs: tuple[Compression, ...]

    def __post_init__(self) -> None:
        if not self.runs:
            raise InputError("runs must hold at least one compression, got none")
        known = [(run.model, run.seed) for run in self.runs]
        if double := next((run for run in known if known.count(run) > 1), None):
            raise InputError(f"runs must hold different runs, got {double[0]} seed {double[1]} twice")

    @functools.cached_property
    def by_model(self) -> dict[str, list[Compression]]:
        """The runs of each model, in the order given."""
        found: dict[str, list[Compression]] = {}
        for run in self.runs:
            found.setdefault(run.model, []).append(run)
        return found

    @functools.cached_property
    def curves(self) -> dict[str, pd.DataFrame]:
        """The sweep of each model that has one, pooled over its runs."""
        swept = {model: [run.curve for run in runs if len(run.curve)] for model, runs in self.by_model.items()}
        return {model: over_runs(found, ["criterion", "energy", "budget"]) for model, found in swept.items() if found}

    @property
    def data(self) -> tuple[str, ...]:
        """Which test images were seen, each source once."""
        return tuple(dict.fromkeys(str(run.meta["data"]) for run in self.runs))

    @property
    def warnings(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(line for run in self.runs for line in run.meta["warnings"]))

    # --- in a folder ----------------------------------------------------------------------------------------------

    @property
    def meta(self) -> dict[str, Any]:
        """All but the sweeps, as plain values of JSON."""
        rows = pd.concat([run.verification for run in self.runs])
        holds = [Path(CURVES).stem] if any(len(run.curve) for run in self.runs) else []
        return {
            "kind": COMPRESSION,
            "format": COMPRESSION_FORMAT,
            "quantities": quantity_entries(rows.loc[rows["source"].notna(), "quantity"]),
            "holds": holds,
            "runs": [_plain_json(_as_record(run)) for run in self.runs],
        }

    def save(self, folder: str | os.PathLike[str], **about: Any) -> list[Path]:
        """Write all of it into ``folder`` (made where it is not there) and return the files: ``compression.json`` with
        ``about`` beside what they say of themselves, and the sweeps in ``compression.csv``. Every digit is kept."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        text = json.dumps({**about, **self.meta}, indent=2, default=str, allow_nan=False)
        (place / COMPRESSION_META).write_text(text + "\n", encoding="utf-8")
        if not self.meta["holds"]:
            return [place / COMPRESSION_META]
        swept = [run.curve.assign(model=run.model, seed=run.seed) for run in self.runs if len(run.curve)]
        frame = pd.concat([curve[list(_CURVE_COLUMNS)].astype(_CURVE_COLUMNS) for curve in swept], ignore_index=True)
        frame.to_csv(place / CURVES, index=False)
        return [place / COMPRESSION_META, place / CURVES]

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> Compressions:
        """What :meth:`save` wrote. Raises :class:`InputError` naming the file that is missing or damaged."""
        place = Path(folder)
        content = read_compression_meta(place)
        swept = Path(CURVES).stem in content["holds"] if "holds" in content else (place / CURVES).is_file()
        curves = read_frame(place / CURVES, _CURVE_COLUMNS) if swept else make_frame([], _CURVE_COLUMNS)
        try:
            register_entries(content.get("quantities", ()))
            return Compressions(tuple(_from_record(record, curves) for record in content["runs"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            reason = f"{type(error).__name__}: {one_line(error)[:200]}"
            raise InputError(f"{place / COMPRESSION_META} is damaged, or of no compression: {reason}") from None


def read_compression_meta(folder: Path) -> dict[str, Any]:
    """The ``compression.json`` of a report; those of earlier versions name no kind."""
    path = folder / COMPRESSION_META
    if not path.exists():
        raise InputError(f"{folder} holds no compression: there is no {COMPRESSION_META} in it")
    found = read_json(path)
    content = found if isinstance(found, dict) else {}
    said = (content.get("kind", COMPRESSION), content.get("format", COMPRESSION_FORMAT))
    if said != (COMPRESSION, COMPRESSION_FORMAT) or not isinstance(content.get("runs"), list):
        raise InputError(f"{path} is not of a compression of this version (format {COMPRESSION_FORMAT})")
    return content


def _as_record(run: Compression) -> dict[str, Any]:
    tables = {"verification": run.verification, "norms": run.norms, "budgets": run.budgets}
    return {**run.meta, **{name: _rows(frame) for name, frame in tables.items()}}


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as plain values, None for what is missing."""
    return [
        {str(name): None if pd.isna(value) else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]


def _plain_json(value: Any) -> Any:
    """``value`` with the numbers that JSON lacks as words: ``inf``, ``-inf``, ``nan``."""
    if isinstance(value, Mapping):
        return {name: _plain_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_json(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _from_record(record: Mapping[str, Any], curves: pd.DataFrame) -> Compression:
    meta = {name: value for name, value in record.items() if name not in ("verification", "norms", "budgets")}
    meta["norm_logit"] = float(meta["norm_logit"])  # a word where it is infinite
    if "held_out" in meta:
        meta["held_out"] = {name: float(x) if isinstance(x, str) else x for name, x in meta["held_out"].items()}
    same_seed = curves["seed"].isna() if meta["seed"] is None else (curves["seed"] == meta["seed"]).fillna(False)
    rows = curves[(curves["model"] == meta["model"]) & same_seed]
    return Compression(
        verification=as_measured_now(
            make_frame(record["verification"], VERIFICATION_COLUMNS), str(meta["versions"].get("svda-analysis", ""))
        ),
        norms=make_frame(record["norms"], NORM_COLUMNS),
        curve=rows[list(SWEEP_COLUMNS)].reset_index(drop=True),
        meta=meta,
        budgets=make_frame(record.get("budgets", ()), BUDGET_COLUMNS),
    )


# --- several runs as one ----------------------------------------------------------------------------------------------


def over_runs(frames: Sequence[pd.DataFrame], keys: Sequence[str]) -> pd.DataFrame:
    """Frames of several runs as one of the same columns: means, rows being matched by ``keys``.

    The interval of each change (``change`` with ``ci_low, ci_high``; ``X_change`` with ``X_low, X_high``) is Student's
    t over runs, ``n`` their number, ``p`` that of the paired t-test; ratios and what they are of are averaged as
    logarithms. A single frame
    is returned as it is, with its intervals over images.
    """
    if len(frames) == 1:
        return frames[0]
    together = pd.concat(frames, ignore_index=True)
    pooled = []
    for _, rows in together.groupby(list(keys), sort=False, dropna=False):
        row: dict[str, Any] = {name: rows[name].iloc[0] for name in keys}
        others = [str(name) for name in together if name not in keys]
        ratio = row.get("quantity") in RATIOS
        row |= {name: _middle(rows[name], ratio) for name in others if rows[name].notna().all()}
        for low in (str(name) for name in together if str(name).endswith("low")):
            start = low.removesuffix("low")
            change, high = ("change" if start == "ci_" else f"{start}change"), f"{start}high"
            row |= dict(zip((change, low, high, "p"), _change_over_runs(rows, change), strict=True))
        if "p" not in together:
            row.pop("p", None)
        pooled.append({**row, "n": len(rows)})
    return pd.DataFrame(pooled, columns=list(together)).astype(together.dtypes.to_dict())


def _middle(values: pd.Series[Any], ratio: bool) -> float:
    """The mean; of what changes by a ratio the geometric one, so that the means have the mean ratio."""
    return math.exp(np.log(values.astype(float)).mean()) if ratio and (values > 0).all() else values.mean()


def _span(name: str) -> float:
    """How far a quantity can change."""
    if name in ACCURACIES:
        return 1.0
    low, high = known_bounds(name) if name in QUANTITIES else (-math.inf, math.inf)
    return math.inf if name in RATIOS else high - low


def _change_over_runs(rows: pd.DataFrame, change: str) -> tuple[float, float, float, float]:
    """Mean, 95 % interval and p against no change."""
    quantity = rows["quantity"].iloc[0] if "quantity" in rows else "accuracy"
    values, is_ratio = rows[change].to_numpy(float), quantity in RATIOS
    values = np.log(values) if is_ratio else values
    found = paired_test(np.zeros(len(values)), values, span=_span(str(quantity)))
    ends = (found.difference, *found.interval)
    middle, low, high = (math.exp(x) for x in ends) if is_ratio else ends
    return middle, low, high, found.p
