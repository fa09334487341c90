"""The rule of verdicts: each word where it belongs, and how often each is wrong where nothing is there to find."""

from __future__ import annotations

import math

import numpy as np
import pytest

from svda_analysis.comparison import compare, compare_blocked
from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.stats import holm, tost
from svda_analysis.verdicts import EQUIVALENT, INCONCLUSIVE, OPPOSED, RULE, SUPPORTED, UNIFORM, judge

WORDS = (SUPPORTED, OPPOSED, EQUIVALENT, INCONCLUSIVE, UNIFORM)


@pytest.mark.parametrize(
    ("difference", "p", "p_equivalent", "direction", "unit", "runs", "alive", "word"),
    [
        (0.1, 0.049, math.nan, +1, "seeds", 3, True, SUPPORTED),
        (0.1, 0.049, 0.001, -1, "seeds", 3, True, OPPOSED),  # a difference, though one within the margin
        (-0.1, 0.049, math.nan, -1, "seeds", 3, True, SUPPORTED),
        (0.1, 0.05, math.nan, +1, "seeds", 3, True, INCONCLUSIVE),
        (0.1, 0.3, 0.049, +1, "seeds", 3, True, EQUIVALENT),
        (0.1, 0.3, 0.06, +1, "seeds", 3, True, INCONCLUSIVE),
        (0.1, math.nan, math.nan, +1, "images", 1, True, INCONCLUSIVE),
        (0.1, math.nan, math.nan, +1, "seeds", 1, True, INCONCLUSIVE),  # one run against several
        (0.1, math.nan, math.nan, +1, "seeds", 3, True, INCONCLUSIVE),  # no spread
        (0.1, 0.001, math.nan, +1, "seeds", 3, False, UNIFORM),
    ],
)
def test_each_word_follows_from_the_numbers(difference, p, p_equivalent, direction, unit, runs, alive, word):
    found = judge(difference, p, direction, unit=unit, runs=runs, p_equivalent=p_equivalent, alive=alive)
    assert found.word == word
    assert found.why


def test_the_rule_that_is_printed_names_every_word():
    assert all(word in RULE for word in WORDS)


# --- how often a rule is wrong ----------------------------------------------------------------------------------------

SMALL, FULL = 400, 10_000
FAMILY = ("attention_entropy", "attention_sparsity", "mass_90")


def a_table(values: np.ndarray, indicators=FAMILY):
    """Runs of two models: ``values (2, seeds, indicators)``."""
    about = {"dataset": "d", "epoch": 1, "layer": 0, "head": 0, "source": "attention", "std": 0.1, "n": 10}
    rows = [
        {**about, "model": model, "attention": kind, "seed": seed, "indicator": name, "mean": values[at, seed, which]}
        for at, (model, kind) in enumerate((("vit", "dot"), ("svda", "svda")))
        for seed in range(values.shape[1])
        for which, name in enumerate(indicators)
    ]
    return make_frame(rows, TABLE_COLUMNS)


def wrong(rate: float, draws: int) -> float:
    """What a rate of 5 % may reach by chance in so many draws (four standard errors)."""
    return rate + 4 * math.sqrt(rate * (1 - rate) / draws)


def the_family_errs(draws: int) -> float:
    """How often any member is supported or opposed where seeds differ and models do not."""
    rng, found = np.random.default_rng(0), 0
    for _ in range(draws):
        d = rng.normal(size=(3, len(FAMILY)))
        t = d.mean(0) / (d.std(0, ddof=1) / math.sqrt(3))
        from scipy import stats

        p = holm(2 * stats.t.sf(np.abs(t), 2))
        words = [judge(x, q, +1, unit="seeds", runs=3).word for x, q in zip(d.mean(0), p, strict=True)]
        found += any(word in (SUPPORTED, OPPOSED) for word in words)
    return found / draws


def equivalence_errs(draws: int) -> float:
    """How often a difference of just the margin counts as equivalent."""
    rng = np.random.default_rng(1)
    p = [tost(rng.normal(0.02, 0.004, size=4), 0.02).p for _ in range(draws)]
    return float(np.mean([judge(0.02, 0.5, +1, unit="seeds", runs=4, p_equivalent=x).word == EQUIVALENT for x in p]))


def no_loss_errs(draws: int) -> float:
    """How often a loss of just the margin counts as none."""
    rng = np.random.default_rng(2)
    return float(np.mean([tost(rng.normal(-0.005, 0.003, size=5), 0.005).p_lower < 0.05 for _ in range(draws)]))


RULES = (the_family_errs, equivalence_errs, no_loss_errs)


@pytest.mark.parametrize("errs", RULES)
def test_a_rule_errs_in_five_of_a_hundred_at_most(errs):
    assert errs(SMALL) <= wrong(0.05, SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("errs", RULES)
def test_a_rule_errs_in_five_of_a_hundred_at_most_in_full(errs):
    assert errs(FULL) <= wrong(0.05, FULL)


def test_the_comparison_errs_no_more_often_than_its_rule():
    """All the way from tables: blocks (seeds) that differ, models that do not."""
    rng, draws = np.random.default_rng(3), 60
    found = 0
    for _ in range(draws):
        values = 0.5 + rng.normal(0, 0.05, size=(1, 3, len(FAMILY))) + rng.normal(0, 0.01, size=(2, 3, len(FAMILY)))
        rows = compare(a_table(values))
        found += rows[rows["layer"].isna()]["verdict"].isin([SUPPORTED, OPPOSED]).any()
    assert found / draws <= wrong(0.05, draws)


def test_the_comparison_finds_what_is_there():
    rng = np.random.default_rng(4)
    values = 0.5 + rng.normal(0, 0.001, size=(2, 5, len(FAMILY)))
    values[1, :, 0] += 0.1  # entropy rises: less structured
    values[1, :, 1] += 0.1  # sparsity rises: more structured
    rows = compare(a_table(values)).query("layer.isna()").set_index("indicator")["verdict"]
    assert (rows["attention_entropy"], rows["attention_sparsity"]) == (OPPOSED, SUPPORTED)


def test_what_restates_another_quantity_counts_once():
    rng = np.random.default_rng(5)
    entropy = 0.5 + rng.normal(0, 0.01, size=(2, 4, 1))
    values = np.concatenate([entropy, 1 - entropy, 0.5 + rng.normal(0, 0.01, size=(2, 4, 1))], axis=2)
    names = ("attention_entropy", "selectivity_index", "attention_sparsity")
    whole = compare(a_table(values, names)).query("layer.isna()").set_index("indicator")
    assert whole["p_adjusted"]["attention_entropy"] == whole["p_adjusted"]["selectivity_index"]
    two = whole.loc[["attention_entropy", "attention_sparsity"]]
    np.testing.assert_allclose(two["p_adjusted"], holm(two["p"]))
    alone = compare(a_table(values[..., 1:2], names[1:2])).query("layer.isna()")
    assert (alone["p_adjusted"] == alone["p"]).all()


def test_seeds_as_blocks_are_the_linear_model():
    rng = np.random.default_rng(6)
    values = 0.5 + rng.normal(0, 0.05, size=(1, 4, 1)) + rng.normal(0, 0.01, size=(2, 4, 1))
    (row,) = compare_blocked(a_table(values, FAMILY[:1]), FAMILY[0], "attention", "vit").itertuples()
    paired = compare(a_table(values, FAMILY[:1])).query("layer.isna()").iloc[0]  # of two models it is the paired test
    for name in ("difference", "ci_low", "ci_high", "p"):
        assert getattr(row, name) == pytest.approx(paired[name])
