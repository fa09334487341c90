"""Sentences follow the sign, the interval, and what the vocabulary says of a quantity."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from svda_analysis.sections.sentences import accuracy_lines, statements
from svda_analysis.vocabulary import QUANTITIES, Quantity, register

COLUMNS = ("indicator", "source", "difference", "ci_low", "ci_high", "baseline_mean", "model_mean")


def comparison(*rows):
    about = {"model": "svda", "baseline": "vit", "layer": pd.NA, "n_seeds": 3, "unit": "seeds"}
    return pd.DataFrame(rows, columns=COLUMNS).assign(**about)


@pytest.fixture
def known():
    """What a test registers goes away again."""
    before = dict(QUANTITIES)
    yield register
    QUANTITIES.clear()
    QUANTITIES.update(before)


def test_sentences_follow_the_sign_and_the_interval():
    frame = comparison(
        ("attention_entropy", "attention", -0.2, -0.3, -0.1, 0.9, 0.7),
        ("attention_sparsity", "attention", -0.2, -0.3, -0.1, 0.5, 0.3),
        ("selectivity_index", "attention", 0.1, -0.1, 0.3, 0.1, 0.2),
        ("effective_rank", "sigma", 0.1, -0.1, 0.3, 0.1, 0.2),
    )
    entropy, sparsity, selectivity = statements(frame)
    assert "svda is more structured" in entropy
    assert "vit is more structured" in sparsity
    assert "no difference shown" in selectivity
    assert "over 3 training runs" in entropy
    assert statements(frame.assign(layer=0)) == []


def test_a_whole_sentence():
    (line,) = statements(comparison(("attention_entropy", "attention", -0.0665, -0.108, -0.025, 0.633, 0.5665)))
    assert line == (
        "Attention entropy (attention): svda is more structured (svda 0.567 against 0.633, difference -0.067 "
        "[-0.108, -0.025] over 3 training runs)."
    )
    frame = comparison(("attention_entropy", "attention", 0.1, math.nan, math.nan, 0.5, 0.6)).assign(unit="images")
    assert statements(frame) == [
        "Attention entropy (attention): no difference shown between svda and vit (0.600 against 0.500, difference "
        "+0.100 [no interval] over images, these two checkpoints only)."
    ]


def test_the_vocabulary_says_what_a_sentence_is_about(known):
    known(Quantity(name="gain", label="The gain", direction={"*": +1, "random": 0}, quality="faithful"))
    known(Quantity(name="order", label="Order", direction={"sigma": -1}))
    frame = comparison(
        ("order", "sigma", 0.2, 0.1, 0.3, 0.5, 0.7),
        ("gain", "rollout", 0.2, 0.1, 0.3, 0.5, 0.7),
        ("order", "scores", 0.2, 0.1, 0.3, 0.5, 0.7),
        ("gain", "relevance", -0.2, -0.3, -0.1, 0.5, 0.3),
        ("gain", "random", -0.2, -0.3, -0.1, 0.5, 0.3),
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
