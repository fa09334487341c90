"""What a study consists of: a manifest in TOML -> the training runs it asks for.

A manifest names data sets, kinds of attention and seeds, and what differs from the defaults::

    title = "Baseline and SVDA"
    seeds = [0, 1, 2]
    attentions = ["dot", "svda", "cosine"]     # each is a model: vit, svda, cosine
    mixed_precision = "bf16"                   # as for svda train
    base = "source"                            # a recipe by name, for what is not said here (default: ours)
    claims = true                              # judge the paper's claims (default: where there are no variants)
    notes = ["Tuned on validation images."]    # what the report is to say of the study, a line each

    [recipe]                                   # fields of TrainConfig
    epochs = 12
    [model]                                    # fields of ViTConfig
    depth = 4
    [datasets.cifar10]                         # preset, at_hand, and recipe and model of this data set alone
    recipe = { epochs = 16 }
    [variants.start_one]                       # a further model: any fields of either, attention "svda" if not said
    sigma_start = "one"
    [analysis]                                 # see StudyOptions
    images = 2000

What stands nearer wins: variant, then data set, then manifest, then preset. The package brings ``paper``, ``sigma``,
``dial``, ``source``, ``source_start`` and ``smoke``.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from svda_analysis.data import DATASETS, count_classes
from svda_analysis.errors import DataNotFoundError, InputError, reading
from svda_analysis.formatting import file_word
from svda_analysis.kinds import ATTENTIONS
from svda_analysis.metrics import choose_metrics
from svda_analysis.model import ViTConfig, preset_for
from svda_analysis.recipe import RECIPES, Precision, TrainConfig, named_recipe

_LARGEST_MANIFEST, _MOST_SEEDS = 2**20, 1000  # bytes; seeds of a study
_MOST_DOTS = 500  # a dotted key takes memory and time with the square of its length
_PACKAGED = resources.files("svda_analysis") / "manifests"
_MODEL = {field.name: field for field in dataclasses.fields(ViTConfig)}
_RECIPE = {field.name: field for field in dataclasses.fields(TrainConfig) if field.name not in ("dataset", "seed")}
_SHARED = {name: field for name, field in _MODEL.items() if name != "attention"}  # that is for the variants to say


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """How each checkpoint is measured: on at most ``images`` test images (None: all), until every interval is within
    ``precision`` of its range; ``energy_images`` tell how the data weigh the directions of the scores; ``maps`` images
    compare attention maps head by head (None: not done), ``faithfulness`` images tell what the maps say of the decision
    (None: not done), by these ``metrics``, names or groups (none: the default ones); ``examples`` images have their
    maps drawn; ``margin`` is how many points of accuracy count as the same."""

    images: int | None = None
    precision: float | None = None
    energy_images: int = 256
    maps: int | None = None
    faithfulness: int | None = None
    metrics: tuple[str, ...] = ()
    examples: int = 4
    margin: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "metrics", tuple(self.metrics))  # a list where it comes from a file

    @property
    def measured(self) -> dict[str, Any]:
        """What the numbers of a run depend on: all but the margin, by which they are judged."""
        return {name: value for name, value in dataclasses.asdict(self).items() if name != "margin"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetPlan:
    """One data set of a study; ``recipe`` and ``model`` hold the fields that differ from the manifest's, ``usual``
    those of the preset and of the recipe by name, where neither says otherwise.

    ``at_hand`` false says that it is not here, so that nobody looks for it.
    """

    preset: str
    at_hand: bool = True
    usual: dict[str, Any] = dataclasses.field(default_factory=dict)
    recipe: dict[str, Any] = dataclasses.field(default_factory=dict)
    model: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlannedRun:
    """One training run of a study; ``name`` is the model's, shared by its seeds."""

    dataset: str
    name: str
    config: ViTConfig
    recipe: TrainConfig

    @property
    def file(self) -> Path:
        """Its checkpoint below the folder of checkpoints, such as ``cifar10/svda_s0.pt``."""
        return Path(file_word(self.dataset)) / f"{self.name}_s{self.recipe.seed}.pt"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """A study. ``variants`` are all its models by name, each with the fields that it changes; ``of_variants``: it
    compares variants of one model, and does not judge the claims about two; ``notes`` are lines of its report."""

    name: str
    title: str
    datasets: dict[str, DatasetPlan]
    variants: dict[str, dict[str, Any]]
    seeds: tuple[int, ...]
    recipe: dict[str, Any] = dataclasses.field(default_factory=dict)
    model: dict[str, Any] = dataclasses.field(default_factory=dict)
    analysis: StudyOptions = dataclasses.field(default_factory=StudyOptions)
    mixed_precision: Precision = "auto"
    of_variants: bool = False
    notes: tuple[str, ...] = ()

    def place_of(self, model: str) -> int:
        """Where it names a model; behind them all where it does not."""
        return [*self.variants, model].index(model)

    def runs(self, dataset: str) -> list[PlannedRun]:
        """The runs on one data set, seed by seed. Raises :class:`InputError` for a value that its field refuses."""
        plan, found = self.datasets[dataset], []
        for seed in self.seeds:
            for name, fields in self.variants.items():
                given = {**plan.usual, **self.recipe, **self.model, **plan.recipe, **plan.model, **fields}
                config = {key: value for key, value in given.items() if key in _MODEL}
                recipe = {key: value for key, value in given.items() if key in _RECIPE}
                found.append(
                    PlannedRun(
                        dataset=dataset,
                        name=name,
                        config=ViTConfig.preset(plan.preset, **config),
                        recipe=TrainConfig(dataset=dataset, seed=seed, **recipe),
                    )
                )
        return found


