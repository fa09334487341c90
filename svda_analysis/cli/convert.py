"""``svda convert``."""

from __future__ import annotations

import functools
import os
from typing import Any

import click

from svda_analysis.cli.progress import progress_bars
from svda_analysis.cli.shared import CONTEXT, Registered, conclude, data_options, output_options, say, warn
from svda_analysis.errors import InputError
from svda_analysis.kinds import ATTENTIONS


@click.command("convert", context_settings=CONTEXT)
@click.argument("spec", metavar="SPEC")
@click.option("--to", type=Registered(ATTENTIONS), default="svda", show_default=True, help="The kind of attention.")
@click.option("--blocks", default="all", show_default=True, metavar="WHICH", help="all, last:2, first:2 or 3,7.")
@click.option(
    "--start",
    type=click.Choice(["fresh", "weights"]),
    default="fresh",
    show_default=True,
    help="Sigma: as for a new model, or read off the weights over --data.",
)
@click.option("--basis", default="1", show_default=True, metavar="T", help="0: the model's, 1: the white one; or best.")
@click.option(
    "--norm-row",
    type=float,
    default=0.0,
    show_default=True,
    metavar="R",
    help="Give each head's weakest direction up for a constant, R times as long as the rest of a row: 4 keeps most.",
)
@click.option("--sigma-start", default="double_dim", show_default=True, metavar="RULE", help="one: as the papers say.")
@click.option("--sigma-form", type=click.Choice(["linear", "shape"]), default="linear", show_default=True)
@click.option("--distill", type=int, default=0, metavar="STEPS", help="Then bring the maps back, without labels.")
@click.option("--distill-output", type=int, default=0, metavar="STEPS", help="And the output, through all layers.")
@click.option("--images", type=int, default=256, show_default=True, metavar="N", help="Images of --data to look at.")
@data_options
@click.option("--out", required=True, metavar="FILE", help="The converted model.")
@click.option("--force", is_flag=True, help="Write over a file that exists.")
@output_options
def convert_command(
    spec: str, out: str, basis: str, sigma_start: str, distill: int, distill_output: int, **options: Any
) -> None:
    """Put SVDA, cosine or our dot-product attention into a model of timm, torchvision, Hugging Face or ours.

    What it writes is opened by its path, as a checkpoint is: svda analyze, svda explain.

    \b
    Examples:
      svda convert timm:vit_tiny_patch16_224@weights.pt --blocks last:2 --out late.pt
      svda convert hf:FOLDER --start weights --norm-row 4 --data imagefolder:DIR --distill 120 --out svda.pt
      svda convert checkpoints/fashion_mnist/vit_s0.pt --start weights --out as_svda.pt
    """
    from svda_analysis.convert_files import convert_file

    with progress_bars("steps") as advance:
        found = convert_file(
            spec,
            out,
            basis=basis if basis == "best" else _number("--basis", basis),
            sigma_start=_number_or_rule(sigma_start),
            distill_steps=distill,
            output_steps=distill_output,
            progress=functools.partial(advance, "distillation"),
            **options,
        )
    warn([found.left_out] if found.left_out else [])
    say(f"replaced: {', '.join(found.sites)}")
    if found.images:
        say(f"images: {found.images}")
    if found.divergence:
        say(f"divergence of the maps, first and last step: {found.divergence[0]:.4f}, {found.divergence[-1]:.4f} nats")
    if found.apart:
        say(f"1 - cosine of the outputs, first and last step: {found.apart[0]:.5f}, {found.apart[-1]:.5f}")
    size = os.path.getsize(out)
    result = {"model": out, "bytes": size, "replaced": found.sites, "images": found.images}
    result |= {"divergence": found.divergence, "one_less_cosine": found.apart}
    conclude(f"model: {out} ({size / 1e6:.1f} MB)", result)


def _number(option: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{option} must be a number in [0, 1], or best, got {text!r}") from None


def _number_or_rule(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
