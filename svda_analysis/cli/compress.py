"""``svda compress``."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from svda_analysis.cli.progress import progress_bars
from svda_analysis.cli.shared import (
    CONTEXT,
    command_line,
    conclude_report,
    data_options,
    grouped,
    open_option,
    output_options,
    show,
    warn,
)
from svda_analysis.compression.keep import CRITERIA
from svda_analysis.errors import InputError

_AMOUNTS = ("energy", "min_logit", "budget", "tolerance")


_keep_options = grouped(
    click.option(
        "--min-logit", type=float, metavar="L", help="Keep what moves the logits by L or more. Default: 0.05."
    ),
    click.option(
        "--energy", type=float, metavar="E", help="Instead: keep this share of each head's energy, in (0, 1]."
    ),
    click.option("--budget", type=float, metavar="S", help="Instead: keep this share of the rows of W_q and W_k."),
    click.option(
        "--tolerance",
        type=float,
        metavar="P",
        help="Instead: the smallest model whose interval excludes a loss of P points.",
    ),
    click.option("--criterion", type=click.Choice(CRITERIA), default="operator", show_default=True),
    click.option(
        "--norm-logit",
        type=float,
        metavar="L",
        help="Keep rows for the norm alone that move the logits by L. "
        "Default: a tenth of --min-logit; 0: all, inf: none.",
    ),
    click.option(
        "--constant/--no-constant", default=True, show_default=True, help="A constant for the rest of the norm."
    ),
)
_work_options = grouped(
    click.option("--images", type=int, metavar="N", help="Verify on at most N test images. Default: all."),
    click.option(
        "--sweep/--no-sweep", default=None, help="Also try 43 other budgets, energies and criteria. Default: no."
    ),
    click.option(
        "--sweep-images", type=int, metavar="N", help="Sweep, with N test images for each energy. Default: 2000."
    ),
)


@click.command("compress", context_settings=CONTEXT)
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...")
@_keep_options
@click.option(
    "--finetune", type=int, default=0, metavar="EPOCHS", help="Then teach what was compressed the whole model's logits."
)
@click.option("--finetune-images", type=int, metavar="N", help="Fine-tune on at most N training images. Default: all.")
@click.option(
    "--accuracy-at",
    metavar="SHARES",
    help="Also tabulate accuracy at these shares of the rows (0.4,0.2,0.1), ranked by the operator and, of a plain "
    "ViT, by its weights; without fine-tuning and with that of --finetune.",
)
@data_options
@_work_options
@click.option(
    "--out",
    metavar="PATH",
    help="The smaller checkpoint, or a folder for it (of several: always). Default: beside it, named by what is kept: "
    "NAME_l0.05.pt, or NAME_e90.pt with --energy 0.9.",
)
@click.option("--force", is_flag=True, help="Write over smaller checkpoints that exist.")
@click.option("--report", metavar="DIR", help="Folder of the report. Default: reports/<name>.")
@output_options
@open_option
def compress_command(
    checkpoints: tuple[str, ...], out: str | None, force: bool, report: str | None, opened: bool, **options: Any
) -> None:
    """Remove weak score directions from checkpoints for good, verify what it costs, and write the smaller ones.

    Rows of W_q and W_k are removed, so the file, the parameters and the work shrink. Several checkpoints share a
    report, with intervals over the runs of each model. A plain ViT of timm or torchvision is compressed from Python:
    svda_analysis.compress_model.

    \b
    Examples:
      svda compress checkpoints/fashion_mnist/svda_s0.pt
      svda compress svda_s0.pt --energy 0.9 --criterion sigma
      svda compress svda_s*.pt vit_s*.pt --budget 0.3 --out smaller
      svda compress svda_s0.pt --tolerance 0.5 --finetune 1
      svda compress svda_s*.pt vit_s*.pt --accuracy-at 0.4,0.3,0.2,0.15,0.1 --finetune 1 --out smaller
    """
    from svda_analysis.compression import Compressions, compress_files, terminal_compression, write_compression
    from svda_analysis.compression.report import COMPRESSION_FILES
    from svda_analysis.render.staging import check_report_folder
    from svda_analysis.writing import only_writer

    _check(options)
    folder = _report_folder(checkpoints, report)
    keep, work = _keep(options), _work(options)
    with only_writer(folder, "report folder"), progress_bars() as bars:
        compressed = compress_files(checkpoints, keep, out=out, force=force, progress=bars, **work)
        check_report_folder(folder, *COMPRESSION_FILES, meta_file=COMPRESSION_FILES[0])
        with compressed as done:
            runs = Compressions(tuple(run for _, run in done))
            drawing = functools.partial(bars, "drawing figures")
            written = write_compression(runs, folder, command=command_line("svda"), progress=drawing)
    warn(runs.warnings)
    show(terminal_compression(runs))
    result = [{"checkpoint": target, "bytes": target.stat().st_size, **_run_result(run)} for target, run in done]
    lines = [f"checkpoint: {target} ({target.stat().st_size / 1e6:.1f} MB)" for target, _ in done]
    conclude_report(written, {"checkpoints": result}, opened=opened, lines=lines)


def _run_result(run: Any) -> dict[str, Any]:
    """What was verified of one run, for a program."""
    return {"model": run.model, "seed": run.seed, "verification": run.verification}


def _report_folder(checkpoints: Sequence[str], given: str | None) -> Path:
    """Where the report goes: by default named by the checkpoint, or by the folder of several; that of the root has no
    name."""
    first = Path(checkpoints[0])
    name = first.stem if len(checkpoints) == 1 else first.resolve().parent.name
    return Path(given) if given else Path("reports") / (name or "compression")


def _check(options: dict[str, Any]) -> None:
    if sum(options[name] is not None for name in _AMOUNTS) > 1:
        raise InputError("--energy, --min-logit, --budget and --tolerance exclude each other: give one")
    for name in ("images", "sweep_images", "finetune_images"):
        if options[name] is not None and options[name] < 1:
            raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {options[name]}")
    if options["finetune_images"] is not None and not options["finetune"]:
        raise InputError(f"--finetune-images needs --finetune, got {options['finetune_images']} without it")
    _shares(options)
    if options["sweep_images"] is not None and options["sweep"] is False:
        raise InputError(f"--sweep-images must be left out with --no-sweep, got {options['sweep_images']}")


def _keep(options: dict[str, Any]) -> Any:
    """What stays, of the options that say it."""
    from svda_analysis.compression import Keep

    given = {name: options.pop(name) for name in (*_AMOUNTS, "criterion", "norm_logit", "constant")}
    if given["tolerance"] is not None:
        if not 0 < given["tolerance"] < 100:
            raise InputError(f"--tolerance must lie between 0 and 100 points, got {given['tolerance']:g}")
        given["tolerance"] /= 100  # points
    return Keep(**{name: value for name, value in given.items() if value is not None})


def _work(options: dict[str, Any]) -> dict[str, Any]:
    """The other options, as compress_files calls them."""
    few = options.pop("sweep_images")
    names = {"finetune": "epochs", "images": "test_images", "data": "data", "data_root": "data_root"}
    names |= {"finetune_images": "finetune_images"}
    given = {new: options[old] for old, new in names.items()}
    return {**given, "accuracy_at": _shares(options), "sweep_images": (few or 2000) if options["sweep"] or few else 0}


def _shares(options: dict[str, Any]) -> tuple[float, ...]:
    """The shares of --accuracy-at, each once."""
    words = [] if options["accuracy_at"] is None else options["accuracy_at"].split(",")
    try:
        found = tuple(dict.fromkeys(float(word) for word in words))
    except ValueError:
        found = (math.nan,)
    if not all(0 < share <= 1 for share in found):
        raise InputError(f"--accuracy-at must hold shares in (0, 1], like 0.4,0.2, got {options['accuracy_at']!r}")
    return found
