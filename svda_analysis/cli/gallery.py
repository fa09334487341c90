"""``svda gallery``: one page over all reports of a folder."""

from __future__ import annotations

import click

from svda_analysis.cli.shared import CONTEXT, conclude, open_option, open_page, output_options


@click.command("gallery", context_settings=CONTEXT)
@click.argument("folder", default="reports", metavar="[FOLDER]")
@output_options
@open_option
def gallery_command(folder: str, opened: bool) -> None:
    """Write index.html over all reports below FOLDER (default: reports): figures, findings, commands.

    The page opens from its file and from any host of static files. Beside it README.md tells in plain words what the
    studies below FOLDER found, each answer with its number and file; a README.md of one's own is left as it is.

    \b
    Example:
      svda gallery reports
    """
    from svda_analysis.gallery import write_gallery
    from svda_analysis.study.plain_words import write_plain_words

    written = write_gallery(folder)
    page = write_plain_words(folder)
    lines = [] if page is None else [f"in plain words: {page}"]
    conclude([*lines, f"gallery: {written}"], {"gallery": written, "plain_words": page})
    if opened:
        open_page(written)
