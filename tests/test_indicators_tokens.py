"""Similarity, residual and norms of tokens against explicit formulas, and where the tokens come from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from field_cases import B, N, a_model, of, some_images

from svda_analysis import indicators as ind
from svda_analysis.analysis import analyze
from svda_analysis.indicators import INDICATORS, choose_indicators


@pytest.fixture
def images():
    return some_images()


def test_token_indicators_follow_their_formulas():
    x = np.random.default_rng(0).normal(size=(B, N, 5)) + 2
    x[1, 3] *= 9
    unit = x / np.linalg.norm(x, axis=-1, keepdims=True)
    similarity = [np.mean([u[i] @ u[j] for i in range(N) for j in range(N) if i != j]) for u in unit]
    residual = [np.linalg.norm(y - y.mean(0)) / np.linalg.norm(y) for y in x]
    tokens = torch.as_tensor(x)
    np.testing.assert_allclose(ind.token_similarity(tokens), similarity, rtol=1e-9)
    np.testing.assert_allclose(ind.rank_one_residual(tokens), residual, rtol=1e-9)
    assert ind.high_norm_tokens(tokens, 1).tolist() == [0, 1 / 6]
    assert ind.high_norm_tokens(tokens, 4).tolist() == [0, 0]  # it is before the patches
    assert ind.high_norm_tokens(tokens, 1, N - 4).tolist() == [0, 1 / 3]
    assert ind.high_norm_tokens(tokens, 1, N - 3).tolist() == [0, 0]  # it is behind them


def test_tokens_that_are_one_and_the_same():
    tokens = torch.ones(2, 4, 3) * torch.tensor([1.0, 0.0])[:, None, None]
    assert ind.token_similarity(tokens).tolist() == [pytest.approx(1), 0]
    assert ind.rank_one_residual(tokens).tolist() == [0, 0]
    assert ind.rank_one_residual(torch.eye(4)[None] * 1e30).item() == pytest.approx(math.sqrt(3 / 4))
    assert ind.token_similarity(tokens[:, :1]) is None


@pytest.mark.parametrize("kind", ["dot", "svda"])
def test_tokens_are_the_stream_that_the_blocks_add_to(kind, images):
    model, seen = a_model(kind), []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    table = analyze(model, images, indicators=["field"], examples=0, batch_size=4).table
    seen.clear()
    with torch.no_grad():
        model(images)
    for name in ("token_similarity", "rank_one_residual"):
        want = [INDICATORS[name].function(tokens).mean().item() for tokens in seen]
        np.testing.assert_allclose(of(table, name, "tokens"), np.transpose([want, want]), rtol=1e-9)


def test_a_ragged_last_batch_is_exact(images):
    names = [one.name for one in choose_indicators(["field"]) if "position_map" not in one.needs]
    whole, parts = (
        analyze(a_model(), images, indicators=names, examples=0, batch_size=size).table["mean"] for size in (6, 4)
    )
    np.testing.assert_allclose(parts, whole, rtol=1e-9)
