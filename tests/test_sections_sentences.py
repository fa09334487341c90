"""Sentences follow the sign, the interval, and what the vocabulary says of a quantity."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from svda_analysis.sections.sentences import accuracy_lines, first_lines, statements
from svda_analysis.vocabulary import QUANTITIES, Quantity, register

COLUMNS = ("indicator", "source", "verdict", "difference", "ci_low", "ci_high", "baseline_mean", "model_mean")


def comparison(*rows):
    about = {"model": "svda", "baseline": "vit", "layer": pd.NA, "n_seeds": 3, "unit": "seeds"}
    return pd.DataFrame(rows, columns=COLUMNS).assign(**about, p_adjusted=0.012, p_equivalent=0.034)


@pytest.fixture
def known():
    """What a test registers goes away again."""
    before = dict(QUANTITIES)
    yield register
    QUANTITIES.clear()
    QUANTITIES.update(before)


def test_words_follow_the_verdict_and_not_the_interval():
    frame = comparison(
        ("attention_entropy", "attention", "supported", -0.2, -0.3, -0.1, 0.9, 0.7),
        ("attention_sparsity", "attention", "opposed", -0.2, -0.3, -0.1, 0.5, 0.3),
        ("mass_90", "attention", "equivalent", 0.001, -0.002, 0.003, 0.1, 0.101),
        ("effective_rank", "scores", "uniform attention", -3.1, -4, -2, 5, 1.9),
        ("selectivity_index", "attention", "supported", 0.2, 0.1, 0.3, 0.1, 0.3),  # says again what entropy said
        ("spectral_entropy", "scores", None, 0.1, 0.05, 0.3, 0.1, 0.2),
    )
    assert [line.partition(" (svda")[0] for line in statements(frame)] == [
        "Attention entropy (attention): svda is more structured",
        "Attention sparsity (attention): vit is more structured",
        "Keys for 90 % of mass (attention): svda and vit are equivalent",
        "Effective rank (scores): uniform attention, in which it says nothing",
    ]
    (line,) = statements(frame[:1].assign(verdict="inconclusive"))
    assert line.startswith("Attention entropy (attention): inconclusive (svda 0.700 against")
    assert statements(frame.assign(layer=0)) == []


def test_a_reader_gets_ten_lines_at_most_and_how_many_more_there_are():
    lines = [f"line {i}" for i in range(12)]
    assert first_lines(lines[:10]) == tuple(lines[:10])
    assert first_lines(lines) == (*lines[:9], "3 more: see the comparison over the whole model.")


def test_a_whole_sentence():
    row = ("attention_entropy", "attention", "supported", -0.0665, -0.108, -0.025, 0.633, 0.5665)
    (line,) = statements(comparison(row))
    assert line == (
        "Attention entropy (attention): svda is more structured (svda 0.567 against 0.633 of vit, difference -0.067 "
        "[-0.108, -0.025] over 3 training runs, p 0.012 after Holm)."
    )
    (same,) = statements(comparison(row).assign(verdict="equivalent"))
    assert same.endswith("over 3 training runs, p 0.012 after Holm, p 0.034 for equivalence).")
    alone = comparison(("attention_entropy", "attention", "inconclusive", 0.1, math.nan, math.nan, 0.5, 0.6))
    assert statements(alone.assign(unit="images", p_adjusted=math.nan)) == [
        "Attention entropy (attention): inconclusive (svda 0.600 against 0.500 of vit, difference +0.100 "
        "[no interval] over images of these two checkpoints; one training run each decides nothing)."
    ]


def test_the_vocabulary_says_what_a_sentence_is_about(known):
    known(Quantity(name="gain", label="The gain", direction={"*": +1, "random": 0}, quality="faithful"))
    known(Quantity(name="order", label="Order", direction={"sigma": -1}))
    numbers = (0.2, 0.1, 0.3, 0.5, 0.7)
    frame = comparison(
        ("order", "sigma", "opposed", *numbers),
        ("gain", "rollout", "supported", *numbers),
        ("gain", "relevance", "opposed", *numbers),
        ("gain", "random", None, *numbers),
    )
    assert [line.partition(" (svda")[0] for line in statements(frame)] == ["Order (sigma): vit is more structured"]
    assert [line.partition(" (svda")[0] for line in statements(frame, "faithful")] == [
        "The gain (relevance): vit is more faithful",
        "The gain (rollout): svda is more faithful",
    ]


def test_accuracy_with_its_interval():
    rows = {"model": ["svda", "svda", "vit"], "seed": [0, 1, 0], "mean": [0.9, 0.92, 0.88]}
    about = {"attention": "dot", "dataset": "d", "epoch": 1, "indicator": "accuracy", "source": "test"}
    missing = {"layer": pd.NA, "head": pd.NA, "ci_low": math.nan, "ci_high": math.nan}
    table = pd.DataFrame(rows).assign(**about, **missing, std=0.3, n=100)
    svda, vit = accuracy_lines(table)
    assert svda.startswith("svda: 91.00% [")
    assert svda.endswith("%] over 2 training runs")
    assert vit == "vit: 88.00% [80.19%, 93.00%] over images of one run"  # Wilson's of 88 of 100
    assert accuracy_lines(table.assign(source="train")) == []
