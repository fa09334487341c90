"""Blocks of queries add up to the whole map, for every indicator that is made of rows."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from svda_analysis import indicators as ind
from svda_analysis.indicators.blocks import Largest, Mean, Total, over_queries, patches_among

GROUPS = ["default", "source", "field"]
BY_ROWS = [one for one in ind.choose_indicators(GROUPS) if one.rows]
WHOLE = {"a", "a_noisy", "a_pixel_noisy", "position_map", "first"}


def test_what_is_made_of_a_map_is_made_of_rows_or_says_that_it_needs_it_whole():
    of_maps = [one for one in ind.choose_indicators(GROUPS) if {"a", "a_noisy"} & set(one.needs)]
    assert {one.name for one in of_maps if one.rows is None} == {"position_share"}
    assert all(one.needs_whole("attention") == (one.rows is None) for one in of_maps)
    whole = [one.name for one in ind.choose_indicators() if one.needs_whole("attention")]
    assert whole == ["spectral_entropy", "spectral_sparsity", "attention_rank"]
    assert not ind.INDICATORS["effective_rank"].needs_whole("scores")


def a_layer(seed, heads, dtype, zero_rows):
    """A map of CLS, two registers and a 3 x 4 grid, with its noisy copies; some queries attend to nothing."""
    generator = torch.Generator().manual_seed(seed)
    q, k, other = (torch.randn(2, heads, 15, 5, generator=generator) for _ in range(3))
    a, noisy = (3 * q @ k.mT).softmax(-1), (3 * q @ (k + other / 5).mT).softmax(-1)
    a[0, 0, zero_rows] = 0
    made = {"q": q, "k": k, "a": a, "a_noisy": noisy, "a_pixel_noisy": noisy, "sigma": torch.ones(heads, 5)}
    sizes = {"grid": (3, 4), "prefix": 2, "suffix": 1, "frames": 1, "class_token": True}
    return {name: x.to(dtype) for name, x in made.items()} | sizes


def in_blocks(one, layer, size):
    """The indicator from blocks of so many queries."""
    found, N = None, layer["a"].shape[-1]
    for first in range(0, N, size):
        part = {
            name: x[..., first : first + size, :] if name in {"q", "a", "a_noisy", "a_pixel_noisy"} else x
            for name, x in {**layer, "first": first}.items()
        }
        block = one.rows(**{need: part[need] for need in one.row_needs})
        if block is None:
            return None
        found = block if found is None else found.joined(block)
    value = found.value() if one.finish is None else one.finish(found.value())
    return value.clamp(*one.bounds(one.sources[0], D=5, N=N, grid=(3, 4)))


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(1, 15),
    heads=st.integers(1, 4),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    zero_rows=st.lists(st.integers(0, 14), max_size=15),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("name", [one.name for one in BY_ROWS])
def test_blocks_add_up_to_the_whole_map(name, size, heads, dtype, zero_rows, seed):
    one, layer = ind.INDICATORS[name], a_layer(seed, heads, dtype, zero_rows)
    whole = one.function(**{need: layer[need] for need in one.needs})
    found = in_blocks(one, layer, size)
    if whole is None:
        assert found is None
        return
    assert found.shape == whole.shape
    torch.testing.assert_close(found.double(), whole.double(), rtol=1e-6, atol=1e-6)


def test_the_pieces_add_up():
    values, counts = torch.rand(2, 3), torch.randint(1, 5, (2, 3))
    pieces = [Mean(values[:, at], counts[:, at]) for at in range(3)]
    joined = pieces[0].joined(pieces[1]).joined(pieces[2]).value()
    torch.testing.assert_close(joined, values.double().sum(1) / counts.sum(1))
    assert Largest(values[:, 0]).joined(Largest(values[:, 1])).value().equal(values[:, :2].amax(1))
    torch.testing.assert_close(Total(values[0]).joined(Total(values[1])).value(), values.double().sum(0))


def test_queries_that_attend_to_nothing_are_not_counted():
    a, values = torch.eye(4)[None, None].clone(), torch.arange(4.0)[None, None]
    a[..., 2, :] = 0
    found = over_queries(values, a)
    assert (found.total.item(), found.count.item()) == (4, 3)
    assert over_queries(values, 0 * a).value().item() == 0


@pytest.mark.parametrize("size", [1, 2, 3, 5, 11])
def test_patches_are_found_among_the_queries_of_a_block(size):
    seen = []
    for first in range(0, 11, size):
        begin, count = patches_among(min(size, 11 - first), first, 11, 2, 3)
        assert begin + count <= min(size, 11 - first)
        seen += range(first + begin, first + begin + count)
    assert seen == list(range(2, 8))
