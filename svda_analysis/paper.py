"""A study from its manifest to its report: train what is missing, measure every checkpoint once, write all of it.

Everything can be stopped at any moment and started again: training resumes from the last whole epoch, measured
checkpoints lie in ``<out>/cache`` under a key of all that the numbers depend on, and the report is made in a hidden
folder whose files then take their places one by one, where their bytes changed.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from svda_analysis import claims, plots
from svda_analysis.analyze import analyze, versions
from svda_analysis.capture import AttentionRecord, capture, evaluating
from svda_analysis.checkpoint import load
from svda_analysis.claims import NOT_AT_HAND, DatasetResult, Size, Table, word
from svda_analysis.data import DATASETS, ImageData, load_dataset
from svda_analysis.errors import DataNotFoundError, InputError, check_writable
from svda_analysis.indicators import INDICATORS
from svda_analysis.kinds import attention_kind
from svda_analysis.manifest import AnalysisOptions, Manifest, Run
from svda_analysis.maps import compare_runs
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.recipe import Precision, changes
from svda_analysis.render.latex import booktabs
from svda_analysis.render.markdown import markdown_table as markdown
from svda_analysis.render.writer import staged
from svda_analysis.results import SPECTRA_COLUMNS, TABLE_COLUMNS, Analysis, Examples, Trace, make_frame
from svda_analysis.sections.tables import matching_table
from svda_analysis.sources import for_model, open_source
from svda_analysis.specs import OpenModel, open_model, run_names
from svda_analysis.training import Progress, train

CACHE_FORMAT = 1  # to be raised when the same checkpoint gives other numbers
LABELS = {
    **{name: indicator.label for name, indicator in INDICATORS.items()},
    "directions_90": "Directions for 90 %",
}
_UNFINISHED = ".unfinished-"


class Trained(NamedTuple):
    """The checkpoint of one finished run; ``name`` is its model's, shared by the seeds."""

    dataset: str
    name: str
    path: Path


# --- which checkpoints ----------------------------------------------------------------------------------------------


