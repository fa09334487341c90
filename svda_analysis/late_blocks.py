"""Late blocks: the attention of a pretrained ViT's last blocks replaced, these trained, the rest frozen.

What the first of them reads never changes while they are trained, so it is computed once, of images as they are
(without augmentation), and kept in a file on disk: 4 bytes x tokens x width for an image. It has no name and goes with
the process, or lies in a folder for other runs of the same base, blocks and images. Training then runs the last blocks
alone.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svda_analysis.answers import logits_of
from svda_analysis.attention import check_count
from svda_analysis.checkpoint import Learned
from svda_analysis.classifiers import with_new_head
from svda_analysis.conversion import convert, layer_of
from svda_analysis.converted import conversion_of, save_converted
from svda_analysis.errors import InputError, check_writable
from svda_analysis.forward import call_model
from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.history_rows import loss_and_accuracy, rows_of_model, sums_of_answers
from svda_analysis.hosts import attention_hosts, choose_hosts
from svda_analysis.indicators import choose_indicators
from svda_analysis.late_features import Features, features_key, features_of
from svda_analysis.monitor import measure_probe
from svda_analysis.penalties import decay_projections, forget_row_energy, penalty, track_row_energy
from svda_analysis.recipe import TrainConfig, lr_share, parameter_groups
from svda_analysis.results import versions
from svda_analysis.sources import as_learned
from svda_analysis.specs import Given, open_model
from svda_analysis.subject import Subject
from svda_analysis.training import Observer, Progress
from svda_analysis.training_data import TrainingData, both_parts, generator, mixed_seed
from svda_analysis.writing import check_target, only_writer

_READ_FOR_START = 256  # images that sigma is read off the weights over
_MOST_APART = 1e-3  # of the largest logit, by which the last blocks alone may differ from the whole model
_WITHOUT_AUGMENTATION: dict[str, Any] = {"flip": False, "rotation": 0.0, "crop_padding": 0}


def train_late_blocks(
    base: Given,
    recipe: TrainConfig,
    out: str | os.PathLike[str],
    *,
    blocks: int = 2,
    attention: str = "svda",
    start: Literal["fresh", "weights"] = "fresh",
    sigma_form: str = "linear",
    sigma_start: float | str = "double_dim",
    data_root: str | os.PathLike[str] | None = None,
    features: str | os.PathLike[str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
    on_start: Callable[[list[str]], None] | None = None,
    on_progress: Observer | None = None,
) -> Learned:
    """Replace the attention of the last ``blocks`` blocks of ``base``, train these, what follows them and a new head
    for the classes of ``recipe.dataset``, and write ``out``; the rest stays bit for bit what it was.

    ``base`` is what :func:`~svda_analysis.specs.open_model` takes; ``attention``, ``start``, ``sigma_form`` and
    ``sigma_start`` are those of :func:`~svda_analysis.conversion.convert`. Of the recipe what concerns augmentation and
    ``normalise`` has no effect: images come as the model takes them. After each epoch the history gets loss and
    accuracy over training and test images and ``recipe.monitor_indicators`` of the whole model on its probe. ``out`` is
    written once, at the end: a converted model that says what it learned, opened by its path. A model in half precision
    is trained in float32. ``features`` is a folder that keeps what the first late block reads, for other runs that
    differ in attention, start, seed or recipe alone.

    ``progress`` is told how many images went through the frozen part, ``on_start`` gets lines when they are through,
    ``on_progress`` a :class:`~svda_analysis.training.Progress` after each step. Raises :class:`InputError` for bad
    input, for a model whose last blocks cannot be run alone, and for a loss that is no finite number.
    """
    check_count("late_blocks", blocks)
    recipe = dataclasses.replace(recipe, **_WITHOUT_AUGMENTATION)
    with only_writer(out):
        check_target(out, [base] if isinstance(base, str | os.PathLike) else [], name="out", force=None)
        check_writable(Path(out).parent, "out: the folder")
        if features is not None:
            check_writable(Path(features), "features: the folder")
            Path(features).mkdir(parents=True, exist_ok=True)
        subject = open_model(base)
        if blocks > (number := len(attention_hosts(subject.model))):
            raise InputError(f"late_blocks must be at most the {number} blocks of {subject.name}, got {blocks}")
        choose_hosts(subject.model, f"last:{blocks}")  # what cannot be replaced is told before images are looked for
        data = _images_for(subject, recipe, data_root)
        how: dict[str, Any] = {"sigma_form": sigma_form, "sigma_start": sigma_start, "start": start}
        if start == "weights":
            chosen = data.learned_from[:_READ_FOR_START]
            how["images"] = next(data.train.batches(len(chosen), indices=chosen))[0]
        model, late = _with_late_blocks(subject, data.train.classes, blocks, recipe.seed, to=attention, **how)
        run = _LateRun(model, late, data, subject, {"model": Path(out).stem, "attention": attention})
        run.compute_features(Path(out).parent, features, progress)
        if on_start:
            on_start([data.train.source, data.test.source, run.told()])
        for _ in range(recipe.epochs):
            run.train_epoch(on_progress)
        learned = run.learned({"base": subject.name, "late_blocks": blocks, "start": start})
        model.learned = learned  # type: ignore[assignment]  # no tensor and no module
        save_converted(model.cpu().eval().requires_grad_(True), out)
    return learned


def _images_for(subject: Subject, recipe: TrainConfig, root: str | os.PathLike[str] | None) -> TrainingData:
    """Both parts of the recipe's data set as the model takes images."""
    size = subject.preprocessing.image_size
    if size is None:
        raise InputError(f"{subject.name} does not say how large its images are")
    train, test = (as_learned(part, subject) for part in both_parts(recipe.dataset, size, root))
    if train.split == "all":
        raise InputError(f"{train.name} has no training and test parts: put its classes into train/ and test/ folders")
    data = TrainingData(train, test, recipe)
    if not len(data.learned_from):
        raise InputError(f"validation_images must leave some of {len(train)} images, got {recipe.validation_images}")
    return data


