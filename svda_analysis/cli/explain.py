"""``svda explain``."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import click

from svda_analysis.cli.shared import CONTEXT, names_in, open_subjects, say, subject_options, warn
from svda_analysis.errors import InputError, check_writable

_ROWS = 8  # images on a page


@click.command("explain", context_settings=CONTEXT)
@click.argument("model", metavar="MODEL")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option("--methods", metavar="A,B,...", help="Only these methods (comma-separated). Default: all.")
@click.option("--target", type=int, metavar="CLASS", help="Explain this class. Default: what the model predicts.")
@click.option("--out", metavar="DIR", help="Folder for the figures. Default: reports/<model>-explained.")
@subject_options
def explain_command(
    model: str, images: tuple[str, ...], methods: str | None, target: int | None, out: str | None, **options: Any
) -> None:
    """Draw attention and attribution maps over images: one row an image, one column a method.

    MODEL is what svda-analyze takes; an IMAGE is a file, or a folder of them.

    \b
    Example:
      svda explain checkpoints/fashion_mnist/svda_s0.pt shoe.png --methods rollout,relevance
    """
    from svda_analysis.attribution import METHODS
    from svda_analysis.data.files import left_out
    from svda_analysis.explanations import explain
    from svda_analysis.figures import pictures
    from svda_analysis.render.writer import save_picture
    from svda_analysis.sources import image_files

    names = names_in(methods)
    for name in names or ():
        if name not in METHODS:
            raise InputError(f"--methods must be among {', '.join(METHODS)}, got {name!r}")
    subject = open_subjects([model], options)[0]
    warn([f"{subject.name}: {subject.left_out}"] if subject.left_out else [])
    folder = Path(out) if out else Path("reports") / f"{subject.name}-explained"
    check_writable(folder, "output folder")
    warn([line for path in images if Path(path).is_dir() and (line := left_out(Path(path)))])
    written: list[Path] = []
    drawn: set[str] = set()
    pages = math.ceil(len(image_files(images)) / _ROWS)
    for at, page in enumerate(explain(subject, images, methods=names, target=target, batch_size=_ROWS), start=1):
        if page.left_out and at == 1:
            for reason in dict.fromkeys(page.left_out.values()):
                names_of = [name for name, why in page.left_out.items() if why == reason]
                warn([f"{subject.name} {reason}: left out {', '.join(names_of)}"])
        for picture in pictures(page, "explanations"):
            drawn.add(picture.name)
            name = picture.name if pages == 1 else f"{picture.name}-{at}"
            written += save_picture(dataclasses.replace(picture, name=name), folder)
            say(f"figure: {written[-1]}")
    for old in folder.glob("*"):  # of an earlier call with other images
        figure = re.fullmatch(r"(.+?)(-\d+)?\.(pdf|png)", old.name)
        if figure and figure[1] in drawn and old not in written:
            old.unlink()
