"""The command line: good runs write what they say, bad input is one line and exit code 2, and help needs no torch."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import (
    RunsCode,
    empty_folder,  # noqa: F401  # commands run in it, each test by itself
    one_error,
    refused,
    run,
    shell,
    tree,
)

from svda_analysis.cli import cli, main

README = Path(__file__).resolve().parents[1] / "README.md"


# --- bad input ------------------------------------------------------------------------------------------------------


def test_bad_input_of_real_processes_is_one_line(tiny, others):
    Path("evil.pt").write_bytes(pickle.dumps(RunsCode(), 2))
    for arguments, said in (
        (["svda-analyze"], "Missing argument"),
        (["svda-analyze", tiny["dot"], "--presicion", "0.1"], "--presicion"),
        (["python", "-m", "svda_analysis.cli", "analyze", "evil.pt"], "evil.pt was refused: it holds posix.system"),
        (["svda-analyze", others / "half.pt"], "half.pt is cut off or damaged"),
        (["svda", "train", "--dataset", "imagefolder:none", "--out", "run.pt"], "none is not a folder"),
    ):
        done = shell(*arguments)
        assert said in one_error(done.stdout, done.stderr)
        assert done.returncode == 2
    assert tree() == ["evil.pt"]


def test_an_unknown_command_is_one_line(capsys):
    assert "No such command 'exprot'" in refused(capsys, main, "exprot")


# --- help -----------------------------------------------------------------------------------------------------------


def test_help_and_the_bare_import_need_no_torch():
    script = """
        import sys
        import svda_analysis
        heavy = {"torch", "torchvision", "numpy", "pandas", "matplotlib", "seaborn", "scipy", "accelerate", "captum"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        from svda_analysis.cli import cli, main, analyze_main
        for command, arguments in [(analyze_main, ["-h"]), (main, []), (main, ["--version"]), (main, ["--help"]), *(
            (main, [name, "--help"]) for name in cli.commands
        )]:
            try:
                command(arguments)
            except SystemExit as done:
                assert done.code == (0 if arguments else 2), arguments
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
    """
    done = shell("python", "-c", "\n".join(line.removeprefix(" " * 8) for line in script.splitlines()))
    assert (done.returncode, done.stderr) == (0, "")
    assert "svda-analyze [OPTIONS] MODEL..." in done.stdout
    assert re.search(r"^svda, version \d+\.\d+", done.stdout, re.MULTILINE)


def test_analyze_is_imported_without_what_few_analyses_need():
    seldom = "{'accelerate', 'captum', 'matplotlib', 'seaborn', 'scipy.stats', 'sympy', 'timm', 'transformers'}"
    done = shell("python", "-c", f"import sys; from svda_analysis import analyze; print({seldom} & set(sys.modules))")
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("name", ["", *cli.commands])
def test_every_help_text_ends_in_an_example(name, capsys):
    command = cli.commands[name] if name else cli
    *_, title, last = [line.strip() for line in command.help.splitlines() if line.strip()]
    assert last.startswith(("svda", "torchrun")), last
    assert re.search(r"\bExamples?:", command.help), title
    assert run(main, *([name] if name else []), "--help") == 0
    assert last in capsys.readouterr().out


@pytest.mark.parametrize(
    ("program", "words", "found"),
    [("svda", "svda comp", "plain,compress\n"), ("svda-analyze", "svda-analyze --pre", "plain,--precision\n")],
)
def test_shells_complete_commands_and_options(program, words, found):
    name = program.upper().replace("-", "_")
    at = {f"_{name}_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "1"}
    assert found in shell(program, **at).stdout


@pytest.mark.parametrize("name", cli.commands)
def test_every_command_has_one_way_to_say_less_and_to_answer_a_program(name):
    options = {option.name: option for option in cli.commands[name].params}
    assert {"json", "quiet"} <= set(options)
    assert [options[one].callback.__module__ for one in ("json", "quiet")] == 2 * ["svda_analysis.cli.shared"]


@pytest.mark.skipif(not README.exists(), reason="there is no README.md yet")
@pytest.mark.parametrize("name", cli.commands)
def test_every_command_is_in_the_readme(name):
    assert re.search(rf"\bsvda[ -]{name}\b", README.read_text(encoding="utf-8"))


# --- where output goes ------------------------------------------------------------------------------------------------


def run_in_shell(words, **environment):
    """Exit code and stderr of ``python -m svda_analysis WORDS`` under a shell."""
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; '{sys.executable}' -m svda_analysis {words}"],
        capture_output=True, env={**os.environ, **environment}, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr.decode(), done.stdout.decode()


def test_a_closed_or_full_or_narrow_output_gives_no_traceback():
    assert run_in_shell("--help >&- 2>&-")[:2] == (0, "")
    code, said, _ = run_in_shell("--help > /dev/full")
    assert (code, said.count("\n")) == (2, 1)
    assert "No space left on device" in said
    code, said, out = run_in_shell("indicators", PYTHONIOENCODING="ascii")
    assert (code, said) == (0, "")
    assert out.isascii()


@pytest.mark.parametrize("words", ["--help", "", "indicators", "indicators --json"])
def test_a_reader_that_has_left_is_told_as_a_shell_does(words):
    assert run_in_shell(f"{words} | true")[:2] == (141, "")


def test_so_it_is_while_a_document_is_printed(others):
    few = "--data sample --images 8 --examples 0 --indicators attention_entropy --out out"
    code, said, _ = run_in_shell(f"analyze {others / 'whole.pt'} {few} | true")
    assert (code, "Traceback" in said) == (141, False)
    assert Path("out/report.html").exists()


@pytest.mark.parametrize("words", ["analyze", "report", "export x", "train --dataset sample --out", "paper"])
def test_a_name_that_is_no_text_is_refused_in_one_line(words, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*words.split(), os.fsdecode(b"a\xff.pt")])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == "error: an argument must be valid UTF-8, got 'a\\\\xff.pt': rename it\n"