def train_missing(
    manifest: Manifest,
    checkpoints: str | os.PathLike[str],
    *,
    data_root: str | os.PathLike[str] | None = None,
    jobs: int = 1,
    on_run: Callable[[Run, int, int], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> list[Trained]:
    """Train every run of ``manifest`` that ``checkpoints/<data set>/<model>_s<seed>.pt`` does not hold to its last
    epoch, and return all that are finished. Data sets that are not on this machine are left out, never downloaded.

    ``jobs`` runs train at once, each in a process with its share of the cores. ``on_run`` is called with a run, its
    number from 1 and their count, when it begins (with several jobs: when it is done). Raises :class:`InputError`, and
    before any training for a checkpoint of another recipe.
    """
    if jobs < 1:
        raise InputError(f"jobs must be at least 1, got {jobs}")
    folder = Path(checkpoints)
    every = [run for dataset in manifest.datasets for run in manifest.runs(dataset)]
    finished = {run.file: _is_finished(run, folder / run.file) for run in every}
    missing = [run for run in every if not finished[run.file]]
    wanted = dict.fromkeys(run.dataset for run in missing)
    absent = {name for name in wanted if not _at_hand(manifest, name, data_root, splits=(True, False))}
    todo = [run for run in missing if run.dataset not in absent]
    for at, run in enumerate(
        _trained(todo, folder, data_root, manifest.mixed_precision, jobs, on_run, on_progress), start=1
    ):
        finished[run.file] = True
        if on_run and jobs > 1:
            on_run(run, at, len(todo))
    return [Trained(run.dataset, run.name, folder / run.file) for run in every if finished[run.file]]


def _trained(
    runs: Sequence[Run],
    folder: Path,
    root: str | os.PathLike[str] | None,
    precision: Precision,
    jobs: int,
    on_run: Callable[[Run, int, int], None] | None,
    on_progress: Callable[[Progress], None] | None,
) -> Iterator[Run]:
    """Train the runs, yielding each when it is done."""
    if jobs == 1:
        for at, run in enumerate(runs, start=1):
            if on_run:
                on_run(run, at, len(runs))
            _train_one(run, folder / run.file, root, precision, on_progress)
            yield run
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_end_with_parent) as pool:
        waiting = {pool.submit(_train_alone, run, folder / run.file, root, precision, threads): run for run in runs}
        try:
            for done in as_completed(waiting):
                done.result()
                yield waiting[done]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on beside the next run of the same study."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _train_alone(run: Run, path: Path, root: str | os.PathLike[str] | None, precision: Precision, threads: int) -> None:
    torch.set_num_threads(threads)
    _train_one(run, path, root, precision, None)


def _train_one(
    run: Run,
    path: Path,
    root: str | os.PathLike[str] | None,
    precision: Precision,
    on_progress: Callable[[Progress], None] | None,
) -> None:
    options: dict[str, Any] = {"data_root": root, "mixed_precision": precision, "on_progress": on_progress}
    train(run.config, run.recipe, path, resume=True, **options)


def _is_finished(run: Run, path: Path) -> bool:
    if not path.exists():
        return False
    checkpoint = load(path)
    if changed := changes(checkpoint, run.config, run.recipe):
        raise InputError(f"{path} is of another recipe than the manifest's: {', '.join(changed)}; move it away")
    return checkpoint.epoch >= run.recipe.epochs


def _at_hand(
    manifest: Manifest, dataset: str, root: str | os.PathLike[str] | None, splits: Sequence[bool] = (False,)
) -> bool:
    """Whether the test images (and the training images, for a ``True`` in ``splits``) are on this machine."""
    if not manifest.datasets[dataset].at_hand:
        return False
    size = manifest.runs(dataset)[0].config.image_size
    try:
        for train in splits:
            load_dataset(dataset, root=root, train=train, image_size=size, allow_download=False)
    except DataNotFoundError:
        return False
    return True


def find_checkpoints(folder: str | os.PathLike[str]) -> tuple[list[Trained], list[str]]:
    """The finished runs under ``folder``, sub-folders included, and a line for each file that is left out.

    Grouped by the data set they were trained on, and into models as ``svda analyze`` does. Raises :class:`InputError`
    when there is none.
    """
    place = Path(folder)
    if not place.is_dir():
        raise InputError(f"--from must be a folder with checkpoints, got {place}")
    by_dataset: dict[str, list[OpenModel]] = {}
    left_out = []
    for path in sorted(place.rglob("*.pt")):
        try:
            opened = open_model(path)
        except InputError as error:
            left_out.append(f"left out: {error}")
            continue
        if why := _unfit(opened):
            left_out.append(f"left out: {path}, {why}")
            continue
        by_dataset.setdefault(opened.data["name"], []).append(opened)
    found = [
        Trained(dataset, name, Path(str(run.path)))
        for dataset, runs in by_dataset.items()
        for name, run in zip(run_names(runs), runs, strict=True)
    ]
    if not found:
        raise InputError("; ".join([f"no finished checkpoint in {place}", *left_out[:3]]))
    return found, left_out


def _unfit(opened: OpenModel) -> str:
    """Why a checkpoint is no finished run of a study; empty where it is one."""
    epochs = opened.recipe.get("epochs", opened.epoch)
    if not opened.data:
        return "it does not say what it was trained on"
    if opened.epoch != epochs:
        return f"epoch {opened.epoch} of {epochs}"
    if getattr(opened.model.config, "score_dims", None) is not None:
        return "compressed: its history is that of the model it was made from"
    tested = opened.history[(opened.history["indicator"] == "accuracy") & (opened.history["source"] == "test")]
    return "" if len(tested) else "its history holds no test accuracy"


# --- measuring ------------------------------------------------------------------------------------------------------


def model_size(config: ViTConfig) -> Size:
    """Parameters, and multiply-adds of one image (half of what torch's counter calls flops), without making weights."""
    with torch.device("meta"), torch.no_grad():
        model = ViT(config).eval()
        image = torch.empty(1, config.in_channels, config.image_size, config.image_size)
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(image)
    return Size(config.attention, sum(p.numel() for p in model.parameters()), counter.get_total_flops() // 2)


def measure(
    subject: OpenModel,
    data: ImageData,
    options: AnalysisOptions,
    cache: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Analysis:
    """:func:`~svda_analysis.analyze.analyze` and :func:`direction_shares` of a checkpoint, once for all.

    The result lies in ``cache`` under :func:`cache_key` and is read from there; its files hold no path and no time.
    """
    entry = cache / cache_key(subject, data, options)
    if (found := _read_entry(entry)) is None:
        limits = {"images": options.images, "precision": options.precision, "examples": options.examples}
        part = analyze(subject, data, name="model", progress=progress, **limits)  # type: ignore[arg-type]
        rows = direction_shares(subject, data, options.energy_images)
        table = pd.concat([part.table, rows.assign(model="model")], ignore_index=True)
        _write_entry(entry, dataclasses.replace(part, table=table.astype(TABLE_COLUMNS)))
        found = _read_entry(entry)
    if found is None:
        raise InputError(f"{entry} cannot be read back: remove it")
    return found


def direction_shares(subject: OpenModel, data: ImageData, images: int, share: float = 0.9) -> pd.DataFrame:
    """Rows of ``results.TABLE_COLUMNS``: the share of a head's D directions that hold ``share`` of the energy.

    Source ``sigma``: direction i has the energy ``sigma_i^2`` (SVDA alone). Source ``data``: it has
    ``sigma_i^2 E[q_i^2] E[k_i^2]``, means over ``images`` test images and their tokens, with sigma 1 where there is
    none (our definitions). Indicator ``directions_90`` for a share of 0.9.
    """
    energy: dict[int, list[Tensor]] = {}
    sigmas: dict[int, Tensor] = {}
    seen = 0

    def add(record: AttentionRecord) -> None:
        now = torch.stack([x.double().square().mean(2).sum(0).cpu() for x in (record.q, record.k)])  # (2, H, D)
        energy.setdefault(record.layer, []).append(now)
        if record.sigma is not None:
            sigmas[record.layer] = record.sigma.double().cpu()

    with evaluating(subject.model), torch.no_grad(), capture(subject.model, add):
        for batch, _ in open_source(data, subject).batches(64, images, 0):
            subject.model(for_model(batch, subject.model))
            seen += len(batch)
    rows = []
    for layer, parts in energy.items():
        q, k = torch.stack(parts).sum(0) / seen  # each (H, D)
        sigma = sigmas.get(layer)
        kinds = {"data": q * k} if sigma is None else {"sigma": sigma**2, "data": sigma**2 * q * k}
        for source, values in kinds.items():
            n = 1 if source == "sigma" else seen
            place = {"layer": layer, "indicator": f"directions_{100 * share:.0f}", "source": source, "n": n}
            rows += [{**place, "head": h, "mean": x} for h, x in enumerate(_share_needed(values, share).tolist())]
    known = {"attention": subject.attention, "seed": subject.seed, "epoch": subject.epoch, "dataset": data.name}
    return make_frame([{**known, **row} for row in rows], TABLE_COLUMNS)


def _share_needed(energy: Tensor, share: float) -> Tensor:
    """How many of the D largest entries of ``energy (H, D)`` reach ``share`` of the sum, over D; ``(H,)``."""
    summed = energy.sort(dim=-1, descending=True)[0].cumsum(-1)
    needed = 1 + (summed < share * summed[:, -1:]).sum(-1)
    return needed.clamp_max(energy.shape[-1]) / energy.shape[-1]


# --- what was measured before ---------------------------------------------------------------------------------------


def cache_key(subject: OpenModel, data: ImageData, options: AnalysisOptions) -> str:
    """A name for all that the numbers depend on: weights, configuration, seed, images and settings."""
    shown = {key: value for key, value in dataclasses.asdict(options).items() if key not in ("maps", "margin")}
    config = dataclasses.asdict(subject.model.config)  # type: ignore[call-overload]  # a checkpoint holds our ViT
    about = [CACHE_FORMAT, subject.seed, subject.epoch, config, shown, data.name, data.split, len(data), data.mean]
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, weights in sorted(subject.model.state_dict().items()):
        digest.update(name.encode() + weights.cpu().contiguous().numpy().tobytes())
    digest.update(data.labels.numpy().tobytes() + data.raw(range(min(16, len(data)))).tobytes())
    return digest.hexdigest()[:24]


def _write_entry(entry: Path, part: Analysis) -> None:
    entry.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=entry.parent, prefix=_UNFINISHED) as made:
        stage = Path(made) / entry.name
        stage.mkdir()
        part.table.to_csv(stage / "table.csv", index=False)
        part.spectra.to_csv(stage / "spectra.csv", index=False)
        if shown := part.examples.get("model"):
            np.savez_compressed(stage / "examples.npz", **_packed(shown))
        (stage / "meta.json").write_text(json.dumps({"versions": part.meta["versions"]}, indent=2) + "\n")
        shutil.rmtree(entry, ignore_errors=True)
        os.replace(stage, entry)


def _packed(shown: Examples) -> dict[str, Any]:
    return {field.name: np.asarray(getattr(shown, field.name)) for field in dataclasses.fields(shown)}


def _read_entry(entry: Path) -> Analysis | None:
    """What an entry of the cache holds; None where there is none, or it is damaged."""
    try:
        frames = {
            name: pd.read_csv(entry / f"{name}.csv").astype(columns)
            for name, columns in (("table", TABLE_COLUMNS), ("spectra", SPECTRA_COLUMNS))
        }
        examples = {}
        if (path := entry / "examples.npz").exists():
            with np.load(path, allow_pickle=False) as arrays:
                held = dict(arrays)
            fixed = {"grid": tuple(held["grid"].tolist()), "prefix": int(held["prefix"])}
            examples["model"] = Examples(**{**held, **fixed, "classes": tuple(held["classes"].tolist())})
        meta = json.loads((entry / "meta.json").read_text())
        return Analysis(history=make_frame([], TABLE_COLUMNS), examples=examples, meta=meta, **frames)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
        return None


# --- one data set ---------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Part:
    """What a data set brings to the report."""

    result: DatasetResult
    spectra: pd.DataFrame
    examples: dict[str, Examples]
    maps: dict[str, pd.DataFrame]
    runs: list[dict[str, Any]]
    traces: dict[str, Trace] = dataclasses.field(default_factory=dict)  # of each model's first run
    pictures: np.ndarray | None = None  # what their maps are of
    source: str = ""


def _dataset_part(
    manifest: Manifest,
    dataset: str,
    trained: Sequence[Trained],
    cache: Path,
    root: str | os.PathLike[str] | None,
    progress: Callable[[str, int, int], None],
) -> _Part:
    planned = manifest.runs(dataset) if dataset in manifest.datasets and (manifest.study or not trained) else []
    configs = {run.name: run.config for run in planned}
    for run in trained:
        configs.setdefault(run.name, load(run.path).config)
    empty = make_frame([], TABLE_COLUMNS)
    known = {"table": empty, "history": empty}
    title = DATASETS[dataset.partition(":")[0]].title
    try:
        if not trained:
            missing = "not run here: no checkpoint" if _at_hand(manifest, dataset, root) else NOT_AT_HAND
            raise DataNotFoundError(missing)
        size = load(trained[0].path).config.image_size
        data = load_dataset(dataset, root=root, image_size=size, allow_download=False)
    except DataNotFoundError as error:
        missing = str(error) if not trained else NOT_AT_HAND
        result = DatasetResult(name=dataset, title=title, sizes=_sizes(configs), missing=missing, **known)
        return _Part(result=result, spectra=make_frame([], SPECTRA_COLUMNS), examples={}, maps={}, runs=[])
    parts, histories, runs = [], [], []
    traces: dict[str, Trace] = {}
    for at, (_, name, path) in enumerate(trained, start=1):
        subject = open_model(path)
        progress(f"{dataset} checkpoints", at - 1, len(trained))
        part = measure(subject, data, manifest.analysis, cache)
        parts.append(_named(part, name))
        histories.append(subject.history.assign(model=name))
        runs.append(_about(subject, name, part, path))
        if (trace := load(path).trace) is not None:
            traces.setdefault(name, trace)
        progress(f"{dataset} checkpoints", at, len(trained))
    history = pd.concat(histories, ignore_index=True).astype(TABLE_COLUMNS)
    whole = Analysis.join(parts)
    result = DatasetResult(
        name=dataset,
        title=data.source.partition(f" {data.split}, ")[0],
        table=_final(whole.table, history),
        history=history,
        sizes=_sizes(configs),
    )
    maps = _maps(trained, data, manifest.analysis, cache, progress)
    return _Part(
        result=result,
        spectra=whole.spectra,
        examples=whole.examples,
        maps=maps,
        runs=runs,
        traces=traces,
        pictures=data.raw(data.examples(manifest.analysis.examples)),
        source=data.source,
    )


def _sizes(configs: dict[str, ViTConfig]) -> dict[str, Size]:
    """The baseline first, the control last, else in their order."""
    names = sorted(configs, key=lambda name: attention_kind(configs[name].attention).place)
    return {name: model_size(configs[name]) for name in names}


def _named(part: Analysis, name: str) -> Analysis:
    return dataclasses.replace(
        part,
        table=part.table.assign(model=name).astype(TABLE_COLUMNS),
        spectra=part.spectra.assign(model=name).astype(SPECTRA_COLUMNS),
        examples={name: part.examples["model"]} if part.examples else {},
        meta={**part.meta, "runs": [], "warnings": []},
    )


def _about(subject: OpenModel, name: str, part: Analysis, path: Path) -> dict[str, Any]:
    shown = {"model": name, "attention": subject.attention, "seed": subject.seed, "epoch": subject.epoch}
    trained = {"trained_on": str(subject.data.get("source", "")).partition(" from ")[0], "recipe": subject.recipe}
    trained["trained_with"] = load(path).versions
    return {**shown, "checkpoint": "/".join(path.parts[-2:]), **trained, "measured_with": part.meta["versions"]}


def _final(table: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """The measured indicators, with loss and accuracy over all test images as they stood after the last epoch."""
    tested = history[history["indicator"].isin(["accuracy", "loss"]) & (history["source"] == "test")]
    last = tested["epoch"] == tested.groupby(["model", "seed"], dropna=False)["epoch"].transform("max")
    measured = table[~table["indicator"].isin(["accuracy", "loss"])]
    return pd.concat([measured, tested[last]], ignore_index=True).astype(TABLE_COLUMNS)


def _maps(
    trained: Sequence[Trained],
    data: ImageData,
    options: AnalysisOptions,
    cache: Path,
    progress: Callable[[str, int, int], None],
) -> dict[str, pd.DataFrame]:
    """The comparison of attention maps with the baseline's, where it is asked for and there is one; from the cache."""
    opened = [open_model(run.path) for run in trained] if options.maps else []
    if len({run.name for run in trained}) < 2 or "dot" not in {subject.attention for subject in opened}:
        return {}
    keys = [cache_key(subject, data, options) for subject in opened]
    names = [run.name for run in trained]
    baseline = next(name for name, subject in zip(names, opened, strict=True) if subject.attention == "dot")
    about = json.dumps([CACHE_FORMAT, options.maps, names, keys])
    entry = cache / f"maps-{hashlib.sha256(about.encode()).hexdigest()[:24]}"
    if (found := _read_frames(entry)) is None:
        found = compare_runs(
            opened, names, baseline, data=data, images=options.maps, progress=lambda *n: progress("maps", *n)
        )
        with tempfile.TemporaryDirectory(dir=cache, prefix=_UNFINISHED) as made:
            stage = Path(made) / entry.name
            stage.mkdir()
            for name, frame in found.items():
                frame.to_csv(stage / f"{name}.csv", index=False)
            shutil.rmtree(entry, ignore_errors=True)
            os.replace(stage, entry)
        found = _read_frames(entry) or found
    return found


def _read_frames(entry: Path) -> dict[str, pd.DataFrame] | None:
    """The frames of an entry of the cache by name; None where there is none, or one is damaged."""
    try:
        return {path.stem: pd.read_csv(path) for path in sorted(entry.glob("*.csv"))} or None
    except (OSError, ValueError):  # pandas' errors of parsing are ValueErrors
        return None


# --- the report -----------------------------------------------------------------------------------------------------


def write_paper(
    manifest: Manifest,
    trained: Sequence[Trained],
    out: str | os.PathLike[str],
    *,
    data_root: str | os.PathLike[str] | None = None,
    command: str = "",
    warnings: Iterable[str] = (),
    progress: Callable[[str, int, int], None] = lambda label, done, total: None,
) -> list[Path]:
    """Measure the checkpoints and write the report of a study into ``out``; returns its files, ``README.md`` first.

    ``tables/`` holds each table as csv, md and tex, ``figures/`` each figure as pdf and png, ``data/`` what the figures
    were drawn from, ``cache/`` what was measured (it may be removed: it is then measured again). Files whose content
    did not change are not touched. ``progress`` is called with (label, done, in all).

    Raises :class:`InputError` when the folder cannot be written or a checkpoint does not suit its data.
    """
    folder = Path(out)
    check_writable(folder, "output folder")
    for left in [*folder.glob(f"{_UNFINISHED}*"), *folder.glob(f"cache/{_UNFINISHED}*")]:
        shutil.rmtree(left, ignore_errors=True)  # what a killed run left behind
    parts = []
    for dataset in dict.fromkeys([*manifest.datasets, *(run.dataset for run in trained)]):
        mine = [run for run in trained if run.dataset == dataset]
        parts.append(_dataset_part(manifest, dataset, mine, folder / "cache", data_root, progress))
    tables = [table for table in _tables(manifest, [part.result for part in parts]) if len(table.text)]
    with staged(folder) as stage:
        for table in tables:
            _write_table(table, stage / "tables")
        figures = []
        for at, part in enumerate(parts):
            progress("figures", at, len(parts))
            figures.append(_write_part(part, manifest, stage))
        progress("figures", len(parts), len(parts))
        readme = _readme(manifest, parts, tables, figures, command, list(warnings))
        (stage / "README.md").write_text(readme)
        written = sorted([*(path.relative_to(stage) for path in stage.rglob("*") if path.is_file()), Path("meta.json")])
        meta = {
            "command": command,
            "manifest": dataclasses.asdict(manifest),
            "versions": versions(),
            "warnings": list(warnings),
            "runs": [run for part in parts for run in part.runs],
            "files": [path.as_posix() for path in written],
        }
        (stage / "meta.json").write_text(json.dumps(meta, indent=2, default=str) + "\n")
    return sorted((folder / path for path in written), key=lambda path: (path.name != "README.md", path))


def _tables(manifest: Manifest, results: Sequence[DatasetResult]) -> list[Table]:
    margin = manifest.analysis.margin
    costs = claims.cost_table(results)
    if manifest.study:
        svda = (name for name, fields in manifest.variants.items() if fields["attention"] == "svda")
        base = next(svda, next(iter(manifest.variants)))
        changed = {name: _changed(fields) for name, fields in manifest.variants.items()}
        return [*(claims.study_table(result, base, changed) for result in results), costs]
    indicators = [table for result in results for table in claims.indicator_tables(result, LABELS)]
    return [
        claims.claims_table(results, LABELS, margin),
        claims.accuracy_table(results, margin),
        costs,
        *indicators,
    ]


def _changed(fields: dict[str, Any]) -> str:
    shown = {key: value for key, value in fields.items() if (key, value) != ("attention", "svda")}
    return ", ".join(f"{key} {value}" for key, value in shown.items())


def _write_table(table: Table, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    table.numbers.to_csv(folder / f"{table.name}.csv", index=False, float_format="%.6g")
    (folder / f"{table.name}.md").write_text(f"{markdown(table.text)}\n\n{table.note}\n")
    (folder / f"{table.name}.tex").write_text(f"% {table.title}. {table.note}\n{booktabs(table.text)}")


def _write_part(part: _Part, manifest: Manifest, stage: Path) -> list[str]:
    """A data set's frames and figures; the names of the figures."""
    if not part.result.trained:
        return []
    prefix, names = word(part.result.name), []
    history = part.result.history[~part.result.history["indicator"].isin(["epoch_seconds", "peak_memory_mb"])]
    frames = {"indicators": part.result.table, "spectra": part.spectra, "history": history}
    if manifest.study:  # of its many runs what its table and figures show, not each head at each epoch
        frames = {"indicators": part.result.table, "history": history[history["layer"].isna()]}
    (stage / "data").mkdir(exist_ok=True)
    for name, frame in {**frames, **{f"maps_{key}": found for key, found in part.maps.items()}}.items():
        frame.to_csv(stage / "data" / f"{prefix}_{name}.csv", index=False, float_format="%.6g")
    for name, figure in _figures(part, manifest, history):
        plots.save(figure, stage / "figures", f"{prefix}_{word(name)}")
        plt.close(figure)
        names.append(f"{prefix}_{word(name)}")
    return names


def _figures(part: _Part, manifest: Manifest, history: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    result, models = part.result, part.result.trained
    yield "accuracy_structure", plots.plot_structure(result.table, models=models, labels=LABELS)
    if not manifest.study:
        yield from _comparison_figures(part, history)
    plain = [name for name in models if len(manifest.variants.get(name, ())) <= 1 or not manifest.study]
    traces = {name: part.traces[name] for name in plain if name in part.traces}
    for name, trace in traces.items():
        if trace.sigma is not None:
            yield f"sigma_over_epochs_{name}", plots.plot_sigma_over_epochs(trace)
    if traces and part.pictures is not None:
        yield "maps_over_epochs", plots.plot_maps_over_epochs(traces, part.pictures)
    if part.maps:
        yield "map_similarity", plots.plot_map_similarity(part.maps["similarity"])


def _comparison_figures(part: _Part, history: pd.DataFrame) -> Iterator[tuple[str, Figure]]:
    result, models = part.result, part.result.trained
    comparison = None
    if result.baseline and len(models) > 1:
        comparison = pd.concat(
            [claims.compare_pair(result, name, result.baseline) for name in models if name != result.baseline]
        )
    yield from plots.figures(
        result.table, part.spectra, part.examples, history, comparison, labels=LABELS, models=models
    )
    yield "epochs_by_layer", plots.plot_epochs_by_layer(history, models=models, labels=LABELS)


def _readme(
    manifest: Manifest,
    parts: Sequence[_Part],
    tables: Sequence[Table],
    figures: Sequence[Sequence[str]],
    command: str,
    warnings: Sequence[str],
) -> str:
    text = [f"# {manifest.title}", *(f"**Warning: {line}**" for line in warnings)]
    if command:
        text.append(f"Made by `{command}`. Each table lies in `tables/` as csv, md and tex, each figure in `figures/`.")
    text.append("\n".join(f"- {part.result.title}: {part.source or part.result.missing}" for part in parts))
    for table in tables:
        text += [f"## {table.title}", markdown(table.text), table.note]
    for part in parts:
        if part.maps:
            text += [f"## {part.result.title}: do the heads attend to the same places?"]
            text += [markdown(matching_table(part.maps["matching"]))]
    for part, names in zip(parts, figures, strict=True):
        if names:
            text += [f"## {part.result.title}: figures", *(f"![{_spoken(name)}](figures/{name}.png)" for name in names)]
        if untraced := [name for name in part.result.trained if name not in part.traces]:
            text.append(
                f"Sigma and maps over the epochs are not drawn for {', '.join(untraced)}, whose checkpoints are of a "
                "version that kept no trace of them; the history of each indicator is there."
            )
    return "\n\n".join(text) + "\n"


def _spoken(name: str) -> str:
    return name.replace("_", " ").capitalize()
