"""Indicators against slow float64 references written from the definitions, plus their properties and edge cases."""

import inspect
import math
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from svda_analysis import indicators as ind
from svda_analysis.errors import InputError
from svda_analysis.indicators import registry

GRID, PREFIX = (2, 3), 1
B, H, N, D = 2, 3, PREFIX + GRID[0] * GRID[1], 4
OURS = {entry.name: entry for entry in ind.choose_indicators()}  # groups have tests of their own
SPECTRUM_NAMES = sorted(name for name, entry in OURS.items() if entry.needs == ("spectrum",))
MAP_NAMES = sorted(name for name, entry in OURS.items() if entry.needs == ("a",))
CASES = [(name, source) for name, entry in OURS.items() for source in entry.sources]
few = settings(max_examples=60, deadline=None)


# --- references: one head of one image, explicit loops, float64 -------------------------------------------------------


def entropy_of(weights):
    total = math.fsum(weights)
    return -math.fsum(w / total * math.log(w / total) for w in weights if w > 0)


def hoyer_of(weights):
    n, l1, l2 = len(weights), math.fsum(weights), math.sqrt(math.fsum(w * w for w in weights))
    return (math.sqrt(n) - l1 / l2) / (math.sqrt(n) - 1)


def cosine(x, y):
    return sum(x * y) / math.sqrt(sum(x * x) * sum(y * y))


def spectral_entropy(spectrum):
    return entropy_of(spectrum) / math.log(len(spectrum))


def effective_rank(spectrum):
    return math.exp(entropy_of(spectrum))


def spectral_sparsity(spectrum):
    return hoyer_of(spectrum)


def angular_alignment(q, k, a):
    rows = [sum(a[i, j] * cosine(q[i], k[j]) for j in range(len(k))) for i in range(len(q))]
    return (1 + np.mean(rows)) / 2


def mean_alignment(q, k):
    return (1 + np.mean([cosine(x, y) for x in q for y in k])) / 2


def attention_entropy(a):
    return np.mean([entropy_of(row) / math.log(len(row)) for row in a])


def selectivity_index(a):
    return np.mean([1 - entropy_of(row) / math.log(len(row)) for row in a])


def living_maps(a):
    return float(selectivity_index(a) >= 0.05)


def attention_sparsity(a):
    return np.mean([hoyer_of(row) for row in a])


def mass_90(a):
    shares = []
    for row in a:
        largest = sorted(row, reverse=True)
        keys = next(m for m in range(1, len(row) + 1) if math.fsum(largest[:m]) >= 0.9 * math.fsum(row) - 1e-12)
        shares.append(keys / len(row))
    return np.mean(shares)


def attention_distance(a, grid, prefix):
    places = [(r, c) for r in range(grid[0]) for c in range(grid[1])]
    rows = []
    for i, here in enumerate(places):
        weights = [a[prefix + i, prefix + j] for j in range(len(places))]
        rows.append(sum(w * math.dist(here, there) for w, there in zip(weights, places, strict=True)) / sum(weights))
    return np.mean(rows)


def perturbation_robustness(a, a_noisy):
    return 1 - np.mean([0.5 * sum(abs(x - y)) for x, y in zip(a, a_noisy, strict=True)])


REFERENCES = {
    function.__name__: function
    for function in (
        spectral_entropy,
        effective_rank,
        spectral_sparsity,
        angular_alignment,
        mean_alignment,
        attention_entropy,
        selectivity_index,
        living_maps,
        attention_sparsity,
        mass_90,
        attention_distance,
        perturbation_robustness,
    )
} | {"attention_rank": effective_rank}  # the same formula, of the singular values of A


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def example(seed=0):
    """Queries, keys, sigma and maps of one layer in float64; maps from nearly uniform (head 0) to peaked (head 2)."""
    rng = np.random.default_rng(seed)
    q, k = rng.normal(size=(2, B, H, N, D))
    sigma = rng.normal(size=(H, D))
    scores = np.einsum("bhid,hd,bhjd->bhij", q, sigma, k) * np.array([0.1, 1, 5])[:, None, None]
    return {
        "q": q,
        "k": k,
        "sigma": sigma,
        "a": softmax(scores),
        "a_noisy": softmax(scores + rng.normal(size=scores.shape)),
        "grid": GRID,
        "prefix": PREFIX,
    }


