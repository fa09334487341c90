"""compare and summarise against scipy, hand-computed numbers and simulated runs."""

import math
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from svda_analysis.comparison import compare, living, summarise
from svda_analysis.errors import InputError
from svda_analysis.frames import COMPARISON_COLUMNS, SUMMARY_COLUMNS, TABLE_COLUMNS, make_frame
from svda_analysis.stats import holm, interval_over, proportion_interval

KINDS = {"vit": "dot", "svda": "svda", "cosine": "cosine"}


def run(model, seed, values, *, indicator="measure", source="attention", epoch=10, std=0.1, n=100, **more):
    """The rows of one run; ``values`` (layers, heads), or one number for the whole model."""
    grid = np.ndenumerate(np.atleast_2d(values))
    key = {"model": model, "attention": KINDS.get(model, "svda"), "seed": seed, "dataset": "cifar10", "epoch": epoch}
    key |= {"indicator": indicator, "source": source, "std": std, "n": n} | more
    if np.ndim(values) == 0:
        return [{**key, "mean": values}]
    return [{**key, "layer": layer, "head": head, "mean": value} for (layer, head), value in grid]


def frame(*runs):
    return make_frame((row for rows in runs for row in rows), TABLE_COLUMNS)


def group(model, values, seeds=None, **more):
    """One whole-model number per run."""
    seeds = range(len(values)) if seeds is None else seeds
    return [row for seed, value in zip(seeds, values, strict=True) for row in run(model, seed, value, **more)]


def only(result, **where):
    for column, value in where.items():
        result = result[result[column].isna() if value is pd.NA else result[column] == value]
    assert len(result) == 1
    return result.iloc[0]


def whole(result):
    return result[result["layer"].isna()]


def two_models(seed=0, seeds=4, layers=2, heads=3):
    draws = np.random.default_rng(seed).normal(0.5, 0.1, (2, seeds, layers, heads))
    runs = [run(model, s, draws[m, s]) for m, model in enumerate(("vit", "svda")) for s in range(seeds)]
    return frame(*runs), draws


def test_columns_and_dtypes_are_the_declared_ones():
    table, _ = two_models()
    for result, columns in ((compare(table), COMPARISON_COLUMNS), (summarise(table), SUMMARY_COLUMNS)):
        assert list(result.columns) == list(columns)
        assert {name: str(dtype) for name, dtype in result.dtypes.items()} == columns


def test_paired_rows_agree_with_scipy_on_head_means():
    table, draws = two_models()
    result = compare(table)
    assert len(result) == 3  # two layers and the whole model
    for layer, values in ((0, draws[:, :, 0].mean(-1)), (1, draws[:, :, 1].mean(-1)), (pd.NA, draws.mean((2, 3)))):
        row, expected = only(result, layer=layer), stats.ttest_rel(values[1], values[0])
        interval = expected.confidence_interval(0.95)
        assert row["p"] == pytest.approx(expected.pvalue, rel=1e-9)
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((interval.low, interval.high), rel=1e-9)
        assert (row["baseline_mean"], row["model_mean"]) == pytest.approx(values.mean(1))
        assert row["difference"] == pytest.approx(values[1].mean() - values[0].mean())
        assert (row["model"], row["baseline"], row["n_seeds"], row["unit"]) == ("svda", "vit", 4, "seeds")


def test_the_mean_over_layers_weighs_layers_alike_whatever_their_heads():
    uneven = [*run("svda", 0, [[0.0]]), *(row | {"layer": 1} for row in run("svda", 0, [[1.0, 1.0, 1.0]]))]
    assert only(summarise(frame(uneven)), layer=pd.NA)["mean"] == 0.5


def test_effect_by_hand():
    # differences 1, 2, 3: mean 2, sd 1; J(2) = Gamma(1) / Gamma(1/2) = 1 / sqrt(pi)
    row = compare(frame(group("vit", [0.0, 0.0, 0.0]), group("svda", [1.0, 2.0, 3.0]))).iloc[0]
    assert row["effect"] == pytest.approx(2 / math.sqrt(math.pi))
    half = 4.302652729911275 / math.sqrt(3)  # t of 2 degrees of freedom, from a printed table: 4.303
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((2 - half, 2 + half))


