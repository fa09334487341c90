"""Similarity of attention maps across models against scipy and loops; matching against brute force and simulations."""

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial import distance

from svda_analysis.errors import InputError
from svda_analysis.matching import (
    HEAD_COLUMNS,
    LAYER_COLUMNS,
    MATCH_COLUMNS,
    MEASURES,
    MapBatch,
    MapComparison,
    cosine,
    jensen_shannon,
    patch_shares,
    spearman,
)
from svda_analysis.stats import mean_interval


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def random_maps(seed, images=12, layers=2, heads=3, grid=(2, 3), prefix=1, habit=0.0):
    """Maps of noise, around a pattern of its own for each head if it has a ``habit``."""
    rng, N = np.random.default_rng(seed), prefix + grid[0] * grid[1]
    pattern = rng.normal(size=(layers, heads, N, N))
    return MapBatch(softmax(habit * pattern + rng.normal(size=(images, layers, heads, N, N))), grid, prefix)


def part(batch, images):
    return batch._replace(maps=batch.maps[images])


def compared(a, b, sizes=None, **options):
    comparison, start = MapComparison(**options), 0
    for size in sizes or [len(a.maps)]:
        comparison.update(*(part(batch, slice(start, start + size)) for batch in (a, b)))
        start += size
    assert start == len(a.maps)
    return comparison


def reference(a, b):
    """Similarities of all heads, image by image, ``{measure: (B, L_a, H_a, L_b, H_b)}``, by scipy, pair by pair."""
    shape = (len(a.maps), *a.maps.shape[1:3], *b.maps.shape[1:3])
    found = {measure: np.empty(shape) for measure in MEASURES}
    for image, la, ha, lb, hb in np.ndindex(shape):
        x, y = a.maps[image, la, ha], b.maps[image, lb, hb]
        p, q = x[0, a.prefix :], y[0, b.prefix :]
        u, v = x[a.prefix :, a.prefix :].ravel(), y[b.prefix :, b.prefix :].ravel()
        at = (image, la, ha, lb, hb)
        found["js"][at] = 1 - distance.jensenshannon(p, q, base=2)  # it normalises
        found["cosine"][at] = 1 - distance.cosine(u, v)
        found["spearman"][at] = stats.spearmanr(p, q).statistic
    return found


def halves(images):
    second = np.array([bin(i).count("1") % 2 for i in range(images)], dtype=bool)
    return np.flatnonzero(~second), np.flatnonzero(second)


# --- measures -------------------------------------------------------------------------------------------------------


def test_measures_agree_with_scipy_and_the_definition():
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.full(9, 0.3), 4), rng.dirichlet(np.full(9, 0.3), 5)
    q[0, :4] = 0
    q[0] /= q[0].sum()
    p[1] = np.repeat(p[1, :3], 3) / p[1, :3].sum() / 3  # ties
    for found, expected in (
        (jensen_shannon(p, q), lambda x, y: distance.jensenshannon(x, y, base=2)),
        (spearman(p, q), lambda x, y: stats.spearmanr(x, y).statistic),
        (cosine(p, q), lambda x, y: x @ y / np.sqrt((x @ x) * (y @ y))),
    ):
        np.testing.assert_allclose(found, [[expected(x, y) for y in q] for x in p], rtol=1e-9, atol=1e-12)


def test_distance_of_equal_and_of_disjoint_rows():
    rows = np.random.default_rng(0).dirichlet(np.ones(50), 20)
    assert np.diag(jensen_shannon(rows, rows)).max() < 1e-7
    assert jensen_shannon(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])) == 1


def test_rows_without_order_or_length_have_similarity_zero():
    flat, steep = np.full((1, 4), 0.25), np.array([[0.1, 0.2, 0.3, 0.4]])
    assert spearman(flat, steep) == 0 == spearman(flat, flat)
    assert cosine(np.zeros((1, 4)), steep) == 0


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), sharpness=st.floats(0, 60))
def test_measures_are_bounded_and_symmetric(seed, sharpness):
    p, q = softmax(sharpness * np.random.default_rng(seed).normal(size=(2, 3, 8)))
    for measure, low in ((jensen_shannon, 0), (cosine, -1), (spearman, -1)):
        found = measure(p, q)
        assert found.min() >= low
        assert found.max() <= 1
        np.testing.assert_allclose(found, measure(q, p).T, atol=1e-7)


