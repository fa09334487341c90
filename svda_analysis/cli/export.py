"""``svda export``."""

from __future__ import annotations

import os

import click

from svda_analysis.cli.shared import CONTEXT, conclude, output_options


@click.command("export", context_settings=CONTEXT)
@click.argument("source")
@click.argument("target")
@click.option("--force", is_flag=True, help="Write over a TARGET that exists.")
@output_options
def export_command(source: str, target: str, force: bool) -> None:
    """Copy a checkpoint for sharing, without its optimizer state and the place
    where the images lay.

    \b
    Example:
      svda export runs/svda_s0.pt checkpoints/svda_s0.pt
    """
    from svda_analysis.checkpoint import export

    export(source, target, force=force)
    size = os.path.getsize(target)
    conclude(f"checkpoint: {target} ({size / 1e6:.1f} MB)", {"checkpoint": target, "bytes": size})