def test_two_pairs_have_an_interval_but_no_corrected_effect():
    row = compare(frame(group("vit", [0.0, 0.0]), group("svda", [1.0, 2.0]))).iloc[0]
    assert row["p"] == pytest.approx(stats.ttest_rel([1.0, 2.0], [0.0, 0.0]).pvalue)
    assert math.isnan(row["effect"])


@pytest.mark.parametrize(
    "seeds", [([0, 1, 2], [5, 6, 7, 8]), ([0, 1, 2], [2, 3, 4, 5]), ([0, 1, None], [None, 0, 3, 4])]
)
def test_runs_that_do_not_pair_are_compared_by_welch(seeds):
    x, y = [0.1, 0.3, 0.2], [0.5, 0.9, 0.4, 0.8]
    row = compare(frame(group("vit", x, seeds[0]), group("svda", y, seeds[1]))).iloc[0]
    expected = stats.ttest_ind(y, x, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert row["p"] == pytest.approx(expected.pvalue, rel=1e-9)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((interval.low, interval.high), rel=1e-9)
    pooled = math.sqrt((2 * np.var(x, ddof=1) + 3 * np.var(y, ddof=1)) / 5)
    correction = special.gamma(2.5) / (math.sqrt(2.5) * special.gamma(2))
    assert row["effect"] == pytest.approx(correction * (np.mean(y) - np.mean(x)) / pooled)
    assert (row["n_seeds"], row["unit"]) == (3, "seeds")


def test_a_seed_that_one_model_lacks_is_left_out():
    x, y = [0.1, 0.3, 0.2, 9.0], [0.5, -9.0, 0.9, 0.4]
    row = compare(frame(group("vit", x, [0, 1, 2, 3]), group("svda", y, [0, 7, 1, 2]))).iloc[0]
    assert row["p"] == pytest.approx(stats.ttest_rel([0.5, 0.9, 0.4], x[:3]).pvalue)
    assert (row["baseline_mean"], row["model_mean"], row["n_seeds"]) == (pytest.approx(0.2), pytest.approx(0.6), 3)


def test_seeds_pair_within_each_indicator():
    table = frame(
        *(group("vit", [0.1, 0.2, 0.4], indicator=name) for name in ("a", "b")),
        group("svda", [0.3, 0.2, 0.7], indicator="a"),
        group("svda", [0.3, 0.7], [0, 2], indicator="b"),
    )
    assert dict(compare(table)[["indicator", "n_seeds"]].to_numpy()) == {"a": 3, "b": 2}


def test_one_run_each_gives_the_image_interval_by_hand():
    spread = ({"std": 1}, {"std": 2}, {"std": 6, "n": 400}, {"std": 4})  # standard errors 0.1, 0.2, 0.3, 0.4
    vit = [row | more for row, more in zip(run("vit", 0, [[0.2, 0.4], [0.6, 0.8]]), spread, strict=True)]
    svda = run("svda", 3, [[0.5, 0.7], [0.9, 1.1]], std=4.0, n=400)
    result = compare(frame(vit, svda))
    for layer, difference, se in ((0, 0.3, math.hypot(0.15, 0.2)), (pd.NA, 0.3, math.hypot(0.25, 0.2))):
        row = only(result, layer=layer)
        half = stats.t.ppf(0.975, 99) * se  # the smaller of 100 and 400 images, less one
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((difference - half, difference + half))
        assert (row["n_seeds"], row["unit"]) == (1, "images")
        assert row[["p", "p_adjusted", "effect"]].isna().all()


def test_one_seed_in_common_with_a_single_run_speaks_of_that_pair():
    row = compare(frame(group("vit", [0.1, 0.2, 0.3]), group("svda", [0.7], [1]))).iloc[0]
    assert (row["baseline_mean"], row["model_mean"], row["unit"]) == (0.2, 0.7, "images")


def test_one_run_against_several_strangers_has_no_interval():
    row = compare(frame(group("vit", [0.1, 0.2, 0.3]), group("svda", [0.7], [8]))).iloc[0]
    assert row["difference"] == pytest.approx(0.5)
    assert row[["ci_low", "ci_high", "p", "effect"]].isna().all()


@pytest.mark.parametrize("std", [math.nan, 0.1])
def test_numbers_read_off_the_weights_have_no_image_interval(std):
    weights = {"std": std, "n": 1, "source": "sigma"}
    table = frame(run("svda", 0, [[3.0, 5.0]], **weights), run("cosine", 0, [[7.0, 8.0]], **weights))
    assert compare(table)[["ci_low", "ci_high"]].isna().all(axis=None)
    assert summarise(table)[["ci_low", "ci_high"]].isna().all(axis=None)


def test_sigma_is_never_set_beside_scores():
    values = [0.1, 0.4, 0.3]
    table = frame(
        group("vit", values, source="scores"),
        group("svda", [0.9, 0.8, 0.6], source="sigma"),
        group("svda", values[::-1], source="scores"),
    )
    result = compare(table)
    assert result["source"].tolist() == ["scores"]
    assert result["difference"].iloc[0] == pytest.approx(0, abs=1e-15)
    assert compare(table[table["source"].ne("scores") | table["model"].eq("vit")]).empty


def test_only_the_last_epoch_of_each_run_counts():
    early = [group(model, [5.0, -3.0, 8.0], epoch=epoch) for model in ("vit", "svda") for epoch in (1, 9)]
    last = [group("vit", [0.1, 0.2, 0.4], epoch=10), group("svda", [0.3, 0.5, 0.4], epoch=12)]
    tail = group("svda", [1.0, 1.0, 1.0], epoch=9, indicator="measured early alone")
    pd.testing.assert_frame_equal(compare(frame(*early, *last, tail)), compare(frame(*last)))
    pd.testing.assert_frame_equal(summarise(frame(*early, *last, tail)), summarise(frame(*last)))


def test_unknown_epochs_are_no_obstacle():
    table, _ = two_models()
    pd.testing.assert_frame_equal(compare(table.assign(epoch=pd.NA)), compare(table))


@settings(max_examples=15, deadline=None)  # 40 ms each
@given(order=st.permutations(range(48)), labels=st.permutations(range(4)))
def test_neither_row_order_nor_seed_labels_matter(order, labels):
    table, _ = two_models()
    shuffled = table.assign(seed=table["seed"].map(dict(enumerate(labels))).astype("Int64")).iloc[list(order)]
    pd.testing.assert_frame_equal(compare(shuffled), compare(table), rtol=1e-9)


def test_a_table_read_back_from_csv_gives_the_same(tmp_path):
    table, _ = two_models()
    table = pd.concat([table, frame(group("vit", [0.8, 0.9, 0.7, 0.8]), group("svda", [0.9, 0.9, 0.8, 0.7]))])
    table["indicator"] = table["indicator"].where(table["layer"].notna(), "accuracy")
    table.to_csv(tmp_path / "table.csv", index=False)
    pd.testing.assert_frame_equal(compare(pd.read_csv(tmp_path / "table.csv")), compare(table), rtol=1e-9)


def test_the_input_is_left_as_it_was():
    table, _ = two_models()
    before = table.copy(deep=True)
    compare(table)
    summarise(table)
    pd.testing.assert_frame_equal(table, before)


@pytest.mark.parametrize("step", [0.0, 0.1, 0.25, 1e-9])
@pytest.mark.parametrize("seeds", [[0, 1, 2], [3, 4, 5]])
def test_no_spread_is_no_certainty(step, seeds):
    base = [0.25, 0.5, 1.0] if seeds == [0, 1, 2] else [0.3, 0.3, 0.3]
    row = compare(frame(group("vit", base), group("svda", [x + step for x in base], seeds))).iloc[0]
    assert row["difference"] == pytest.approx(step, abs=1e-15)
    assert row[["ci_low", "ci_high", "p", "p_adjusted", "effect"]].isna().all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_diverged_run_shows_and_does_not_warn(bad):
    table = frame(group("vit", [0.1, 0.2, 0.4]), group("svda", [0.3, bad, 0.4]), run("cosine", 0, [[0.5, math.nan]]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result, summary = compare(table), summarise(table)
    assert not np.isfinite(only(result, model="svda")["difference"])
    assert math.isnan(only(result, model="svda")["p"])
    assert only(summary, model="cosine", layer=0)[["mean", "ci_low"]].isna().all()


def test_the_default_baseline_is_the_only_dot_product_model_else_the_first():
    values = [0.1, 0.5, 0.2]
    assert set(compare(frame(*(group(m, values) for m in ("svda", "vit", "cosine"))))["baseline"]) == {"vit"}
    assert set(compare(frame(*(group(m, values) for m in ("svda", "cosine"))))["baseline"]) == {"svda"}
    two = frame(group("cosine", values), group("vit", values), group("deit", values, attention="dot"))
    assert set(compare(two)["baseline"]) == {"cosine"}
    assert set(compare(two, baseline="deit")["model"]) == {"cosine", "vit"}


# --- summarise ------------------------------------------------------------------------------------------------------


def test_summary_agrees_with_scipy_and_with_compare():
    table, draws = two_models()
    summary, comparison = summarise(table), compare(table)
    for layer, values in ((1, draws[1, :, 1].mean(-1)), (pd.NA, draws[1].mean((1, 2)))):
        row = only(summary, model="svda", layer=layer)
        interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (row["mean"], row["std"]) == pytest.approx((values.mean(), values.std(ddof=1)))
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((interval.low, interval.high))
        assert (row["n_seeds"], row["unit"]) == (4, "seeds")
        assert only(comparison, layer=layer)["model_mean"] == row["mean"]
        assert only(comparison, layer=layer)["baseline_mean"] == only(summary, model="vit", layer=layer)["mean"]


def test_summary_of_one_run_is_over_its_images():
    row = only(summarise(frame(run("vit", 0, [[0.2, 0.4]], std=0.5, n=25))), layer=pd.NA)
    half = stats.t.ppf(0.975, 24) * 0.1
    assert (row["mean"], row["ci_low"], row["ci_high"]) == pytest.approx((0.3, 0.3 - half, 0.3 + half))
    assert (row["n_seeds"], row["unit"]) == (1, "images")
    assert math.isnan(row["std"])


@pytest.mark.parametrize("name", ["selectivity_index", "effective_rank", "accuracy", "loss"])
@given(values=st.lists(st.floats(0.001, 0.999), min_size=2, max_size=5), layers=st.integers(1, 3))
@settings(max_examples=30, deadline=None)
def test_no_interval_leaves_what_the_quantity_can_be(name, values, layers):
    limits = {"low": 1.0, "high": 2.0} if name == "effective_rank" else {}
    rows = [
        run("vit", seed, [[x + limits.get("low", 0.0)] * 2] * layers, indicator=name, **limits)
        for seed, x in enumerate(values)
    ]
    found = summarise(frame(*rows))
    low, high = limits.get("low", 0.0), limits.get("high", math.inf if name == "loss" else 1.0)
    assert (found["ci_low"].dropna() >= low).all()
    assert (found["ci_high"].dropna() <= high).all()
    runs = interval_over([x + limits.get("low", 0.0) for x in values], low=low, high=high)
    assert only(found, layer=0)[["ci_low", "ci_high"]].tolist() == pytest.approx(list(runs), nan_ok=True)


def test_a_table_without_limits_takes_those_of_the_vocabulary():
    values = [0.91, 0.99, 0.97]
    table = frame(group("vit", values, indicator="accuracy", source="test"))
    row = summarise(table.drop(columns=["low", "high"])).iloc[0]
    assert row["ci_high"] < 1 < np.mean(values) + 4.303 * np.std(values, ddof=1) / math.sqrt(3)


def test_the_accuracy_of_one_checkpoint_has_wilsons_interval():
    table = frame(run("vit", 0, 1.0, indicator="accuracy", source="test", std=0.0, n=200))
    row = summarise(table).iloc[0]
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(proportion_interval(1.0, 200))
    assert row["ci_low"] == pytest.approx(200 / (200 + stats.norm.ppf(0.975) ** 2))


def test_a_difference_stays_within_what_two_shares_can_differ():
    table = frame(
        group("vit", [0.1, 0.4], indicator="accuracy"), group("svda", [0.9, 0.5], indicator="accuracy")
    )  # two pairs: t is 12.7, the plain interval -2.7 to 3.6
    row = compare(table).iloc[0]
    assert (row["ci_low"], row["ci_high"]) == (-1, 1)


def test_each_epoch_is_summarised_for_itself():
    rows = [group("vit", [0.1 * e, 0.2 * e, 0.4 * e], epoch=e) for e in (1, 2)]
    found = summarise(frame(*rows), epochs="each")
    assert found["epoch"].tolist() == [1, 2]
    for epoch, part in zip((1, 2), rows, strict=True):
        alone = summarise(frame(part)).iloc[0]
        assert only(found, epoch=epoch)[["mean", "ci_low"]].tolist() == alone[["mean", "ci_low"]].tolist()


# --- families of Holm's adjustment ----------------------------------------------------------------------------------


def test_families_are_whole_model_rows_and_layer_rows_of_each_model():
    rng = np.random.default_rng(3)
    runs = [
        run(model, seed, rng.normal(shift, 0.1, (3, 2)), indicator=name)
        for shift, model in enumerate(("vit", "svda", "cosine"))
        for name in ("a", "b")
        for seed in range(3)
    ]
    result = compare(frame(*runs, group("vit", [0.80, 0.83, 0.79]), group("svda", [0.84, 0.83, 0.85])))
    sizes = []
    for model in ("svda", "cosine"):
        for family in (whole(result), result[result["layer"].notna()]):
            rows = family[family["model"] == model]
            sizes.append(len(rows))
            assert rows["p_adjusted"].tolist() == pytest.approx(list(holm(rows["p"])))
    assert sizes == [3, 6, 2, 6]


def test_faithfulness_is_a_family_of_its_own():
    rng = np.random.default_rng(4)
    runs = [
        run(model, seed, rng.normal(shift, 0.1, (3, 2)), indicator=name)
        for shift, model in enumerate(("vit", "svda"))
        for name in ("a", "deletion_gain", "infidelity")
        for seed in range(3)
    ]
    result = whole(compare(frame(*runs)))
    faithful = result[result["indicator"] != "a"]
    assert faithful["p_adjusted"].tolist() == pytest.approx(list(holm(faithful["p"])))
    alone = result[result["indicator"] == "a"]
    assert alone["p_adjusted"].tolist() == alone["p"].tolist()


def test_rankings_that_ask_no_model_are_adjusted_apart_from_the_methods():
    rng = np.random.default_rng(4)
    runs = [
        run(model, seed, rng.normal(shift, 0.1, (3, 2)), indicator="deletion_gain", source=source)
        for shift, model in enumerate(("vit", "svda"))
        for source in ("rollout", "relevance", "brightness")
        for seed in range(3)
    ]
    result = whole(compare(frame(*runs)))
    methods = result[result["source"] != "brightness"]
    assert methods["p_adjusted"].tolist() == pytest.approx(list(holm(methods["p"])))
    alone = result[result["source"] == "brightness"]
    assert alone["p_adjusted"].tolist() == alone["p"].tolist()


# --- simulated runs: does the promised 95 % hold? -------------------------------------------------------------------


def simulated(rng, indicators, seeds, shift, disjoint=False):
    """Runs whose two heads share most of their noise; seed effects shared by both models; ``shift`` is the truth."""
    shared = rng.normal(0, 1, (indicators, seeds))
    rows = []
    for model in ("vit", "svda"):
        own = rng.normal(0, 0.3, (indicators, seeds, 1)) + rng.normal(0, 0.05, (indicators, seeds, 2))
        values = own + shared[..., None] * (not disjoint) + shift * (model == "svda")
        first = seeds if disjoint and model == "svda" else 0
        for (i, s), _ in np.ndenumerate(shared):
            rows += run(model, first + s, values[i, s][None], indicator=f"i{i}")
    return frame(rows)


def within_binomial(hits, share):
    low, high = stats.binom.interval(0.999, len(hits), share)
    return low <= np.sum(hits) <= high


@pytest.mark.parametrize(("seeds", "disjoint"), [(3, False), (5, False), (4, True)])
def test_false_positives_and_coverage_without_an_effect(seeds, disjoint):
    result = whole(compare(simulated(np.random.default_rng(seeds), 400, seeds, shift=0.0, disjoint=disjoint)))
    assert len(result) == 400
    assert within_binomial(result["p"] < 0.05, 0.05)
    assert within_binomial((result["ci_low"] <= 0) & (result["ci_high"] >= 0), 0.95)
    assert (result["p_adjusted"] < 0.05).sum() <= 1  # 400 indicators at once: Holm keeps chance out


def test_a_known_effect_is_found_covered_and_sized():
    result = whole(compare(simulated(np.random.default_rng(1), 400, 5, shift=0.5)))
    spread = math.sqrt(2 * (0.3**2 + 0.05**2 / 2))  # of a difference; the seeds' own effects cancel in the pair
    assert within_binomial((result["ci_low"] <= 0.5) & (result["ci_high"] >= 0.5), 0.95)
    assert result["difference"].mean() == pytest.approx(0.5, abs=4 * spread / math.sqrt(5 * 400))
    assert result["effect"].mean() == pytest.approx(0.5 / spread, abs=4 * result["effect"].std() / math.sqrt(400))
    t = stats.nct(df=4, nc=math.sqrt(5) * 0.5 / spread)
    assert within_binomial(result["p"] < 0.05, t.sf(stats.t.ppf(0.975, 4)) + t.cdf(stats.t.ppf(0.025, 4)))


def test_holm_holds_the_family_wise_rate_over_many_tables():
    rng = np.random.default_rng(8)
    hits = [(whole(compare(simulated(rng, 5, 3, shift=0.0)))["p_adjusted"] < 0.05).any() for _ in range(40)]
    assert np.sum(hits) <= stats.binom.ppf(0.999, len(hits), 0.05)


# --- bad input ------------------------------------------------------------------------------------------------------


def test_errors_name_what_is_wrong():
    table, _ = two_models()
    mixed = table.assign(dataset=table["model"].map({"vit": "cifar10", "svda": "cifar100"}))
    cases = {
        r"baseline must be one of vit, svda, got 'swin'": (table, "swin"),
        r"lacks the columns seed": (table.drop(columns="seed"), None),
        r"no rows": (table.iloc[:0], None),
        r"two models to compare, got vit alone": (table[table["model"] == "vit"], None),
        r"one number per .* got several for model vit, seed 0": (
            pd.concat([table, table.head(1).assign(mean=0.5)]),
            None,
        ),
        r"one number per .* layer <NA>$": (pd.concat([table, frame(group("svda", [1.0]))]), None),
        r"one dataset per indicator, source, got several for indicator measure": (mixed, None),
        r"table must name the model": (table.assign(model=pd.NA), None),
        r"dtypes of frames.TABLE_COLUMNS": (table.assign(layer="first"), None),
    }
    for message, (bad, baseline) in cases.items():
        with pytest.raises(InputError, match=message) as error:
            compare(bad, baseline)
        assert "\n" not in str(error.value)


# --- what may stand beside what ---------------------------------------------------------------------------------------


def of_two(first, second, **more):
    return frame(*(group(model, [0.1, 0.2], **more) for model in (first, second)))


def test_what_depends_on_the_axes_of_q_and_k_compares_one_kind_of_attention_alone():
    for name in ("angular_alignment", "mean_alignment", "source_angular_alignment"):
        assert compare(of_two("vit", "svda", indicator=name, source="scores")).empty
        assert len(compare(of_two("other", "svda", indicator=name, source="scores"))) == 1  # both svda
    assert len(compare(of_two("vit", "svda", indicator="effective_rank", source="scores"))) == 1


def test_a_model_whose_maps_are_all_but_uniform_is_not_living():
    selective = {"indicator": "selectivity_index", "source": "attention"}
    table = frame(
        *(run("vit", seed, [[0.3, 0.2], [0.04, 0.04]], **selective) for seed in (0, 1)),
        *(run("svda", seed, [[0.014, 0.014], [0.014, 0.014]], **selective) for seed in (0, 1)),
    )
    found = living(table)
    assert only(found, model="vit", layer=pd.NA)["selectivity"] == pytest.approx(0.145)
    assert [only(found, model="vit", layer=layer)["alive"] for layer in (0, 1, pd.NA)] == [True, False, True]
    assert not found[found["model"] == "svda"]["alive"].any()
    assert living(of_two("vit", "svda")).empty
