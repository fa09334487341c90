"""A compact training loop: one recipe for every kind of attention, a checkpoint each epoch, exact resume.

Device, mixed precision and several processes go through Hugging Face accelerate, so ``torchrun`` and
``accelerate launch`` work unchanged. All randomness follows from (seed, epoch, step), the augmentation of an image from
(seed, epoch, its index), and the learning rate from the step: a run that was interrupted anywhere and resumes gives the
same weights, bit for bit on a CPU; several processes give those of one to rounding (without dropout, whose masks each
process draws for its own images).
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
from torch import Tensor, nn

from svda_analysis.checkpoint import Checkpoint, check_fit, load, save
from svda_analysis.data import ImageData
from svda_analysis.errors import HaltedError, InputError, check_writable
from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.history_rows import loss_and_accuracy, rows_of_model, sums_of_answers
from svda_analysis.indicators import choose_indicators
from svda_analysis.maps import whole_maps
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.monitor import measure_probe
from svda_analysis.penalties import decay_projections, forget_row_energy, penalty, track_row_energy
from svda_analysis.processes import Termination, accelerated, check_same, quick_attention
from svda_analysis.recipe import Precision, TrainConfig, all_fields, lr_share, parameter_groups
from svda_analysis.results import Trace, versions
from svda_analysis.resuming import (
    DRAWING,
    check_resumable,
    fitting_state,
    joined_machine,
    said_of_machine,
    under_way,
)
from svda_analysis.soundness import NotFiniteError, check_weights_finite, first_broken
from svda_analysis.team import TIMEOUT
from svda_analysis.training_data import TrainingData, mixed_seed
from svda_analysis.writing import names_folder, only_writer

_SIGTERM = 128 + 15  # the exit code of a process that SIGTERM ended


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
    sigma: np.ndarray | None = None  # (layers, heads, D), then


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
    measured: bool = True,
    mixed_precision: Precision = "auto",
    compile: bool = False,
    track: str | None = None,
    timeout: float = TIMEOUT,
    on_start: Callable[[list[str]], None] | None = None,
    on_progress: Observer | None = None,
) -> Checkpoint:
    """Train a ViT and write ``out`` after every epoch; of several processes the first alone writes.

    Each epoch appends to the checkpoint's history: loss over the training and test images, test accuracy, and every
    indicator on a fixed probe of test images. ``resume`` continues from ``out``, whose config and recipe must be the
    same; ``stop_after`` ends the run early, after that epoch of the schedule. ``opened`` are the training and the test
    part of the recipe's data set where they are open already. ``weights`` is a state dict to start from
    in the place of random weights. A ``teacher`` takes the place of the labels: the loss is the mean squared distance
    from its logits (Ba & Caruana 2014); ``trained`` says by name which parameters are trained (None: all). Where it
    is not ``measured``, no test image is looked at after an epoch and the history stays empty. ``track`` names a
    tracker of accelerate (``"tensorboard"``), written beside ``out``. ``timeout`` is how many seconds a
    process waits for the others. ``on_start`` gets lines about the data and the start, ``on_progress`` a
    :class:`Progress` after each step.

    Raises :class:`InputError` for bad input, before anything is written, and for a loss that is no longer finite, which
    leaves the last sound checkpoint; :class:`~svda_analysis.errors.HaltedError` when SIGTERM came, after the step was
    finished and saved (to be resumed exactly), and when other processes were lost.
    """
    folder, out = names_folder(out), Path(out)
    if stop_after is not None and stop_after < 1:
        raise InputError(f"stop_after must be at least 1, got {stop_after}")
    if not 0 < timeout < math.inf:
        raise InputError(f"timeout must be above 0 seconds, got {timeout}")
    _check_output(out, resume, folder)
    machine = accelerated(mixed_precision, track, out.parent, timeout)
    with _writing(out), Termination().listening() as stop, machine as a:
        data = TrainingData.load(config, recipe, data_root, a, opened)
        model, how = _start(config, recipe, weights, trained), {"compile": compile, "measured": measured}
        run = _Run(model, recipe, data, out, a, teacher=teacher, **how)
        lines = run.restore(load(out)) if resume and out.exists() else []
        check_same(a, (run.epoch, run.step), f"out must be one file that every process sees, got {out} on some alone")
        if track:
            a.init_trackers(out.stem, config=all_fields(config, recipe))
        if on_start and a.is_main_process:
            on_start([data.train.source, data.test.source, f"from {run.place()} of {recipe.epochs}", *lines])
        return _to_the_end(run, min(recipe.epochs, stop_after or recipe.epochs), stop, on_progress)


def _to_the_end(run: _Run, last: int, stop: Termination, on_progress: Observer | None) -> Checkpoint:
    """Train until ``last`` epochs are done, saved after each; :class:`HaltedError` if a stop is asked before."""
    accelerator, checkpoint = run.accelerator, run.checkpoint()
    while run.epoch < last:
        run.train_epoch(stop, on_progress)
        checkpoint = run.checkpoint()
        if accelerator.is_main_process:
            save(checkpoint, run.out)
        accelerator.wait_for_everyone()
        if run.epoch < last and stop.asked(accelerator):
            raise HaltedError(f"stopped by SIGTERM, saved after {run.place()} of {run.recipe.epochs}", _SIGTERM)
    return checkpoint


def _writing(out: Path) -> contextlib.AbstractContextManager[None]:
    """The right to write ``out``, for the process that does."""
    return only_writer(out) if os.environ.get("RANK", "0") == "0" else contextlib.nullcontext()


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
        check_weights_finite(model, "what to start from")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained is None or trained(name))
    return model


# --- one run ----------------------------------------------------------------------------------------------------------


class _Run:
    """The state of a training run between steps: ``epoch`` epochs are done, and ``step`` steps of the next."""

    def __init__(
        self,
        model: ViT,
        recipe: TrainConfig,
        data: TrainingData,
        out: Path,
        accelerator: Accelerator,
        *,
        teacher: nn.Module | None,
        compile: bool,
        measured: bool,
    ) -> None:
        self.model, self.recipe, self.data, self.out, self.accelerator = model, recipe, data, out, accelerator
        self.measured = measured
        self.teacher = None if teacher is None else teacher.to(accelerator.device).eval()
        optimizer = torch.optim.AdamW(parameter_groups(model, recipe), betas=(0.9, recipe.beta2), fused=True)
        self.wrapped, self.optimizer = accelerator.prepare(torch.compile(model) if compile else model, optimizer)
        vars(model).pop("forward", None)  # accelerate's autocast, which would hold while measuring as well
        self.epoch = self.step = 0
        self.sums, self.seconds = [0.0, 0.0, 0.0], 0.0  # of the epoch under way: loss, hits, images; time
        self.history = make_frame([], TABLE_COLUMNS)
        self.trace: Trace | None = None
        self.made_with = self._made_with()

    def restore(self, checkpoint: Checkpoint) -> list[str]:
        """Continue from a checkpoint of ``out``; lines about what is not as it was. Raises :class:`InputError` unless
        it comes from the same config, recipe, data and precision, and holds an optimizer state that fits."""
        out = self.out
        check_resumable(checkpoint, out, self.model.config, self.recipe, self._data(), self.made_with)
        self.model.load_state_dict(checkpoint.model)
        self.epoch, self.history, self.trace = checkpoint.epoch, checkpoint.history, checkpoint.trace
        self.step, sums, self.seconds = under_way(checkpoint, out, self.data.steps_per_epoch)
        if self.accelerator.is_main_process:  # the sums are of all processes together
            self.sums = sums
        exact = self.accelerator.scaler is None
        done = self.epoch * self.data.steps_per_epoch + self.step
        optimizer, found = self.optimizer.optimizer, checkpoint.optimizer or {}
        state = fitting_state(found, optimizer, self.model, out, steps=done, exact=exact)
        self.optimizer.load_state_dict(state)
        said = said_of_machine(checkpoint, self.made_with)
        self.made_with = joined_machine(checkpoint, self.made_with)
        return said

    def checkpoint(self) -> Checkpoint:
        sums = self._over_processes(torch.tensor(self.sums, dtype=torch.float64)).tolist()
        return Checkpoint(
            config=self.model.config,
            model={name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()},
            epoch=self.epoch,
            recipe=dataclasses.asdict(self.recipe),
            data=self._data(),
            history=self.history,
            trace=self.trace,
            optimizer=self.optimizer.state_dict(),
            under_way={"step": self.step, "sums": sums, "seconds": self.seconds} if self.step else None,
            versions=self.made_with,
        )

    def place(self) -> str:
        """How far the run is, as words."""
        return f"step {self.step} of epoch {self.epoch + 1}" if self.step else f"epoch {self.epoch}"

    def _data(self) -> dict[str, Any]:
        data = self.data.train
        about = {"name": data.name, "source": data.source, "image_size": data.image_size, "channels": data.channels}
        return {**about, "mean": list(data.mean), "std": list(data.std), "classes": list(data.classes)}

    def _made_with(self) -> dict[str, str]:
        """What numbers depend on beside the recipe; all but the drawing of augmentation in their last bits alone."""
        accelerator = self.accelerator
        machine = {"device": accelerator.device.type, "processes": str(accelerator.num_processes)}
        machine |= {"threads": str(torch.get_num_threads()), "mixed_precision": str(accelerator.mixed_precision)}
        return {**versions(), **machine, "augmentation": DRAWING}

    # --- learning -------------------------------------------------------------------------------------------------

    def train_epoch(self, stop: Termination, on_progress: Observer | None) -> None:
        """The rest of a pass over the training images, then what is measured after it; or less, if a stop is asked."""
        accelerator, steps = self.accelerator, self.data.steps_per_epoch
        started, before, on_cuda = time.perf_counter(), self.seconds, accelerator.device.type == "cuda"
        if on_cuda:
            torch.cuda.reset_peak_memory_stats(accelerator.device)
        self.wrapped.train()
        observer = on_progress if accelerator.is_main_process else None
        shown = 0.0
        share = (accelerator.process_index, accelerator.num_processes)
        for images, labels in self.data.batches(self.epoch, *share, self.step):
            self._step(images.to(accelerator.device), labels.to(accelerator.device))
            self.step += 1
            self.seconds = before + time.perf_counter() - started
            if observer and time.perf_counter() - shown > 0.1:
                shown = time.perf_counter()
                observer(self._progress())
            if self.step < steps and stop.asked(accelerator):
                return
        state, learned = self._progress(), self._learned()
        self.epoch, self.step, self.sums, self.seconds = self.epoch + 1, 0, [0.0, 0.0, 0.0], 0.0
        rows = self._measured(self._rows("train", learned, steps * self.data.batch_size))
        if observer:
            sigma = None if self.trace is None or self.trace.sigma is None else self.trace.sigma[-1]
            observer(dataclasses.replace(state, epoch_rows=rows, sigma=sigma))

    def _learned(self) -> dict[str, dict[str, float]]:
        """What the epoch's steps came to, over all processes."""
        loss, hits, seen = self._over_processes(torch.tensor(self.sums, dtype=torch.float64)).tolist()
        learned = {"loss": loss / seen, "accuracy": hits / seen, "epoch_seconds": self.seconds}
        if self.accelerator.device.type == "cuda":  # elsewhere torch does not count
            learned["peak_memory_mb"] = torch.cuda.max_memory_allocated(self.accelerator.device) / 1e6
        return {name: {"mean": value} for name, value in learned.items()}

    def _step(self, images: Tensor, labels: Tensor) -> None:
        """One step of the optimizer; loss, hits and images are added to the epoch's sums."""
        recipe, accelerator = self.recipe, self.accelerator
        done = self.epoch * self.data.steps_per_epoch + self.step
        share = lr_share(done, recipe.epochs * self.data.steps_per_epoch, recipe.warmup_share, recipe.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share
        loss, logits = self._forward(self.wrapped, images, labels)
        accelerator.backward(loss + penalty(self.model, **recipe.penalties))
        norm = accelerator.clip_grad_norm_(self.model.parameters(), recipe.clip_norm or math.inf)
        hits = (logits.argmax(-1) == labels).sum()
        found, correct, length = torch.stack([loss.detach().double(), hits.double(), norm.double()]).tolist()
        scaled = accelerator.scaler is not None  # whose gradients may overflow: it then skips the step
        if not math.isfinite(found) or not (scaled or math.isfinite(length)):
            raise self._diverged(images, labels)
        self.optimizer.step()
        if recipe.qk_weight_decay:
            decay_projections(self.model, recipe.lr * share * recipe.qk_weight_decay)
        self.optimizer.zero_grad()
        forget_row_energy(self.model)
        number = len(labels)
        self.sums = [a + b for a, b in zip(self.sums, (found * number, correct, number), strict=True)]

    def _forward(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The loss and the logits of a step; its dropout follows from where the run is."""
        torch.manual_seed(mixed_seed(self.recipe.seed, self.epoch, self.step, self.accelerator.process_index))
        with quick_attention(self.accelerator), self.accelerator.autocast():
            logits = model(images)
        return self._loss(logits.float(), images, labels), logits.detach()

    def _diverged(self, images: Tensor, labels: Tensor | None = None) -> InputError:
        """What to say when a loss is no number: the step, and the first layer whose numbers are none."""
        where = first_broken(self.model, images)
        if not where and labels is not None:
            where = self._broken_gradient(images, labels)
        when = f"after epoch {self.epoch}" if labels is None else f"at step {self.step + 1} of epoch {self.epoch + 1}"
        kept = f"{self.out} keeps what was sound" if self.out.exists() else "nothing was saved yet"
        return InputError(
            f"lr is too high for this recipe: {when} {where or 'the loss'} is no longer a finite number; lower it "
            f"({kept})"
        )

    def _broken_gradient(self, images: Tensor, labels: Tensor) -> str:
        """The parameter whose gradient is not finite and stands nearest to the loss; empty where there is none."""
        self.optimizer.zero_grad()
        loss, _ = self._forward(self.model, images, labels)
        (loss + penalty(self.model, **self.recipe.penalties)).backward()
        broken = [
            name for name, x in self.model.named_parameters() if x.grad is not None and not x.grad.isfinite().all()
        ]
        return f"the gradient of {broken[-1]}" if broken else ""

    def _loss(self, logits: Tensor, images: Tensor, labels: Tensor) -> Tensor:
        if self.teacher is None:
            return F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        with torch.no_grad():
            wanted = self.teacher(images)
        return F.mse_loss(logits, wanted)

    def _progress(self) -> Progress:
        steps, epochs, step, seconds = self.data.steps_per_epoch, self.recipe.epochs, self.step, self.seconds
        loss, correct, images = self.sums
        left = (epochs - self.epoch) * steps - step
        speed = images * self.accelerator.num_processes / seconds
        numbers = {"loss": loss / images, "accuracy": correct / images, "images_per_second": speed}
        return Progress(self.epoch + 1, epochs, step, steps, **numbers, seconds_left=left * seconds / step)

    def _over_processes(self, sums: Tensor) -> Tensor:
        if self.accelerator.num_processes == 1:
            return sums
        return self.accelerator.reduce(sums.to(self.accelerator.device), "sum").cpu()

    # --- measuring ------------------------------------------------------------------------------------------------

    def _measured(self, learned: pd.DataFrame) -> pd.DataFrame:
        """The epoch's rows: ``learned``, then what is measured now; they and the trace go into the state (of a run that
        is not measured: ``learned`` alone, and nothing does)."""
        if not self.measured:
            return learned
        self.wrapped.eval()
        with torch.no_grad():
            rows = pd.concat([learned, *self._tests(), self._indicators()], ignore_index=True)
            now = self._traced()
        self.history = rows if self.history.empty else pd.concat([self.history, rows], ignore_index=True)
        self.trace = now if self.trace is None else self.trace.then(now)
        means = rows["mean"].groupby(rows["source"] + "/" + rows["indicator"], sort=False).mean()
        self.accelerator.log({str(name): x for name, x in means.items()}, step=self.epoch)
        return rows

    def _tests(self) -> Iterator[pd.DataFrame]:
        """What is measured on test images, and on those that were kept for validation."""
        yield self._test("test", self.data.test, self.data.tested(self.epoch))
        if len(kept := self.data.validated):
            yield self._test("validation", self.data.train, kept)

    def _test(self, part: str, data: ImageData, tested: Tensor) -> pd.DataFrame:
        """Loss and accuracy over images of a part, with their intervals over images."""
        accelerator = self.accelerator
        mine = tested[accelerator.process_index :: accelerator.num_processes]
        sums = torch.zeros(4, dtype=torch.float64)
        for images, labels in data.batches(256, indices=mine):
            found = sums_of_answers(self.model(images.to(accelerator.device)).float(), labels)
            if not found.isfinite().all():
                raise self._diverged(images.to(accelerator.device))
            sums += found
        sums = self._over_processes(sums)
        return self._rows(part, loss_and_accuracy(sums), int(sums[3]))

    def _indicators(self) -> pd.DataFrame:
        """Every indicator on the probe, the same on each process."""
        chosen = choose_indicators(self.recipe.monitored)
        how: dict[str, Any] = {"seed": self.recipe.seed, "normalisation": self.data.test.preprocessing.normalisation}
        last: list[Tensor] = []  # the batch that is measured

        def probe() -> Iterator[Tensor]:
            for images, _ in self.data.probe():
                last[:] = [images]
                yield images

        try:
            stream = measure_probe(self.model, probe(), chosen, **how)
        except NotFiniteError:
            raise self._diverged(last[0].to(self.accelerator.device)) from None
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
        names = {"model": self.out.stem, "attention": self.model.config.attention, "dataset": self.data.train.name}
        return {**names, "seed": self.recipe.seed, "epoch": self.epoch}

    def _rows(self, source: str, numbers: Mapping[str, Mapping[str, float]], n: int) -> pd.DataFrame:
        return rows_of_model(self._identity(), source, numbers, n)


def _check_output(out: Path, resume: bool, folder: bool) -> None:
    if folder:
        raise InputError(f"out must be a file such as {out / 'svda_s0.pt'}, got the directory {out}")
    if out.exists() and not resume:
        raise InputError(f"out already exists: {out} (resume continues it; or choose another name)")
    check_writable(out.parent, "out: the folder")
