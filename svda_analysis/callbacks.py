"""A :class:`~svda_analysis.monitor.Monitor` in other people's trainers, a few lines each.

A loop of one's own, and timm's, needs none of these: ``with monitor:`` around it, or ``monitor.step()`` in it.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from svda_analysis.errors import InputError
from svda_analysis.monitor import Monitor


def trainer_callback(monitor: Monitor) -> Any:
    """For ``Trainer(..., callbacks=[trainer_callback(monitor)])`` of Hugging Face transformers."""
    base = _class_of(["transformers"], "TrainerCallback", "transformers")

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        monitor.step(state.global_step)

    return type("MonitorCallback", (base,), {"on_step_end": on_step_end})()


def lightning_callback(monitor: Monitor) -> Any:
    """For ``Trainer(..., callbacks=[lightning_callback(monitor)])`` of Lightning; steps are those of its optimizers."""
    base = _class_of(["lightning.pytorch", "pytorch_lightning"], "Callback", "lightning")

    def on_train_batch_end(self: Any, trainer: Any, *_: Any, **__: Any) -> None:
        if trainer.global_step > monitor.steps:  # a batch that is accumulated is no step
            monitor.step(trainer.global_step)

    return type("MonitorCallback", (base,), {"on_train_batch_end": on_train_batch_end})()


def _class_of(modules: list[str], name: str, package: str) -> Any:
    for module in modules:
        try:
            return getattr(import_module(module), name)
        except ImportError:
            continue
    raise InputError(f"this callback needs {package}: pip install {package}")
