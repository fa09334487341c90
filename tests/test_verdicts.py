"""The rule of verdicts: each word where it belongs, and how often each is wrong where nothing is there to find."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from svda_analysis.comparison import compare, compare_blocked, contrast_blocked
from svda_analysis.errors import InputError
from svda_analysis.frames import TABLE_COLUMNS, make_frame
from svda_analysis.stats import blocked_contrast, holm, tost
from svda_analysis.verdicts import (
    EQUIVALENT,
    INCONCLUSIVE,
    LEVEL_OF_TESTS,
    OPPOSED,
    RULE,
    SUPPORTED,
    UNIFORM,
    judge,
)

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
        (1e-8, math.nan, 0.001, -1, "seeds", 3, True, EQUIVALENT),  # equal up to rounding
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
    """Runs of two or three models: ``values (models, seeds, indicators)``."""
    about = {"dataset": "d", "epoch": 1, "layer": 0, "head": 0, "source": "attention", "std": 0.1, "n": 10}
    rows = [
        {**about, "model": model, "attention": kind, "seed": seed, "indicator": name, "mean": values[at, seed, which]}
        for at, (model, kind) in enumerate((("vit", "dot"), ("svda", "svda"), ("cosine", "cosine"))[: len(values)])
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


def blocks_err(draws: int) -> float:
    """How often seeds as blocks tell any of five variants from the first, where seeds differ and variants do not."""
    rng, found = np.random.default_rng(7), 0
    for _ in range(draws):
        values = rng.normal(0, 5, size=(3, 1)) + rng.normal(size=(3, 6))
        weights = np.eye(6)[1:] - np.eye(6)[0]
        found += (holm([blocked_contrast(values, row).p for row in weights]) < LEVEL_OF_TESTS).any()
    return found / draws


def groups_err(draws: int) -> float:
    """How often seeds as blocks tell a group of variants from the others, where they do not differ."""
    rng, weights = np.random.default_rng(8), np.array([1 / 2, 1 / 2, *[-1 / 4] * 4])
    values = rng.normal(0, 5, size=(draws, 3, 1)) + rng.normal(size=(draws, 3, 6))
    return float(np.mean([blocked_contrast(one, weights).p < LEVEL_OF_TESTS for one in values]))


def thin_arms_err(draws: int) -> float:
    """How often seeds as blocks tell a variant of one run, or of two, from the first, where none differ."""
    rng, found = np.random.default_rng(9), 0
    values = rng.normal(0, 5, size=(draws, 4, 1)) + rng.normal(size=(draws, 4, 5))
    values[:, 1:, 1] = values[:, :2, 2] = math.nan
    weights = np.array([[-1.0, 1, 0, 0, 0], [-1, 0, 1, 0, 0]])
    for one in values:
        found += (holm([blocked_contrast(one, row).p for row in weights]) < LEVEL_OF_TESTS).any()
    return found / draws


RULES = (the_family_errs, equivalence_errs, no_loss_errs, blocks_err, groups_err, thin_arms_err)


@pytest.mark.parametrize("errs", RULES)
def test_a_rule_errs_in_five_of_a_hundred_at_most(errs):
    assert errs(SMALL) <= wrong(0.05, SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("errs", RULES)
def test_a_rule_errs_in_five_of_a_hundred_at_most_in_full(errs):
    assert errs(FULL) <= wrong(0.05, FULL)


def comparison_errs(draws: int) -> float:
    """How often :func:`compare` says that anything differs, all the way from tables: seeds differ, models do not."""
    rng, found = np.random.default_rng(3), 0
    for _ in range(draws):
        values = 0.5 + rng.normal(0, 0.05, size=(1, 3, len(FAMILY))) + rng.normal(0, 0.01, size=(2, 3, len(FAMILY)))
        rows = compare(a_table(values))
        found += rows[rows["layer"].isna()]["verdict"].isin([SUPPORTED, OPPOSED]).any()
    return found / draws


def blocked_comparison_errs(draws: int) -> float:
    """The same of :func:`compare_blocked`, of three variants."""
    rng, found = np.random.default_rng(10), 0
    for _ in range(draws):
        values = 0.5 + rng.normal(0, 0.05, size=(1, 3, 1)) + rng.normal(0, 0.01, size=(3, 3, 1))
        rows = compare_blocked(a_table(values, FAMILY[:1]), FAMILY[0], "attention", "vit")
        found += (rows["p_adjusted"] < LEVEL_OF_TESTS).any()
    return found / draws


def dead_maps_judged(draws: int) -> float:
    """How often :func:`compare` judges the rank of maps whose selectivity is 0.02 in truth."""
    rng, found = np.random.default_rng(11), 0
    names = ("selectivity_index", "attention_rank")
    for _ in range(draws):
        values = rng.normal([0.02, 3], 0.01, size=(2, 3, 2))
        rows = compare(a_table(values, names)).query("layer.isna()").set_index("indicator")
        found += rows.loc["attention_rank", "verdict"] != UNIFORM
    return found / draws


COMPARISONS = (comparison_errs, blocked_comparison_errs, dead_maps_judged)


@pytest.mark.parametrize("errs", COMPARISONS)
def test_a_comparison_errs_no_more_often_than_its_rule(errs):
    assert errs(20) <= wrong(0.05, 20)


@pytest.mark.slow
@pytest.mark.parametrize("errs", COMPARISONS)
def test_a_comparison_errs_no_more_often_than_its_rule_in_full(errs):
    assert errs(2000) <= wrong(0.05, 2000)


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


def test_kinds_are_not_compared_by_what_depends_on_coordinates():
    values = np.random.default_rng(14).normal(size=(2, 3, 1))
    table = a_table(values, ("angular_alignment",)).assign(source="scores")
    assert compare(pd.concat([table, a_table(values, FAMILY[:1])])).query("indicator == 'angular_alignment'").empty
    with pytest.raises(InputError, match="angular_alignment must be of one kind of attention, got dot, svda"):
        compare_blocked(table, "angular_alignment", "scores", "vit")
    assert len(compare_blocked(table.assign(attention="svda"), "angular_alignment", "scores", "vit")) == 1


def test_groups_of_models_are_one_contrast_of_the_linear_model():
    """Against an ordinary least-squares fit of model + seed."""
    rng = np.random.default_rng(12)
    values = 0.5 + rng.normal(0, 0.05, size=(1, 4, 1)) + rng.normal(0, 0.01, size=(3, 4, 1))
    table = a_table(values, FAMILY[:1])
    found = contrast_blocked(table, FAMILY[0], "attention", {"svda": 0.5, "cosine": 0.5, "vit": -1.0})
    design = np.array([[m == 0, m == 1, m == 2, s == 1, s == 2, s == 3] for m in range(3) for s in range(4)], float)
    y, weights = values[..., 0].ravel(), np.array([-1, 0.5, 0.5, 0, 0, 0])
    fitted, (rss,), *_ = np.linalg.lstsq(design, y, rcond=None)
    df = len(y) - 6
    se = math.sqrt(rss / df * weights @ np.linalg.inv(design.T @ design) @ weights)
    low, high = stats.t.interval(0.95, df, fitted @ weights, se)
    assert found.difference == pytest.approx(fitted @ weights)
    assert found.interval == pytest.approx((low, high))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(fitted @ weights) / se, df))
    for weights, came in (({"svda": 1, "absent": -1}, "svda, absent"), ({}, "none")):
        with pytest.raises(InputError, match=f"weights must be of one or more of .*, got {came}"):
            contrast_blocked(table, FAMILY[0], "attention", weights)
    with pytest.raises(InputError, match="two seeds that several of its models have, got 1"):
        contrast_blocked(table[table["seed"] == 0], FAMILY[0], "attention", {"svda": 1, "vit": -1})


def test_a_model_of_fewer_seeds_thins_no_other():
    """Against an ordinary least-squares fit of model + seed to the runs that are there."""
    values = 0.5 + np.random.default_rng(15).normal(0, 0.05, size=(3, 4, 1))
    whole = a_table(values, FAMILY[:1])
    table = whole[(whole["model"] != "cosine") | (whole["seed"] == 0)]
    found = compare_blocked(table, FAMILY[0], "attention", "vit").set_index("model")
    assert found["n_seeds"].to_dict() == {"svda": 4, "cosine": 1}
    rows = list(zip(table["model"], table["seed"].astype(int), strict=True))
    design = np.array([[m == "vit", m == "svda", m == "cosine", s == 1, s == 2, s == 3] for m, s in rows], float)
    fitted, (rss,), *_ = np.linalg.lstsq(design, table["mean"].to_numpy(), rcond=None)
    df = len(rows) - 6
    for model, at in (("svda", 1), ("cosine", 2)):
        weights = np.eye(6)[at] - np.eye(6)[0]
        se = math.sqrt(rss / df * weights @ np.linalg.inv(design.T @ design) @ weights)
        row = found.loc[model]
        assert row["difference"] == pytest.approx(fitted @ weights)
        assert row["model_mean"] - row["baseline_mean"] == pytest.approx(row["difference"])
        assert tuple(row[["ci_low", "ci_high"]]) == pytest.approx(stats.t.interval(0.95, df, fitted @ weights, se))
        assert row["p"] == pytest.approx(2 * stats.t.sf(abs(fitted @ weights) / se, df))
    pair = compare_blocked(whole[whole["model"] != "cosine"], FAMILY[0], "attention", "vit").iloc[0]
    assert found.loc["svda", "p"] == pytest.approx(pair["p"])  # of two models that are whole, one run tells nothing


def test_models_that_share_no_seed_are_not_compared():
    table = a_table(0.5 + np.random.default_rng(16).normal(0, 0.05, size=(3, 3, 1)), FAMILY[:1])
    table["seed"] += 10 * (table["model"] == "cosine")
    found = compare_blocked(table, FAMILY[0], "attention", "vit").set_index("model")
    assert math.isnan(found.loc["cosine", "difference"])
    assert found.loc["svda", "n_seeds"] == 3
    assert 0 < found.loc["svda", "p_adjusted"] < 1


def test_uniform_maps_are_named_even_where_a_quantity_has_no_better_end():
    values = np.array([[[0.02, 0.99]] * 3, [[0.3, 0.9]] * 3]) + np.random.default_rng(13).normal(0, 1e-3, (2, 3, 2))
    table = a_table(values, ("selectivity_index", "perturbation_robustness"))
    whole = compare(table).query("layer.isna()").set_index("indicator")["verdict"]
    assert whole["perturbation_robustness"] == UNIFORM
    assert (
        compare(table.assign(mean=table["mean"] + 0.1))
        .query("indicator == 'perturbation_robustness'")["verdict"]
        .isna()
        .all()
    )