# --- grids ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("grid", "to"), [((4, 6), (2, 3)), ((7, 5), (3, 5)), ((8, 7), (7, 4)), ((3, 3), (1, 1))])
def test_patch_shares_split_patches_by_area(grid, to):
    shares, image = patch_shares(grid, to), np.random.default_rng(0).random(grid)
    np.testing.assert_allclose(shares.sum(0), 1)
    fine = np.repeat(np.repeat(image, to[0], 0), to[1], 1) / (to[0] * to[1])  # each patch as equal small ones
    expected = fine.reshape(to[0], grid[0], to[1], grid[1]).sum((1, 3))
    np.testing.assert_allclose(shares @ image.ravel(), expected.ravel())


@pytest.mark.parametrize("swap", [False, True])
def test_a_finer_grid_is_compared_through_its_block_means(swap):
    fine, coarse = random_maps(0, images=4, grid=(4, 6)), random_maps(1, images=4, grid=(2, 3))
    blocks = np.array([r // 2 * 3 + c // 2 for r in range(4) for c in range(6)])
    small = np.empty((*fine.maps.shape[:3], 7, 7))
    for i, j in np.ndindex(7, 7):  # queries are averaged, keys summed; CLS stays as it is
        rows = [0] if i == 0 else np.flatnonzero(blocks == i - 1) + 1
        columns = [0] if j == 0 else np.flatnonzero(blocks == j - 1) + 1
        small[..., i, j] = fine.maps[..., rows, :][..., columns].sum(-1).mean(-1)
    np.testing.assert_allclose(small.sum(-1), 1)
    explicit = MapBatch(small, (2, 3))
    pairs = [(fine, coarse), (explicit, coarse)]
    found, expected = (compared(*(pair[::-1] if swap else pair)) for pair in pairs)
    for measure in MEASURES:
        pd.testing.assert_frame_equal(found.similarity(measure), expected.similarity(measure))


def test_grids_that_are_finer_in_one_direction_each_meet_on_the_coarser_of_both():
    wide, high = random_maps(0, grid=(2, 6)), random_maps(1, grid=(4, 3))
    assert compared(wide, high).similarity("cosine").notna().all(axis=None)


# --- streaming ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_models():
    return tuple(random_maps(seed, images=15, grid=(3, 4), habit=0.5) for seed in (0, 1))


@pytest.fixture(scope="module")
def expected(two_models):
    return reference(*two_models)


@pytest.mark.parametrize("measure", MEASURES)
def test_matching_means_gains_and_intervals_against_brute_force(two_models, expected, measure):
    matching, (first, second) = compared(*two_models).match(measure), halves(15)
    for layer, row in matching.layers.iterrows():
        values = expected[measure][:, layer, :, layer]  # (B, H, H)
        perms = list(itertools.permutations(range(3)))
        best = max(perms, key=lambda perm: values[first].mean(0)[range(3), perm].sum())
        matched = values[second][:, range(3), best].mean(-1)  # per image
        identity = np.diagonal(values[second], axis1=1, axis2=2).mean(-1)
        chance = np.mean([values[second][:, range(3), perm].mean(-1) for perm in perms], axis=0)
        heads = matching.heads[matching.heads["layer_a"] == layer]
        assert list(heads["head_b"]) == list(best)
        np.testing.assert_allclose(heads["similarity"], values[second].mean(0)[range(3), best], atol=1e-12)
        np.testing.assert_allclose(row["matched"], matched.mean())
        for name, other in (("identity", identity), ("chance", chance)):
            interval = stats.ttest_1samp(matched - other, 0).confidence_interval()
            got = row[[f"gain_over_{name}", f"gain_over_{name}_low", f"gain_over_{name}_high"]].astype(float)
            wanted = ((matched - other).mean(), interval.low, interval.high)
            if not (name == "identity" and best == (0, 1, 2)):
                np.testing.assert_allclose(got, wanted, rtol=1e-7, atol=1e-10)
            np.testing.assert_allclose(row[name], other.mean())
        assert row["n"] == len(second)
        again = max(perms, key=lambda perm: values[second].mean(0)[range(3), perm].sum())
        assert list(heads["stable"]) == [i == j for i, j in zip(best, again, strict=True)]


def test_layer_means_and_their_intervals_against_scipy(two_models, expected):
    comparison, (first, second) = compared(*two_models), halves(15)
    for row in comparison.layers().itertuples():
        values = expected[row.measure][:, row.layer_a, :, row.layer_b]
        best = max(itertools.permutations(range(3)), key=lambda p: values[first].mean(0)[range(3), p].sum())
        per_image = values[second][:, range(3), best].mean(-1)
        least = -1 if row.measure == "spearman" else 0
        interval = mean_interval(per_image.mean(), stats.sem(per_image), len(second) - 1, low=least, high=1)
        wanted = (per_image.mean(), per_image.std(ddof=1), interval.low, interval.high, len(second))
        np.testing.assert_allclose((row.mean, row.std, row.ci_low, row.ci_high, row.n), wanted)
        assert comparison.similarity(row.measure).loc[row.layer_a, row.layer_b] == pytest.approx(row.mean)


def test_similarity_of_every_layer_with_every_layer(two_models, expected):
    first, second = halves(15)
    table = compared(*two_models).similarity("spearman")
    assert (table.index.name, table.columns.name) == ("layer_a", "layer_b")
    for i, j in np.ndindex(2, 2):
        values = expected["spearman"][:, i, :, j]
        best = max(itertools.permutations(range(3)), key=lambda p: values[first].mean(0)[range(3), p].sum())
        assert table.loc[i, j] == pytest.approx(values[second].mean(0)[range(3), best].mean())


@pytest.mark.parametrize("sizes", [[1] * 15, [4, 1, 7, 3], [14, 1]])
def test_streaming_equals_one_pass(two_models, sizes):
    whole, streamed = compared(*two_models), compared(*two_models, sizes=sizes)
    assert streamed.n == whole.n == 15
    for read in (lambda c: c.layers(), lambda c: c.match("cosine").layers, lambda c: c.match("js").heads):
        pd.testing.assert_frame_equal(read(streamed), read(whole), rtol=1e-9)


def test_ties_between_matchings_fall_alike_whatever_the_batches():
    a, b = (random_maps(seed, images=15, habit=0.5) for seed in (0, 1))  # few patches: rank correlations are fractions
    pd.testing.assert_frame_equal(compared(a, b, sizes=[4, 1, 7, 3]).layers(), compared(a, b).layers())


def test_the_halves_are_equal_and_each_sees_every_class_of_data_in_turn():
    first, second = halves(1000)
    assert len(first) == len(second)
    assert min(np.bincount(first % 10).min(), np.bincount(second % 10).min()) > 30


def test_columns_and_dtypes_are_the_declared_ones(two_models):
    comparison = compared(*two_models)
    found = (comparison.layers(), *comparison.match())
    for frame, columns in zip(found, (LAYER_COLUMNS, HEAD_COLUMNS, MATCH_COLUMNS), strict=True):
        assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == columns


def test_one_image_to_score_has_no_interval():
    row = compared(random_maps(0, images=2), random_maps(1, images=2)).match().layers.iloc[0]
    assert np.isfinite(row["gain_over_chance"])
    assert np.isnan([row["gain_over_chance_low"], row["gain_over_chance_high"]]).all()


# --- what a matching says -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", MEASURES)
def test_a_copy_with_its_heads_permuted_is_recovered(measure):
    a, perms = random_maps(0, images=10, heads=4), ([2, 0, 3, 1], [1, 2, 3, 0])
    shuffled = np.stack([a.maps[:, layer, perm] for layer, perm in enumerate(perms)], axis=1)
    heads, layers = compared(a, a._replace(maps=shuffled)).match(measure)
    for layer, perm in enumerate(perms):
        assert list(heads.loc[heads["layer_a"] == layer, "head_b"]) == list(np.argsort(perm))
    assert heads["stable"].all()
    np.testing.assert_allclose(layers["matched"], 1, atol=1e-7)
    assert (layers["gain_over_identity_low"] > 0).all()
    assert (layers["gain_over_chance_low"] > 0).all()


def simulate(runs, repeat=1):
    """Gains over chance of pairs of models without any lasting resemblance, 16 layers a run."""
    for seed in range(runs):
        a, b = (random_maps([seed, side], images=40 // repeat, layers=16, grid=(2, 2)) for side in (0, 1))
        a, b = (batch._replace(maps=batch.maps.repeat(repeat, axis=0)) for batch in (a, b))
        comparison = compared(a, b)
        yield pd.concat([comparison.match(measure).layers for measure in MEASURES])


def test_no_optimism_where_nothing_matches():
    found = pd.concat(simulate(40))
    misses = (found["gain_over_chance_low"] > 0) | (found["gain_over_chance_high"] < 0)
    for measure, missed in misses.groupby(found["measure"]):
        assert 0.025 < missed.mean() < 0.08, measure  # 5 % of 640, give or take three standard errors
    gain = found["gain_over_chance"].groupby(found["measure"])
    assert (gain.mean().abs() < 3.5 * gain.std() / np.sqrt(640)).all()


def test_matching_and_scoring_on_the_same_images_would_be_optimistic():
    found = pd.concat(simulate(3, repeat=2))  # the twins of an image go to different halves
    assert (found["gain_over_chance"] > 0).all()


def test_habits_of_heads_are_a_gain_that_other_images_keep():
    a = random_maps(0, images=40, habit=2.0)
    rolled = a._replace(maps=np.roll(a.maps[:, :, [1, 2, 0]], 1, axis=0))
    layers = compared(a, rolled).match().layers
    assert (layers["gain_over_chance_low"] > 0).all()


# --- shapes ---------------------------------------------------------------------------------------------------------


def test_different_numbers_of_heads_leave_heads_without_partner():
    a = random_maps(0, layers=1, heads=4)
    b = a._replace(maps=a.maps[:, :, [3, 1]])
    heads, layers = compared(a, b).match("cosine")
    pairs = heads.dropna(subset="similarity")
    assert list(zip(pairs["head_a"], pairs["head_b"], strict=True)) == [(1, 1), (3, 0)]
    left = heads[heads["similarity"].isna()]
    assert list(left["head_a"]) == [0, 2]
    assert left["head_b"].isna().all()
    second, cosines = halves(12)[1], reference(a, b)["cosine"][:, 0, :, 0]
    row = layers.iloc[0]
    assert row["matched"] == pytest.approx(1)
    assert row["chance"] == pytest.approx(cosines[second].mean())
    assert row["identity"] == pytest.approx(cosines[second][:, [0, 1], [0, 1]].mean())
    turned = compared(b, a).match("cosine").heads
    assert list(turned.loc[turned["head_a"].isna(), "head_b"]) == [0, 2]


@pytest.mark.parametrize(("depths", "pairs"), [((4, 2), [0, 0, 1, 1]), ((2, 4), [1, 3]), ((3, 3), [0, 1, 2])])
def test_layers_of_equal_relative_depth_are_compared(depths, pairs):
    layers = compared(*(random_maps(i, layers=depth) for i, depth in enumerate(depths))).match().layers
    assert list(layers["layer_a"]) == list(range(depths[0]))
    assert list(layers["layer_b"]) == pairs


def test_layer_pairs_can_be_chosen(two_models):
    comparison = compared(*two_models, layer_pairs=[(1, 0)])
    row = comparison.match("cosine").layers.iloc[0]
    assert (row["layer_a"], row["layer_b"]) == (1, 0)
    assert row["matched"] == pytest.approx(comparison.similarity("cosine").loc[1, 0])


def test_a_list_of_layers_and_half_precision_are_taken(two_models):
    as_list = [batch._replace(maps=[*np.moveaxis(batch.maps, 1, 0)]) for batch in two_models]
    comparison = MapComparison()
    comparison.update(*as_list)
    pd.testing.assert_frame_equal(comparison.layers(), compared(*two_models).layers())
    halved = compared(*(batch._replace(maps=batch.maps.astype(np.float16)) for batch in two_models))
    np.testing.assert_allclose(halved.similarity("cosine"), comparison.similarity("cosine"), atol=1e-3)


def test_prefix_tokens_are_left_out_and_without_cls_the_mean_row_speaks():
    a, b = random_maps(0, prefix=2), random_maps(1, prefix=0)
    values = np.empty((12, 3, 3))
    for image, i, j in np.ndindex(values.shape):
        x, y = a.maps[image, 0, i, 0, 2:], b.maps[image, 0, j].mean(0)
        values[image, i, j] = 1 - distance.jensenshannon(x, y, base=2)
    assert compared(a, b).match().layers.loc[0, "chance"] == pytest.approx(values[halves(12)[1]].mean())


def test_a_cls_token_that_sees_itself_alone_counts_as_uniform():
    a = random_maps(0, images=4)
    a.maps[..., 0, :] = np.eye(7)[0]
    uniform = MapBatch(np.full_like(a.maps, 1 / 7), a.grid)
    np.testing.assert_allclose(compared(a, uniform).similarity("js"), 1, atol=1e-7)
    assert (compared(a, uniform).similarity("spearman") == 0).all(axis=None)


def test_without_a_class_token_the_mean_row_is_compared():
    a, b = (random_maps(seed, images=4, layers=1, heads=1, prefix=2)._replace(class_token=False) for seed in (0, 1))
    x, y = (batch.maps[:, 0, 0].mean(1)[:, 2:] for batch in (a, b))  # (images, P)
    pairs = [1 - distance.jensenshannon(*rows, base=2) for rows in zip(x, y, strict=True)]
    found = compared(a, b).similarity("js").loc[0, 0]
    assert found == pytest.approx(np.mean([pairs[image] for image in halves(4)[1]]))


# --- errors ---------------------------------------------------------------------------------------------------------


def _spoiled(value):
    batch = random_maps(1)
    batch.maps[3, 1, 2, 4, 5] = value
    return batch


@pytest.mark.parametrize(
    ("b", "message"),
    [
        (random_maps(1, images=11), "the 12 images of a, got 11"),
        (random_maps(1)._replace(grid=(3, 3)), r"\(B, H, 10, 10\)"),
        (random_maps(1)._replace(prefix=0), r"\(B, H, 6, 6\)"),
        (random_maps(1)._replace(prefix=-1, grid=(2, 4)), "prefix of at least 0"),
        (random_maps(1)._replace(maps=[]), "got"),
        (random_maps(1)._replace(maps=np.ones((12, 7, 7)) / 7), "got"),
        (random_maps(1)._replace(maps=np.log(random_maps(1).maps)), "softmax"),
        (_spoiled(0.9), "layer 1"),
        (_spoiled(np.nan), "layer 1"),
        (_spoiled(np.inf), "layer 1"),
        (_spoiled(-0.001), "layer 1"),
    ],
)
def test_bad_maps_are_refused_and_leave_no_trace(b, message):
    a, comparison = random_maps(0), MapComparison()
    with pytest.raises(InputError, match=message):
        comparison.update(a, b)
    with pytest.raises(InputError):
        comparison.update(b._replace(maps=b.maps), random_maps(0, images=13))
    assert comparison.n == 0
    comparison.update(a, a)
    assert comparison.n == 12


def test_a_change_of_layout_is_refused():
    comparison = compared(random_maps(0), random_maps(1))
    for other in (random_maps(1, heads=2), random_maps(1, layers=3), random_maps(1, grid=(3, 2))):
        with pytest.raises(InputError, match="must keep"):
            comparison.update(random_maps(0), other)
    assert comparison.n == 12


def test_measures_and_layer_pairs_are_checked(two_models):
    comparison = compared(*two_models)
    for call in (comparison.match, comparison.similarity):
        with pytest.raises(InputError, match="measure must be one of js, cosine, spearman, got 'kl'"):
            call("kl")
    for pairs in ([], [(0, 2)], [(-1, 0)]):
        with pytest.raises(InputError, match="layer_pairs"):
            compared(*two_models, layer_pairs=pairs)


@pytest.mark.parametrize("images", [0, 1])
def test_two_images_are_needed(images):
    comparison = MapComparison()
    if images:
        comparison.update(random_maps(0, images=1), random_maps(1, images=1))
    for call in (comparison.match, comparison.layers, comparison.similarity):
        with pytest.raises(InputError, match=f"2 images or more.*got {images}"):
            call()