def numpy_spectrum(data, source):
    if source == "sigma":
        return np.abs(data["sigma"])
    matrix = (
        data["a"] if source == "attention" else np.einsum("bhid,hd,bhjd->bhij", data["q"], data["sigma"], data["k"])
    )
    if source == "attention":
        return np.linalg.svd(matrix, compute_uv=False)
    return np.linalg.svd(matrix - matrix.mean(-1, keepdims=True), compute_uv=False)[..., : min(N - 1, D)]


def torch_spectrum(data, source):
    if source == "sigma":
        return ind.sigma_spectrum(data["sigma"])
    if source == "attention":
        return ind.attention_spectrum(data["a"])
    return ind.score_spectrum(data["q"], data["k"], 1.0, data["sigma"])


def as_tensors(data, dtype=torch.float64):
    return {key: torch.as_tensor(x).to(dtype) if isinstance(x, np.ndarray) else x for key, x in data.items()}


def compute(name, source, dtype=torch.float64):
    """The indicator as the analysis calls it: singular values and all in ``dtype``."""
    entry, tensors = ind.INDICATORS[name], as_tensors(example(), dtype)
    tensors["spectrum"] = torch_spectrum(tensors, source)
    return entry.function(**{key: tensors[key] for key in entry.needs})


def reference(name, source):
    entry, data = ind.INDICATORS[name], example()
    data["spectrum"] = numpy_spectrum(data, source)
    leading = (H,) if source == "sigma" else (B, H)
    want = np.empty(leading)
    for index in np.ndindex(leading):
        needed = {key: data[key][index] if isinstance(data[key], np.ndarray) else data[key] for key in entry.needs}
        want[index] = REFERENCES[name](**needed)
    return want


# --- the registry -----------------------------------------------------------------------------------------------------


def test_every_indicator_has_a_reference():
    assert set(REFERENCES) == set(OURS)


@pytest.mark.parametrize(("name", "source"), CASES)
def test_matches_reference(name, source):
    got = compute(name, source)
    assert got.dtype == torch.float64
    np.testing.assert_allclose(got.numpy(), reference(name, source), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("name", "source"), CASES)
def test_float32_stays_near_the_reference(name, source):
    got = compute(name, source, torch.float32)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), reference(name, source), rtol=3e-6, atol=3e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", sorted(OURS))
