"""The command line: parse, call one function, write, print. torch is imported inside commands alone."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from svda_analysis.bars import are_several
from svda_analysis.cli.analyze import analyze_command
from svda_analysis.cli.compress import compress_command
from svda_analysis.cli.convert import convert_command
from svda_analysis.cli.explain import explain_command
from svda_analysis.cli.export import export_command
from svda_analysis.cli.figures import figures_command
from svda_analysis.cli.gallery import gallery_command
from svda_analysis.cli.indicators import indicators_command
from svda_analysis.cli.paper import paper_command
from svda_analysis.cli.report import report_command
from svda_analysis.cli.shared import CONTEXT
from svda_analysis.cli.train import train_command
from svda_analysis.errors import HaltedError, InputError, check_name, one_line


class _WholeHelps(click.Group):
    """A group whose list of commands has the whole first sentence of each."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, self.commands[name].get_short_help_str(1000)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=_WholeHelps, context_settings=CONTEXT)
@click.version_option(package_name="svda-analysis", prog_name="svda")
def cli() -> None:
    """How does a Vision Transformer attend? Train, measure and compare.

    \b
    Examples:
      svda train --dataset fashion_mnist --attention svda --out checkpoints/svda_s0.pt
      svda analyze checkpoints/svda_s0.pt
      svda paper --from checkpoints
    """


for _command in (
    analyze_command,
    compress_command,
    convert_command,
    explain_command,
    export_command,
    figures_command,
    gallery_command,
    indicators_command,
    paper_command,
    report_command,
    train_command,
):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``svda``."""
    _run(cli, "svda", arguments)


def analyze_main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of ``svda-analyze``."""
    _run(analyze_command, "svda-analyze", arguments)


def _run(command: click.Command, name: str, arguments: Sequence[str] | None) -> None:
    """Run a command; bad input becomes one line on stderr and exit code 2, a run that was stopped says how to go on."""
    if arguments is None:  # a process of its own: to look for garbage among all that torch imports takes a tenth of it
        gc.set_threshold(50_000, 10, 10)
    given = list(sys.argv[1:] if arguments is None else arguments)
    _show_any_text()
    try:
        for word in given:
            check_name(word, "an argument")
        code = _invoked(command, name, given)
        if sys.stdout is not None:
            sys.stdout.flush()  # what cannot be written shows here, not when Python ends
    except InputError as error:
        _say_why(f"error: {one_line(error)}")
        code = 2
    except HaltedError as halt:
        _say_why(one_line(halt))
        code = halt.code
    except KeyboardInterrupt:
        _say_why("interrupted")
        code = 130
    except click.ClickException as error:
        _say_why(f"error: {one_line(error.format_message())}")
        code = 2
    except BrokenPipeError:  # the reader has seen enough, as head does
        _give_up_output()
        code = 141  # as a shell says it
    except OSError as error:
        _give_up_output()
        _say_why(f"error: {one_line(error)}")
        code = 2
    sys.exit(code if isinstance(code, int) else 0)


def _invoked(command: click.Command, name: str, given: Sequence[str]) -> Any:
    """What a command returns, or an exit code. As ``click.Command.main``, which would end a broken pipe with 1."""
    completing = f"_{name}_COMPLETE".replace("-", "_").upper()
    if asked := os.environ.get(completing):
        from click.shell_completion import shell_complete

        return shell_complete(command, {}, name, completing, asked)
    try:
        with command.make_context(name, list(given), obj=given) as context:
            return command.invoke(context)
    except click.exceptions.Exit as end:
        return end.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 2


def _say_why(line: str) -> None:
    """Why a command fails; of several processes that torchrun started the first that fails says it, for all."""
    if are_several():
        from svda_analysis.team import first_to_fail

        if not first_to_fail():
            return
    with contextlib.suppress(BrokenPipeError):
        click.echo(line, err=True)


def _give_up_output() -> None:
    """Where output cannot be written, what is left of it is dropped: Python would try again when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115  (open until the end)


def _show_any_text() -> None:
    """What a terminal's encoding lacks is escaped, and a closed one is written to in vain: neither stops a command."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115  (open until the end)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
