"""Bars in a terminal alone, and the line that an epoch comes to."""

import io
import sys
from types import SimpleNamespace

import click
import pandas as pd
import pytest

from svda_analysis.cli.progress import epoch_line, progress_bars, say_run, training_display, with_estimate
from svda_analysis.cli.shared import output_options


class Terminal(io.StringIO):
    def isatty(self):
        return True


def drawn_with(monkeypatch, *options):
    """What a command that shows progress draws in a terminal, with these options."""

    @click.command()
    @output_options
    def command():
        with progress_bars("images") as advance, training_display() as observe:
            advance("one", 1, 2)
            observe(state())

    monkeypatch.setattr(sys, "stderr", Terminal())
    command.main(list(options), standalone_mode=False)
    return sys.stderr.getvalue()


def state(seconds_left=75.0, sigma=True, rows=True):
    numbers = [("loss", "train", 0.5), ("loss", "test", 0.25), ("accuracy", "test", 0.905)]
    numbers += [("attention_entropy", "attention", 0.6), ("attention_entropy", "attention", 0.8)]
    numbers += [("effective_rank", "sigma", 12.34)] * sigma
    frame = pd.DataFrame(numbers, columns=["indicator", "source", "mean"]) if rows else None
    times = {"images_per_second": 1234.4, "seconds_left": seconds_left}
    return SimpleNamespace(epoch=2, epochs=3, step=4, steps=6, loss=0.3, accuracy=0.9, epoch_rows=frame, **times)


@pytest.mark.parametrize(("seconds", "clock"), [(0, "0:00"), (75.9, "1:15"), (3600, "1:00:00"), (36125, "10:02:05")])
def test_an_epoch_is_one_line_with_its_means_and_the_time_left(seconds, clock):
    assert epoch_line(state(seconds)) == (
        f"epoch 2/3  loss 0.500, test 0.250  accuracy 90.50%  entropy 0.700  {clock} left"
    )
    assert len(epoch_line(state(seconds))) <= 80


def test_elsewhere_a_finished_epoch_is_a_line_and_there_are_no_bars(capsys):
    with training_display() as observe:
        observe(state(rows=False))  # in the middle of an epoch
        observe(state())
    with progress_bars("images") as advance:
        advance("a", 1, 2)
        advance.note("a line")
    assert capsys.readouterr() == (epoch_line(state()) + "\n", "")


def test_quiet_draws_nothing_and_json_leaves_stdout_to_the_result(monkeypatch, capsys):
    assert "1/2" in drawn_with(monkeypatch)
    assert drawn_with(monkeypatch, "--quiet") == ""
    assert "1/2" in drawn_with(monkeypatch, "--json")
    assert capsys.readouterr().out == ""


class Noted:
    def __init__(self):
        self.bars, self.notes = [], []

    def __call__(self, *bar):
        self.bars.append(bar)

    def note(self, line):
        self.notes.append(line)


@pytest.mark.parametrize(
    ("runs", "seconds", "said"),
    [
        (6, 5.0, "about 5 min at most for 6 models; --images 1000 for a quick look"),  # 5 s for 100 of 1000 images
        (2, 5.0, "about 2 min at most for 2 models; --images 1000 for a quick look"),
        (1, 5.0, None),  # 50 s
        (6, 2.0, None),  # too early to say
    ],
)
def test_a_long_measurement_is_said_once(runs, seconds, said, monkeypatch):
    clock = iter([0.0, seconds / 2, seconds, seconds])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    noted = Noted()
    bars = with_estimate(noted, runs)
    steps = [("a", done, 1000) for done in (50, 100, 150)]
    for step in steps:
        bars(*step)
    assert noted.bars == steps
    assert noted.notes == ([said] if said else [])


def test_a_terminal_keeps_the_line_of_a_finished_epoch(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with training_display() as observe:
        observe(state())
    assert "accuracy 90.50%" in sys.stderr.getvalue()


def test_a_run_says_which_it_is_of_how_many(capsys):
    say_run(SimpleNamespace(dataset="cifar10", name="vit", recipe=SimpleNamespace(seed=3)), 2, 6)
    assert capsys.readouterr().out == "run 2 of 6: cifar10 vit seed 3\n"
