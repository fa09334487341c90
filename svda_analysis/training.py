"""A compact training loop: one recipe for every kind of attention, a checkpoint each epoch, exact resume.

Device, mixed precision and several processes go through Hugging Face accelerate, so ``torchrun`` and
``accelerate launch`` work unchanged. All randomness of an epoch follows from (seed, epoch), and the learning rate from
the step: an interrupted run that resumes gives the same weights, bit for bit on a CPU.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import LoggerType
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from svda_analysis.checkpoint import Checkpoint, check_fit, load, save
from svda_analysis.data import ImageData
from svda_analysis.errors import InputError, check_writable
from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.indicators import choose_indicators
from svda_analysis.maps import whole_maps
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.penalties import forget_row_energy, penalty, track_row_energy
from svda_analysis.recipe import Precision, TrainConfig, all_fields, changes, lr_share, parameter_groups
from svda_analysis.results import Trace, versions
from svda_analysis.stats import ConfidenceInterval, mean_interval, proportion_interval
from svda_analysis.streaming import Stream
from svda_analysis.training_data import TrainingData, mixed_seed
from svda_analysis.vocabulary import known_bounds


@dataclasses.dataclass
class Progress:
    """What the loop tells its observer after each step and each epoch."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    images_per_second: float
    seconds_left: float
    epoch_rows: pd.DataFrame | None = None  # the epoch's new rows of the history, at its end


Observer = Callable[[Progress], None]


def train(
    config: ViTConfig,
    recipe: TrainConfig,
    out: str | Path,
    *,
    data_root: str | os.PathLike[str] | None = None,
    opened: tuple[ImageData, ImageData] | None = None,
    resume: bool = False,
    stop_after: int | None = None,
    weights: Mapping[str, Tensor] | None = None,
    teacher: nn.Module | None = None,
    trained: Callable[[str], bool] | None = None,
    mixed_precision: Precision = "auto",
    compile: bool = False,
    track: str | None = None,
    on_start: Callable[[list[str]], None] | None = None,
    on_progress: Observer | None = None,
) -> Checkpoint:
    """Train a ViT and write ``out`` after every epoch.

    Each epoch appends to the checkpoint's history: loss over the training and test images, test accuracy, and every
    indicator on a fixed probe of test images. ``resume`` continues from ``out``, whose config and recipe must be the
    same; ``stop_after`` ends the run early, after that epoch of the schedule. ``opened`` are the training and the test
    part of the recipe's data set where they are open already. ``weights`` is a state dict to start from
    in the place of random weights. A ``teacher`` takes the place of the labels: the loss is the mean squared distance
    from its logits (Ba & Caruana 2014); ``trained`` says by name which parameters are trained (None: all). ``track``
    names a tracker of accelerate (``"tensorboard"``), written beside ``out``. ``on_start`` gets lines about the data
    and the start, ``on_progress`` a :class:`Progress` after each step.

    Raises :class:`InputError` for bad input, before anything is written.
    """
    out = Path(out)
    if stop_after is not None and stop_after < 1:
        raise InputError(f"stop_after must be at least 1, got {stop_after}")
    _check_output(out, resume)
    with _accelerator(mixed_precision, track, out.parent) as accelerator:
        data = TrainingData.load(config, recipe, data_root, accelerator, opened)
        model = _start(config, recipe, weights, trained)
        run = _Run(model, recipe, data, out.stem, accelerator, teacher=teacher, compile=compile)
        if resume and out.exists():
            run.restore(load(out), out)
        if track:
            accelerator.init_trackers(out.stem, config=all_fields(config, recipe))
        if on_start and accelerator.is_main_process:
            on_start([data.train.source, data.test.source, f"from epoch {run.epoch} of {recipe.epochs}"])
        for epoch in range(run.epoch, min(recipe.epochs, stop_after or recipe.epochs)):
            run.train_epoch(epoch, on_progress)
            if accelerator.is_main_process:
                save(run.checkpoint(), out)
            accelerator.wait_for_everyone()
        return run.checkpoint()


