"""What an analysis returns, and how it is kept in a folder. No torch here.

A folder holds the frames as csv, example images and traces as npz, and ``meta.json``, which lists them: all that a
report shows, so that the report can be written again without measuring.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import platform
import zipfile
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

import svda_analysis
from svda_analysis.comparison import compare, summarise
from svda_analysis.earlier import as_measured_now
from svda_analysis.errors import InputError, check_file, reading
from svda_analysis.formatting import counted
from svda_analysis.frames import MAP_COLUMNS, SPECTRA_COLUMNS, TABLE_COLUMNS, make_frame
from svda_analysis.tokens import Layout
from svda_analysis.vocabulary import LIMITS, QUANTITIES, Quantity, quantity, register, register_all

ANALYSIS_FORMAT = 1
META = "meta.json"
_NOTEBOOK = "svda_analysis.sections.notebook"  # imported when it is asked for: it stands above
_LARGEST_ARRAYS = 2**30  # bytes, unpacked
MARK = {"made_by": "svda-analysis"}  # in meta.json: what it lists is ours
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Examples:
    """A few images with every attention map, for figures and pages.

    ``images (E, H, W, C) uint8``, ``labels, predictions (E,) int64`` (label -1 where there is none), ``maps (E, layers,
    heads, N, N) float16``, ``classes`` = class names (may be empty); ``grid``, ``prefix``, ``suffix``, ``frames`` and
    ``class_token`` (0: the prefix has none; None: as usual) are those of the tokens' :attr:`layout`. Frames of a video
    stand side by side in ``images``. ``rollout, relevance (E, N, N) float32`` = the rows of
    :func:`~svda_analysis.attribution.flows` (None: the model has none).
    """

    images: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    maps: np.ndarray
    grid: tuple[int, int]
    prefix: int
    classes: tuple[str, ...] = ()
    suffix: int = 0
    frames: int = 1
    rollout: np.ndarray | None = None
    relevance: np.ndarray | None = None
    class_token: int | None = None

    @property
    def layout(self) -> Layout:
        known = self.class_token is None or bool(self.class_token)
        return Layout(self.grid, self.prefix, self.suffix, self.frames, class_token=known)


@dataclasses.dataclass(frozen=True)
class Trace:
    """How one run organised itself, epoch by epoch; written while training.

    ``epochs (E,)``; ``sigma (E, layers, H, D)`` float32, the learned diagonals, or None; ``maps (E, n, layers, N)``
    float16, what the class token pays to the N patches, mean over heads, for the first ``n`` images that the data set
    gives as examples.
    """

    epochs: np.ndarray
    sigma: np.ndarray | None
    maps: np.ndarray

    def __post_init__(self) -> None:
        E = len(self.epochs)
        if self.epochs.ndim != 1 or self.maps.ndim != 4 or len(self.maps) != E:
            raise ValueError(f"a trace of {E} epochs has maps of shape {self.maps.shape}")
        if self.sigma is not None and (self.sigma.ndim != 4 or len(self.sigma) != E):
            raise ValueError(f"a trace of {E} epochs has sigma of shape {self.sigma.shape}")

    def then(self, later: Trace) -> Trace:
        """This trace and what came after it."""
        sigma = None if self.sigma is None or later.sigma is None else np.concatenate([self.sigma, later.sigma])
        return Trace(np.concatenate([self.epochs, later.epochs]), sigma, np.concatenate([self.maps, later.maps]))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """One model as it was measured: who it is, on what, and with which settings (noise, seed, precision ...).

    ``broken`` says where its numbers stop being finite (empty: they are): then nothing of it is in any frame.
    ``untrained``: its weights are random, so that no comparison decides anything.
    """

    model: str
    attention: str | None = None
    seed: int | None = None
    epoch: int | None = None
    dataset: str | None = None
    path: str | None = None
    parameters: int = 0
    images: int = 0
    data: str = ""
    preprocessing: str | None = None
    seconds: float = 0.0
    broken: str = ""
    untrained: bool = False
    recipe: dict[str, Any] = dataclasses.field(default_factory=dict)
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Analysis:
    """The result of :func:`svda_analysis.analyze`, of one run or of several joined by :meth:`join`.

    ``table`` and ``history`` (the numbers tracked while training, empty where unknown) have
    :data:`~svda_analysis.frames.TABLE_COLUMNS`, ``spectra`` has ``SPECTRA_COLUMNS``; ``examples`` and ``traces`` go by
    model and are those of its first run; ``runs`` says what was measured. ``maps`` holds the frames of
    ``MAP_COLUMNS`` that compare attention maps between models, where that was asked for. ``baseline`` is the model
    that the others are compared with (None: the only one with dot-product attention, else the first).
    """

    table: pd.DataFrame
    spectra: pd.DataFrame
    history: pd.DataFrame = dataclasses.field(default_factory=lambda: make_frame([], TABLE_COLUMNS))
    examples: dict[str, Examples] = dataclasses.field(default_factory=dict)
    traces: dict[str, Trace] = dataclasses.field(default_factory=dict)
    maps: dict[str, pd.DataFrame] = dataclasses.field(default_factory=dict)
    runs: tuple[Run, ...] = ()
    warnings: tuple[str, ...] = ()
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    baseline: str | None = None

    @property
    def models(self) -> list[str]:
        """The names of the models, in the order of the table."""
        return [str(name) for name in self.table["model"].unique()]

    @functools.cached_property
    def comparison(self) -> pd.DataFrame | None:
        """:func:`~svda_analysis.comparison.compare` of the models with the baseline; None for a single one. Where the
        weights of either are random there is no verdict."""
        if len(self.models) < 2:
            return None
        found, random = compare(self.table, self.baseline), {run.model for run in self.runs if run.untrained}
        learned = ~(found["model"].isin(random) | found["baseline"].isin(random))
        return found.assign(verdict=found["verdict"].where(learned))

    def summary(self) -> pd.DataFrame:
        """Every headline number of the whole model, models below each other: ``model, indicator, source, mean, ci_low,
        ci_high, n_seeds, unit`` (the interval is 95 %, over seeds or, of one run, over images)."""
        rows = summarise(self.table)
        shown = rows["layer"].isna() & rows["indicator"].map(lambda name: quantity(str(name)).headline).astype(bool)
        columns = ["model", "indicator", "source", "mean", "ci_low", "ci_high", "n_seeds", "unit"]
        return rows[shown].sort_values(["source", "indicator"], kind="stable")[columns].reset_index(drop=True)

    # --- shown ----------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        numbers = f"{len(self.table):,} numbers of {counted(len(self.runs), 'run')}"
        return f"Analysis of {', '.join(self.models)}: {numbers}, maps of {counted(len(self.examples), 'model')}"

    def _repr_html_(self) -> str:
        """What a notebook shows: what was analysed, and what was found."""
        return str(import_module(_NOTEBOOK).summary_html(self))

    def plot(self, name: str | None = None) -> Any:
        """A figure of the report by its name (``"by_layer"`` ...; default: the first), as a matplotlib Figure.

        Raises :class:`InputError`, which lists those that these numbers allow, for any other name.
        """
        return import_module(_NOTEBOOK).figure_of(self, name)

    def explore(self) -> Any:
        """The explorer of the example images: a page that a notebook shows, and that ``save(FILE)`` writes.

        Hover a patch to see where it looks, layer by layer and head by head, two models beside each other. Raises
        :class:`InputError` where there are no example images (``examples=0``).
        """
        return import_module(_NOTEBOOK).explorer_page(self)

    @property
    def meta(self) -> dict[str, Any]:
        """What is no frame and no array, as plain values: versions, runs with their settings, warnings."""
        return {
            "kind": "analysis",
            "format": ANALYSIS_FORMAT,
            "versions": self.versions,
            "quantities": quantity_entries([*self.table["indicator"], *self.history["indicator"]]),
            "baseline": self.baseline,
            "runs": [dataclasses.asdict(run) for run in self.runs],
            "warnings": list(self.warnings),
            "holds": [*self.frames(), *self._arrays()],
        }

    @staticmethod
    def join(parts: Sequence[Analysis]) -> Analysis:
        """Several analyses as one, nothing left out; examples and traces are those of each model's first run.

        Raises :class:`InputError` for none, or when parts hold the same run (model and seed) or different baselines.
        """
        if not parts:
            raise InputError("parts must hold at least one analysis, got none")
        runs = [run for part in parts for run in part.runs]
        known = [(run.model, run.seed) for run in runs if run.seed is not None]
        if double := next((run for run in known if known.count(run) > 1), None):
            raise InputError(f"parts must hold different runs, got {double[0]} seed {double[1]} twice")
        baselines = list(dict.fromkeys(part.baseline for part in parts if part.baseline is not None))
        if len(baselines) > 1:
            raise InputError(f"parts must have one baseline, got {', '.join(baselines)}")
        names = dict.fromkeys(name for part in parts for name in part.maps)
        return Analysis(
            table=pd.concat([part.table for part in parts], ignore_index=True),
            spectra=pd.concat([part.spectra for part in parts], ignore_index=True),
            history=pd.concat([part.history for part in parts], ignore_index=True),
            examples={name: found for part in reversed(parts) for name, found in part.examples.items()},
            traces={name: found for part in reversed(parts) for name, found in part.traces.items()},
            maps={n: pd.concat([p.maps[n] for p in parts if n in p.maps], ignore_index=True) for n in names},
            runs=tuple(runs),
            warnings=tuple(dict.fromkeys(line for part in parts for line in part.warnings)),
            versions={key: " and ".join(found) for key, found in _versions_of(parts).items()},
            baseline=baselines[0] if baselines else None,
        )

    def renamed(self, name: str) -> Analysis:
        """The analysis of a single model under another name."""
        if len(self.models) != 1:
            raise InputError(f"only the analysis of one model can be renamed, got {', '.join(self.models)}")
        (old,), frames = self.models, {key: getattr(self, key) for key in ("table", "spectra", "history")}
        sides = {
            key: {side: f[side].replace(old, name) for side in ("model", "baseline")} for key, f in self.maps.items()
        }
        return dataclasses.replace(
            self,
            **{key: frame.assign(model=name).astype(frame.dtypes.to_dict()) for key, frame in frames.items()},
            maps={key: frame.assign(**sides[key]) for key, frame in self.maps.items()},
            baseline=name if self.baseline == old else self.baseline,
            examples=dict.fromkeys([name], *self.examples.values()) if self.examples else {},
            traces=dict.fromkeys([name], *self.traces.values()) if self.traces else {},
            runs=tuple(dataclasses.replace(run, model=name) for run in self.runs),
        )

    # --- in a folder ----------------------------------------------------------------------------------------------

    def frames(self) -> dict[str, pd.DataFrame]:
        """The frames by the name of their csv; empty ones are left out, but for the table and the spectra."""
        found = {"indicators": self.table, "spectra": self.spectra}
        if not self.history.empty:
            found["history"] = self.history
        return found | {f"maps_{name}": frame for name, frame in self.maps.items()}

    def _arrays(self) -> dict[str, dict[str, Any]]:
        """What is saved as arrays by model, by the name of its file; empty ones are left out."""
        found: dict[str, dict[str, Any]] = {"examples": {**self.examples}, "traces": {**self.traces}}
        return {name: held for name, held in found.items() if held}

    def save(self, folder: str | os.PathLike[str], **about: Any) -> list[Path]:
        """Write all of it into ``folder`` (made where it is not there) and return the files.

        ``about`` goes into ``meta.json`` beside what the analysis says of itself. Frames keep every digit. A
        report that stands in the folder keeps the list of its files, so that the next one takes its place whole.
        """
        place = Path(folder)
        about = {**_list_of_files(place), **about}
        place.mkdir(parents=True, exist_ok=True)
        written = []
        for name, frame in self.frames().items():
            frame.to_csv(place / f"{name}.csv", index=False)
            written.append(place / f"{name}.csv")
        for name, arrays in self._arrays().items():
            packed: dict[str, Any] = _packed(arrays)
            np.savez_compressed(place / f"{name}.npz", **packed)
            written.append(place / f"{name}.npz")
        (place / META).write_text(json.dumps({**about, **self.meta}, indent=2, default=str) + "\n", encoding="utf-8")
        return [*written, place / META]

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> Analysis:
        """What :meth:`save` wrote. Raises :class:`InputError` naming the file that is missing or damaged."""
        place = Path(folder)
        with reading(f"{place} holds a damaged analysis"):
            return _loaded(place)


def _versions_of(parts: Sequence[Analysis]) -> dict[str, list[str]]:
    """By package, the versions that the parts were measured with, each once."""
    names = dict.fromkeys(key for part in parts for key in part.versions)
    return {key: list(dict.fromkeys(part.versions[key] for part in parts if key in part.versions)) for key in names}


def _loaded(place: Path) -> Analysis:
    meta = _read_meta(place)
    register_all()  # what an earlier version wrote of a quantity takes the place of nothing that is known
    register_entries(meta["quantities"])
    holds = meta["holds"]
    history, examples, traces = place / "history.csv", place / "examples.npz", place / "traces.npz"
    maps = {name: place / f"maps_{name}.csv" for name in MAP_COLUMNS if f"maps_{name}" in holds}
    now = partial(as_measured_now, version=str(meta["versions"].get("svda-analysis", "")))
    return Analysis(
        table=now(read_frame(place / "indicators.csv", TABLE_COLUMNS)),
        spectra=now(read_frame(place / "spectra.csv", SPECTRA_COLUMNS)),
        history=now(read_frame(history, TABLE_COLUMNS)) if "history" in holds else make_frame([], TABLE_COLUMNS),
        examples=_arrays_by_model(examples, _examples) if "examples" in holds else {},
        traces=_arrays_by_model(traces, _trace) if "traces" in holds else {},
        maps={name: read_frame(path, MAP_COLUMNS[name]) for name, path in maps.items()},
        runs=tuple(Run(**run) for run in meta["runs"]),
        warnings=tuple(meta["warnings"]),
        versions=meta["versions"],
        baseline=meta["baseline"],
    )


def nothing_measured() -> Analysis:
    """An analysis without any number."""
    return Analysis(table=make_frame([], TABLE_COLUMNS), spectra=make_frame([], SPECTRA_COLUMNS))


def read_frame(path: Path, columns: dict[str, str]) -> pd.DataFrame:
    """A csv with the given columns and dtypes; every digit as it was written, only an empty cell is missing."""
    check_file(path, "a table")
    try:
        kinds = {name: kind if kind == "boolean" else "string" for name, kind in columns.items()}
        text = pd.read_csv(path, dtype=kinds, keep_default_na=False, na_values=[""])[list(columns)]
        floats = [name for name, kind in columns.items() if kind == "float64"]  # by Python's float, which is exact
        exact = {name: [math.nan if pd.isna(cell) else float(cell) for cell in text[name]] for name in floats}
        return text.assign(**exact).astype(columns)
    except FileNotFoundError:
        raise InputError(f"no such file: {path}") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged, or no table of this kind: {' '.join(str(error).split())[:200]}") from None


def _read_meta(place: Path) -> dict[str, Any]:
    path = place / META
    if not path.exists():
        raise InputError(f"{place} holds no analysis: there is no {META} in it")
    meta = read_json(path)
    needed = ("quantities", "runs", "warnings", "versions", "baseline", "holds")
    if not isinstance(meta, dict) or meta.get("format") != ANALYSIS_FORMAT or not all(key in meta for key in needed):
        raise InputError(f"{path} is not of an analysis of this version (format {ANALYSIS_FORMAT})")
    return meta


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises :class:`InputError` with one line where there is none that can be read."""
    check_file(path, "a JSON file")
    with reading(f"{path} cannot be read"):
        return json.loads(path.read_text(encoding="utf-8"))


