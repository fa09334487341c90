"""``svda explain``."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from svda_analysis.cli.progress import progress_bars
from svda_analysis.cli.shared import CONTEXT, conclude, names_in, open_subjects, output_options, subject_options, warn
from svda_analysis.errors import InputError

_ROWS = 8  # rows of maps on a page, of all models together
_OF_WEIGHTS = (".pt", ".pth", ".safetensors", ".bin", ".ckpt")


@click.command("explain", context_settings=CONTEXT)
@click.argument("models", nargs=-1, required=True, metavar="MODEL... IMAGE...")
@click.option("--methods", metavar="A,B,...", help="Only these methods (comma-separated). Default: all.")
@click.option(
    "--target", metavar="CLASS", help="Explain this class, by number or name. Default: what each model predicts."
)
@click.option("--out", metavar="DIR", help="Folder for the figures. Default: reports/<models>-explained.")
@click.option("--force", is_flag=True, help="Write over explanations that lie in the folder.")
@subject_options
@output_options
def explain_command(
    models: tuple[str, ...], methods: str | None, target: str | None, out: str | None, force: bool, **options: Any
) -> None:
    """Draw attention and attribution maps over images: a block an image, a row a model, a column a method.

    MODEL is what svda-analyze takes; an IMAGE is a file, or a folder of them. All maps lie beside the figure as arrays.

    \b
    Examples:
      svda explain checkpoints/fashion_mnist/svda_s0.pt shoe.png --methods rollout,relevance
      svda explain vit_s0.pt svda_s0.pt shoe.png --target Sandal
    """
    from svda_analysis.attribution import METHODS
    from svda_analysis.data.files import left_out
    from svda_analysis.explanations import explain_models
    from svda_analysis.render.staging import staged
    from svda_analysis.sources import image_files

    names = names_in(methods)
    for name in names or ():
        if name not in METHODS:
            raise InputError(f"--methods must be among {', '.join(METHODS)}, got {name!r}")
    specs, images = split_words(models)
    subjects = open_subjects(specs, options)
    warn([f"{one.name}: {one.left_out}" for one in subjects if one.left_out])
    folder = Path(out) if out else Path("reports") / ("-".join(one.name for one in subjects[:4]) + "-explained")
    warn([line for path in images if Path(path).is_dir() and (line := left_out(Path(path)))])
    old = _explanations_in(folder, force=force)
    size = max(1, _ROWS // len(subjects))
    count = math.ceil(len(image_files(images)) / size)
    found = explain_models(subjects, images, methods=names, target=target, batch_size=size)
    names_written: list[str] = []
    said: list[dict[str, Any]] = []
    with staged(folder, old=old) as stage, progress_bars() as bars:
        for at, page in enumerate(found, start=1):
            if at == 1:
                warn([line for part in page.parts for line in (*_said_left_out(part), *part.warnings)])
            names_written += _write_page(page, stage, "" if count == 1 else f"-{at}")
            said += page.predictions()
            bars("drawing figures", at, count)
    written = [folder / name for name in names_written]
    drawn = [path for path in written if path.suffix == ".png"]
    conclude([f"figure: {path}" for path in drawn], {"figures": drawn, "files": written, "predictions": said})


def split_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Which words name models, which images: the first is a model, and so are those that follow it and name a library,
    a kind or a file of weights."""
    count = next((at for at, word in enumerate(words) if at and not _names_a_model(word)), len(words))
    if count == len(words):
        raise InputError(f"svda explain needs MODEL... and then IMAGE..., got no image after {words[-1]}")
    return list(words[:count]), list(words[count:])


def _names_a_model(word: str) -> bool:
    place = Path(word)
    if place.is_file():
        return place.suffix.lower() in _OF_WEIGHTS
    return bool(re.match(r"[a-z_]{2,}:", word)) or (not place.exists() and place.suffix.lower() in _OF_WEIGHTS)


def _explanations_in(folder: Path, *, force: bool) -> list[Path]:
    """The explanations that lie in a folder that can be written, relative to it; :class:`InputError` where there are
    some, without ``force``."""
    from svda_analysis.errors import check_writable
    from svda_analysis.figures.registry import FIGURES

    check_writable(folder, "output folder")
    names = [one.name for one in FIGURES.values() if "explanations" in one.where]
    ours = re.compile(rf"(explanations(-\d+)?\.npz|({'|'.join(map(re.escape, names))})(-\d+)?\.(pdf|png))")
    old = [Path(path.name) for path in sorted(folder.glob("*")) if ours.fullmatch(path.name) and not path.is_dir()]
    if old and not force:
        raise InputError(f"output folder {folder} holds {old[0]}: --force writes over it, --out chooses another")
    return old


def _said_left_out(part: Any) -> list[str]:
    """A line for each reason why a model lacks methods."""
    reasons = dict.fromkeys(part.left_out.values())
    lacking = {reason: [name for name, why in part.left_out.items() if why == reason] for reason in reasons}
    return [f"{part.model} {reason}: left out {', '.join(names)}" for reason, names in lacking.items()]


def _write_page(page: Any, folder: Path, end: str) -> list[str]:
    """The arrays and the figures of a page, whose names have that end; returns the names, a picture's last."""
    import numpy as np

    from svda_analysis.figures import pictures
    from svda_analysis.render.writer import save_picture

    arrays = folder / f"explanations{end}.npz"
    np.savez_compressed(arrays, **page.arrays())
    drawn = [dataclasses.replace(one, name=f"{one.name}{end}") for one in pictures(page, "explanations")]
    return [arrays.name, *(file.name for picture in drawn for file in save_picture(picture, folder))]
