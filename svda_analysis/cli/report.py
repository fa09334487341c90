"""``svda report``: a report written again from what its folder holds."""

from __future__ import annotations

import click

from svda_analysis.cli.shared import CONTEXT, open_option, show_report


@click.command("report", context_settings=CONTEXT)
@click.argument("folder", metavar="FOLDER")
@open_option
def report_command(folder: str, opened: bool) -> None:
    """Write each report in FOLDER (of an analysis, a compression, a study) again without measuring.

    The numbers, images and maps that it shows lie beside it.

    \b
    Example:
      svda report reports/fashion_mnist
    """
    from svda_analysis.reports import render_folder

    for written in render_folder(folder):
        show_report(written, opened=opened)