def read_own_meta(path: Path) -> dict[str, Any] | None:
    """What a ``meta.json`` holds if it has our mark, else None; earlier versions said their version instead."""
    try:
        plain = path.is_file() and not path.is_symlink()  # a pipe would be waited for
        meta = json.loads(path.read_text(encoding="utf-8")) if plain else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(meta, dict):
        return None
    marked = all(meta.get(key) == value for key, value in MARK.items())
    runs = meta.get("runs")
    tellers = [meta, *(runs if isinstance(runs, list) else [])]
    known = (one.get("versions") for one in tellers if isinstance(one, dict))
    return meta if marked or any(isinstance(one, dict) and "svda-analysis" in one for one in known) else None


def _list_of_files(place: Path) -> dict[str, Any]:
    """What the report of ours that stands in a folder has in it; nothing where there is none."""
    meta = read_own_meta(place / META) or {}
    return {key: meta[key] for key in ("files", *MARK) if key in meta}


def quantity_entries(names: Iterable[Any]) -> list[dict[str, Any]]:
    """What is known of quantities, each once, as plain values of JSON."""
    return [_as_json(quantity(str(name))) for name in dict.fromkeys(names)]


def register_entries(records: Iterable[dict[str, Any]]) -> None:
    """Enter quantities that :func:`quantity_entries` told of, where they are not known here."""
    for known in records:
        if known["name"] not in QUANTITIES:
            register(_from_json(known))


