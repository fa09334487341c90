"""``svda report``: a report written again from what its folder holds."""

from __future__ import annotations

import click

from svda_analysis.cli.shared import CONTEXT, say


@click.command("report", context_settings=CONTEXT)
@click.argument("folder", metavar="FOLDER")
def report_command(folder: str) -> None:
    """Write each report in FOLDER (of an analysis, a compression, a study) again without measuring.

    The numbers, images and maps that it shows lie beside it.

    \b
    Example:
      svda report reports/fashion_mnist
    """
    from svda_analysis.reports import render_folder

    for written in render_folder(folder):
        say(f"report: {written[0]} ({len(written)} files)")
