"""What is read off the rows of a map: exact values, masks, distances, robustness."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from indicator_cases import (
    MAP_NAMES,
    OURS,
    REFERENCES,
    D,
    attention_distance,
    close,
    cosine,
    few,
    maps,
    perturbation_robustness,
    softmax,
)

from svda_analysis import indicators as ind
from svda_analysis.errors import InputError


@few
@given(maps(np.float64))
def test_robustness_is_one_for_the_same_map_and_symmetric(a):
    assert ind.perturbation_robustness(a, a).item() == 1
    other = a.flip(-1)
    there, back = ind.perturbation_robustness(a, other), ind.perturbation_robustness(other, a)
    assert there.item() == pytest.approx(back.item(), abs=1e-12)


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


@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_attention_distance_of_the_identity_is_zero(prefix):
    n = prefix + 14 * 14
    assert torch.equal(ind.attention_distance(torch.eye(n).expand(2, 3, n, n), (14, 14), prefix), torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("grid", "prefix", "suffix", "frames"),
    [((2, 3), 0, 0, 1), ((3, 2), 1, 0, 1), ((1, 6), 2, 0, 1), ((4, 4), 3, 0, 1), ((2, 3), 1, 4, 1), ((2, 2), 1, 1, 3)],
)
def test_attention_distance_equals_loops(grid, prefix, suffix, frames):
    n = prefix + frames * grid[0] * grid[1] + suffix
    a, lie = softmax(np.random.default_rng(n).normal(size=(1, 1, n, n))), (grid, prefix, suffix, frames)
    want = attention_distance(a[0, 0], *lie)
    assert ind.attention_distance(torch.as_tensor(a), *lie).item() == pytest.approx(want, rel=1e-9)


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
    with pytest.raises(InputError, match=r"a must have prefix \+ frames \* rows \* columns \+ suffix tokens, got N=5"):
        ind.attention_distance(torch.eye(5).expand(1, 1, 5, 5), grid, prefix)


def test_robustness_refuses_another_shape():
    with pytest.raises(InputError, match="a_noisy must have the shape of a"):
        ind.perturbation_robustness(torch.ones(2, 3, 4, 4), torch.ones(1, 3, 4, 4))


def test_robustness_of_disjoint_maps_is_zero():
    a = torch.eye(4).expand(2, 3, 4, 4)
    assert close(ind.perturbation_robustness(a, a.roll(1, -1)), 0, 0)
