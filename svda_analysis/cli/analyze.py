"""``svda analyze``, and ``svda-analyze`` under its own name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from svda_analysis.cli.progress import progress_bars
from svda_analysis.cli.shared import (
    CONTEXT,
    command_line,
    data_options,
    names_in,
    open_option,
    open_subjects,
    show_report,
    subject_options,
    warn,
)


@click.command("analyze", context_settings=CONTEXT)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@data_options
@click.option("--out", metavar="DIR", help="Folder for the report. Default: reports/<name>.")
@click.option("--images", type=int, metavar="N", help="Measure on at most N images. Default: all test images.")
@click.option(
    "--precision", type=float, metavar="P", help="Stop each indicator at a 95% interval within P of its range."
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
@click.option("--baseline", metavar="MODEL", help="Compare against this model. Default: the one with dot attention.")
@click.option("--examples", type=int, default=4, show_default=True, metavar="N", help="Images whose maps are drawn.")
@click.option("--noise", type=float, default=0.1, show_default=True, help="Input noise for perturbation_robustness.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the noise and of drawing images.")
@click.option("--batch-size", type=int, metavar="N", help="Images per forward. Default: 64; faithfulness 16, maps 32.")
@subject_options
@click.option("--maps", type=int, metavar="N", help="Also compare attention maps head by head on N images (8 or more).")
@click.option("--faithfulness", type=int, metavar="N", help="Also measure deletion and insertion on N images.")
@click.option(
    "--metrics",
    metavar="A,B,...",
    help="What --faithfulness measures: default, fillers, tokens, cascade, source, or single metrics.",
)
@click.option("--quiet", is_flag=True, help="Print only where the report is.")
@click.version_option(package_name="svda-analysis", prog_name="svda-analyze")
@open_option
def analyze_command(models: tuple[str, ...], out: str | None, quiet: bool, opened: bool, **options: Any) -> None:
    """Measure the attention of one model, or compare several, and write a report.

    MODEL is a checkpoint, or timm:NAME[@WEIGHTS], torchvision:NAME[@WEIGHTS], hf:FOLDER, or
    module:PACKAGE.MODULE:FUNCTION[@WEIGHTS], with weights as .pt or .safetensors; timm:NAME?KEY=VALUE gives arguments.
    Runs that differ in their seed alone are one model; models are compared in pairs of equal seeds.

    \b
    Examples:
      svda-analyze checkpoint.pt
      svda-analyze checkpoints/fashion_mnist/*.pt --precision 0.01
      svda-analyze timm:vit_tiny_patch16_224@weights.pt --data imagefolder:DIR
    """
    for name in ("indicators", "metrics"):
        options[name] = names_in(options[name])
    options["costly_images"] = options["costly_images"] or None
    from svda_analysis.analysis import analyze_runs
    from svda_analysis.render.staging import check_report_folder
    from svda_analysis.render.terminal import print_document
    from svda_analysis.sections import REPORT_FILES, terminal_document, write_report
    from svda_analysis.sections.likeness import unlike_runs
    from svda_analysis.writing import only_writer

    subjects = open_subjects(models, options)
    folder = Path(out) if out else Path("reports") / _report_name(models, subjects[0].name)
    with only_writer(folder, "output folder"):
        check_report_folder(folder, *REPORT_FILES)
        with progress_bars("images", quiet) as advance:
            analysis = analyze_runs(subjects, options.pop("data"), progress=advance, **options)
        written = write_report(analysis, folder, command=command_line("svda-analyze"))
    warn([*analysis.warnings, *unlike_runs(analysis.runs)])
    if not quiet:
        print_document(terminal_document(analysis))
    show_report(written, opened=opened)


def _report_name(models: Sequence[str], first: str) -> str:
    if len(models) == 1:
        return first
    parents = {Path(path).resolve().parent if Path(path).is_file() else None for path in models}
    common = parents.pop()
    return "comparison" if parents or common is None else common.name
