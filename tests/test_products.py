"""Products by the names of dimensions: matrix products and einsum are the same."""

import pytest
import torch

from svda_analysis.products import as_scores, as_weighing, contraction, sums_to_one, to_names, why_no_map


@pytest.mark.parametrize("equation", ["bhid,bhjd->bhij", "... i d, ... j d -> ... i j"])
def test_scores_of_einsum_are_those_of_matmul(equation):
    q, k = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 6, 4)
    for found in (
        contraction("einsum", (equation, q, k)),
        contraction("matmul", (q, k.mT)),
    ):
        one, other = as_scores(found)
        torch.testing.assert_close(one, q)
        torch.testing.assert_close(other, k)


def test_heads_behind_tokens_come_before_them():
    a, v = torch.randn(2, 5, 6, 3).softmax(2), torch.randn(2, 6, 3, 4)
    found = contraction("einsum", ("bhij,bjhd->bihd", a.permute(0, 3, 1, 2), v))
    order_a, order_v = as_weighing(found)
    made = found.a.permute(order_a) @ found.b.permute(order_v)
    torch.testing.assert_close(made.transpose(1, 2), torch.einsum("bijh,bjhd->bihd", a, v))
    assert as_weighing(contraction("einsum", ("bhij,hg->bgij", torch.randn(1, 2, 3, 3), torch.eye(2)))) is None


def test_what_is_no_product_of_two():
    assert contraction("einsum", ("bii->bi", torch.eye(3)[None])) is None
    assert contraction("matmul", (torch.ones(3), torch.ones(3))) is None
    assert contraction("add", (torch.ones(2, 2), torch.ones(2, 2))) is None


def test_places_of_a_factor_are_spread_over_the_product():
    places = torch.arange(6).view(2, 3)
    spread = to_names(places, ("b", "i"), ("b", "i", "j"), (2, 3, 4))
    assert torch.equal(spread, places[..., None].expand(2, 3, 4))


def test_distributions():
    assert sums_to_one(torch.randn(3, 4).softmax(-1), -1)
    assert not sums_to_one(torch.randn(3, 4).softmax(-1), 0)
    assert not sums_to_one(torch.tensor([[2.0, -1.0]]), -1)


def test_what_shares_out_one_or_less_is_a_map():
    a, hidden = torch.randn(2, 5, 4).softmax(-1), torch.tensor([1.0, 1.0, 0.0, 0.0])
    blind = torch.cat([a[:, :2], torch.zeros(2, 3, 4)], 1)
    for one in (a, a.half(), a * hidden, blind, 0 * a, a * float("nan"), a[:0]):
        assert not why_no_map(one)
    centred = torch.full((1, 2, 2000), 1 / 2000).softmax(-1) - torch.rand(1, 2, 2000) / 1000
    for one in (a - 0.1, -a, centred, 1e-4 * (a - a.mean(-1, keepdim=True))):
        assert why_no_map(one) == "whose weights are negative in part"
    assert why_no_map(1.1 * a) == "whose weights add up to more than 1 for a query"
