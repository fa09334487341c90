"""``svda report``: a report written again from what its folder holds."""

from __future__ import annotations

import click

from svda_analysis.cli.shared import CONTEXT


@click.command("report", context_settings=CONTEXT)
@click.argument("folder", metavar="FOLDER")
def report_command(folder: str) -> None:
    """Write the report of an analysis or a study again, from the numbers, images and maps in FOLDER, without measuring.

    \b
    Example:
      svda report reports/fashion_mnist
    """
    from svda_analysis.reports import render_folder

    written = render_folder(folder)
    click.echo(f"report: {written[0]} ({len(written)} files)")
