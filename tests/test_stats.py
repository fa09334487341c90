"""Intervals and tests against scipy, explicit formulas, simulation, and their properties."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from svda_analysis.errors import InputError
from svda_analysis.stats import (
    Moments,
    adjusted_wald,
    blocked_contrast,
    difference_test,
    holm,
    interval_over,
    mcnemar,
    mean_interval,
    noninferiority_power,
    paired_test,
    pairs_needed,
    proportion_interval,
    tost,
    welch_from_moments,
    welch_test,
)

shares = st.floats(0.001, 0.999)
p_values = st.lists(st.floats(0, 1), max_size=20)
runs = st.lists(st.floats(-5, 5).map(lambda x: round(x, 6)), min_size=2, max_size=9).filter(lambda x: np.ptp(x) > 1e-3)


# --- means ----------------------------------------------------------------------------------------------------------


@given(runs)
def test_without_limits_it_is_scipys_t_interval(values):
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval_over(values) == pytest.approx((expected.low, expected.high), rel=1e-9, abs=1e-12)


@given(shares, st.floats(0.001, 2), st.integers(1, 50))
def test_between_limits_it_is_the_t_interval_of_the_logit(mean, se, df):
    t, slope = stats.t.ppf(0.975, df), 1 / (mean * (1 - mean))
    ends = [math.log(mean / (1 - mean)) + sign * t * slope * se for sign in (-1, 1)]
    low, high = mean_interval(mean, se, df, low=0, high=1)
    assert (low, high) == pytest.approx([1 / (1 + math.exp(-min(max(x, -700), 700))) for x in ends], abs=1e-9)
    assert 0 <= low <= mean <= high <= 1


@given(st.floats(1.01, 100), st.floats(0.001, 50), st.integers(2, 50))
def test_above_one_limit_it_is_the_t_interval_of_the_logarithm(mean, se, df):
    t = stats.t.ppf(0.975, df)
    low, high = mean_interval(mean, se, df, low=1)
    assert low == pytest.approx(1 + (mean - 1) * math.exp(-t * se / (mean - 1)))
    assert 1 <= low <= mean <= high
    mirrored = mean_interval(-mean, se, df, high=-1)
    assert mirrored == pytest.approx((-high, -low))


@given(shares, st.floats(0.001, 0.2), st.integers(2, 50), st.floats(-3, 3), st.floats(0.1, 9))
def test_the_interval_moves_with_the_scale_of_the_quantity(mean, se, df, shift, scale):
    unit = mean_interval(mean, se, df, low=0, high=1)
    moved = mean_interval(shift + scale * mean, scale * se, df, low=shift, high=shift + scale)
    assert moved == pytest.approx([shift + scale * end for end in unit], rel=1e-6, abs=1e-9)


def test_a_small_spread_far_from_the_limits_gives_the_plain_interval():
    half = stats.t.ppf(0.975, 9) * 0.001
    assert mean_interval(0.5, 0.001, 9, low=0, high=1) == pytest.approx((0.5 - half, 0.5 + half), rel=1e-5)


@pytest.mark.parametrize("low_high", [(-math.inf, math.inf), (0, 1), (0, math.inf)])
def test_no_spread_is_no_interval(low_high):
    low, high = low_high
    for mean, se, df in ((0.5, 0.0, 4), (0.5, 1e-16, 4), (0.5, math.nan, 4), (0.5, math.inf, 4), (0.5, 0.1, 0)):
        assert all(math.isnan(end) for end in mean_interval(mean, se, df, low=low, high=high))
    assert all(math.isnan(end) for end in interval_over([0.3], low=low, high=high))


@pytest.mark.parametrize("mean", [0.0, 1.0, 1.2])
def test_a_mean_at_a_limit_has_no_interval(mean):
    assert all(math.isnan(end) for end in mean_interval(mean, 0.1, 5, low=0, high=1))


def test_the_promised_95_percent_hold_within_limits():
    rng, hits = np.random.default_rng(0), []
    for _ in range(2000):
        low, high = interval_over(rng.beta(4, 2, 5), low=0, high=1)
        hits.append(low <= 4 / 6 <= high)
    assert 0.93 <= np.mean(hits) <= 0.97


@given(st.integers(1, 60), st.integers(0, 60))
def test_wilsons_interval_is_its_formula(n, k):
    k = min(k, n)
    z, p = stats.norm.ppf(0.975), k / n
    middle = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    found = proportion_interval(p, n)
    assert found == pytest.approx((middle - half, middle + half), abs=1e-9)
    assert 0 <= found.low < found.high <= 1


@settings(deadline=None)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_moments_are_numpys_whatever_the_batches(sizes, seed):
    values = np.random.default_rng(seed).normal(3, 2, (sum(sizes), 4))
    whole, merged = Moments(), Moments()
    for part in np.split(values, np.cumsum(sizes)[:-1]):
        whole.update(part)
        one = Moments()
        one.update(part)
        merged.merge(one)
    for found in (whole, merged):
        assert found.n == len(values)
        np.testing.assert_allclose(found.mean, values.mean(0), rtol=1e-12)
        if len(values) > 1:
            np.testing.assert_allclose(found.std(), values.std(0, ddof=1), rtol=1e-9)
            expected = stats.ttest_1samp(values[:, 2], 0).confidence_interval(0.95)
            assert found.interval(index=2) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize("spread", [1.0, 1e-4, 1e-8, 1e-12])
def test_the_order_of_merging_changes_moments_by_rounding_alone(spread):
    values = 1 + spread * np.random.default_rng(0).normal(size=(300, 16, 5))
    one, parts = Moments(), [Moments() for _ in range(3)]
    for at, batch in enumerate(values):
        one.update(batch)
        parts[at % 3].update(batch)
    whole = Moments()
    for part in parts:
        whole.merge(part)
    np.testing.assert_allclose(whole.mean, one.mean, rtol=1e-15)
    np.testing.assert_allclose(whole.std(), one.std(), rtol=1e-13)


# --- differences ----------------------------------------------------------------------------------------------------


@given(runs, st.integers(0, 2**32 - 1))
def test_paired_and_welch_are_scipys(x, seed):
    x = np.array(x)
    y = x + np.random.default_rng(seed).normal(0.5, 1, len(x))
    for found, expected in (
        (paired_test(x, y), stats.ttest_rel(y, x)),
        (welch_test(x, y), stats.ttest_ind(y, x, equal_var=False)),
    ):
        ends = expected.confidence_interval(0.95)
        assert found.p == pytest.approx(expected.pvalue, rel=1e-7)
        assert found.interval == pytest.approx((ends.low, ends.high), rel=1e-7, abs=1e-9)


def test_welch_against_a_group_without_spread_is_the_t_test_of_the_other():
    x, y = np.full(4, 0.1), np.array([0.2, 0.5, 0.4])
    found, expected = welch_test(x, y), stats.ttest_1samp(y, 0.1)
    ends = expected.confidence_interval(0.95)
    assert found.p == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx((ends.low - 0.1, ends.high - 0.1))
    assert math.isnan(welch_test(x, y * 0 + 0.3).p)


@pytest.mark.parametrize("test", [paired_test, welch_test])
def test_an_interval_over_runs_is_cut_at_its_span(test):
    x, y = np.array([0.1, 0.9]), np.array([0.9, 0.2])
    assert test(x, y, span=1).interval == (-1, 1)
    assert test(x, y, span=1).p == test(x, y).p


def test_a_difference_is_cut_at_its_span():
    found = difference_test(0.4, 0.5, 1, size=1, span=1)
    assert found.interval == (-1, 1)
    assert found.p == pytest.approx(2 * stats.t.sf(0.8, 1))


def holm_from_the_definition(p):
    """For each hypothesis the smallest level at which the step-down procedure rejects it."""
    m, ordered = len(p), sorted(p)
    return [max(min(1, (m - j) * ordered[j]) for j in range(m) if ordered[j] <= value) for value in p]


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([math.nan, 0.02, math.nan, 0.9, 0.8]).tolist() == pytest.approx(
        [math.nan, 0.06, math.nan, 1, 1], nan_ok=True
    )


@given(p_values)
def test_holm_is_its_definition(p):
    adjusted = holm(p)
    assert adjusted == pytest.approx(holm_from_the_definition(p))
    assert (adjusted >= p).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()


@given(p_values, st.randoms(use_true_random=False))
def test_holm_ignores_order_and_nan(p, random):
    order = list(range(len(p)))
    random.shuffle(order)
    shuffled = np.array([p[i] for i in order], dtype=float)
    assert holm(shuffled) == pytest.approx(holm(p)[order])
    assert holm([*p, math.nan])[:-1] == pytest.approx(holm(p))


@pytest.mark.parametrize("p", [[1.1], [-0.1], [[0.5]], 0.5])
def test_holm_refuses_what_is_no_p_value(p):
    with pytest.raises(InputError, match="p must be one row"):
        holm(p)


# --- equivalence, paired proportions --------------------------------------------------------------------------------


@given(runs, st.floats(0.01, 2))
def test_tost_is_two_one_sided_t_tests(differences, margin):
    found = tost(differences, margin)
    lower = stats.ttest_1samp(differences, -margin, alternative="greater").pvalue
    upper = stats.ttest_1samp(differences, margin, alternative="less").pvalue
    assert (found.p_lower, found.p_upper, found.p) == pytest.approx((lower, upper, max(lower, upper)), rel=1e-7)
    assert (found.p < 0.05) == (-margin < found.ci_low and found.ci_high < margin) or found.p == pytest.approx(0.05)


@pytest.mark.parametrize("differences", [[0.1], [0.1, 0.1], [0.1, math.nan]])
def test_tost_without_spread_says_nothing(differences):
    assert math.isnan(tost(differences, 0.5).p)


def test_tost_refuses_what_makes_no_sense():
    for differences, margin in (([0.1, 0.2], 0), ([0.1, 0.2], -1), ([], 0.5), ([[0.1]], 0.5)):
        with pytest.raises(InputError):
            tost(differences, margin)


@pytest.mark.parametrize("true", [0.5, -0.5])
def test_tost_errs_in_5_per_cent_where_the_truth_is_at_the_margin(true):
    random, trials = np.random.default_rng(0), 1000
    shown = sum(tost(random.normal(true, 0.1, 4), 0.5).p < 0.05 for _ in range(trials))
    assert abs(shown / trials - 0.05) < 3.5 * math.sqrt(0.05 * 0.95 / trials)


def test_tost_shows_an_equivalence_that_is_there_and_none_in_noise():
    random = np.random.default_rng(1)
    assert sum(tost(random.normal(0, 0.05, 5), 0.5).p < 0.05 for _ in range(200)) == 200
    assert sum(tost(random.normal(0, 5, 5), 0.5).p < 0.05 for _ in range(200)) <= 20


@given(st.integers(0, 60), st.integers(0, 60))
@settings(deadline=None, max_examples=60)
def test_mcnemar_is_the_sum_of_binomial_terms(lost, won):
    n, k = lost + won, min(lost, won)
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    assert mcnemar(lost, won) == pytest.approx(1.0 if lost == won else min(1.0, 2 * tail))
    assert mcnemar(lost, won) == pytest.approx(mcnemar(won, lost))


def test_the_adjusted_interval_by_hand():
    """lost 2, won 5 of 98: 3 and 6 of 100, difference 0.03, variance (0.09 - 0.0009) / 100."""
    half = 1.959964 * math.sqrt(0.0891) / 10
    assert adjusted_wald(2, 5, 98) == pytest.approx((0.03 - half, 0.03 + half), abs=1e-7)
    low, high = adjusted_wald(0, 0, 50)
    assert -low == high == pytest.approx(1.959964 * math.sqrt(2) / 52)
    assert adjusted_wald(0, 0, 10_000)[0] == pytest.approx(0, abs=3e-4)


@pytest.mark.parametrize("n", [50, 400])
@pytest.mark.parametrize(("lose", "win"), [(0.01, 0.005), (0.03, 0.03), (0.1, 0.04)])
def test_the_adjusted_interval_covers(n, lose, win):
    """95 of 100 intervals hold the true difference, few images and few flips or not."""
    drawn = np.random.default_rng(0).multinomial(n, [lose, win, 1 - lose - win], 4000)[:, :2]
    ends = np.array([adjusted_wald(lost, won, n) for lost, won in drawn.tolist()])
    covered = (ends[:, 0] <= win - lose) & (win - lose <= ends[:, 1])
    assert covered.mean() > 0.94


def test_mcnemar_by_hand():
    assert mcnemar(0, 0) == 1
    assert mcnemar(1, 8) == pytest.approx(2 * (1 + 9) / 2**9)


def test_adjusted_wald_has_a_width_where_nothing_flips():
    low, high = adjusted_wald(0, 0, 50)
    assert low < 0 < high
    assert high == pytest.approx(1.959964 * math.sqrt(2 / 52 / 52))


def test_a_blocked_contrast_is_that_of_least_squares():
    rng = np.random.default_rng(0)
    y = rng.normal(size=(4, 3)) + rng.normal(size=(4, 1)) + np.array([0.0, 0.5, 1.0])
    weights = np.array([-1.0, 0.5, 0.5])
    blocks, groups = (np.eye(n)[:, 1:] for n in y.shape)
    design = np.array([[1, *blocks[i], *groups[j]] for i in range(4) for j in range(3)])
    fit, residual = np.linalg.lstsq(design, y.ravel(), rcond=None)[:2]
    contrast = np.concatenate([np.zeros(4), weights[1:]])  # over intercept, blocks and groups
    se = np.sqrt(residual[0] / 6 * contrast @ np.linalg.inv(design.T @ design) @ contrast)
    found = blocked_contrast(y, weights)
    assert found.difference == pytest.approx(contrast @ fit)
    assert found.interval.high - found.difference == pytest.approx(se * stats.t.ppf(0.975, 6))
    assert found.p == pytest.approx(2 * stats.t.sf(abs(contrast @ fit) / se, 6))
    with pytest.raises(InputError, match="two blocks and groups"):
        blocked_contrast(y[:1], weights)


def with_gaps(rng, shape=(5, 4)):
    """Blocks that groups lack runs in; the last group has one run."""
    y = rng.normal(size=shape) + 5 * rng.normal(size=(shape[0], 1)) + np.arange(shape[1])
    y[1:, -1] = y[0, 1] = y[3, 2] = math.nan
    return y


def test_a_blocked_contrast_with_gaps_is_that_of_least_squares():
    y = with_gaps(np.random.default_rng(1))
    there = ~np.isnan(y)
    block, group = np.nonzero(there)
    design = np.concatenate([np.ones((len(block), 1)), np.eye(5)[block, 1:], np.eye(4)[group, 1:]], axis=1)
    fit, residual = np.linalg.lstsq(design, y[there], rcond=None)[:2]
    df, covariance = there.sum() - 8, np.linalg.inv(design.T @ design)
    for weights in ([-1, 0, 0, 1], [1, -1, 0, 0], [-0.5, -0.5, 0.25, 0.75]):
        contrast = np.array([0, 0, 0, 0, 0, *weights[1:]])
        se = np.sqrt(residual[0] / df * contrast @ covariance @ contrast)
        found = blocked_contrast(y, weights)
        assert found.difference == pytest.approx(contrast @ fit)
        assert found.interval == pytest.approx(stats.t.interval(0.95, df, contrast @ fit, se))
        assert found.p == pytest.approx(2 * stats.t.sf(abs(contrast @ fit) / se, df))
    mean = np.array([1, *[1 / 5] * 4, 0, 0, 1])  # of the last group, at the average of all blocks
    assert blocked_contrast(y, [0, 0, 0, 1]).difference == pytest.approx(mean @ fit)
    alone = np.vstack([y, [7.0, *[math.nan] * 3]])  # a block of one run says nothing of groups
    assert blocked_contrast(alone, [-1, 0, 0, 1]).p == pytest.approx(blocked_contrast(y, [-1, 0, 0, 1]).p)


def test_without_gaps_both_ways_to_a_blocked_contrast_are_one():
    y, weights = np.random.default_rng(2).normal(size=(4, 3)), np.array([0.2, -1.0, 0.8])
    whole = blocked_contrast(y, weights)
    beside = blocked_contrast(np.vstack([y, [1.0, math.nan, math.nan]]), weights)
    assert beside.difference == pytest.approx(whole.difference)
    assert beside.interval == pytest.approx(whole.interval)
    assert beside.p == pytest.approx(whole.p)


def in_two_orders(random) -> tuple[np.ndarray, np.ndarray]:
    """One mean of each of five runs, added up in float32 forwards and backwards."""
    drawn = random.random((5, 1000)).astype(np.float32)
    ways = (np.cumsum(x, axis=1, dtype=np.float32)[:, -1] / np.float32(1000) for x in (drawn, drawn[:, ::-1]))
    x, y = (way.astype(float) for way in ways)
    return x, y


def test_what_float32_makes_of_equal_numbers_is_no_difference():
    random = np.random.default_rng(3)
    for draw in range(200):
        x, y = in_two_orders(random)
        y = y - 2e-8 * (draw % 2)  # all to one side
        for found in (
            paired_test(x, y, span=1.0),
            paired_test(100 * x, 100 * y),
            blocked_contrast(np.c_[x, y], [-1, 1]),
        ):
            assert math.isnan(found.p)
            assert math.isnan(found.interval.low)
        assert tost(y - x, 0.02).p < 0.05
    x = np.array([0.4, 0.41, 0.39])
    assert math.isnan(welch_test(np.full(3, 0.4), 0.4 + np.array([2e-8, 2.1e-8, 1.9e-8])).p)
    assert paired_test(x, x + np.array([1e-4, 2e-4, 1e-4]), span=1.0).p < 0.1  # an image of ten thousand or two
    assert paired_test(1e-9 * x, 2e-9 * x).p < 0.001  # of small numbers without a range, their own size counts


def test_what_no_block_connects_is_not_told():
    gap = math.nan
    y = np.array([[1.0, 2.0, gap, gap], [2.0, 4.0, gap, gap], [gap, gap, 3.0, 5.0], [gap, gap, 1.0, 2.0]])
    assert math.isnan(blocked_contrast(y, [1, 0, -1, 0]).difference)
    within = blocked_contrast(y, [1, -1, 0, 0])
    assert within.difference == pytest.approx(-1.5)
    assert 0 < within.p < 1
    two = blocked_contrast(np.array([[1.0, 2.0], [3.0, gap]]), [-1, 1])
    assert two.difference == pytest.approx(1)  # nothing is left to tell an error by
    assert math.isnan(two.p)


def test_welch_from_moments_is_welch_of_the_values():
    rng = np.random.default_rng(0)
    x, y = rng.normal(0, 1, 5), rng.normal(1, 3, 4)
    whole = welch_test(x, y)
    found = welch_from_moments((x.mean(), x.std(ddof=1), 5), (y.mean(), y.std(ddof=1), 4))
    assert found.difference == pytest.approx(whole.difference)
    assert found.interval == pytest.approx(whole.interval)
    assert found.p == pytest.approx(whole.p)
    alone = welch_from_moments((0.0, 1.0, 3), (1.0, math.nan, 1))
    assert alone.difference == 1.0
    assert math.isnan(alone.interval.low)


@pytest.mark.parametrize(("std", "n"), [(0.2, 3), (1.0, 5), (0.5, 10)])
def test_power_is_how_often_equal_models_are_shown_to_lose_less_than_the_margin(std, n):
    draws = np.random.default_rng(0).normal(0, std, size=(20_000, n))
    found = stats.ttest_1samp(draws, -0.5, axis=1, alternative="greater").pvalue < 0.05
    assert noninferiority_power(std, n, 0.5) == pytest.approx(found.mean(), abs=0.015)


def test_the_runs_that_are_needed_are_the_fewest():
    n = pairs_needed(0.5, 0.5)
    assert noninferiority_power(0.5, n, 0.5) >= 0.8 > noninferiority_power(0.5, n - 1, 0.5)
    assert pairs_needed(1000.0, 0.5) is None
    assert math.isnan(noninferiority_power(0.5, 1, 0.5))
    assert math.isnan(noninferiority_power(math.nan, 3, 0.5))