def load_manifest(given: str | os.PathLike[str], *, data_root: str | os.PathLike[str] | None = None) -> Manifest:
    """Read a manifest: a file, or the name of one that the package brings. Raises :class:`InputError`, one line.

    The classes of a data set whose folders they are (``imagefolder:DIR``) are counted, where it is at hand.
    """
    path, packaged = Path(given), packaged_manifests()
    if path.suffix != ".toml" and str(given) in packaged:
        text, name = (_PACKAGED / f"{given}.toml").read_text(encoding="utf-8"), str(given)
    elif path.is_file():
        text, name = _read_manifest(path), path.stem
    else:
        raise InputError(f"manifest must be a file or one of {', '.join(packaged)}, got {str(given)!r}")
    if max(line.count(".") for line in text.split("\n")) > _MOST_DOTS:
        raise InputError(f"manifest {given} must not have more than {_MOST_DOTS} dots on a line")
    with reading(f"manifest {given} is not TOML"):
        content = tomllib.loads(text)
    try:
        with reading("it cannot be read"):
            return _manifest(name, content, data_root)
    except InputError as error:
        raise InputError(f"manifest {given}: {error}") from None


def packaged_manifests() -> list[str]:
    """The names of the manifests that the package brings."""
    return sorted(Path(entry.name).stem for entry in _PACKAGED.iterdir() if entry.name.endswith(".toml"))


# --- reading --------------------------------------------------------------------------------------------------------


def _read_manifest(path: Path) -> str:
    if (size := path.stat().st_size) > _LARGEST_MANIFEST:
        raise InputError(f"manifest {path} must have at most {_LARGEST_MANIFEST} bytes, got {size}")
    with reading(f"manifest {path} cannot be read"):
        return path.read_text(encoding="utf-8")


def _manifest(name: str, content: dict[str, Any], root: str | os.PathLike[str] | None) -> Manifest:
    allowed = [
        "title",
        "seeds",
        "attentions",
        "datasets",
        "variants",
        "recipe",
        "model",
        "analysis",
        "mixed_precision",
        "base",
        "claims",
        "notes",
    ]
    _check_keys(content, allowed, "")
    precision, base = _typed(content, "mixed_precision", str, "auto"), _typed(content, "base", str, "ours")
    if base not in RECIPES:
        raise InputError(f"base must be one of {', '.join(RECIPES)}, got {base!r}")
    if precision not in get_args(Precision):
        raise InputError(f"mixed_precision must be one of {', '.join(get_args(Precision))}, got {precision!r}")
    made = Manifest(
        name=name,
        title=_typed(content, "title", str, name),
        datasets={
            key: _dataset(key, table, base, root) for key, table in _typed(content, "datasets", dict, {}).items()
        },
        variants=_variants(content),
        seeds=tuple(_list(content, "seeds", int, [0])),
        recipe=_fields(content, "recipe", _RECIPE),
        model=_fields(content, "model", _SHARED),
        analysis=_analysis(_typed(content, "analysis", dict, {})),
        mixed_precision=precision,
        of_variants=not _typed(content, "claims", bool, "variants" not in content),
        notes=tuple(_list(content, "notes", str, [])) if "notes" in content else (),
    )
    if not made.datasets:
        raise InputError("datasets must name at least one, as [datasets.fashion_mnist]")
    if len(made.seeds) > _MOST_SEEDS:
        raise InputError(f"seeds must be at most {_MOST_SEEDS}, got {len(made.seeds)}")
    for dataset in made.datasets:
        made.runs(dataset)  # every value is checked by its field now, not after hours of training
    check_different(made.datasets)
    return made


def check_different(datasets: Iterable[str]) -> None:
    """Raise :class:`InputError` where two data sets would have files of one name, in a report or of checkpoints."""
    names: dict[str, str] = {}
    for dataset in datasets:
        if (other := names.setdefault(file_word(dataset), dataset)) != dataset:
            raise InputError(f"datasets must end in different names, got {other} and {dataset}")


