"""Alignment of queries and keys: ends, means and scale."""

from __future__ import annotations

import pytest
import torch
from indicator_cases import (
    B,
    H,
    N,
    as_tensors,
    example,
)

from svda_analysis import indicators as ind


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
