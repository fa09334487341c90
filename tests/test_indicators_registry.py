"""The registry of indicators: what enters it and what it tells."""

from __future__ import annotations

import inspect
import math
import sys

import pytest
from indicator_cases import (
    OURS,
)

from svda_analysis import indicators as ind
from svda_analysis.errors import InputError
from svda_analysis.indicators import registry
from svda_analysis.vocabulary import groups_of


def test_entries_describe_their_functions():
    of_tokens = {"grid", "prefix", "suffix", "frames", "class_token"}
    names_the_caller_offers = {"spectrum", "a", "q", "k", "sigma", "a_noisy", "a_pixel_noisy", *of_tokens}
    names_the_caller_offers |= {"tokens", "position_map", "loss", "ablated_loss", "qk_eigenvalues", "ov_eigenvalues"}
    for name, entry in {
        one.name: one for one in [*OURS.values(), *ind.choose_indicators(["source", "field", "ablation"])]
    }.items():
        assert entry is ind.INDICATORS[name]
        assert entry.function is getattr(sys.modules[entry.function.__module__], name)
        assert entry.needs == tuple(inspect.signature(entry.function).parameters)
        assert set(entry.needs) <= names_the_caller_offers
        assert entry.sources
        assert set(entry.sources) <= set(ind.SOURCES)
        assert entry.label
        assert entry.higher_means
        assert entry.reference
        assert entry.question.endswith("?")
        assert entry.not_said
    assert len({entry.label for entry in ind.INDICATORS.values()}) == len(ind.INDICATORS)


def test_the_decorator_registers_and_returns_the_function_unchanged(monkeypatch):
    monkeypatch.setattr(registry, "INDICATORS", {})

    def largest(spectrum, grid):
        return spectrum.amax(-1)

    words = {"label": "Largest", "low": 0.0, "high": "N", "higher_means": "larger", "reference": "our definition"}
    assert ind.indicator(sources=("sigma",), **words)(largest) is largest
    expected = ind.Indicator(name="largest", function=largest, needs=("spectrum", "grid"), sources=("sigma",), **words)
    assert {"largest": expected} == registry.INDICATORS
    assert ind.choose_indicators() == [expected]
    assert expected.group == ""


def test_bounds_resolve_sizes_by_source():
    sizes = {"D": 64, "N": 50, "grid": (7, 8)}
    entries = OURS
    assert entries["effective_rank"].bounds("sigma", **sizes) == (1, 64)
    assert entries["effective_rank"].bounds("scores", **sizes) == (1, 49)
    assert entries["attention_rank"].bounds("attention", **sizes) == (1, 50)
    assert entries["attention_distance"].bounds("attention", **sizes) == (0, math.hypot(6, 7))
    assert entries["effective_rank"].bounds("sigma", D=64) == (1, 64)
    in_unit_interval = set(entries) - {"effective_rank", "attention_rank", "attention_distance"}
    assert all(entries[name].bounds(entries[name].sources[0]) == (0, 1) for name in in_unit_interval)


@pytest.mark.parametrize(
    ("name", "source", "sizes", "message"),
    [
        ("effective_rank", "attention", {"D": 4}, "source must be one of sigma, scores"),
        ("effective_rank", "sigma", {"N": 4}, "D must be given"),
        ("effective_rank", "scores", {"D": 4}, "D and N must be given"),
        ("attention_rank", "attention", {"D": 4}, "N must be given"),
        ("attention_distance", "attention", {"N": 4}, "grid must be given"),
    ],
)
def test_bounds_say_what_is_missing(name, source, sizes, message):
    with pytest.raises(InputError, match=message):
        ind.INDICATORS[name].bounds(source, **sizes)


def test_the_default_run_measures_no_group():
    groups = groups_of(ind.INDICATORS)
    assert set(groups) >= {"source", "field", "ablation"}
    grouped = {one.name for one in ind.choose_indicators(groups)}
    assert grouped
    assert not grouped & {one.name for one in ind.choose_indicators()}