def _variants(content: dict[str, Any]) -> dict[str, dict[str, Any]]:
    kinds = _list(content, "attentions", str, ["dot", "svda"])
    for kind in kinds:
        if kind not in ATTENTIONS:
            raise InputError(f"attentions must be among {', '.join(ATTENTIONS)}, got {kind!r}")
    models: dict[str, dict[str, Any]] = {ATTENTIONS[kind].model: {"attention": kind} for kind in kinds}
    for name, fields in _typed(content, "variants", dict, {}).items():
        if name in models or not name.replace("_", "").replace("-", "").isalnum():
            raise InputError(f"variants must have names of their own of letters, digits, - and _, got {name!r}")
        found = _fields({name: fields}, name, {**_MODEL, **_RECIPE}, "variants.")
        models[name] = {"attention": "svda", **found}
    return models


def _dataset(name: str, table: Any, base: str, root: str | os.PathLike[str] | None) -> DatasetPlan:
    if name.partition(":")[0] not in DATASETS:
        raise InputError(f"datasets must be among {', '.join(DATASETS)}{_near(name, DATASETS)}, got {name!r}")
    where = f"datasets.{name}."
    _check_keys(table, ["preset", "at_hand", "recipe", "model"], where)
    usual, fields = preset_for(DATASETS[name.partition(":")[0]])
    of_model, of_recipe = named_recipe(base, name)
    at_hand = _typed(table, "at_hand", bool, True, where)
    counted = _counted_classes(name, root) if at_hand else {}
    usual_fields = {**({} if "preset" in table else fields), **counted, **of_model, **of_recipe}
    return DatasetPlan(
        preset=_typed(table, "preset", str, usual, where),
        at_hand=at_hand,
        usual=usual_fields,
        recipe=_fields(table, "recipe", _RECIPE, where),
        model=_fields(table, "model", _SHARED, where),
    )


def _counted_classes(name: str, root: str | os.PathLike[str] | None) -> dict[str, int]:
    try:
        found = count_classes(name, root=root)
    except DataNotFoundError:  # its rows say so
        return {}
    return {} if found is None else {"num_classes": found}


def _analysis(table: dict[str, Any]) -> StudyOptions:
    _check_keys(table, [field.name for field in dataclasses.fields(StudyOptions)], "analysis.")
    least, most = {"maps": 8}, {"precision": 1, "margin": 100}
    if "metrics" in table:
        choose_metrics(metrics := _list(table, "metrics", str, []))
        if "faithfulness" not in table:
            raise InputError(f"analysis.metrics are those of faithfulness, which needs its images, got {metrics} alone")
    for key, value in table.items():
        if key == "metrics":
            continue
        whole = key not in ("precision", "margin")
        if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or value <= 0:
            raise InputError(f"analysis.{key} must be a {'whole ' if whole else ''}number above 0, got {value!r}")
        if not least.get(key, 0) <= value < most.get(key, math.inf):
            raise InputError(f"analysis.{key} must be {_range(least.get(key), most.get(key))}, got {value!r}")
    return StudyOptions(**table)


def _range(least: float | None, most: float | None) -> str:
    return f"at least {least}" if most is None else f"below {most}"


def _fields(
    table: Mapping[str, Any], key: str, allowed: Mapping[str, dataclasses.Field[Any]], where: str = ""
) -> dict[str, Any]:
    """The table under ``key``, each value of the type of its field."""
    found = _typed(table, key, dict, {}, where)
    _check_keys(found, allowed, f"{where}{key}.")
    return {name: _value(allowed[name], value, f"{where}{key}.{name}") for name, value in found.items()}


def _value(field: dataclasses.Field[Any], value: Any, where: str) -> Any:
    kinds = {"bool": bool, "int": int, "float": int | float, "int | None": int, "float | str": int | float | str}
    kind = kinds.get(str(field.type), str)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"{where} must be of the type {field.type}, got {value!r}")
    return float(value) if "float" in str(field.type) and not isinstance(value, str) else value


def _check_keys(table: Any, allowed: Iterable[str], where: str) -> None:
    if not isinstance(table, dict):
        raise InputError(f"{where.rstrip('.')} must be a table, got {table!r}")
    known = list(allowed)
    for key in table:
        if key not in known:
            raise InputError(f"there is no {where}{key}{_near(key, known) or '; it may be ' + ', '.join(known)}")


def _near(key: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(known), n=3, cutoff=0.5)
    return f"; did you mean {', '.join(near)}?" if near else ""


def _typed(table: Mapping[str, Any], key: str, kind: type, default: Any, where: str = "") -> Any:
    value = table.get(key, default)
    if not isinstance(value, kind):
        names = {str: "text", dict: "a table", bool: "true or false", list: "a list"}
        raise InputError(f"{where}{key} must be {names[kind]}, got {value!r}")
    return value


def _list(table: Mapping[str, Any], key: str, kind: type, default: list[Any]) -> list[Any]:
    values = _typed(table, key, list, default)
    right = all(isinstance(value, kind) and not isinstance(value, bool) for value in values)
    if not values or not right or len(set(values)) < len(values):
        what = "whole numbers" if kind is int else "names"
        raise InputError(f"{key} must be a list of different {what}, got {values!r}")
    return values
