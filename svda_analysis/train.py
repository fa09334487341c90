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
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from svda_analysis.analyze import Stream, versions
from svda_analysis.attention import Attention
from svda_analysis.capture import records
from svda_analysis.checkpoint import Checkpoint, check_fit, load, save
from svda_analysis.data import ImageData, load_dataset
from svda_analysis.errors import InputError, check_writable
from svda_analysis.indicators import INDICATORS
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.results import TABLE_COLUMNS, Trace, make_frame

Precision = Literal["auto", "no", "bf16", "fp16"]
TRACED_IMAGES = 4


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The recipe. Rates of sigma's parameters are factors on ``lr``; none of them is decayed.

    Penalties, each averaged over layers and heads and added to the loss (they touch SVDA alone, but for
    ``orthogonality``): ``shape_penalty`` and ``norm_penalty`` weigh :func:`shape_entropy` and :func:`norm_share`,
    ``sigma_l1`` the mean of ``|sigma|``, ``orthogonality`` the squared distance of each head's W_q and W_k rows from an
    orthogonal set. ``warmup_share`` is the share of all steps with a rising rate; a cosine to zero follows.
    ``train_images`` trains on at most so many images, drawn once and the same for every seed and model (None: all).
    ``flip`` flips half the images, ``crop_padding`` pads small images by so many pixels and crops them at random
    (None: the data set's own number; folders are cropped anyway). ``monitor_images`` measures loss and accuracy after
    each epoch but the last on at most so many test images, the same each time (None: all).
    """

    dataset: str = "fashion_mnist"
    seed: int = 0
    epochs: int = 17
    batch_size: int = 64
    lr: float = 1e-3
    weight_decay: float = 0.05
    warmup_share: float = 0.08
    label_smoothing: float = 0.1
    clip_norm: float = 1.0
    flip: bool = True
    crop_padding: int | None = None
    temperature_lr_factor: float = 1.0
    shape_lr_factor: float = 20.0
    sigma_lr_factor: float = 20.0
    shape_penalty: float = 0.05
    norm_penalty: float = 0.3
    sigma_l1: float = 0.0
    orthogonality: float = 0.0
    probe_images: int = 256
    train_images: int | None = None
    monitor_images: int | None = None

    def __post_init__(self) -> None:
        for name in ("train_images", "monitor_images"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise InputError(f"{name} must be at least 1, got {number}")
        for name in ("epochs", "batch_size", "probe_images"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, got {getattr(self, name)}")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "float" and not 0 <= value < math.inf:
                raise InputError(f"{field.name} must be at least 0, got {value}")
        for name in ("warmup_share", "label_smoothing"):
            if getattr(self, name) >= 1:
                raise InputError(f"{name} must be below 1, got {getattr(self, name)}")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed must lie in [0, 2^63), got {self.seed}")


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


def train(
    config: ViTConfig,
    recipe: TrainConfig,
    out: str | Path,
    *,
    data_root: str | os.PathLike[str] | None = None,
    resume: bool = False,
    stop_after: int | None = None,
    weights: Mapping[str, Tensor] | None = None,
    teacher: nn.Module | None = None,
    trained: Callable[[str], bool] | None = None,
    mixed_precision: Precision = "auto",
    compile: bool = False,
    track: str | None = None,
    on_start: Callable[[list[str]], None] | None = None,
    on_progress: Callable[[Progress], None] | None = None,
) -> Checkpoint:
    """Train a ViT and write ``out`` after every epoch.

    Each epoch appends to the checkpoint's history: loss over the training and test images, test accuracy, and every
    indicator on a fixed probe of test images. ``resume`` continues from ``out``, whose config and recipe must be the
    same; ``stop_after`` ends the run early, after that epoch of the schedule. ``weights`` is a state dict to start from
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
    accelerator = _accelerator(mixed_precision, track, out.parent)
    try:
        with accelerator.main_process_first():  # a download is for one process, its file for all
            data = [
                load_dataset(recipe.dataset, root=data_root, train=train, image_size=config.image_size)
                for train in (True, False)
            ]
        _check_fit(config, recipe, data[0], accelerator.num_processes)
        run = _Run(config, recipe, data[0], data[1], accelerator, compile, track, out, teacher)
        if weights is not None:
            check_fit(run.model.state_dict(), weights, "weights do not fit the config")
            run.model.load_state_dict(weights)
        for name, parameter in run.model.named_parameters():
            parameter.requires_grad_(trained is None or trained(name))
        if resume and out.exists():
            run.restore(load(out), out)
        if on_start and accelerator.is_main_process:
            on_start([data[0].source, data[1].source, f"from epoch {run.epoch} of {recipe.epochs}"])
        last = min(recipe.epochs, stop_after or recipe.epochs)
        for epoch in range(run.epoch, last):
            run.train_epoch(epoch, on_progress)
            if accelerator.is_main_process:
                save(run.checkpoint(), out)
            accelerator.wait_for_everyone()
        return run.checkpoint()
    finally:
        accelerator.end_training()
        AcceleratorState._reset_state()  # else the next call in this process could not choose its precision


# --- penalties ------------------------------------------------------------------------------------------------------


def shape_entropy(sigma: Tensor) -> Tensor:
    """Normalised entropy of ``|sigma| / sum |sigma|``, averaged over heads (our definition; the temperature cancels).

    ``sigma (H, D)``; returns a scalar in [0, 1]; 1 is a flat spectrum.
    """
    size = sigma.abs()
    share = size / size.sum(-1, keepdim=True)
    share = share.clamp_min(torch.finfo(size.dtype).tiny)  # at 0 the slope is infinite
    return torch.special.entr(share).sum(-1).mean() / math.log(sigma.shape[-1])


def norm_share(sigma: Tensor, row_energy: Tensor) -> Tensor:
    """The unit rows' squared norm that lies along weak directions, averaged over heads (our definition).

    ``mean_h sum_i (1 - |sigma_i| / max|sigma|) E[(q_hat_i^2 + k_hat_i^2) / 2]``; ``sigma, row_energy (H, D)``; returns
    a scalar in [0, 1]. Small, it lets weak directions be removed without changing the norm of what stays. Its gradient
    reaches ``row_energy`` alone: through sigma it would pull the spectrum flat, where it is zero for any rows.
    """
    size = sigma.detach().abs()
    return ((1 - size / size.amax(-1, keepdim=True)) * row_energy).sum(-1).mean()


def orthogonality_gap(attention: Attention) -> Tensor:
    """Mean squared entry of ``W W^T / D - I`` over the heads' W_q and W_k, rows scaled to a mean norm of one."""
    weight = attention.qkv.weight.view(3, attention.heads, -1, attention.qkv.in_features)[:2]  # (2, H, D, C)
    gram = weight @ weight.transpose(-2, -1)  # (2, H, D, D)
    gram = gram / gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    return (gram - torch.eye(gram.shape[-1], device=gram.device)).square().mean()


def penalty(model: ViT, recipe: TrainConfig) -> Tensor:
    """The sum of the recipe's penalties, averaged over layers; a scalar with its graph."""
    total = torch.zeros((), device=model.pos_embed.device)
    for attention in model.attention_layers():
        if recipe.orthogonality:
            total = total + recipe.orthogonality * orthogonality_gap(attention)
        sigma = attention.sigma
        if sigma is None:
            continue
        if recipe.shape_penalty:
            total = total + recipe.shape_penalty * shape_entropy(sigma)
        if recipe.norm_penalty and attention.row_energy is not None:
            total = total + recipe.norm_penalty * norm_share(sigma, attention.row_energy)
        if recipe.sigma_l1:
            total = total + recipe.sigma_l1 * sigma.abs().mean()
    return total / model.config.depth


def lr_share(step: int, steps: int, warmup: float) -> float:
    """The share of the full learning rate at ``step`` of ``steps``: a linear rise, then a cosine to zero."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def parameter_groups(model: ViT, recipe: TrainConfig) -> list[dict[str, Any]]:
    """Matrices decay; vectors, embeddings and sigma's parameters do not, and the latter have rates of their own."""
    factors = {
        "log_temperature": recipe.temperature_lr_factor,
        "sigma_shape": recipe.shape_lr_factor,
        "sigma_linear": recipe.sigma_lr_factor,
    }
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        factor = factors.get(name.rsplit(".", 1)[-1], 1.0)
        decays = parameter.ndim > 1 and factor == 1.0 and name not in ("cls_token", "pos_embed")
        decays = decays and "sigma" not in name and not name.endswith("norm_length")
        groups.setdefault((factor, recipe.weight_decay if decays else 0.0), []).append(parameter)
    return [
        {"params": parameters, "weight_decay": decay, "peak_lr": recipe.lr * factor, "lr": recipe.lr * factor}
        for (factor, decay), parameters in groups.items()
    ]


def changes(checkpoint: Checkpoint, config: ViTConfig, recipe: TrainConfig) -> list[str]:
    """What differs between a checkpoint and a plan, as ``"lr 0.001 -> 0.01"``; empty where it can be resumed."""
    wanted, found = _flat(config, recipe), {**_flat(checkpoint.config), **checkpoint.recipe}
    return [f"{key} {found.get(key)!r} -> {wanted[key]!r}" for key in wanted if wanted[key] != found.get(key)]


# --- one run --------------------------------------------------------------------------------------------------------


class _Run:
    """The state of a training run between epochs."""

    def __init__(
        self,
        config: ViTConfig,
        recipe: TrainConfig,
        train_data: ImageData,
        test_data: ImageData,
        accelerator: Accelerator,
        compile: bool,
        track: str | None,
        out: Path,
        teacher: nn.Module | None,
    ) -> None:
        self.teacher = None if teacher is None else teacher.to(accelerator.device).eval()
        self.config, self.recipe, self.train_data, self.test_data = config, recipe, train_data, test_data
        train_data.flip = recipe.flip
        if recipe.crop_padding is not None:
            train_data.padding = recipe.crop_padding
        self.accelerator = accelerator
        if track:
            accelerator.init_trackers(out.stem, config=_flat(config, recipe))
        torch.manual_seed(recipe.seed)
        self.model = ViT(config)
        for attention in self.model.attention_layers():
            attention.track_row_energy = config.attention == "svda" and recipe.norm_penalty > 0
        optimizer = torch.optim.AdamW(parameter_groups(self.model, recipe), betas=(0.9, 0.99), fused=True)
        model: nn.Module = self.model
        if compile:
            model = torch.compile(model)  # type: ignore[assignment]  # a callable module
        self.wrapped, self.optimizer = accelerator.prepare(model, optimizer)
        vars(self.model).pop("forward", None)  # accelerate's autocast, which would hold while measuring as well
        self.epoch = 0
        self.history = make_frame([], TABLE_COLUMNS)
        self.trace: Trace | None = None
        self.name = out.stem
        self.chosen = torch.arange(len(train_data))
        if recipe.train_images is not None:
            self.chosen = torch.randperm(len(train_data), generator=_generator(0))[: recipe.train_images]
        self.steps_per_epoch = max(1, len(self.chosen) // recipe.batch_size)

    def restore(self, checkpoint: Checkpoint, path: Path) -> None:
        """Continue from ``checkpoint``, which must come from the same config and recipe and hold its optimizer."""
        if changed := changes(checkpoint, self.config, self.recipe):
            raise InputError(f"{path} cannot be resumed with another recipe: {', '.join(changed)}")
        if checkpoint.optimizer is None:
            raise InputError(f"{path} cannot be resumed: it was exported without its optimizer state")
        self.model.load_state_dict(checkpoint.model)
        self.optimizer.load_state_dict(checkpoint.optimizer)
        self.epoch, self.history, self.trace = checkpoint.epoch, checkpoint.history, checkpoint.trace

    def checkpoint(self) -> Checkpoint:
        data = self.train_data
        about = {"name": data.name, "source": data.source, "image_size": data.image_size, "channels": data.channels}
        numbers = {"mean": list(data.mean), "std": list(data.std), "classes": list(data.classes)}
        return Checkpoint(
            config=self.config,
            model={name: value.detach().cpu().clone() for name, value in self.model.state_dict().items()},
            epoch=self.epoch,
            recipe=dataclasses.asdict(self.recipe),
            data={**about, **numbers},
            history=self.history,
            trace=self.trace,
            optimizer=self.optimizer.state_dict(),
            versions={**versions(), "mixed_precision": str(self.accelerator.mixed_precision)},
        )

    def train_epoch(self, epoch: int, on_progress: Callable[[Progress], None] | None) -> None:
        recipe, accelerator = self.recipe, self.accelerator
        started, on_cuda = time.perf_counter(), accelerator.device.type == "cuda"
        if on_cuda:
            torch.cuda.reset_peak_memory_stats(accelerator.device)
        torch.manual_seed(_mix(recipe.seed, epoch, accelerator.process_index))  # dropout
        self.wrapped.train()
        sums, shown = _Sums(), 0.0
        for step, (images, labels) in enumerate(self._batches(epoch)):
            sums.add(*self._step(epoch * self.steps_per_epoch + step, images, labels))
            if on_progress and accelerator.is_main_process and time.perf_counter() - shown > 0.1:
                shown = time.perf_counter()
                on_progress(self._progress(epoch, step, sums.totals(), shown - started))
        mine = sums.totals()
        train_loss, train_accuracy, seen = self._over_processes(torch.tensor(mine, dtype=torch.float64)).tolist()
        seconds = time.perf_counter() - started
        self.epoch = epoch + 1
        train_rows = [("loss", train_loss / seen), ("accuracy", train_accuracy / seen), ("epoch_seconds", seconds)]
        if on_cuda:  # elsewhere torch does not count
            train_rows.append(("peak_memory_mb", torch.cuda.max_memory_allocated(accelerator.device) / 1e6))
        rows = pd.concat([self._rows("train", train_rows, int(seen)), self._measure()], ignore_index=True)
        self.history = rows if self.history.empty else pd.concat([self.history, rows], ignore_index=True)
        now = self._trace()
        self.trace = now if self.trace is None else self.trace.then(now)
        self._track(rows)
        if on_progress and accelerator.is_main_process:
            progress = self._progress(epoch, self.steps_per_epoch - 1, mine, seconds)
            on_progress(dataclasses.replace(progress, epoch_rows=rows))

    def _batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of each batch of the epoch; a last batch that is not full is left out."""
        recipe, world, rank = self.recipe, self.accelerator.num_processes, self.accelerator.process_index
        order = self.chosen[torch.randperm(len(self.chosen), generator=_generator(recipe.seed, epoch))]
        size = min(recipe.batch_size, len(order))
        order = order[: len(order) // size * size].view(-1, size)[:, rank::world].flatten()
        augmenting = _generator(recipe.seed, epoch, rank + 1)
        share = math.ceil((size - rank) / world)
        return self.train_data.batches(share, indices=order, augment=True, generator=augmenting)

    def _step(self, step: int, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, int]:
        recipe, accelerator = self.recipe, self.accelerator
        images, labels = images.to(accelerator.device), labels.to(accelerator.device)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * lr_share(step, recipe.epochs * self.steps_per_epoch, recipe.warmup_share)
        with _quick_attention(accelerator), accelerator.autocast():
            logits = self.wrapped(images)
        if self.teacher is None:
            loss = F.cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)
        else:
            with torch.no_grad():
                wanted = self.teacher(images)
            loss = F.mse_loss(logits.float(), wanted)
        accelerator.backward(loss + penalty(self.model, recipe))
        if recipe.clip_norm:
            accelerator.clip_grad_norm_(self.model.parameters(), recipe.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        for attention in self.model.attention_layers():
            attention.row_energy = None  # it holds the graph of this step
        return loss.detach() * len(labels), (logits.detach().argmax(-1) == labels).sum(), len(labels)

    def _measure(self) -> pd.DataFrame:
        """Loss and accuracy over test images, and every indicator on the probe; the same on each process."""
        accelerator, data = self.accelerator, self.test_data
        self.wrapped.eval()
        tested = torch.arange(len(data))
        if self.recipe.monitor_images is not None and self.epoch < self.recipe.epochs:
            tested = torch.randperm(len(data), generator=_generator(0))[: self.recipe.monitor_images]
        mine = tested[accelerator.process_index :: accelerator.num_processes]
        sums = torch.zeros(4, dtype=torch.float64)
        with torch.no_grad():
            for images, labels in data.batches(256, indices=mine):
                logits = self.model(images.to(accelerator.device)).float().cpu()
                losses = F.cross_entropy(logits, labels, reduction="none").double()
                hits = (logits.argmax(-1) == labels).sum()
                sums += torch.stack([losses.sum(), losses.square().sum(), hits.double(), torch.tensor(len(labels))])
            loss_sum, loss_squares, hits, n = self._over_processes(sums).tolist()
            probe = Stream(self.model, list(INDICATORS.values()), seed=self.recipe.seed)
            count = min(self.recipe.probe_images, len(data))
            chosen = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[:count]
            for images, _ in data.batches(64, indices=chosen):
                probe.update(images.to(accelerator.device))
        spread = math.sqrt(max(loss_squares - loss_sum**2 / n, 0) / max(n - 1, 1))
        accuracy = hits / n
        rows = self._rows("test", [("loss", loss_sum / n), ("accuracy", accuracy)], int(n))
        rows["std"] = [spread, math.sqrt(accuracy * (1 - accuracy) * n / max(n - 1, 1))]
        rows["ci_low"], rows["ci_high"] = (rows["mean"] + s * 1.96 * rows["std"] / math.sqrt(n) for s in (-1, 1))
        return pd.concat([rows, probe.table(self._identity())], ignore_index=True)

    def _trace(self) -> Trace:
        """This epoch's learned diagonals, and where the class token looks in a few test images."""
        data = self.test_data
        images, _ = next(iter(data.batches(TRACED_IMAGES, indices=data.examples(TRACED_IMAGES))))
        self.model.eval()
        with torch.no_grad():
            found = records(self.model, images.to(self.accelerator.device))
        maps = torch.stack([record.a[:, :, 0, 1:].mean(1) for record in found], dim=1)  # (n, layers, N)
        sigmas = [attention.sigma for attention in self.model.attention_layers()]
        sigma = None if any(one is None for one in sigmas) else torch.stack(sigmas).detach()  # type: ignore[arg-type]
        return Trace(
            np.array([self.epoch]),
            None if sigma is None else sigma[None].float().cpu().numpy(),
            maps[None].half().cpu().numpy(),
        )

    def _identity(self) -> dict[str, Any]:
        recipe = self.recipe
        names = {"model": self.name, "attention": self.config.attention, "dataset": self.train_data.name}
        return {**names, "seed": recipe.seed, "epoch": self.epoch}

    def _rows(self, source: str, numbers: list[tuple[str, float]], n: int) -> pd.DataFrame:
        rows = [{**self._identity(), "indicator": name, "source": source, "mean": x, "n": n} for name, x in numbers]
        return make_frame(rows, TABLE_COLUMNS)

    def _track(self, rows: pd.DataFrame) -> None:
        means = rows.groupby(["indicator", "source"], sort=False)["mean"].mean()
        self.accelerator.log({f"{source}/{name}": x for (name, source), x in means.items()}, step=self.epoch)

    def _progress(self, epoch: int, step: int, totals: list[float], seconds: float) -> Progress:
        steps, epochs = self.steps_per_epoch, self.recipe.epochs
        loss, correct, images = totals
        left = (epochs - epoch) * steps - step - 1
        speed = images * self.accelerator.num_processes / seconds
        step_seconds = seconds / (step + 1)
        return Progress(epoch + 1, epochs, step + 1, steps, loss / images, correct / images, speed, left * step_seconds)

    def _over_processes(self, sums: Tensor) -> Tensor:
        if self.accelerator.num_processes == 1:
            return sums
        return self.accelerator.reduce(sums.to(self.accelerator.device), "sum").cpu()


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


def _accelerator(mixed_precision: Precision, track: str | None, folder: Path) -> Accelerator:
    chosen: str | None = mixed_precision
    if mixed_precision == "auto":
        chosen = None if "ACCELERATE_MIXED_PRECISION" in os.environ else "bf16" if torch.cuda.is_available() else "no"
    without_gpu = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.cuda.is_available()
    try:
        return Accelerator(mixed_precision=chosen, log_with=track, project_dir=folder, cpu=without_gpu)
    except ValueError as error:
        raise InputError(f"mixed_precision or track cannot be used here: {error}") from None


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


def _check_fit(config: ViTConfig, recipe: TrainConfig, data: ImageData, processes: int) -> None:
    if data.split == "all":
        raise InputError(f"{data.name} has no training and test parts: put its classes into train/ and test/ folders")
    if recipe.orthogonality and config.score_dims is not None:
        raise InputError(f"orthogonality must be 0 for a compressed model, got {recipe.orthogonality}")
    if recipe.batch_size % processes:
        raise InputError(f"batch_size must be a multiple of the {processes} processes, got {recipe.batch_size}")
    if data.channels != config.in_channels:
        raise InputError(f"{data.name} images have {data.channels} channels, the model takes {config.in_channels}")
    if len(data.classes) > config.num_classes:
        raise InputError(f"{data.name} has {len(data.classes)} classes, the model tells {config.num_classes} apart")


def _flat(*parts: Any) -> dict[str, Any]:
    return {key: value for part in parts for key, value in dataclasses.asdict(part).items()}


def _mix(*numbers: int) -> int:
    """One generator seed from several small numbers, far apart for neighbours."""
    mixed = 0
    for number in numbers:
        mixed = (mixed * 1_000_003 + number + 1) % (2**63 - 25)
    return mixed


def _generator(*numbers: int) -> torch.Generator:
    return torch.Generator().manual_seed(_mix(*numbers))
