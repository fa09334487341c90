"""Where a :class:`~svda_analysis.monitor.Monitor` sends what it measured: TensorBoard, Weights & Biases, MLflow, a csv
file, accelerate's trackers, a function of one's own. None of these libraries is imported before it is asked for."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd

from svda_analysis.errors import InputError, several

_INSTALL = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
_HEAD_PIXELS = 16  # pixels of a head in a heat map


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One measurement: ``table`` has :data:`~svda_analysis.frames.TABLE_COLUMNS`, ``spectra`` ``SPECTRA_COLUMNS``;
    ``alarms`` are the lines of those that were raised."""

    step: int
    table: pd.DataFrame
    spectra: pd.DataFrame
    alarms: tuple[str, ...] = ()

    def scalars(self) -> dict[str, float]:
        """The mean over layers and heads of each quantity as ``source/indicator/mean``, and of each layer as
        ``source/indicator/layer_0``."""
        found: dict[str, float] = {}
        for (source, indicator), rows in self.table.groupby(["source", "indicator"], sort=False):
            found[f"{source}/{indicator}/mean"] = float(rows["mean"].mean())
            for layer, of_layer in rows.dropna(subset="layer").groupby("layer"):
                found[f"{source}/{indicator}/layer_{layer}"] = float(of_layer["mean"].mean())
        return found

    def heat_maps(self) -> dict[str, np.ndarray]:
        """Each quantity that heads have, as ``(layers, heads)``; NaN where a layer has fewer heads."""
        rows = self.table.dropna(subset=["layer", "head"])
        return {
            f"{source}/{indicator}": part.pivot_table(index="layer", columns="head", values="mean").to_numpy(float)
            for (source, indicator), part in rows.groupby(["source", "indicator"], sort=False)
        }

    def sigmas(self) -> dict[str, np.ndarray]:
        """The absolute values of each layer's learned diagonal, over its heads; empty without SVDA."""
        rows = self.spectra[self.spectra["source"] == "sigma"]
        return {f"sigma/layer_{layer}": part["value"].to_numpy(float) for layer, part in rows.groupby("layer")}


Sink = Callable[[Measurement], None]


def picture(values: np.ndarray) -> np.ndarray:
    """A heat map ``(layers, heads)`` as an image ``(16 layers, 16 heads, 3) uint8``, from its least value (dark) to its
    largest (light); what is missing is grey."""
    low, high = (np.nanmin(values), np.nanmax(values)) if np.isfinite(values).any() else (0.0, 1.0)
    colours = mpl.colormaps["viridis"].with_extremes(bad="0.6")
    shares = np.ma.masked_invalid((values - low) / max(high - low, 1e-12))
    pixels = (255 * colours(shares)[..., :3]).round().astype(np.uint8)
    return pixels.repeat(_HEAD_PIXELS, 0).repeat(_HEAD_PIXELS, 1)


def open_sinks(given: Any) -> list[Sink]:
    """A sink of each of several that a user named (:func:`open_sink`), or of one."""
    return [open_sink(sink) for sink in several(given)]


def open_sink(given: Any) -> Sink:
    """A sink of what a user named: ``"tensorboard"`` (or ``"tensorboard:FOLDER"``, or a ``SummaryWriter``), ``"wandb"``
    (or a run), ``"mlflow"``, a path that ends in ``.csv``, an ``Accelerator``, or a function of a
    :class:`Measurement`."""
    if isinstance(given, str | os.PathLike):
        return _named_sink(os.fspath(given))
    if hasattr(given, "add_histogram"):
        return tensorboard_sink(given)
    if hasattr(given, "trackers") and hasattr(given, "log"):
        return accelerate_sink(given)
    if hasattr(given, "define_metric"):
        return wandb_sink(given)
    if callable(given):
        return given
    raise InputError(f"sinks must be {_ALLOWED}, got {given!r}")


_ALLOWED = "tensorboard, wandb, mlflow, a path ending in .csv, or a function"


def _named_sink(name: str) -> Sink:
    kind, _, rest = name.partition(":")
    if kind == "tensorboard":
        writer = _installed("torch.utils.tensorboard", "tensorboard").SummaryWriter(rest or "runs")
        return tensorboard_sink(writer)
    if name == "wandb":
        run = _installed("wandb", "wandb").run
        if run is None:
            raise InputError("sinks: wandb has no run to log to: call wandb.init() before the monitor is made")
        return wandb_sink(run)
    if name == "mlflow":
        return mlflow_sink()
    if name.endswith(".csv"):
        return csv_sink(name)
    raise InputError(f"sinks must be {_ALLOWED}, got {name!r}")


def _installed(module: str, name: str) -> Any:
    try:
        return import_module(module)
    except ImportError:
        raise InputError(f"sinks: {name} is not installed: pip install {_INSTALL[name]}") from None


def csv_sink(path: str | os.PathLike[str]) -> Sink:
    """Rows of the table, added to a csv file; a file that is there goes on."""
    place = Path(path)

    def write(found: Measurement) -> None:
        place.parent.mkdir(parents=True, exist_ok=True)
        found.table.to_csv(place, mode="a", header=not place.exists(), index=False)

    return write


def tensorboard_sink(writer: Any) -> Sink:
    """Scalars, heat maps as images and sigma as histograms, into a ``SummaryWriter``."""

    def write(found: Measurement) -> None:
        for name, value in found.scalars().items():
            writer.add_scalar(name, value, found.step)
        for name, values in found.heat_maps().items():
            writer.add_image(f"heads/{name}", picture(values), found.step, dataformats="HWC")
        for name, values in found.sigmas().items():
            writer.add_histogram(name, values, found.step)
        for line in found.alarms:
            writer.add_text("alarms", line, found.step)
        writer.flush()

    return write


def wandb_sink(run: Any) -> Sink:
    """The same into a run of Weights & Biases, against ``monitor/step``, so that the run's own steps stay its own."""
    wandb = _installed("wandb", "wandb")
    run.define_metric("monitor/step", hidden=True)
    known: set[str] = set()

    def write(found: Measurement) -> None:
        data: dict[str, Any] = {"monitor/step": found.step, **found.scalars()}
        data |= {f"heads/{name}": wandb.Image(picture(values)) for name, values in found.heat_maps().items()}
        data |= {name: wandb.Histogram(values) for name, values in found.sigmas().items()}
        for name in data.keys() - known - {"monitor/step"}:
            run.define_metric(name, step_metric="monitor/step")
        known.update(data)
        run.log(data)

    return write


def mlflow_sink() -> Sink:
    """Scalars as metrics, heat maps and sigma (layers over its values) as images, into MLflow's active run."""
    mlflow = _installed("mlflow", "mlflow")

    def write(found: Measurement) -> None:
        mlflow.log_metrics(found.scalars(), step=found.step)
        pictures = {f"heads/{name}": picture(values) for name, values in found.heat_maps().items()}
        if sigmas := list(found.sigmas().values()):
            pictures["sigma"] = picture(_as_rows(sigmas))
        for name, pixels in pictures.items():
            mlflow.log_image(pixels, f"{name}/step_{found.step}.png")

    return write


def accelerate_sink(accelerator: Any) -> Sink:
    """Scalars to every tracker that an ``Accelerator`` was given by ``log_with``."""

    def write(found: Measurement) -> None:
        accelerator.log(found.scalars(), step=found.step)

    return write


def _as_rows(parts: list[np.ndarray]) -> np.ndarray:
    rows = np.full((len(parts), max(map(len, parts))), np.nan)
    for row, part in zip(rows, parts, strict=True):
        row[: len(part)] = -np.sort(-part)
    return rows
