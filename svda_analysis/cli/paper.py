"""``svda paper``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from svda_analysis.cli.progress import progress_bars, say_run, training_display
from svda_analysis.cli.shared import (
    CONTEXT,
    command_line,
    conclude_report,
    open_option,
    output_options,
    resumable,
    show,
    warn,
)
from svda_analysis.errors import InputError


@click.command("paper", context_settings=CONTEXT)
@click.argument("manifest", default="paper", metavar="[MANIFEST]")
@click.option("--from", "source", metavar="DIR", help="Train nothing: take the finished checkpoints under DIR.")
@click.option("--out", metavar="DIR", help="Folder for the report. Default: reports/<manifest's name>.")
@click.option(
    "--checkpoints", metavar="DIR", help="Where runs are trained. Default: checkpoints, of other studies runs/<name>."
)
@click.option("--data-root", metavar="DIR", help="Where data sets lie. Also $SVDA_DATA. Nothing is downloaded.")
@click.option(
    "--extend",
    is_flag=True,
    help="Keep the runs that a report in --out holds, if their checkpoints are gone; train the rest.",
)
@click.option("--jobs", type=int, default=1, show_default=True, metavar="N", help="Runs trained at once.")
@output_options
@open_option
def paper_command(
    manifest: str,
    source: str | None,
    out: str | None,
    checkpoints: str | None,
    data_root: str | None,
    extend: bool,
    jobs: int,
    opened: bool,
) -> None:
    """Train what a study lacks, and write its report: tables, statistics, figures and verdicts.

    MANIFEST is a TOML file or paper (the default), sigma, dial, source, source_start or smoke, which come with it.
    Stopped and started again, it goes on where it was; files whose content did not change are not touched.

    \b
    Examples:
      svda paper
      svda paper --from checkpoints
      svda paper sigma --jobs 2
      svda paper dial --extend
    """
    from svda_analysis.render.staging import check_report_folder
    from svda_analysis.study import find_checkpoints, load_manifest, train_missing, write_paper
    from svda_analysis.study.extending import keys_of
    from svda_analysis.study.report import read_study
    from svda_analysis.study.sections import first_answers
    from svda_analysis.writing import only_writer

    study = load_manifest(manifest, data_root=data_root)
    folder = Path(out) if out else Path("reports") / study.name
    check_report_folder(folder, "README.md", "report.html", "meta.json", "tables", "figures", "data")
    warnings: list[str] = []
    if source is not None and (checkpoints is not None or jobs != 1 or extend):
        raise InputError("--from trains nothing: leave --checkpoints, --jobs and --extend out")
    place = checkpoints or ("checkpoints" if manifest == "paper" else f"runs/{study.name}")
    held = _held_in(folder, study, place, data_root) if extend else {}
    if source is not None:
        trained, warnings = find_checkpoints(source, study.datasets)
    else:
        with resumable(command_line("svda")), training_display() as observer:
            options: dict[str, Any] = {"data_root": data_root, "jobs": jobs, "held": keys_of(held)}
            trained = train_missing(study, place, **options, on_run=say_run, on_progress=observer)
    warn(warnings)
    words = [] if manifest == "paper" else [manifest]
    words += [word for name, value in (("--from", source), ("--out", out)) if value for word in (name, value)]
    with resumable(command_line("svda")), only_writer(folder, "output folder"), progress_bars() as advance:
        written = write_paper(
            study,
            trained,
            folder,
            data_root=data_root,
            command=shlex.join(["svda", "paper", *words]),
            warnings=warnings,
            held=held,
            progress=advance,
            on_warning=lambda line: warn([line]),
        )
    conclude_report(written, {"answers": _show_answers(first_answers(read_study(folder)[0]))}, opened=opened)


def _held_in(folder: Path, study: Any, checkpoints: str, data_root: str | None) -> dict[str, Any]:
    """What a report in ``folder`` holds of a study, none of whose runs is lost; nothing where there is no report."""
    from svda_analysis.results import META
    from svda_analysis.study.extending import check_none_lost, held_runs, refused_runs
    from svda_analysis.study.report import read_study
    from svda_analysis.study.runs import measured_again

    if not (folder / META).exists():
        return {}
    report = read_study(folder)
    check_none_lost(refused_runs(*report, study), measured_again(study, checkpoints, data_root), folder)
    return held_runs(*report, study)


def _show_answers(lines: Sequence[str]) -> list[str]:
    """Show what a study found as a list, and return it as plain text."""
    from svda_analysis.document import Document, Points

    answers = [line.replace("**", "") for line in lines]
    show(Document(title="", sections=(), lead=(Points(tuple(answers)),)))
    return answers
