"""What a compression changed: paired accuracy, maps, work, time, bytes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import jensenshannon
from torch import nn

from svda_analysis.checkpoint import build_model, load
from svda_analysis.compression.removal import compress
from svda_analysis.compression.verification import (
    accuracy_change,
    file_size,
    macs,
    map_divergence,
    time_ratio,
)
from svda_analysis.errors import InputError
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.tap import records


def small(**changes) -> ViT:
    torch.manual_seed(0)
    model = ViT(ViTConfig(depth=2, dim=24, heads=2, **changes)).eval()
    nn.init.normal_(model.head.weight)
    return model


def test_accuracy_change_by_hand():
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    before = torch.tensor([0, 1, 2, 3, 1, 1, 1, 1])  # 5 of 8
    after = torch.tensor([0, 1, 2, 0, 0, 1, 2, 0])  # 6 of 8; one lost, two won
    change = accuracy_change(before, after, labels)
    differences = np.array([0, 0, 0, -1, 1, 0, 1, 0])
    low, high = stats.t.interval(0.95, 7, differences.mean(), differences.std(ddof=1) / math.sqrt(8))
    assert (change.before, change.after, change.change, change.n) == (5 / 8, 6 / 8, 1 / 8, 8)
    assert (change.ci_low, change.ci_high) == pytest.approx((low, high))
    assert change.p == 1.0
    assert change.agreement == 4 / 8


def test_map_divergence_against_scipy():
    first, second, images = small(), small(attention="svda"), torch.randn(3, 1, 28, 28)
    expected = [
        jensenshannon(a.a.numpy(), b.a.numpy(), axis=-1, base=2) ** 2
        for a, b in zip(records(first, images), records(second, images), strict=True)
    ]
    assert map_divergence(first, second, images) == pytest.approx(np.mean(expected), rel=1e-4)
    assert map_divergence(first, first, images) == 0


def test_macs_of_a_vit_by_hand():
    N, C = 50, 24
    block = 3 * C * C * N + 2 * N * N * C + C * C * N + 2 * 4 * C * C * N
    whole = 49 * 16 * C + 2 * block + C * 10
    assert macs(small(), torch.randn(1, 1, 28, 28)) == whole


def test_time_ratio_sees_twice_the_work():
    one, images = small(), torch.randn(16, 1, 28, 28)
    twice = nn.Sequential(one, nn.Flatten(), nn.Linear(10, 10))
    twice.forward = lambda x: (one(x), one(x), one(x))[0]  # type: ignore[method-assign]
    found = time_ratio(one, twice, images, rounds=12)
    assert found["ci_low"] > 1.3
    assert found["ci_low"] < found["change"] < found["ci_high"]
    with pytest.raises(InputError, match="rounds must be at least 2"):
        time_ratio(one, one, images, rounds=1)


def test_file_size_falls_with_the_rows(tiny):
    origin = load(tiny["svda"])
    smaller = compress(origin, torch.randn(8, 1, 28, 28), energy=0.3)
    assert file_size(build_model(smaller)) < file_size(build_model(origin))
