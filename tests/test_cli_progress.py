"""Bars in a terminal alone, and the line that an epoch comes to."""

import io
import sys
from types import SimpleNamespace

import pandas as pd
import pytest

from svda_analysis.cli.progress import epoch_line, progress_bars, say_run, training_display


class Terminal(io.StringIO):
    def isatty(self):
        return True


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
    with progress_bars("images", quiet=False) as advance:
        advance("a", 1, 2)
    assert capsys.readouterr() == (epoch_line(state()) + "\n", "")


def test_a_terminal_gets_a_bar_for_each_label_as_it_is(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bars("images", quiet=False) as advance:
        advance("one [/b]", 1, 2)  # what could be read as markup
        advance("two", 0, 4)
        advance("one [/b]", 2, 2)
    drawn = sys.stderr.getvalue()
    assert "one [/b]" in drawn
    assert "2/2" in drawn
    assert "0/4" in drawn
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress_bars("images", quiet=True) as advance:
        advance("one", 1, 2)
    assert sys.stderr.getvalue() == ""


def test_a_terminal_keeps_the_line_of_a_finished_epoch(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with training_display() as observe:
        observe(state())
    assert "accuracy 90.50%" in sys.stderr.getvalue()


def test_a_run_says_which_it_is_of_how_many(capsys):
    say_run(SimpleNamespace(dataset="cifar10", name="vit", recipe=SimpleNamespace(seed=3)), 2, 6)
    assert capsys.readouterr().out == "run 2 of 6: cifar10 vit seed 3\n"
