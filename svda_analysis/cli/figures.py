"""``svda figures``: the figures and tables of a report for a paper."""

from __future__ import annotations

from pathlib import Path

import click

from svda_analysis.cli.progress import progress_bars
from svda_analysis.cli.shared import CONTEXT, command_line, conclude, names_in, output_options


@click.command("figures", context_settings=CONTEXT)
@click.argument("report", metavar="REPORT")
@click.option(
    "--width", default="column", show_default=True, metavar="WIDTH", help="column (3.4 in), text (7 in) or inches."
)
@click.option("--font", default="sans", show_default=True, type=click.Choice(["sans", "serif"]), help="Of the figures.")
@click.option("--only", metavar="A,B,...", help="Names of figures and tables; * stands for anything. Default: all.")
@click.option("--out", metavar="DIR", help="Folder for the files. Default: <REPORT>-figures.")
@output_options
def figures_command(report: str, width: str, font: str, only: str | None, out: str | None) -> None:
    """Figures and tables of REPORT for a paper, at the width at which they are printed.

    Nothing is measured. Writes a pdf for each figure, figures.tex that includes them with captions and labels, and
    tables.tex.

    \b
    Examples:
      svda figures reports/paper --font serif
      svda figures reports/sigma --width text --only "*accuracy*"
    """
    from svda_analysis.typesetting import write_figures

    place = Path(report)
    named = place.resolve() if place.name in ("", "..") else place  # of ".", "..", "/"
    folder = Path(out) if out else named.parent / f"{named.name}-figures"
    with progress_bars() as progress:
        written = write_figures(
            place,
            folder,
            width=width,
            font=font,
            only=names_in(only) or (),
            command=command_line("svda"),
            progress=lambda done, total: progress("drawing figures", done, total),
        )
    conclude(f"figures: {written[0]} ({len(written)} files)", {"figures": folder, "files": written})
