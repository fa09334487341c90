"""Slow float64 references written from the definitions of the indicators, and a layer to try them on."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from svda_analysis import indicators as ind

GRID, PREFIX = (2, 3), 1
B, H, N, D = 2, 3, PREFIX + GRID[0] * GRID[1], 4
OURS = {entry.name: entry for entry in ind.choose_indicators()}  # groups have tests of their own
SPECTRUM_NAMES = sorted(name for name, entry in OURS.items() if entry.needs == ("spectrum",))
MAP_NAMES = sorted(name for name, entry in OURS.items() if entry.needs == ("a",))
CASES = [(name, source) for name, entry in OURS.items() for source in entry.sources]
few = settings(max_examples=60, deadline=None)


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


def attention_distance(a, grid, prefix, suffix=0, frames=1):
    places = [(t, r, c) for t in range(frames) for r in range(grid[0]) for c in range(grid[1])]
    assert len(a) == prefix + len(places) + suffix
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
        "suffix": 0,
        "frames": 1,
        "prefix": PREFIX,
        "class_token": True,
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


def close(got, want, tolerance=1e-6):
    return torch.allclose(got, torch.full_like(got, want), rtol=0, atol=tolerance)
