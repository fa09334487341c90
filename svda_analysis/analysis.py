"""Stream images through a model's attention and reduce them to a table, layer by layer, in constant memory."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

from svda_analysis.capture import AttentionRecord, capture, check_captured, evaluating, token_layout
from svda_analysis.data import Preprocessing
from svda_analysis.errors import InputError
from svda_analysis.indicators import INDICATORS, Indicator, attention_spectrum, score_spectrum, sigma_spectrum
from svda_analysis.results import SPECTRA_COLUMNS, TABLE_COLUMNS, Analysis, Examples, make_frame
from svda_analysis.sources import Data, ImageSource, for_model, open_source
from svda_analysis.specs import OpenModel, open_model

_FEWEST_FOR_PRECISION = 64  # images before an interval may end the stream: a spread seen on fewer is no spread


def analyze(
    model_or_path: nn.Module | str | os.PathLike[str] | OpenModel,
    data: Data | None = None,
    *,
    indicators: Sequence[str] | None = None,
    images: int | None = None,
    precision: float | None = None,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    noise: float = 0.1,
    examples: int = 4,
    seed: int = 0,
    prefix_tokens: int | None = None,
    preprocessing: Preprocessing | None = None,
    name: str | None = None,
    data_root: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Analysis:
    """Measure every layer and head of a model over a data set.

    Parameters
    ----------
    model_or_path
        A module (it keeps its device and mode), the path of a checkpoint, or a spec such as
        ``timm:NAME@weights.pt`` (see ``specs.py``).
    data
        Preprocessed images ``(B, C, H, W)`` float, a ``Dataset`` of ``(image, label)``, a ``DataLoader``, or a data
        set's name (its test part). A checkpoint brings the name of its own.
    indicators
        Names from :data:`~svda_analysis.indicators.INDICATORS`; all by default.
    images
        At most so many images, drawn without replacement (a tensor or a loader is taken from its start).
    precision
        Stop once the half-width of every 95 % interval is below this share of the indicator's range.
    batch_size, device
        Images per forward; where to run (default: where the module is; for a path, CUDA where there is one).
    noise, seed
        Standard deviation of the Gaussian noise on the preprocessed input for ``perturbation_robustness``; the seed of
        that noise and of the drawing of images.
    prefix_tokens
        Tokens before the first patch (CLS and the like), where the model does not say it.
    preprocessing
        How image files are brought to the model, in the place of its own way.
    examples
        How many images keep their maps, the first of each class.
    name, data_root
        The name of the model in the result (the file's by default); where data sets lie.
    progress
        Called with (images done, images in all).

    Raises
    ------
    InputError
        When an argument is outside what is allowed, or the images do not suit the model.
    """
    wanted = _choose_indicators(indicators)
    _check_numbers(images, precision, batch_size, noise, examples, seed)
    subject = open_model(model_or_path)
    if preprocessing is not None:
        subject = dataclasses.replace(subject, preprocessing=preprocessing)
    home = next((p.device for p in subject.model.parameters()), torch.device("cpu"))
    device = _resolve_device(home if device is None and isinstance(model_or_path, nn.Module) else device)
    source = open_source(data, subject, data_root)
    started = time.perf_counter()
    try:
        with evaluating(subject.model.to(device)), torch.no_grad():
            stream = Stream(subject.model, wanted, noise=noise, seed=seed, prefix_tokens=prefix_tokens)
            total = min(images or source.total, source.total)
            for batch, labels in source.batches(batch_size, images, seed):
                stream.update(for_model(batch, subject.model), labels)
                if progress:
                    progress(stream.images, total)
                if precision and stream.images >= _FEWEST_FOR_PRECISION and stream.widest() < precision:
                    break
            shown = _examples(subject.model, source, examples, prefix_tokens)
    finally:
        subject.model.to(home)
    name = name or subject.name
    identity = {
        "model": name,
        "attention": subject.attention or stream.kind,
        "seed": subject.seed,
        "epoch": subject.epoch,
        "dataset": source.name,
    }
    run = {
        **identity,
        "path": subject.path,
        "parameters": sum(p.numel() for p in subject.model.parameters()),
        "images": stream.images,
        "data": source.description,
        "preprocessing": str(subject.preprocessing) if subject.preprocessing else None,
        "seconds": round(time.perf_counter() - started, 2),
        "recipe": subject.recipe,
    }
    settings = {"noise": noise, "seed": seed, "precision": precision, "batch_size": batch_size, "device": str(device)}
    return Analysis(
        table=stream.table(identity),
        spectra=stream.spectra(identity),
        history=subject.history.assign(model=identity["model"]).astype(TABLE_COLUMNS),
        examples={name: shown} if shown else {},
        meta={
            "versions": versions(),
            "settings": settings,
            "labels": {
                **{indicator.name: indicator.label for indicator in wanted},
                "deletion_auc": "Deletion AUC",
                "insertion_auc": "Insertion AUC",
                "sensitivity_max": "Largest sensitivity",
                "randomisation_correlation": "Likeness, weights redrawn",
            },
            "runs": [run],
            "warnings": [*source.warnings, *_cautions(subject, stream.windows)],
        },
    )


def _cautions(subject: OpenModel, windows: bool) -> list[str]:
    lines = []
    if subject.untrained:
        lines.append(f"{subject.path} names no weights (@FILE): they are random, and nothing here was learned")
    if windows:
        lines.append(f"{subject.name} attends inside windows: its numbers speak of windows, not of the whole image")
    return lines


def versions() -> dict[str, str]:
    """Versions of Python, this package and what its numbers depend on."""
    found = {name: version(name) for name in ("torch", "torchvision", "numpy", "scipy", "pandas")}
    try:
        own = version("svda-analysis")
    except ModuleNotFoundError:
        own = "not installed"
    return {"svda-analysis": own, "python": platform.python_version(), **found}


# --- the stream -----------------------------------------------------------------------------------------------------


class Stream:
    """Running count, mean and spread over images of every indicator at every layer and head of one model.

    ``update`` runs one batch through the model and keeps only its moments; a record is dropped before the next layer
    begins. With ``perturbation_robustness`` among the indicators each batch runs together with its noisy copy.
    """

    def __init__(
        self,
        model: nn.Module,
        indicators: Sequence[Indicator],
        *,
        noise: float = 0.1,
        seed: int = 0,
        prefix_tokens: int | None = None,
    ) -> None:
        self.model, self.indicators, self.noise, self.prefix_tokens = model, indicators, noise, prefix_tokens
        self.generator = torch.Generator().manual_seed(seed)
        self.images = 0
        self.kind = "dot"
        self.moments: dict[tuple[str, str, int], _Moments] = {}
        self.spectrum_moments: dict[tuple[str, int], _Moments] = {}
        self.bounds: dict[tuple[str, str, int], float] = {}
        self.windows = False
        self._noisy = any("a_noisy" in indicator.needs for indicator in indicators)
        self._sources = {s for i in indicators if "spectrum" in i.needs for s in i.sources}

    def update(self, images: Tensor, labels: Tensor | None = None) -> None:
        """Add one batch, ``images (B, C, H, W)`` and, where known, ``labels (B,)``."""
        B, seen = len(images), 0
        batch = images
        if self._noisy:
            drawn = torch.randn(images.shape, generator=self.generator).to(images)
            batch = torch.cat([images, images + self.noise * drawn])

        def on_record(record: AttentionRecord) -> None:
            nonlocal seen
            if record.a.shape[-2] == record.a.shape[-1]:  # else pooling or cross-attention: no map of the image
                self._measure(record._replace(layer=seen), images)
                seen += 1

        with capture(self.model, on_record):
            logits = as_logits(self.model(batch))[:B]
        check_captured(seen, self.model)
        if labels is not None and logits.ndim == 2 and int(labels.min()) >= 0 and int(labels.max()) < logits.shape[1]:
            labels = labels.to(logits.device)
            self._add("accuracy", "test", -1, (logits.argmax(-1) == labels).float()[:, None])
            self._add("loss", "test", -1, F.cross_entropy(logits.float(), labels, reduction="none")[:, None])
        self.images += B

    def _measure(self, record: AttentionRecord, images: Tensor) -> None:
        half = len(record.a) // (2 if self._noisy else 1)  # images, or the windows of all images
        q, k, a = record.q[:half], record.k[:half], record.a[:half]
        size = (images.shape[-2], images.shape[-1])
        self.windows = self.windows or half > len(images)
        known = 0 if self.windows else self.prefix_tokens  # a window holds patches alone
        grid, prefix = token_layout(self.model, a.shape[-1], image_size=size, prefix=known)
        spectra = {}
        if "scores" in self._sources:
            spectra["scores"] = score_spectrum(q, k, record.scale, record.sigma)
        if "attention" in self._sources:
            spectra["attention"] = attention_spectrum(a)
        if record.sigma is not None:
            self.kind = "svda"
            if "sigma" in self._sources and not self.images:
                spectra["sigma"] = sigma_spectrum(record.sigma)[None]
        for source, spectrum in spectra.items():
            moments = self.spectrum_moments.setdefault((source, record.layer), _Moments())
            moments.update(_mean_over_windows(spectrum, len(images)))
        at_hand = {"q": q, "k": k, "a": a, "a_noisy": record.a[half:], "grid": grid, "prefix": prefix}
        for indicator in self.indicators:
            for source in indicator.sources:
                if "spectrum" in indicator.needs and source not in spectra:
                    continue
                given = {**at_hand, "spectrum": spectra.get(source)}
                values = indicator.function(**{need: given[need] for need in indicator.needs})
                self._add(indicator.name, source, record.layer, _mean_over_windows(values, len(images)))
                low, high = indicator.bounds(source, D=q.shape[-1], N=a.shape[-1], grid=grid)
                self.bounds[indicator.name, source, record.layer] = high - low

    def _add(self, indicator: str, source: str, layer: int, values: Tensor) -> None:
        self.moments.setdefault((indicator, source, layer), _Moments()).update(values)

    def widest(self) -> float:
        """The widest half-width of a 95 % interval, as a share of its indicator's range."""
        widths = (
            float(self.moments[key].half_width().max()) / span
            for key, span in self.bounds.items()
            if self.moments[key].n > 1 and span > 0
        )
        return max(widths, default=0.0)

    def table(self, identity: dict[str, Any]) -> pd.DataFrame:
        """The moments as a frame with :data:`~svda_analysis.results.TABLE_COLUMNS`."""
        rows = []
        for (indicator, source, layer), moments in self.moments.items():
            std, half = moments.std(), moments.half_width()
            for head, mean in enumerate(moments.mean.tolist()):
                place = {"layer": layer, "head": head} if layer >= 0 else {}
                interval = {"ci_low": mean - float(half[head]), "ci_high": mean + float(half[head])}
                numbers = {"mean": mean, "std": float(std[head]), "n": moments.n, **interval}
                rows.append({**identity, **place, "indicator": indicator, "source": source, **numbers})
        return make_frame(rows, TABLE_COLUMNS)

    def spectra(self, identity: dict[str, Any]) -> pd.DataFrame:
        """Mean singular values as a frame with :data:`~svda_analysis.results.SPECTRA_COLUMNS`."""
        rows = [
            {**identity, "layer": layer, "head": head, "source": source, "rank": rank, "value": value}
            for (source, layer), moments in self.spectrum_moments.items()
            for head, values in enumerate(moments.mean.tolist())
            for rank, value in enumerate(values, start=1)
        ]
        return make_frame(rows, SPECTRA_COLUMNS)


def _mean_over_windows(values: Tensor, images: int) -> Tensor:
    """``(images * windows, ...) -> (images, ...)`` where attention stays inside windows."""
    return values if len(values) <= images else values.unflatten(0, (images, -1)).mean(1)


def as_logits(output: Any) -> Tensor:
    """The logits of a model's output: a tensor, or the ``logits`` (else the pooled features) of Hugging Face's."""
    if isinstance(output, Tensor):
        return output
    for name in ("logits", "pooler_output", "last_hidden_state"):
        if isinstance(found := getattr(output, name, None), Tensor):
            return found
    raise InputError(f"the model must return logits (B, classes), it returned {type(output).__name__}")


class _Moments:
    """Count, mean and sum of squared deviations over images, merged batch by batch (Chan, Golub & LeVeque 1979)."""

    def __init__(self) -> None:
        self.n = 0
        self.mean = self.m2 = torch.zeros(())

    def update(self, values: Tensor) -> None:
        values = values.cpu().double()  # (B, ...); not every device knows float64
        n, total = len(values), self.n + len(values)
        mean = values.mean(0)
        delta = mean - self.mean
        self.m2 = self.m2 + (values - mean).square().sum(0) + delta.square() * (self.n * n / total)
        self.mean = self.mean + delta * (n / total)
        self.n = total

    def std(self) -> Tensor:
        return (self.m2 / (self.n - 1)).sqrt() if self.n > 1 else torch.full_like(self.m2, math.nan)

    def half_width(self) -> Tensor:
        """Half-width of the 95 % t interval of the mean."""
        quantile = stats.t.ppf(0.975, self.n - 1) if self.n > 1 else math.nan
        return self.std() * (quantile / math.sqrt(self.n))


# --- what to measure, on what ---------------------------------------------------------------------------------------


def _resolve_device(wanted: str | torch.device | None) -> torch.device:
    try:
        device = torch.device(wanted or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, TypeError):  # what torch raises for a device it does not know or have
        raise InputError(f"device must be cpu or an accelerator of this machine, got {str(wanted)!r}") from None
    return device


def _examples(model: nn.Module, source: ImageSource, number: int, prefix_tokens: int | None) -> Examples | None:
    if not number:
        return None
    images, labels, pictures = source.examples(number)
    maps: list[np.ndarray] = []
    with capture(model, lambda record: maps.append(record.a.half().cpu().numpy())):
        predictions = as_logits(model(for_model(images, model))).argmax(-1).cpu().numpy()
    square = [found for found in maps if found.shape == maps[0].shape and len(found) == len(images)]
    if not square or square[0].shape[-2] != square[0].shape[-1]:
        return None  # attention inside windows: no map covers the image
    size = (images.shape[-2], images.shape[-1])
    grid, prefix = token_layout(model, square[0].shape[-1], image_size=size, prefix=prefix_tokens)
    stacked = np.stack(square, axis=1)
    return Examples(pictures, labels.cpu().numpy(), predictions, stacked, grid, prefix, source.classes)


def _choose_indicators(names: Sequence[str] | None) -> list[Indicator]:
    for name in names or ():
        if name not in INDICATORS:
            raise InputError(f"indicators must be among {', '.join(INDICATORS)}, got {name!r}")
    if names is not None and not names:
        raise InputError("indicators must name at least one indicator, got none")
    return [INDICATORS[name] for name in names or INDICATORS]


def _check_numbers(
    images: int | None, precision: float | None, batch_size: int, noise: float, examples: int, seed: int
) -> None:
    if images is not None and images < 1:
        raise InputError(f"images must be at least 1, got {images}")
    if precision is not None and not 0 < precision < 1:
        raise InputError(f"precision must lie between 0 and 1, got {precision}")
    if batch_size < 1:
        raise InputError(f"batch_size must be at least 1, got {batch_size}")
    if not 0 <= noise < math.inf:
        raise InputError(f"noise must be at least 0, got {noise}")
    if examples < 0:
        raise InputError(f"examples must be at least 0, got {examples}")
    if not 0 <= seed < 2**63:
        raise InputError(f"seed must lie in [0, 2^63), got {seed}")