def _with_late_blocks(
    subject: Subject, classes: Sequence[str], blocks: int, seed: int, **how: Any
) -> tuple[nn.Module, list[str]]:
    """A copy with a new head, converted, and the names of its late attention modules."""
    headed = with_new_head(copy.deepcopy(subject.model), classes, seed=seed)
    model = convert(subject.like(headed), blocks=f"last:{blocks}", inplace=True, **how)
    found = conversion_of(model)
    model.conversion = dataclasses.replace(found, base=found.base.with_classes(classes))  # type: ignore[assignment]
    return model.float(), [host.name for host in attention_hosts(model)[-blocks:]]


# --- the last blocks alone --------------------------------------------------------------------------------------------


class _Block(NamedTuple):
    """A block by its place: the list of blocks that holds it, and its key there."""

    holder: nn.Module
    key: str

    @property
    def module(self) -> nn.Module:
        found: nn.Module = self.holder._modules[self.key]  # type: ignore[assignment]  # none of a list is None
        return found


def _block_of(model: nn.Module, attention: str) -> _Block:
    """The block that an attention module lies in: the nearest part around it that is one of a list."""
    name = attention
    while name := name.rpartition(".")[0]:
        holder, _, key = name.rpartition(".")
        if isinstance(found := model.get_submodule(holder), nn.Sequential | nn.ModuleList):
            return _Block(found, key)
    raise InputError(f"{attention} lies in no list of blocks: the blocks before it cannot be left out")