def test_half_precision_is_computed_in_float32(name, dtype):
    entry, half = ind.INDICATORS[name], as_tensors(example(), dtype)
    half["spectrum"] = half["sigma"].abs()
    wide = {key: x.float() if isinstance(x, torch.Tensor) else x for key, x in half.items()}
    got, want = (entry.function(**{key: data[key] for key in entry.needs}) for data in (half, wide))
    assert got.dtype == torch.float32
    assert torch.equal(got, want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_spectra_are_float32(dtype):
    half = as_tensors(example(), dtype)
    wide = {key: x.float() if isinstance(x, torch.Tensor) else x for key, x in half.items()}
    for source in ind.SOURCES:
        got = torch_spectrum(half, source)
        assert got.dtype == torch.float32
        assert torch.equal(got, torch_spectrum(wide, source))


def test_entries_describe_their_functions():
    names_the_caller_offers = {"spectrum", "a", "q", "k", "sigma", "grid", "prefix", "a_noisy", "a_pixel_noisy"}
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


# --- properties -------------------------------------------------------------------------------------------------------

any_weight = st.floats(width=32, allow_nan=False, allow_infinity=False)
any_spectrum = hnp.arrays(np.float32, st.integers(1, 9), elements=any_weight.map(abs))
plain_spectrum = hnp.arrays(np.float64, st.integers(1, 9), elements=st.floats(0, 1e3))


@st.composite
def maps(draw, dtype=np.float32):
    """Stochastic maps of one head ``(1, 1, N, N)``, some with zero rows or zero prefix-to-patch attention."""
    n = draw(st.integers(1, 3)) * draw(st.integers(1, 3)) + draw(st.integers(0, 2))
    weights = draw(hnp.arrays(np.float32, (1, 1, n, n), elements=st.floats(0, 1, width=32))).astype(np.float64)
    total = weights.sum(-1, keepdims=True)
    return torch.as_tensor((weights / np.where(total == 0, 1, total)).astype(dtype))


@few
@given(any_spectrum)
def test_spectral_indicators_stay_in_bounds(values):
    spectrum = torch.as_tensor(values)
    for name in SPECTRUM_NAMES:
        entry = ind.INDICATORS[name]
        low, high = entry.bounds(entry.sources[0], D=len(values), N=len(values))
        assert low <= entry.function(spectrum).item() <= high, name


@few
@given(maps(), st.data())
def test_map_indicators_stay_in_bounds(a, data):
    n = a.shape[-1]
    q, k = torch.as_tensor(data.draw(hnp.arrays(np.float32, (2, 1, 1, n, 2), elements=any_weight)))
    columns = data.draw(st.sampled_from([c for c in range(1, n + 1) if n % c == 0]))
    prefix = data.draw(st.sampled_from([0, n - columns]))
    grid = ((n - prefix) // columns, columns)
    a_noisy = a[..., torch.randperm(n, generator=torch.Generator().manual_seed(n)), :]
    offered = {"a": a, "a_noisy": a_noisy, "q": q, "k": k, "grid": grid, "prefix": prefix}
    for name, entry in OURS.items():
        if entry.needs != ("spectrum",):
            low, high = entry.bounds(entry.sources[0], D=2, N=n, grid=grid)
            got = entry.function(**{key: offered[key] for key in entry.needs})
            assert got.shape == (1, 1), name
            assert low <= got.item() <= high, name


@few
@given(plain_spectrum, st.floats(-30, 30), st.randoms(use_true_random=False))
def test_spectral_indicators_ignore_scale_and_order(values, exponent, random):
    values = np.where(values < 1e-9, 0, values)  # subnormal products would lose digits in the input itself
    shuffled = list(values)
    random.shuffle(shuffled)
    for name in SPECTRUM_NAMES:
        function = ind.INDICATORS[name].function
        want = function(torch.as_tensor(values)).item()
        assert function(torch.as_tensor(values * 10**exponent)).item() == pytest.approx(want, rel=1e-9, abs=1e-9)
        assert function(torch.tensor(shuffled, dtype=torch.float64)).item() == pytest.approx(want, rel=1e-9, abs=1e-9)


@few
@given(maps(np.float64), st.randoms(use_true_random=False))
def test_map_indicators_ignore_the_order_of_keys(a, random):
    order = list(range(a.shape[-1]))
    random.shuffle(order)
    for name in MAP_NAMES:
        function = ind.INDICATORS[name].function
        assert function(a[..., order]).item() == pytest.approx(function(a).item(), rel=1e-9, abs=1e-9), name


@few
@given(maps(np.float64))
def test_robustness_is_one_for_the_same_map_and_symmetric(a):
    assert ind.perturbation_robustness(a, a).item() == 1
    other = a.flip(-1)
    there, back = ind.perturbation_robustness(a, other), ind.perturbation_robustness(other, a)
    assert there.item() == pytest.approx(back.item(), abs=1e-12)


# --- exact values and edge cases --------------------------------------------------------------------------------------


def close(got, want, tolerance=1e-6):
    return torch.allclose(got, torch.full_like(got, want), rtol=0, atol=tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("n", [2, 10, 30, 197])
def test_one_hot_rows(n, dtype):
    a = torch.eye(n, dtype=dtype).expand(2, 3, n, n)
    assert torch.equal(ind.attention_entropy(a), torch.zeros(2, 3, dtype=ind.attention_entropy(a).dtype))
    assert close(ind.selectivity_index(a), 1, 0)
    assert close(ind.attention_sparsity(a), 1, 0)
    assert close(ind.mass_90(a), 1 / n)
    assert close(ind.attention_rank(ind.attention_spectrum(a)), n, 1e-5 * n)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("n", [2, 10, 30, 197])
def test_uniform_rows(n, dtype):
    a = torch.full((2, 3, n, n), 1 / n, dtype=dtype)
    assert close(ind.attention_entropy(a), 1)
    assert close(ind.selectivity_index(a), 0)
    assert close(ind.attention_sparsity(a), 0)
    assert close(ind.mass_90(a), -(-9 * n // 10) / n)  # ceil(0.9 n) keys, in whole numbers
    assert close(ind.attention_rank(ind.attention_spectrum(a)), 1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_of_equal_weights_leaves_no_bound_and_no_tie(dtype):
    for n in range(1, 301):
        row = torch.full((1, 1, 1, n), 1 / n, dtype=dtype)
        assert 0 <= ind.spectral_entropy(row).item() <= 1
        assert 1 <= ind.effective_rank(row).item() <= n
        assert 0 <= ind.spectral_sparsity(row).item() <= 1
        assert 0 <= ind.attention_entropy(row).item() <= 1
        assert 0 <= ind.attention_sparsity(row).item() <= 1
        assert ind.mass_90(row).item() * n == pytest.approx(-(-9 * n // 10), rel=1e-6)


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1.0, 1e30, 3e38])
def test_flat_and_single_spectra_at_any_scale(scale):
    flat, single = torch.full((3, 8), scale), torch.zeros(3, 8)
    single[:, 5] = scale
    assert close(ind.spectral_entropy(flat), 1)
    assert close(ind.effective_rank(flat), 8, 1e-5)
    assert close(ind.spectral_sparsity(flat), 0)
    assert close(ind.spectral_entropy(single), 0, 0)
    assert close(ind.effective_rank(single), 1, 0)
    assert close(ind.attention_rank(single), 1, 0)
    assert close(ind.spectral_sparsity(single), 1, 0)


@pytest.mark.parametrize("length", [1, 2, 8])
def test_an_all_zero_spectrum_is_a_single_direction(length):
    spectrum = torch.zeros(2, 3, length)
    assert close(ind.spectral_entropy(spectrum), 0, 0)
    assert close(ind.effective_rank(spectrum), 1, 0)
    assert close(ind.attention_rank(spectrum), 1, 0)
    assert close(ind.spectral_sparsity(spectrum), 1, 0)


@pytest.mark.parametrize("name", [*MAP_NAMES, "angular_alignment", "perturbation_robustness"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_queries_that_attend_to_nothing_are_left_out_of_the_mean(name, dtype):
    rng = np.random.default_rng(0)
    data = {"a": softmax(rng.normal(size=(5, 5))), "a_noisy": softmax(rng.normal(size=(5, 5)))}
    data |= {"q": rng.normal(size=(5, D)), "k": rng.normal(size=(5, D))}
    if name == "angular_alignment":
        rows = [data["a"][i] @ [cosine(data["q"][i], key) for key in data["k"]] for i in (0, 2, 3)]
        want = (1 + np.mean(rows)) / 2
    elif name == "perturbation_robustness":
        want = perturbation_robustness(*(data[key][[0, 2, 3]] for key in ("a", "a_noisy")))
    else:
        want = REFERENCES[name](data["a"][[0, 2, 3]])
    data["a"][[1, 4]] = 0
    tensors = {key: torch.as_tensor(data[key])[None, None].to(dtype) for key in OURS[name].needs}
    found = OURS[name].function(**tensors).item()
    assert found == pytest.approx(want, rel=1e-9 if dtype == torch.float64 else 5e-3)


def test_a_map_that_is_zero_everywhere_has_means_of_0():
    a, q = torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 2)
    assert all(close(function(a), 0, 0) for function in (ind.attention_entropy, ind.attention_sparsity, ind.mass_90))
    assert close(ind.selectivity_index(a), 1, 0)  # one minus the entropy
    assert close(ind.attention_distance(a, (2, 2), 0), 0, 0)
    assert close(ind.angular_alignment(q, q, a), 0.5, 0)
    assert close(ind.perturbation_robustness(a, torch.full_like(a, 0.25)), 1, 0)


@pytest.mark.parametrize("head_dim", [1, 4])
def test_one_token(head_dim):
    a, q = torch.ones(2, 3, 1, 1), torch.full((2, 3, 1, head_dim), 2.0)
    values = {"attention_entropy": 0, "selectivity_index": 1, "living_maps": 1, "attention_sparsity": 1, "mass_90": 1}
    assert set(values) == set(MAP_NAMES)
    assert all(close(getattr(ind, name)(a), value, 0) for name, value in values.items())
    assert all(close(getattr(ind, name)(0.9 * a), value) for name, value in values.items())
    assert close(ind.attention_rank(ind.attention_spectrum(a)), 1, 0)
    assert close(ind.attention_distance(a, (1, 1), 0), 0, 0)
    assert close(ind.perturbation_robustness(a, a), 1, 0)
    assert close(ind.angular_alignment(q, q, a), 1)
    assert ind.score_spectrum(q, q, 0.5).shape == (2, 3, 1)
    assert close(ind.score_spectrum(q, q, 0.5), 0, 0)  # nothing to choose between


def test_one_direction():
    spectrum = torch.tensor([[3.0], [1e30], [1e-30]])
    assert close(ind.spectral_entropy(spectrum), 0, 0)
    assert close(ind.effective_rank(spectrum), 1, 0)
    assert close(ind.spectral_sparsity(spectrum), 1, 0)


@pytest.mark.parametrize("name", MAP_NAMES)
def test_nan_is_not_turned_into_a_number(name):
    a = torch.full((1, 2, 4, 4), 0.25)
    a[0, 1, 2, 3] = math.nan
    assert ind.INDICATORS[name].function(a).isnan().tolist() == [[False, True]]


def test_huge_and_tiny_queries_keep_their_angles():
    data = as_tensors(example(), torch.float32)
    q, k, a = data["q"], data["k"], data["a"]
    for scale in (1e30, 1e-30):
        torch.testing.assert_close(ind.mean_alignment(q * scale, k * scale), ind.mean_alignment(q, k))
        torch.testing.assert_close(ind.angular_alignment(q * scale, k * scale, a), ind.angular_alignment(q, k, a))


def test_alignment_at_its_ends():
    q = torch.tensor([[[[3.0, 4.0], [0.3, 0.4]]]], dtype=torch.float64)
    a = torch.eye(2, dtype=torch.float64).expand(1, 1, 2, 2)
    for keys, want in ((2 * q, 1), (-q, 0), (q.flip(-1) * torch.tensor([1.0, -1.0]), 0.5), (0 * q, 0.5)):
        assert ind.angular_alignment(q, keys, a).item() == pytest.approx(want, abs=1e-12)
        assert ind.mean_alignment(q, keys).item() == pytest.approx(want, abs=1e-12)


def test_angular_alignment_under_uniform_attention_is_mean_alignment():
    data = as_tensors(example())
    uniform = torch.full((B, H, N, N), 1 / N, dtype=torch.float64)
    angular = ind.angular_alignment(data["q"], data["k"], uniform)
    torch.testing.assert_close(angular, ind.mean_alignment(data["q"], data["k"]), rtol=1e-12, atol=1e-12)


def test_mean_alignment_is_the_mean_over_all_pairs():
    data = as_tensors(example())
    unit_q, unit_k = (torch.nn.functional.normalize(data[key], dim=-1) for key in "qk")
    explicit = (1 + (unit_q @ unit_k.mT).mean((-2, -1))) / 2  # (B, H), through the N x N matrix
    torch.testing.assert_close(ind.mean_alignment(data["q"], data["k"]), explicit, rtol=1e-12, atol=1e-12)


def test_no_n_by_n_matrix_where_none_is_needed():
    q = torch.ones(1, 1, 300_000, 2)  # N x N would take 360 GB
    assert close(ind.mean_alignment(q, q), 1)
    k = q.clone()
    k[..., ::2, 0] = -1
    assert ind.score_spectrum(q, k, 1.0)[0, 0].tolist() == pytest.approx([300_000, 0], abs=1e-3)


# --- attention distance -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_attention_distance_of_the_identity_is_zero(prefix):
    n = prefix + 14 * 14
    assert torch.equal(ind.attention_distance(torch.eye(n).expand(2, 3, n, n), (14, 14), prefix), torch.zeros(2, 3))


@pytest.mark.parametrize(("grid", "prefix"), [((2, 3), 0), ((3, 2), 1), ((1, 6), 2), ((4, 4), 3)])
def test_attention_distance_equals_loops(grid, prefix):
    n = prefix + grid[0] * grid[1]
    a = softmax(np.random.default_rng(n).normal(size=(1, 1, n, n)))
    want = attention_distance(a[0, 0], grid, prefix)
    assert ind.attention_distance(torch.as_tensor(a), grid, prefix).item() == pytest.approx(want, rel=1e-9)


def test_attention_distance_reaches_its_bound():
    a = torch.eye(2).flip(-1).expand(1, 1, 2, 2)  # each end of a row of two patches looks at the other
    assert ind.attention_distance(a, (1, 2), 0).item() == 1
    assert ind.INDICATORS["attention_distance"].bounds("attention", grid=(1, 2)) == (0, 1)


def test_attention_distance_leaves_out_prefix_and_rows_without_patch_mass():
    a = torch.zeros(1, 1, 4, 4)
    a[..., 0, 3] = 1.0  # CLS as a query
    a[..., 1, 0], a[..., 1, 3] = 0.75, 0.25  # patch 0 gives CLS three quarters, patch 2 the rest: distance 2
    a[..., 2, 2] = 1.0  # patch 1 looks at itself: distance 0
    a[..., 3, 0] = 1.0  # patch 2 looks at CLS alone: no distance
    assert ind.attention_distance(a, (1, 3), 1).item() == 1


@pytest.mark.parametrize(("grid", "prefix"), [((2, 2), 0), ((2, 2), 2)])
def test_attention_distance_refuses_another_number_of_tokens(grid, prefix):
    with pytest.raises(InputError, match=r"a must have prefix \+ rows \* columns tokens, got N=5"):
        ind.attention_distance(torch.eye(5).expand(1, 1, 5, 5), grid, prefix)


def test_robustness_refuses_another_shape():
    with pytest.raises(InputError, match="a_noisy must have the shape of a"):
        ind.perturbation_robustness(torch.ones(2, 3, 4, 4), torch.ones(1, 3, 4, 4))


def test_robustness_of_disjoint_maps_is_zero():
    a = torch.eye(4).expand(2, 3, 4, 4)
    assert close(ind.perturbation_robustness(a, a.roll(1, -1)), 0, 0)


# --- spectra ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_sigma", [False, True])
@pytest.mark.parametrize(("n", "d"), [(3, 8), (8, 3), (5, 5), (1, 4), (4, 1)])
def test_score_spectrum_is_that_of_the_explicit_matrix(n, d, with_sigma):
    rng = np.random.default_rng(n)
    q, k = rng.normal(size=(2, B, H, n, d))
    sigma = rng.normal(size=(H, d))
    matrix = np.einsum("bhid,hd,bhjd->bhij", q, sigma if with_sigma else np.ones((H, d)), k) * 0.3
    length = max(min(n - 1, d), 1)
    want = np.linalg.svd(matrix - matrix.mean(-1, keepdims=True), compute_uv=False)[..., :length]
    got = ind.score_spectrum(*map(torch.as_tensor, (q, k)), 0.3, torch.as_tensor(sigma) if with_sigma else None)
    assert got.shape == (B, H, length)
    np.testing.assert_allclose(got.numpy(), want, rtol=1e-9, atol=1e-12)


def test_spectra_descend_and_match_numpy():
    data = example()
    tensors = as_tensors(data)
    for source in ind.SOURCES:
        got, want = torch_spectrum(tensors, source), -np.sort(-numpy_spectrum(data, source), axis=-1)
        assert (got.diff(dim=-1) <= 0).all()
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-9, atol=1e-12)


def test_effective_rank_of_nearly_uniform_float32_maps_is_precise():
    generator = torch.Generator().manual_seed(0)
    for temperature in (1e-3, 1e-2, 0.1):
        a = torch.softmax(temperature * torch.randn(1, 1, 100, 100, generator=generator), -1)
        want = effective_rank(np.linalg.svd(a[0, 0].double().numpy(), compute_uv=False))
        assert ind.attention_rank(ind.attention_spectrum(a)).item() == pytest.approx(want, rel=1e-6)
