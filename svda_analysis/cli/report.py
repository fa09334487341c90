"""``svda report``: a report written again from what its folder holds."""

from __future__ import annotations

import click

from svda_analysis.cli.shared import CONTEXT, conclude, open_option, open_page, output_options, page_of, report_result


@click.command("report", context_settings=CONTEXT)
@click.argument("folder", metavar="FOLDER")
@output_options
@open_option
def report_command(folder: str, opened: bool) -> None:
    """Write each report in FOLDER (of an analysis, a compression, a study) again without measuring; where FOLDER holds
    none, those in its folders.

    The numbers, images and maps that it shows lie beside it.

    \b
    Examples:
      svda report reports/fashion_mnist
      svda report reports
    """
    from svda_analysis.reports import render_folder

    found = render_folder(folder)
    lines = [f"report: {page_of(written)} ({len(written)} files)" for written in found]
    conclude(lines, {"reports": [report_result(written) for written in found]})
    for written in found:
        if opened:
            open_page(page_of(written))