def _first_read(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return args[0] if args else next(iter(kwargs.values()), None)


@contextlib.contextmanager
def _reads_of(block: nn.Module) -> Iterator[list[Tensor]]:
    """Inside, what the block reads ``(B, N, C)`` at each call."""
    found: list[Tensor] = []

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(_first_read(args, kwargs).detach())

    hook = block.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield found
    finally:
        hook.remove()


@contextlib.contextmanager
def _from_block(model: nn.Module, block: _Block, blank: Tensor) -> Iterator[Callable[[Tensor], Tensor]]:
    """Inside, the model has no blocks before ``block``, which reads what the yielded function is given:
    ``features (B, N, C) -> logits (B, classes)``. ``blank (C, H, W)`` is an image, whose place alone is needed."""
    given: list[Tensor] = []

    def replace(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if args:
            return (given[-1], *args[1:]), kwargs
        return args, {**kwargs, next(iter(kwargs)): given[-1]}

    def logits(features: Tensor) -> Tensor:
        given[:] = [features]
        return logits_of(call_model(model, blank.expand(len(features), *blank.shape)), model).float()

    whole = block.holder._modules
    keys = list(whole)[list(whole).index(block.key) :]
    numbered = all(key.isdecimal() for key in keys)
    hook = block.module.register_forward_pre_hook(replace, with_kwargs=True)
    block.holder._modules = {str(at) if numbered else key: whole[key] for at, key in enumerate(keys)}
    try:
        yield logits
    finally:
        block.holder._modules = whole
        hook.remove()


# --- one run ----------------------------------------------------------------------------------------------------------


class _LateRun:
    """Late blocks under training; ``epoch`` epochs are done. ``late`` are the names of their attention modules, ``who``
    the columns ``model`` and ``attention`` of the history."""

    def __init__(
        self, model: nn.Module, late: Sequence[str], data: TrainingData, subject: Subject, who: Mapping[str, str]
    ) -> None:
        self.model, self.data, self.recipe, self.device = model.to(subject.device), data, data.recipe, subject.device
        self.block = _block_of(model, late[0])
        self.attention = [layer_of(model.get_submodule(name)) for name in late]
        self.layers = nn.ModuleList(self.attention)  # penalties are of these, and not of frozen ones
        self.tokens = subject.tokens
        self.who = {**who, "dataset": data.train.name, "seed": self.recipe.seed}
        self.parts: dict[str, Features] = {}
        self.epoch, self.history = 0, make_frame([], TABLE_COLUMNS)
        first = data.train.batches(2, indices=data.learned_from[:2])
        self.model.eval()
        self.blank, self.learning, self.bytes = self._run_alone(next(first)[0].to(self.device))
        self.optimizer = torch.optim.AdamW(parameter_groups(model, self.recipe), betas=(0.9, self.recipe.beta2))
        track_row_energy(self.layers, self.recipe.norm_penalty > 0)

    def _run_alone(self, images: Tensor) -> tuple[Tensor, list[nn.Parameter], int]:
        """A blank image, the parameters of the last blocks and what follows (the others are frozen), and the bytes of
        an image's features. Raises :class:`InputError` where the last blocks on features do not give what the whole
        model does."""
        features, blank = self._features_of(images), torch.zeros_like(images[0])
        with torch.no_grad():
            whole = logits_of(call_model(self.model, images), self.model)
        every = list(self.model.parameters())
        name = type(self.model).__name__
        try:
            with _from_block(self.model, self.block, blank) as late:
                alone = late(features.to(self.device))
        except InputError as error:
            raise InputError(f"the last blocks of {name} cannot be run alone: {error}") from None
        reached = torch.autograd.grad(alone.sum(), every, allow_unused=True)
        off = float((alone.detach() - whole).abs().max() / whole.abs().max().clamp_min(1e-30))
        if not off < _MOST_APART:
            why = f"they read more than the tokens of the block before them (logits off by {off:.2g})"
            raise InputError(f"the last blocks of {name} cannot be run alone: {why}")
        for parameter, gradient in zip(every, reached, strict=True):
            parameter.requires_grad_(gradient is not None)
        return blank, [p for p in every if p.requires_grad], features[0].numel() * features.element_size()

    def compute_features(
        self,
        beside: Path,
        kept_in: str | os.PathLike[str] | None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> None:
        """What the first late block reads of all images that are learned from and tested on: in ``kept_in``, or in a
        file ``beside`` what is written."""
        data = self.data
        parts = {"train": (data.train, data.learned_from), "test": (data.test, torch.arange(len(data.test)))}
        if len(data.validated):
            parts["validation"] = (data.train, data.validated)
        folder, key = (beside, None) if kept_in is None else (Path(kept_in), features_key(parts, self._features_of))
        self.parts = features_of(parts, self._features_of, folder, key, progress)

    def _features_of(self, images: Tensor) -> Tensor:
        with torch.no_grad(), _reads_of(self.block.module) as found:
            call_model(self.model, images.to(self.device))
        return found[0].float().cpu().contiguous()

    def told(self) -> str:
        """What learns and what was kept, in a line."""
        images = sum(map(len, self.parts.values()))
        number, every = (sum(p.numel() for p in found) for found in (self.learning, self.model.parameters()))
        kept = f"features of {images:,} images ({images * self.bytes / 1e6:,.0f} MB on disk), without augmentation"
        return f"{number:,} of {every:,} parameters learn; {kept}"

    # --- learning -----------------------------------------------------------------------------------------------------

    def train_epoch(self, on_progress: Observer | None) -> None:
        """A pass over the features that are learned from, then what is measured after it."""
        recipe, train = self.recipe, self.parts["train"]
        size = self.data.batch_size
        steps, started, sums = self.data.steps_per_epoch, time.perf_counter(), torch.zeros(3, dtype=torch.float64)
        order = torch.randperm(len(train), generator=generator(recipe.seed, self.epoch))[: steps * size].view(-1, size)
        self.model.train()
        with _from_block(self.model, self.block, self.blank) as late:
            for step, chosen in enumerate(order):
                features, labels = train[chosen]
                sums += self._step(late, step, features.to(self.device), labels.to(self.device))
                if on_progress and step + 1 < steps:
                    on_progress(self._progress(step + 1, sums, time.perf_counter() - started))
        seconds = time.perf_counter() - started
        state = self._progress(steps, sums, seconds)
        self.epoch += 1
        self.model.eval()
        learned = {"loss": state.loss, "accuracy": state.accuracy, "epoch_seconds": seconds}
        rows = self._measured({name: {"mean": value} for name, value in learned.items()}, steps * size)
        self.history = rows if self.history.empty else pd.concat([self.history, rows], ignore_index=True)
        if on_progress:
            sigmas = [x.detach().float().cpu().numpy() for layer in self.attention if (x := layer.sigma) is not None]
            on_progress(dataclasses.replace(state, epoch_rows=rows, sigma=np.stack(sigmas) if sigmas else None))

    def _step(self, late: Callable[[Tensor], Tensor], step: int, features: Tensor, labels: Tensor) -> Tensor:
        """One step of the optimizer; its loss, hits and images, ``(3,) float64``."""
        recipe, steps = self.recipe, self.data.steps_per_epoch
        done = self.epoch * steps + step
        share = lr_share(done, recipe.epochs * steps, recipe.warmup_share, recipe.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = group["peak_lr"] * share
        torch.manual_seed(mixed_seed(recipe.seed, self.epoch, step, 0))  # for dropout
        logits = late(features)
        loss = F.cross_entropy(logits, labels, label_smoothing=recipe.label_smoothing)
        (loss + penalty(self.layers, **recipe.penalties)).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.learning, recipe.clip_norm or math.inf)
        if not (loss.isfinite() and norm.isfinite()):
            raise self._diverged(f"at step {step + 1} of epoch {self.epoch + 1}")
        self.optimizer.step()
        if recipe.qk_weight_decay:
            decay_projections(self.layers, recipe.lr * share * recipe.qk_weight_decay)
        self.optimizer.zero_grad()
        forget_row_energy(self.layers)
        hits = (logits.detach().argmax(-1) == labels).sum()
        return torch.tensor([float(loss.detach()) * len(labels), float(hits), len(labels)], dtype=torch.float64)

    def _diverged(self, when: str) -> InputError:
        return InputError(
            f"lr is too high for this recipe: {when} the loss is no longer a finite number; lower it (nothing was "
            "saved yet)"
        )

    def _progress(self, step: int, sums: Tensor, seconds: float) -> Progress:
        loss, hits, images = sums.tolist()
        epochs, steps = self.recipe.epochs, self.data.steps_per_epoch
        left = ((epochs - self.epoch) * steps - step) * seconds / step
        numbers = {"loss": loss / images, "accuracy": hits / images, "images_per_second": images / seconds}
        return Progress(self.epoch + 1, epochs, step, steps, **numbers, seconds_left=left)

    # --- measuring ----------------------------------------------------------------------------------------------------

    def _measured(self, learned: Mapping[str, Mapping[str, float]], images: int) -> pd.DataFrame:
        who = {**self.who, "epoch": self.epoch}
        rows = [rows_of_model(who, "train", learned, images)]
        with torch.no_grad(), _from_block(self.model, self.block, self.blank) as late:
            for name, part in self.parts.items():
                if name != "train":
                    rows.append(self._tested(who, name, part, late))
        return pd.concat([*rows, self._indicators(who)], ignore_index=True)

    def _tested(
        self, who: Mapping[str, Any], name: str, part: Features, late: Callable[[Tensor], Tensor]
    ) -> pd.DataFrame:
        chosen = self.data.tested(self.epoch) if name == "test" else torch.arange(len(part))
        sums = torch.zeros(4, dtype=torch.float64)
        for batch in chosen.split(256):
            features, labels = part[batch]
            sums += sums_of_answers(late(features.to(self.device)), labels)
        if not sums.isfinite().all():
            raise self._diverged(f"after epoch {self.epoch}")
        return rows_of_model(who, name, loss_and_accuracy(sums), int(sums[3]))

    def _indicators(self, who: Mapping[str, Any]) -> pd.DataFrame:
        """The recipe's indicators of the whole model, on the probe."""
        way = self.data.test.preprocessing
        known = None if way.processor else way.normalisation
        chosen = choose_indicators(self.recipe.monitored)
        probe = (images for images, _ in self.data.probe())
        how: dict[str, Any] = {"seed": self.recipe.seed, "normalisation": known, **self.tokens}
        return measure_probe(self.model, probe, chosen, **how).table(dict(who))

    def learned(self, more: Mapping[str, Any]) -> Learned:
        """What the run came to; ``more`` goes into its recipe."""
        data = self.data.train
        about: dict[str, Any] = {
            "name": data.name,
            "source": data.source,
            "image_size": data.image_size,
            "channels": data.channels,
        }
        about |= {"mean": list(data.mean), "std": list(data.std), "classes": list(data.classes)}
        recipe = {**dataclasses.asdict(self.recipe), **more}
        return Learned(epoch=self.epoch, recipe=recipe, data=about, history=self.history, versions=versions())
