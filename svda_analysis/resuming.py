"""Whether a run can go on from a checkpoint: the same recipe, data and precision, and an optimizer state that fits.

Of the optimizer nothing but its moments and step counts is taken from the file, each checked against its parameter;
rates, decay and all other settings come from the recipe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from svda_analysis.checkpoint import Checkpoint
from svda_analysis.errors import InputError
from svda_analysis.model import ViTConfig
from svda_analysis.recipe import TrainConfig, changes
from svda_analysis.soundness import broken_weight
from svda_analysis.weight_files import is_dense

DRAWING = "by image"  # how augmentation is drawn; checkpoints of earlier versions, drawn by batch, do not say
_SAME_DATA = ("name", "image_size", "channels", "mean", "std", "classes")
_SAID = {"device": "device", "processes": "processes", "threads": "threads of torch", "torch": "torch"}


def check_resumable(
    checkpoint: Checkpoint,
    path: Path,
    config: ViTConfig,
    recipe: TrainConfig,
    data: Mapping[str, Any],
    made_with: Mapping[str, str],
) -> None:
    """Raise :class:`InputError`, one line that says what differs, unless a run of this plan can go on from there.

    ``data`` and ``made_with`` are what the run would write into a checkpoint of its own.
    """
    if changed := changes(checkpoint, config, recipe):
        raise InputError(f"{path} cannot be resumed with another recipe: {', '.join(changed)}")
    if checkpoint.optimizer is None:
        raise InputError(f"{path} cannot be resumed: it was exported without its optimizer state")
    for name in _SAME_DATA:
        if name in checkpoint.data and _plain(checkpoint.data[name]) != _plain(data[name]):
            found = _first_difference(checkpoint.data[name], data[name])
            raise InputError(f"{path} cannot be resumed with other data: {name} {found}")
    known = checkpoint.versions.get("mixed_precision", made_with["mixed_precision"])
    if known != made_with["mixed_precision"]:
        now = made_with["mixed_precision"]
        raise InputError(f"{path} cannot be resumed in another precision: mixed_precision {known} -> {now}")
    if checkpoint.versions.get("augmentation") != DRAWING and checkpoint.epoch < recipe.epochs:
        version = checkpoint.versions.get("svda-analysis", "an earlier version")
        raise InputError(
            f"{path} cannot be resumed: it was begun by svda-analysis {version}, which drew augmentation by batch; "
            "finish it there, or begin again"
        )


def said_of_machine(checkpoint: Checkpoint, made_with: Mapping[str, str]) -> list[str]:
    """A line for what differs on this machine from where a checkpoint was made, which changes the last bits."""
    known = {name: checkpoint.versions[name] for name in _SAID if name in checkpoint.versions}
    changed = [
        f"{_SAID[name]} {then} -> {made_with[name]}"
        for name, then in known.items()
        if then.split(", ")[-1] != made_with[name]
    ]
    if not changed:
        return []
    return [f"resumed with {', '.join(changed)}: results agree to rounding, not bit for bit"]


def joined_machine(checkpoint: Checkpoint, made_with: Mapping[str, str]) -> dict[str, str]:
    """What a run that goes on says it was made with: where a machine differs, both, in their order."""
    joined = dict(made_with)
    for name in _SAID:
        then = checkpoint.versions.get(name, made_with[name])
        joined[name] = then if then.split(", ")[-1] == made_with[name] else f"{then}, {made_with[name]}"
    return joined


def under_way(checkpoint: Checkpoint, path: Path, steps: int) -> tuple[int, list[float], float]:
    """Of the epoch that a checkpoint was stopped in: its steps that are done, of ``steps``, their sums and seconds."""
    found = checkpoint.under_way
    if found is None:
        return 0, [0.0, 0.0, 0.0], 0.0
    if not 0 < found["step"] < steps:
        raise InputError(f"{path} cannot be resumed: it stopped at step {found['step']} of an epoch of {steps}")
    return found["step"], list(found["sums"]), found["seconds"]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _first_difference(then: Any, now: Any) -> str:
    """``'ant' -> 'bee'``; of lists the first entry that differs."""
    if isinstance(then, list | tuple) and isinstance(now, list | tuple):
        if len(then) != len(now):
            return f"{len(then)} -> {len(now)} of them"
        then, now = next((a, b) for a, b in zip(then, now, strict=True) if a != b)
    return f"{then!r} -> {now!r}"


# --- the optimizer ----------------------------------------------------------------------------------------------------


def fitting_state(
    found: Mapping[str, Any], optimizer: torch.optim.Optimizer, model: nn.Module, path: Path, *, steps: int, exact: bool
) -> dict[str, Any]:
    """The state dict to load into a fresh AdamW: the moments of ``found``, and all settings of ``optimizer`` itself.

    ``steps`` are those that the run has made (``exact``: none may have been skipped, as fp16 does). Raises
    :class:`InputError` naming the parameter whose state is missing, of another shape or dtype, or out of range; or the
    weight that is not finite.
    """
    own: dict[str, Any] = optimizer.state_dict()
    if where := broken_weight(model):
        raise InputError(f"{path} cannot be resumed: its weight {where} is not finite")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state = found.get("state")
    if not isinstance(state, dict) or not set(state) <= set(range(len(parameters))):
        raise InputError(f"{path} cannot be resumed: the state of its optimizer is not one of these parameters")
    made = {}
    for at, parameter in enumerate(parameters):
        if at not in state and not parameter.requires_grad:
            continue
        wrong = _complaint(state.get(at), parameter, steps, exact)
        if wrong:
            named = names.get(id(parameter), str(at)).removeprefix("module.")
            raise InputError(f"{path} cannot be resumed: the optimizer's state of {named} {wrong}")
        made[at] = {key: value.clone(memory_format=torch.contiguous_format) for key, value in state[at].items()}
    return {"state": made, "param_groups": own["param_groups"]}


def _complaint(state: Any, parameter: Tensor, steps: int, exact: bool) -> str:
    """What is wrong with AdamW's state of one parameter; empty where nothing is."""
    if not isinstance(state, dict) or set(state) != {"step", "exp_avg", "exp_avg_sq"}:
        return "must hold step, exp_avg and exp_avg_sq"
    for key, value in state.items():
        shape = () if key == "step" else tuple(parameter.shape)
        dtype = torch.float32 if key == "step" else parameter.dtype
        if not is_dense(value):
            return f"must hold a tensor as {key}, got {type(value).__name__}"
        if tuple(value.shape) != shape or value.dtype != dtype:
            return f"must hold {key} of {shape} {dtype}, got {tuple(value.shape)} {value.dtype}".replace("torch.", "")
        if not torch.isfinite(value).all() or (key != "exp_avg" and (value < 0).any()):
            return f"has numbers out of range in {key}"
    made = float(state["step"])
    if made != math.floor(made) or made > steps or (exact and made != steps):
        return f"must be of step {steps}, got {made:g}"
    return ""
