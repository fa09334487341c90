"""``svda analyze``, and ``svda-analyze`` under its own name."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from svda_analysis.bars import is_first
from svda_analysis.cli.progress import progress_bars, with_estimate
from svda_analysis.cli.shared import (
    CONTEXT,
    command_line,
    conclude_report,
    data_options,
    names_in,
    open_option,
    open_subjects,
    output_options,
    several_together,
    show,
    subject_options,
    warn,
)

PRECISION = 0.01  # where neither --precision nor --images is given


class _Count(click.ParamType[int]):
    """A number of images, or ``all``: more than there are."""

    name = "integer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        return sys.maxsize if value == "all" else click.INT.convert(value, param, ctx)


@click.command("analyze", context_settings=CONTEXT)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@data_options
@click.option("--out", metavar="DIR", help="Folder for the report. Default: reports/<name>.")
@click.option(
    "--images",
    type=_Count(),
    metavar="N",
    help="Measure on at most N test images, or all. Default: as many as --precision 0.01 needs.",
)
@click.option(
    "--precision",
    type=float,
    metavar="P",
    help="Stop each indicator at a 95% interval within P of its range, all once the accuracy is known as well.",
)
@click.option(
    "--costly-images",
    type=int,
    default=256,
    show_default=True,
    metavar="N",
    help="Images for spectra and robustness, which cost most; 0: all.",
)
@click.option(
    "--indicators",
    metavar="A,B,...",
    help="Only these indicators or groups of them (comma-separated), 'default,field' for more; see 'svda indicators'.",
)
@click.option(
    "--baseline",
    metavar="MODEL",
    help="Compare against this model. Default: the only one with dot attention, else the first.",
)
@click.option("--examples", type=int, default=4, show_default=True, metavar="N", help="Images whose maps are drawn.")
@click.option("--noise", type=float, default=0.1, show_default=True, help="Input noise for perturbation_robustness.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the noise and of drawing images.")
@click.option("--batch-size", type=int, metavar="N", help="Images per forward. Default: 64; faithfulness 16, maps 32.")
@click.option(
    "--memory",
    metavar="SIZE",
    help="Measuring indicators holds at most so much beside the model, as 2GB; whole maps that do not fit are left "
    "out, each with a line. --maps and --faithfulness hold whole maps whatever this says.",
)
@subject_options
@click.option("--maps", type=int, metavar="N", help="Also compare attention maps head by head on N images (8 or more).")
@click.option("--faithfulness", type=int, metavar="N", help="Also measure deletion and insertion on N images.")
@click.option(
    "--metrics",
    metavar="A,B,...",
    help="What --faithfulness measures: default, fillers, tokens, cascade, source, or single metrics.",
)
@output_options
@click.version_option(package_name="svda-analysis", prog_name="svda-analyze")
@open_option
def analyze_command(models: tuple[str, ...], out: str | None, opened: bool, **options: Any) -> None:
    """Measure the attention of one model, or compare several, and write a report.

    MODEL is a checkpoint, a folder of checkpoints, or timm:NAME[@WEIGHTS], torchvision:NAME[@WEIGHTS], hf:FOLDER, or
    module:PACKAGE.MODULE:FUNCTION[@WEIGHTS], with weights as .pt or .safetensors; timm:NAME?KEY=VALUE gives arguments.
    Runs that differ in their seed alone are one model; models are compared in pairs of equal seeds.

    \b
    Examples:
      svda-analyze checkpoint.pt
      svda-analyze checkpoints/fashion_mnist --images 1000
      svda-analyze timm:vit_tiny_patch16_224@weights.pt --data imagefolder:DIR
    """
    _complete(options)
    with several_together(), progress_bars("") as bars:
        subjects = open_subjects(models, options, bars)
        from svda_analysis.analysis import analyze_runs
        from svda_analysis.render.staging import check_report_folder
        from svda_analysis.sections import REPORT_FILES, terminal_document, write_report
        from svda_analysis.sections.likeness import unlike_runs
        from svda_analysis.sections.page import result_of
        from svda_analysis.writing import only_writer

        if not is_first():
            analyze_runs(subjects, options.pop("data"), progress=False, **options)
            return
        folder = Path(out) if out else Path("reports") / _report_name(models, subjects[0].name)
        with only_writer(folder, "output folder"):
            check_report_folder(folder, *REPORT_FILES)
            follow = bars if options["images"] else with_estimate(bars, len(subjects))
            analysis = analyze_runs(subjects, options.pop("data"), progress=follow, **options)
            drawing = functools.partial(bars, "drawing figures")
            written = write_report(analysis, folder, command=command_line("svda-analyze"), progress=drawing)
    warn([*analysis.warnings, *unlike_runs(analysis.runs)])
    show(terminal_document(analysis))
    conclude_report(written, result_of(analysis), opened=opened)


def _complete(options: dict[str, Any]) -> None:
    """Options as :func:`~svda_analysis.analysis.analyze_runs` takes them; how precise, where nothing says how many
    images."""
    for name in ("indicators", "metrics"):
        options[name] = names_in(options[name])
    options["costly_images"] = options["costly_images"] or None
    if options["images"] is None and options["precision"] is None:
        options["precision"] = PRECISION


def _report_name(models: Sequence[str], first: str) -> str:
    """Of one model its own, of a folder or of files in one the folder's; that of the root is empty."""
    if len(models) == 1:
        return (Path(models[0]).resolve().name if Path(models[0]).is_dir() else "") or first
    parents = {Path(path).resolve().parent if Path(path).is_file() else None for path in models}
    common = parents.pop()
    return ("" if parents or common is None else common.name) or "comparison"
