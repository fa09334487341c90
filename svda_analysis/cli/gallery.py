"""``svda gallery``: one page over all reports of a folder."""

from __future__ import annotations

import click

from svda_analysis.cli.shared import CONTEXT, open_option, say


@click.command("gallery", context_settings=CONTEXT)
@click.argument("folder", default="reports", metavar="[FOLDER]")
@open_option
def gallery_command(folder: str, opened: bool) -> None:
    """Write index.html over all reports below FOLDER (default: reports): figures, findings, commands.

    The page opens from its file and from any host of static files.

    \b
    Example:
      svda gallery reports
    """
    from svda_analysis.gallery import write_gallery

    written = write_gallery(folder)
    say(f"gallery: {written}")
    if opened:
        import webbrowser

        webbrowser.open(written.resolve().as_uri())
