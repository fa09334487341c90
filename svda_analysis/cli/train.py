"""``svda train``."""

from __future__ import annotations

import contextlib
import functools
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from svda_analysis.bars import are_several, is_first
from svda_analysis.cli.progress import progress_bars, say_start, training_display
from svda_analysis.cli.shared import (
    CONTEXT,
    DataOption,
    Registered,
    command_line,
    conclude,
    list_settings,
    output_options,
    split_settings,
)
from svda_analysis.errors import HaltedError, InputError
from svda_analysis.kinds import ATTENTIONS

if TYPE_CHECKING:
    from svda_analysis.model import ViTConfig
    from svda_analysis.recipe import TrainConfig


@click.command("train", context_settings=CONTEXT)
@click.option(
    "--dataset",
    required=True,
    metavar="NAME",
    cls=DataOption,
    help="{names}. A folder of images must hold train/CLASS/ and test/CLASS/.",
)
@click.option("--attention", type=Registered(ATTENTIONS), default="svda", show_default=True)
@click.option(
    "--out", required=True, metavar="FILE", help="The checkpoint, written after every epoch (with --base at the end)."
)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--epochs", type=int, metavar="N", help="Epochs of the whole schedule.")
@click.option(
    "--base",
    metavar="SPEC",
    help="Train the last blocks of this model (timm:, hf:, a checkpoint) alone; an interrupted run begins again.",
)
@click.option("--late-blocks", type=int, metavar="N", help="How many of --base, their attention replaced. Default: 2.")
@click.option("--start", type=click.Choice(["fresh", "weights"]), help="Sigma of --base, as for svda convert.")
@click.option(
    "--features", metavar="DIR", help="Keep what the first late block reads in DIR, for later runs of --base."
)
@click.option("--preset", metavar="NAME", help="Model size: a data set's name, vit_tiny, vit_small or vit_base.")
@click.option(
    "--recipe",
    metavar="NAME",
    default="ours",
    help="ours (default), or source: that of the public code.",
)
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any field of the model or recipe; repeat.")
@click.option(
    "--list-settings",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=list_settings,
    help="List what --set reaches, with defaults.",
)
@click.option("--data-root", metavar="DIR", help="Where data sets lie. Also $SVDA_DATA.")
@click.option("--resume", is_flag=True, help="Continue an interrupted run from --out.")
@click.option("--stop-after", type=int, metavar="N", help="End after epoch N of the schedule.")
@click.option(
    "--mixed-precision", type=click.Choice(["auto", "no", "bf16", "fp16"]), default="auto", help="auto: bf16 on CUDA."
)
@click.option("--compile", is_flag=True, help="Compile the model with torch.compile.")
@click.option("--track", metavar="NAME", help="Also log to a tracker that accelerate knows, such as tensorboard.")
@click.option("--live", is_flag=True, help="In a terminal, draw heads and sigma after each epoch.")
@click.option("--timeout", type=float, metavar="SECONDS", help="How long a process waits for others. Default: 600.")
@output_options
def train_command(
    dataset: str,
    out: str,
    preset: str | None,
    recipe: str,
    settings: tuple[str, ...],
    base: str | None,
    late_blocks: int | None,
    start: str | None,
    features: str | None,
    **options: Any,
) -> None:
    """Train a Vision Transformer with dot-product, SVDA or cosine attention.

    SIGTERM ends the run after its step, saved, with exit code 143 and the line that resumes it exactly (not --base).

    \b
    Examples:
      svda train --dataset fashion_mnist --attention svda --seed 0 --out checkpoints/svda_s0.pt
      svda train --dataset sample --epochs 3 --set depth=2 --set shape_penalty=0.1 --out try.pt
      svda train --base hf:FOLDER --late-blocks 2 --dataset imagefolder:DIR --epochs 5 --out late.pt
      torchrun --nproc-per-node 2 -m svda_analysis train --dataset cifar10 --out vit.pt
    """
    from svda_analysis.model import ViTConfig
    from svda_analysis.recipe import TrainConfig
    from svda_analysis.training import train

    given = {"attention": options.pop("attention"), "dataset": dataset, "seed": options.pop("seed")}
    if (epochs := options.pop("epochs")) is not None:
        given["epochs"] = epochs
    fields = split_settings(settings, given, ViTConfig, TrainConfig, named=_named_options(given))
    late = {"blocks": late_blocks, "start": start, "features": features}
    if base is not None:
        _train_late(base, out, recipe, fields, late, options, preset)
        return
    if any(value is not None for value in late.values()):
        raise InputError("--late-blocks, --start and --features need --base, whose last blocks they are of")
    config, plan = _planned(dataset, preset, recipe, fields, options["data_root"])
    live = options.pop("live")
    if options["timeout"] is None:
        del options["timeout"]  # train has a default
    again = command_line("svda") + ("" if options["resume"] else " --resume")
    try:
        with training_display(live) as observer:
            begun = functools.partial(_say_begun, out, options["track"])
            checkpoint = train(config, plan, out, on_start=begun, on_progress=observer, **options)
    except KeyboardInterrupt:
        done = f"go on after its last whole epoch with: {again}" if Path(out).is_file() else "no epoch was done"
        raise HaltedError(f"interrupted; {done}", 130) from None
    except HaltedError as halt:
        raise HaltedError(f"{halt}; go on with: {again}", halt.code) from None
    if is_first():
        _conclude_training(out, checkpoint, plan.epochs)


