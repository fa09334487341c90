"""Attention calls as they are read: the map is the kernel's, and the call's result is made of it again."""

import math

import pytest
import torch
import torch.nn.functional as F

from svda_analysis.attention import svda_attention
from svda_analysis.calls import READERS


def read(func, *args, **kwargs):
    torch.manual_seed(0)
    return READERS[func](3, *args, **kwargs).whole()


@pytest.mark.parametrize("options", [{}, {"is_causal": True}, {"scale": 0.3}, {"attn_mask": torch.eye(4, 6).bool()}])
def test_the_result_is_made_of_the_map(options):
    q, k, v = torch.randn(2, 3, 4, 8), torch.randn(2, 3, 6, 8), torch.randn(2, 3, 6, 5)
    call = read(F.scaled_dot_product_attention, q, k, v, **options)
    assert call.record.layer == 3
    torch.testing.assert_close(call.record.a @ v, F.scaled_dot_product_attention(q, k, v, **options))


def test_few_heads_of_keys_are_those_of_many_queries():
    q, k, v = torch.randn(1, 4, 5, 8), torch.randn(1, 2, 5, 8), torch.randn(1, 2, 5, 8)
    record = read(F.scaled_dot_product_attention, q, k, v, enable_gqa=True).record
    assert record.k.shape == record.q.shape
    wanted = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
    torch.testing.assert_close(record.a @ record.v, wanted)


def test_keys_that_are_spread_over_groups_of_heads_are_each_heads():
    q, k, v = torch.randn(2, 3, 2, 5, 8), torch.randn(2, 3, 1, 5, 8), torch.randn(2, 1, 1, 5, 8)
    record = read(F.scaled_dot_product_attention, q, k, v).record
    assert record.k.shape == record.v.shape == record.q.shape
    torch.testing.assert_close(record.a @ record.v, F.scaled_dot_product_attention(q, k, v))


def test_scores_of_half_precision_add_up_in_float32_and_rows_without_a_key_are_0():
    q, k, v = (9 * torch.randn(1, 1, 6, 64, dtype=torch.bfloat16) for _ in range(3))
    mask = torch.ones(6, 6, dtype=torch.bool)
    mask[2] = False
    a = read(F.scaled_dot_product_attention, q, k, v, attn_mask=mask).record.a
    wanted = (q.double() @ k.double().mT / math.sqrt(64)).softmax(-1)
    wanted[:, :, 2] = 0
    torch.testing.assert_close(a.double(), wanted, rtol=1e-4, atol=1e-5)


def test_svda_and_the_module_of_torch_are_read_alike():
    q, k, v = (torch.randn(2, 2, 5, 6) for _ in range(3))
    q, k, sigma = F.normalize(q, dim=-1), F.normalize(k, dim=-1), torch.rand(2, 6)
    call = read(svda_attention, q, k, v, sigma)
    torch.testing.assert_close(call.result(call.record.a @ v), svda_attention(q, k, v, sigma))
    module, x = torch.nn.MultiheadAttention(12, 3), torch.randn(7, 2, 12)
    seen = {}

    def caught(*args, **kwargs):
        seen["call"] = args, kwargs
        return plain(*args, **kwargs)

    plain, F.multi_head_attention_forward = F.multi_head_attention_forward, caught
    try:
        wanted, weights = module(x, x, x)
    finally:
        F.multi_head_attention_forward = plain
    args, kwargs = seen["call"]
    call = READERS[plain](0, *args, **kwargs).whole()
    got, map_ = call.result(call.record.a @ call.record.v)
    torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(map_, weights)
