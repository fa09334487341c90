"""Measure attention while a model is trained, in any loop, and leave the training bit for bit as it was.

>>> monitor = Monitor(model, probe_images, every=100, sinks=["tensorboard"], alarms="all")     # doctest: +SKIP
>>> with monitor:                                                                              # doctest: +SKIP
...     train(model)                   # any loop: steps of optimizers that hold the model's weights are counted
>>> monitor.history                    # a tidy frame; monitor.save("reports/run"), then: svda report reports/run
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack

import pandas as pd
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_post_hook

from svda_analysis.alarms import Alarm, AttentionWarning, choose_alarms
from svda_analysis.attention import check_choice, check_count
from svda_analysis.calls import AttentionRecord
from svda_analysis.errors import InputError, one_line, several
from svda_analysis.forward import for_model, images_in
from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.indicators import Indicator, choose_indicators
from svda_analysis.results import Analysis, Run, versions
from svda_analysis.rides import Ride, ride
from svda_analysis.sinks import Measurement, Sink, open_sinks
from svda_analysis.soundness import NOT_FINITE, NotFiniteError
from svda_analysis.streaming import Stream
from svda_analysis.tokens import TokensGiven
from svda_analysis.undisturbed import full_precision, inner_model, is_compiled, undisturbed

USUAL = ("attention_entropy", "effective_rank", "largest_logit", "rank_one_residual")  # quick, and what alarms read
_NOT_ON_BATCH = {"a_noisy", "a_pixel_noisy", "ablated_loss"}  # what takes a forward of its own
_MOST_STEPS = 2**62


class Monitor:
    """Measures ``model`` every ``every`` steps of its optimizer, on a fixed probe or on the training batch itself.

    ``on="probe"``: ``probe_images (B, C, H, W)`` float, prepared as the model takes them, go through it in eval mode,
    without gradients and autocast, ``batch_size`` at once; training flags, generators (torch, CUDA, numpy, Python),
    gradients and scaler stay as they are, so the training is bit for bit the one without the monitor. What
    ``torch.compile``, DDP, accelerate and others wrap around a model is looked through. Every process measures (FSDP
    needs them all), the first alone writes and warns.
    ``on="batch"``: no forward of its own; every ``every``-th step its first forward in training mode is tapped as it
    runs. Not for a compiled model, and not for indicators that need a forward of their own.

    Count steps with :meth:`step` behind each step of the optimizer, or open the monitor around the loop (``with
    monitor:``), which counts every step of an optimizer that holds weights of the model (of several each round, at its
    first), measures before the first and behind the last.

    ``indicators`` are names or groups, as for :func:`~svda_analysis.analysis.analyze` (None: :data:`USUAL`, which are
    quick; on the batch the spectra of sigma alone). ``sinks`` are where each measurement goes, one or several
    (:func:`~svda_analysis.sinks.open_sink`); one that fails is dropped with a warning. ``alarms`` are names of
    :data:`~svda_analysis.alarms.ALARMS`, ``"all"``, or of one's own; they warn with :class:`AttentionWarning` when they
    begin, but not before the first step. ``name`` is the model's in tables; ``noise`` and ``seed`` as for ``analyze``,
    ``tokens`` say how tokens lie, where the model does not show it.

    Raises :class:`InputError` at once for what cannot be measured: a probe that does not suit the model, a model that
    shows no attention, a sink that is not installed.
    """

    def __init__(
        self,
        model: nn.Module,
        probe_images: Tensor | None = None,
        *,
        indicators: Sequence[str] | None = None,
        every: int = 100,
        on: Literal["probe", "batch"] = "probe",
        sinks: Any = (),
        alarms: Iterable[str | Alarm] | None = None,
        batch_size: int = 64,
        noise: float = 0.1,
        seed: int = 0,
        name: str | None = None,
        **tokens: Unpack[TokensGiven],
    ) -> None:
        check_count("every", every, _MOST_STEPS)
        check_count("batch_size", batch_size, _MOST_STEPS)
        check_choice("on", on, ("probe", "batch"))
        self.model, self.every, self.on, self.batch_size = model, every, on, batch_size
        self.alarms = choose_alarms(alarms)
        wanted = [*several(USUAL if indicators is None else indicators), *(alarm.indicator for alarm in self.alarms)]
        self.indicators = choose_indicators(list(dict.fromkeys(wanted)))
        self.name = name or type(inner_model(model)).__name__
        self.steps = 0
        self.seconds = 0.0  # spent on measuring, but for what rides on the batch
        self.measurements: list[Measurement] = []
        self._how: dict[str, Any] = {"noise": noise, "seed": seed, **tokens}
        if indicators is None and on == "batch":
            self._how["spectra_of"] = ("sigma",)
        self._kind, self._raised = "dot", set[tuple[Any, ...]]()
        self._hooks: list[Any] = []
        if on == "batch":
            self._board_batches(probe_images)
        else:
            self.images = _checked_probe(probe_images)
            self._try()
        self.sinks = open_sinks(sinks)

    # --- when -------------------------------------------------------------------------------------------------------

    def step(self, number: int | None = None) -> Measurement | None:
        """Call it behind each step of the optimizer; returns what was measured, where it was time to.

        ``number`` is how many steps are done, where the loop knows (a resumed one). A model whose numbers are no longer
        finite is warned of, and not measured.
        """
        self.steps = self.steps + 1 if number is None else number
        if self.on == "batch":
            return self._landed()
        return None if self.steps % self.every else self._measured_if_finite()

    def __enter__(self) -> Monitor:
        own, turned = {id(p) for p in self.model.parameters()}, set[int]()

        def stepped(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            """Of several optimizers a round is one step, counted as its first one steps."""
            if any(id(p) in own for group in optimizer.param_groups for p in group["params"]):
                begins = not turned or id(optimizer) in turned
                if begins:
                    turned.clear()
                turned.add(id(optimizer))
                if begins:
                    self.step()

        self._hooks.append(register_optimizer_step_post_hook(stepped))
        if self.on == "probe" and not self.measurements:
            self.measure()
        return self

    def __exit__(self, error: object, *_: object) -> None:
        self.close()
        if error is None and self.on == "probe" and self.measurements[-1].step != self.steps:
            self._measured_if_finite()

    def close(self) -> None:
        """Take off all that counts steps or rides on forwards; what was measured stays."""
        for hook in self._hooks:
            hook.remove() if hasattr(hook, "remove") else hook()
        self._hooks = []

    # --- what -------------------------------------------------------------------------------------------------------

    def measure(self) -> Measurement:
        """Measure the probe now, whatever the step. Raises :class:`InputError` on a monitor of batches."""
        if self.on == "batch":
            raise InputError("measure needs a probe: this monitor rides on training batches (on='batch')")
        started = time.perf_counter()
        found = self._took(measure_probe(self.model, self.images.split(self.batch_size), self.indicators, **self._how))
        self.seconds += time.perf_counter() - started
        return found

    def _measured_if_finite(self) -> Measurement | None:
        try:
            return self.measure()
        except NotFiniteError as error:
            self._warn(f"step {self.steps}: nothing measured: the model {NOT_FINITE}: {one_line(error)}")
            return None

    def _try(self) -> None:
        """One image through the model: what is wrong shows now, not in an hour."""
        with undisturbed(self.model) as model:
            tokens = {key: x for key, x in self._how.items() if key not in ("noise", "seed")}
            Stream(model, choose_indicators(["attention_entropy"]), **tokens).update(for_model(self.images[:1], model))

    def _took(self, stream: Stream) -> Measurement:
        """Keep what a stream measured, and tell the sinks."""
        self._kind = stream.kind
        who = {"model": self.name, "attention": stream.kind, "epoch": self.steps}
        table = stream.table({**who, "dataset": self.on})
        found = Measurement(self.steps, table, stream.spectra(who), tuple(self._alarmed(table)))
        self.measurements.append(found)
        if _is_first_process():
            for line in found.alarms:
                self._warn(line)
            for sink in list(self.sinks):
                self._tell(sink, found)
        return found

    def _tell(self, sink: Sink, found: Measurement) -> None:
        try:
            sink(found)
        except Exception as error:  # a network that is down must not end a training
            self.sinks.remove(sink)
            self._warn(f"step {self.steps}: a sink failed and is left out from now on: {one_line(error)}")

    def _alarmed(self, table: pd.DataFrame) -> list[str]:
        """A line for each alarm that begins; one that goes on was told before."""
        now, lines = set[tuple[Any, ...]](), []
        for alarm in self.alarms if self.steps else ():
            found = alarm.where(table)
            keys = [(alarm.name, *place) for place in found.drop(columns="mean").itertuples(index=False)]
            now.update(keys)
            if not self._raised.issuperset(keys):
                lines.append(alarm.line(found, self.steps))
        self._raised = now
        return lines

    def _warn(self, line: str) -> None:
        if _is_first_process():
            warnings.warn(line, AttentionWarning, stacklevel=3)

    # --- on the batch -----------------------------------------------------------------------------------------------

    def _board_batches(self, probe_images: Tensor | None) -> None:
        if probe_images is not None:
            raise InputError("probe_images must be left out with on='batch', which measures the training batch")
        if is_compiled(self.model):
            raise InputError("on='batch' needs a model that is not compiled: its graph hides its calls (use a probe)")
        if slow := [one.name for one in self.indicators if _NOT_ON_BATCH & set(one.needs)]:
            raise InputError(f"on='batch' makes no forward of its own, which {', '.join(slow)} needs (use a probe)")
        self._stream: Stream | None = None
        self._trouble = ""
        self._hooks.append(ride(inner_model(self.model), self._board, self._leave))

    def _board(self, given: tuple[Any, ...]) -> Ride | None:
        """Taps the first forward in training mode of a step that is to be measured."""
        model = inner_model(self.model)
        if (self.steps + 1) % self.every or self._stream is not None or not model.training:
            return None
        images = next((x for one in given if (x := _images(one)) is not None), None)
        if images is None:
            self._trouble = "the model was given no images (B, C, H, W)"
            return None
        stream = self._stream = Stream(model, self.indicators, **self._how)
        self._trouble, self._count = "", len(images)
        self._inputs = stream.begin(len(images), len(images))
        return Ride(self._take, self._inputs)

    def _take(self, record: AttentionRecord) -> None:
        if self._trouble or self._stream is None:
            return
        try:
            with torch.no_grad(), full_precision(self._stream.model):
                self._stream.on_record(record)
        except InputError as error:  # the training goes on whatever cannot be measured
            self._trouble = one_line(error)

    def _leave(self) -> None:
        if self._stream is None or self._trouble:
            return
        try:
            with torch.no_grad(), full_precision(self._stream.model):
                self._stream.end(self._inputs)
            self._stream.images += self._count
        except InputError as error:
            self._trouble = one_line(error)

    def _landed(self) -> Measurement | None:
        """The step is over: what rode on it, if anything did."""
        if self.steps % self.every:
            return None
        stream, self._stream = self._stream, None
        if stream is None or self._trouble:
            why = self._trouble or "no forward in training mode was seen (is the model compiled?)"
            self._warn(f"step {self.steps}: nothing measured: {why}")
            return None
        return self._took(stream)

    # --- what it came to --------------------------------------------------------------------------------------------

    @property
    def history(self) -> pd.DataFrame:
        """All that was measured, with :data:`~svda_analysis.frames.TABLE_COLUMNS`; its column ``epoch`` counts steps of
        the optimizer."""
        tables = [found.table for found in self.measurements]
        return pd.concat(tables, ignore_index=True) if tables else make_frame([], TABLE_COLUMNS)

    @property
    def analysis(self) -> Analysis:
        """The last measurement and the history, as :func:`~svda_analysis.analysis.analyze` returns them."""
        if not self.measurements:
            raise InputError("the monitor must have measured once, got no step that was measured")
        last, images = self.measurements[-1], self.images if self.on == "probe" else ()
        run = Run(
            model=self.name,
            attention=self._kind,
            epoch=last.step,
            dataset=self.on,
            parameters=sum(p.numel() for p in inner_model(self.model).parameters()),
            images=len(images) or int(last.table["n"].max()),
            data="a fixed probe" if self.on == "probe" else "the training batch of each measured step",
            seconds=round(self.seconds, 2),
            settings={"every": self.every, **{key: self._how[key] for key in ("noise", "seed")}},
        )
        alarms = [line for found in self.measurements for line in found.alarms]
        return Analysis(
            table=last.table,
            spectra=last.spectra,
            history=self.history,
            runs=(run,),
            warnings=(f"{self.name} was measured while it was trained: an epoch here is one step", *alarms),
            versions=versions(),
        )

    def save(self, folder: str | os.PathLike[str]) -> list[Path]:
        """Write :attr:`analysis` into a folder, for ``svda report FOLDER`` to show; returns the files."""
        return self.analysis.save(folder)


def measure_probe(model: nn.Module, batches: Iterable[Tensor], indicators: list[Indicator], **how: Any) -> Stream:
    """What a training measures when it is time to: ``indicators`` of ``model`` over ``batches (B, C, H, W)`` of a fixed
    probe, the training undisturbed; ``how`` as for :class:`~svda_analysis.streaming.Stream`."""
    with undisturbed(model) as inside:
        stream = Stream(inside, indicators, **how)
        for images in batches:
            stream.update(for_model(images, inside))
    return stream


def _checked_probe(images: Tensor | None) -> Tensor:
    right = isinstance(images, Tensor) and images.ndim >= 4 and images.is_floating_point() and len(images)
    if not right:
        came = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"probe_images must be floats (B, C, H, W), of one image or more, got {came}")
    return images.detach().clone()  # type: ignore[union-attr]  # checked above


def _images(given: Any) -> Tensor | None:
    """The images in an argument of a forward, if it holds any."""
    found = images_in(given) if isinstance(given, dict) else given
    return found if isinstance(found, Tensor) and found.ndim >= 4 and found.is_floating_point() else None


def _is_first_process() -> bool:
    distributed = torch.distributed
    return not (distributed.is_available() and distributed.is_initialized()) or distributed.get_rank() == 0