def _planned(
    dataset: str, preset: str | None, recipe: str, fields: Sequence[dict[str, Any]], root: str | None
) -> tuple[ViTConfig, TrainConfig]:
    """The model and the recipe that are asked for."""
    from svda_analysis.data import DATASETS, count_classes
    from svda_analysis.model import ViTConfig, preset_for
    from svda_analysis.recipe import TrainConfig, named_recipe

    model_fields, recipe_fields = fields
    spec = DATASETS.get(dataset.partition(":")[0])
    if spec and "num_classes" not in model_fields and (classes := count_classes(dataset, root=root)):
        model_fields = {**model_fields, "num_classes": classes}
    usual, of_data = ("vit_tiny", {}) if spec is None else preset_for(spec)
    of_model, of_recipe = named_recipe(recipe, dataset)
    config = ViTConfig.preset(preset or usual, **{**({} if preset else of_data), **of_model, **model_fields})
    return config, TrainConfig(**{**of_recipe, **recipe_fields})


def _named_options(names: Iterable[str]) -> list[str]:
    """Those of some options that are on the command line."""
    source_of = click.get_current_context().get_parameter_source
    return [name for name in names if source_of(name) is not ParameterSource.DEFAULT]


_NOT_LATE = {  # what speaks of our own model, and of the loop that can be resumed
    **dict.fromkeys(("preset", "stop_after", "track", "timeout"), None),
    **dict.fromkeys(("resume", "compile"), False),
    "mixed_precision": "auto",
}
_LATE_FIELDS = ("attention", "sigma_form", "sigma_start")  # of our model, that a replaced attention has
_OF_AUGMENTATION = ("flip", "rotation", "crop_padding", "normalise")


def _train_late(
    base: str,
    out: str,
    recipe: str,
    fields: Sequence[dict[str, Any]],
    late: dict[str, Any],
    options: dict[str, Any],
    preset: str | None,
) -> None:
    from svda_analysis.late_blocks import train_late_blocks
    from svda_analysis.recipe import TrainConfig, late_blocks_recipe

    of_model, of_recipe = fields
    given = {**options, "preset": preset}
    if wrong := next((name for name, usual in _NOT_LATE.items() if given[name] != usual), None):
        raise InputError(f"--{wrong.replace('_', '-')} does not go with --base")
    if wrong := next((name for name in of_model if name not in _LATE_FIELDS), None):
        raise InputError(f"--set {wrong} does not go with --base, whose model is as it is")
    if wrong := next((name for name in _OF_AUGMENTATION if name in of_recipe), None):
        raise InputError(f"--set {wrong} does not go with --base: its frozen part sees each image once, as it is")
    if are_several():
        raise InputError("--base trains in one process")
    usual_model, usual_recipe = late_blocks_recipe(recipe)
    plan = TrainConfig(**{**usual_recipe, **of_recipe})
    with contextlib.ExitStack() as shown:
        advance = shown.enter_context(progress_bars("images"))
        observers: list[Callable[[Any], None]] = []

        def begun(lines: Sequence[str]) -> None:
            shown.close()  # the bars of images have come to their end
            say_start(lines)
            observers.append(shown.enter_context(training_display(options["live"])))

        learned = train_late_blocks(
            base,
            plan,
            out,
            **{**usual_model, **of_model, **{key: value for key, value in late.items() if value is not None}},
            data_root=options["data_root"],
            progress=advance,
            on_start=begun,
            on_progress=lambda state: observers[0](state),
        )
    _conclude_training(out, learned, plan.epochs)


def _conclude_training(out: str, found: Any, epochs: int) -> None:
    """The end of a training: where it lies, and what its last epoch came to."""
    history = found.history
    last = history[history["layer"].isna() & (history["epoch"] == found.epoch)]
    about = {"checkpoint": out, "epoch": found.epoch, "epochs": epochs}
    numbers = last[["indicator", "source", "mean", "ci_low", "ci_high"]]
    conclude([f"checkpoint: {out} (epoch {found.epoch} of {epochs})"], {**about, "numbers": numbers})


def _say_begun(out: str, track: str | None, lines: Sequence[str]) -> None:
    """What training begins with, and where the log of a tracker lies that writes files."""
    log = Path(out).with_suffix("") if track in ("tensorboard", "all") else None
    where = [f"log: {log}/ (tensorboard --logdir {shlex.quote(str(log.parent))})"] if log else []
    say_start([*lines, *where])