def _start(
    config: ViTConfig,
    recipe: TrainConfig,
    weights: Mapping[str, Tensor] | None,
    trained: Callable[[str], bool] | None,
) -> ViT:
    """The model that a run starts from, on the CPU."""
    torch.manual_seed(recipe.seed)
    model = ViT(config)
    track_row_energy(model, recipe.norm_penalty > 0)
    if weights is not None:
        check_fit(model.state_dict(), weights, "weights do not fit the config")
        model.load_state_dict(weights)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained is None or trained(name))
    return model


# --- one run ----------------------------------------------------------------------------------------------------------


class _Run:
    """The state of a training run between epochs."""

    def __init__(
        self,
        model: ViT,
        recipe: TrainConfig,
        data: TrainingData,
        name: str,
        accelerator: Accelerator,
        *,
        teacher: nn.Module | None,
        compile: bool,
    ) -> None:
        self.model, self.recipe, self.data, self.accelerator = model, recipe, data, accelerator
        self.teacher = None if teacher is None else teacher.to(accelerator.device).eval()
        optimizer = torch.optim.AdamW(parameter_groups(model, recipe), betas=(0.9, 0.99), fused=True)
        self.wrapped, self.optimizer = accelerator.prepare(torch.compile(model) if compile else model, optimizer)
        vars(model).pop("forward", None)  # accelerate's autocast, which would hold while measuring as well
        self.epoch, self.name = 0, name
        self.history = make_frame([], TABLE_COLUMNS)
        self.trace: Trace | None = None

    def restore(self, checkpoint: Checkpoint, path: Path) -> None:
        """Continue from ``checkpoint``, which must come from the same config and recipe and hold its optimizer."""
        if changed := changes(checkpoint, self.model.config, self.recipe):
            raise InputError(f"{path} cannot be resumed with another recipe: {', '.join(changed)}")
        if checkpoint.optimizer is None:
            raise InputError(f"{path} cannot be resumed: it was exported without its optimizer state")
        self.model.load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.epoch, self.history, self.trace = checkpoint.epoch, checkpoint.history, checkpoint.trace

    def checkpoint(self) -> Checkpoint:
        data = self.data.train
        about = {"name": data.name, "source": data.source, "image_size": data.image_size, "channels": data.channels}
        numbers = {"mean": list(data.mean), "std": list(data.std), "classes": list(data.classes)}
        return Checkpoint(
            config=self.model.config,
            model={name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()},
            epoch=self.epoch,
            recipe=dataclasses.asdict(self.recipe),
            data={**about, **numbers},
            history=self.history,
            trace=self.trace,
            optimizer=self.optimizer.state_dict(),
            versions={**versions(), "mixed_precision": str(self.accelerator.mixed_precision)},
        )

    # --- learning -------------------------------------------------------------------------------------------------

    def train_epoch(self, epoch: int, on_progress: Observer | None) -> None:
        """One pass over the training images, then what is measured after it."""
        accelerator, steps = self.accelerator, self.data.steps_per_epoch
        started, on_cuda = time.perf_counter(), accelerator.device.type == "cuda"
        if on_cuda:
            torch.cuda.reset_peak_memory_stats(accelerator.device)
        torch.manual_seed(mixed_seed(self.recipe.seed, epoch, accelerator.process_index))  # dropout
        self.wrapped.train()
        observer = on_progress if accelerator.is_main_process else None
        sums, shown = _Sums(), 0.0
        for step, batch in enumerate(self.data.batches(epoch, accelerator.process_index, accelerator.num_processes)):
            sums.add(*self._step(epoch * steps + step, *batch))
            if observer and time.perf_counter() - shown > 0.1:
                shown = time.perf_counter()
                observer(self._progress(epoch, step, sums.totals(), shown - started))
        loss, hits, seen = self._over_processes(torch.tensor(sums.totals(), dtype=torch.float64)).tolist()
        seconds = time.perf_counter() - started
        self.epoch = epoch + 1
        learned = {"loss": loss / seen, "accuracy": hits / seen, "epoch_seconds": seconds}
        if on_cuda:  # elsewhere torch does not count
            learned["peak_memory_mb"] = torch.cuda.max_memory_allocated(accelerator.device) / 1e6
        rows = self._measured(self._rows("train", {name: {"mean": x} for name, x in learned.items()}, int(seen)))
        if observer:
            observer(dataclasses.replace(self._progress(epoch, steps - 1, sums.totals(), seconds), epoch_rows=rows))

    def _step(self, step: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
        """One step of the optimizer; the summed loss, the hits and the number of images."""
        recipe, accelerator = self.recipe, self.accelerator
        images, labels = images.to(accelerator.device), labels.to(accelerator.device)
        share = lr_share(step, recipe.epochs * self.data.steps_per_epoch, recipe.warmup_share)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share
        with _quick_attention(accelerator), accelerator.autocast():
            logits = self.wrapped(images)
        loss = self._loss(logits.float(), images, labels)
        accelerator.backward(loss + penalty(self.model, **recipe.penalties))
        if recipe.clip_norm:
            accelerator.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        forget_row_energy(self.model)
        return loss.detach() * len(labels), (logits.detach().argmax(-1) == labels).sum(), len(labels)

    def _loss(self, logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        if self.teacher is None:
            return F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        with torch.no_grad():
            wanted = self.teacher(images)
        return F.mse_loss(logits, wanted)

    def _progress(self, epoch: int, step: int, totals: list[float], seconds: float) -> Progress:
        steps, epochs = self.data.steps_per_epoch, self.recipe.epochs
        loss, correct, images = totals
        left = (epochs - epoch) * steps - step - 1
        speed = images * self.accelerator.num_processes / seconds
        step_seconds = seconds / (step + 1)
        return Progress(epoch + 1, epochs, step + 1, steps, loss / images, correct / images, speed, left * step_seconds)

    def _over_processes(self, sums: Tensor) -> Tensor:
        if self.accelerator.num_processes == 1:
            return sums
        return self.accelerator.reduce(sums.to(self.accelerator.device), "sum").cpu()

    # --- measuring ------------------------------------------------------------------------------------------------

    def _measured(self, learned: pd.DataFrame) -> pd.DataFrame:
        """The epoch's rows: ``learned``, then what is measured now; they and the trace go into the state."""
        self.wrapped.eval()
        with torch.no_grad():
            rows = pd.concat([learned, self._test(), self._indicators()], ignore_index=True)
            now = self._traced()
        self.history = rows if self.history.empty else pd.concat([self.history, rows], ignore_index=True)
        self.trace = now if self.trace is None else self.trace.then(now)
        means = rows["mean"].groupby(rows["source"] + "/" + rows["indicator"], sort=False).mean()
        self.accelerator.log({str(name): x for name, x in means.items()}, step=self.epoch)
        return rows

    def _test(self) -> pd.DataFrame:
        """Loss and accuracy over test images, with their intervals over images."""
        accelerator, tested = self.accelerator, self.data.tested(self.epoch)
        mine = tested[accelerator.process_index :: accelerator.num_processes]
        sums = torch.zeros(4, dtype=torch.float64)
        for images, labels in self.data.test.batches(256, indices=mine):
            logits = self.model(images.to(accelerator.device)).float().cpu()
            losses = F.cross_entropy(logits, labels, reduction="none").double()
            hits = (logits.argmax(-1) == labels).sum()
            sums += torch.stack([losses.sum(), losses.square().sum(), hits.double(), torch.tensor(len(labels))])
        loss_sum, loss_squares, hit, n = self._over_processes(sums).tolist()
        loss, accuracy = loss_sum / n, hit / n
        spread = math.sqrt(max(loss_squares - loss_sum**2 / n, 0) / max(n - 1, 1))
        hit_spread = math.sqrt(accuracy * (1 - accuracy) * n / max(n - 1, 1))
        numbers = {
            "loss": _estimate(loss, spread, mean_interval(loss, spread / math.sqrt(n), n - 1, low=0)),
            "accuracy": _estimate(accuracy, hit_spread, proportion_interval(accuracy, int(n))),
        }
        return self._rows("test", numbers, int(n))

    def _indicators(self) -> pd.DataFrame:
        """Every indicator on the probe, the same on each process."""
        stream = Stream(self.model, choose_indicators(), seed=self.recipe.seed)
        for images, _ in self.data.probe():
            stream.update(images.to(self.accelerator.device))
        return stream.table(self._identity())

    def _traced(self) -> Trace:
        """This epoch's learned diagonals, and where the class token looks in a few test images."""
        found = whole_maps(self.model, self.data.traced().to(self.accelerator.device))
        maps = torch.stack([found.layout.class_row(a).mean(1) for a in found.layers], dim=1)  # (n, layers, N)
        sigmas = [sigma for attention in self.model.attention_layers() if (sigma := attention.sigma) is not None]
        return Trace(
            np.array([self.epoch]),
            torch.stack(sigmas)[None].float().cpu().numpy() if sigmas else None,
            maps[None].half().cpu().numpy(),
        )

    def _identity(self) -> dict[str, Any]:
        names = {"model": self.name, "attention": self.model.config.attention, "dataset": self.data.train.name}
        return {**names, "seed": self.recipe.seed, "epoch": self.epoch}

    def _rows(self, source: str, numbers: Mapping[str, Mapping[str, float]], n: int) -> pd.DataFrame:
        """A row for each number about the whole model, with what it can be at least and at most."""
        rows = []
        for name, found in numbers.items():
            low, high = known_bounds(name)
            about = {"indicator": name, "source": source, "n": n, "low": low, "high": high}
            rows.append({**self._identity(), **about, **found})
        return make_frame(rows, TABLE_COLUMNS)


def _estimate(mean: float, std: float, interval: ConfidenceInterval) -> dict[str, float]:
    return {"mean": mean, "std": std, "ci_low": interval.low, "ci_high": interval.high}


class _Sums:
    """Loss, hits and images so far; the device is waited for only when somebody asks."""

    def __init__(self) -> None:
        self.done = [0.0, 0.0, 0.0]
        self.waiting: list[Tensor] = []

    def add(self, loss: Tensor, hits: Tensor, images: int) -> None:
        self.waiting.append(torch.stack([loss.float(), hits.float(), torch.full_like(loss, images).float()]))

    def totals(self) -> list[float]:
        """[summed loss, hits, images]. Raises :class:`InputError` once the loss is no number."""
        if self.waiting:
            fresh = torch.stack(self.waiting).cpu().double().sum(0).tolist()
            self.done, self.waiting = [a + b for a, b in zip(self.done, fresh, strict=True)], []
        if not math.isfinite(self.done[0]):
            raise InputError("lr is too high for this recipe: the loss is no longer a finite number; lower it")
        return self.done


# --- the machine ------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _accelerator(mixed_precision: Precision, track: str | None, folder: Path) -> Iterator[Accelerator]:
    """The accelerator of one run; after it another may choose its precision and tracker anew."""
    _check_tracker(track)
    chosen: str | None = mixed_precision
    if mixed_precision == "auto":
        chosen = None if "ACCELERATE_MIXED_PRECISION" in os.environ else "bf16" if torch.cuda.is_available() else "no"
    without_gpu = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available()
    try:
        accelerator = Accelerator(mixed_precision=chosen, log_with=track, project_dir=folder, cpu=without_gpu)
    except ValueError as error:
        raise InputError(f"mixed_precision or track cannot be used here: {error}") from None
    try:
        yield accelerator
    finally:
        accelerator.end_training()
        AcceleratorState._reset_state()  # else the next call in this process could not choose its precision


def _quick_attention(accelerator: Accelerator) -> contextlib.AbstractContextManager[None]:
    """On a CPU and in bfloat16, torch's fused attention runs backward ten times slower than its parts one by one."""
    slow = accelerator.device.type == "cpu" and accelerator.mixed_precision == "bf16"
    return sdpa_kernel(SDPBackend.MATH) if slow else contextlib.nullcontext()


def _check_output(out: Path, resume: bool) -> None:
    if out.is_dir():
        raise InputError(f"out must be a file such as {out / 'svda_s0.pt'}, got the directory {out}")
    if out.exists() and not resume:
        raise InputError(f"out already exists: {out} (resume continues it; or choose another name)")
    check_writable(out.parent, "out: the folder")


def _check_tracker(track: str | None) -> None:
    """accelerate would leave out a tracker that is not installed, and train on."""
    installed = [str(name) for name in get_available_trackers()]
    if track == "all" and not installed:
        raise InputError("track needs a tracker and none is installed: pip install tensorboard")
    if track != "all" and track in LoggerType.list() and track not in installed:
        raise InputError(f"track needs {track}, which is not installed: pip install {track}")