def _as_json(one: Quantity) -> dict[str, Any]:
    fields = {field.name: getattr(one, field.name) for field in dataclasses.fields(Quantity)}
    return {key: str(x) if isinstance(x, float) else dict(x) if key == "direction" else x for key, x in fields.items()}


def _from_json(fields: dict[str, Any]) -> Quantity:
    limits = {key: x if x in LIMITS else float(x) for key, x in fields.items() if key in ("low", "high")}
    tuples = {key: tuple(fields.get(key, ())) for key in ("sources", "varies_with")}
    return Quantity(**{**fields, **limits, **tuples})


def _packed(by_model: dict[str, Any]) -> dict[str, np.ndarray]:
    """The fields of each model's arrays under ``model//field``; what is None is left out."""
    fields = ((name, held, field.name) for name, held in by_model.items() for field in dataclasses.fields(held))
    return {
        f"{name}//{field}": np.asarray(value)
        for name, held, field in fields
        if (value := getattr(held, field)) is not None
    }


def _arrays_by_model(path: Path, make: Callable[[dict[str, np.ndarray]], T]) -> dict[str, T]:
    found: dict[str, dict[str, np.ndarray]] = {}
    check_file(path, "arrays")
    try:
        with zipfile.ZipFile(path) as archive:
            if (size := sum(member.file_size for member in archive.infolist())) > _LARGEST_ARRAYS:
                raise InputError(f"{path} must unpack to at most {_LARGEST_ARRAYS:,} bytes, got {size:,}")
        with np.load(path, allow_pickle=False) as arrays:
            for key in arrays.files:
                name, _, field = key.rpartition("//")
                found.setdefault(name, {})[field] = arrays[key]
        return {name: make(held) for name, held in found.items()}
    except FileNotFoundError:
        raise InputError(f"no such file: {path}") from None
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged: {' '.join(str(error).split())[:200]}") from None


def _examples(held: dict[str, np.ndarray]) -> Examples:
    rows, columns = held["grid"].tolist()
    fixed: dict[str, Any] = {"grid": (rows, columns), "classes": tuple(held["classes"].tolist())}
    fixed |= {name: int(held[name]) for name in ("prefix", "suffix", "frames", "class_token") if name in held}
    return Examples(**{**held, **fixed})


def _trace(held: dict[str, np.ndarray]) -> Trace:
    return Trace(held["epochs"], held.get("sigma"), held["maps"])


def versions() -> dict[str, str]:
    """Versions of Python, this package and what its numbers depend on."""
    found = {name: version(name) for name in ("torch", "torchvision", "numpy", "scipy", "pandas")}
    return {"svda-analysis": svda_analysis.__version__, "python": platform.python_version(), **found}
