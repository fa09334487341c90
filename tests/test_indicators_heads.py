"""Distances between heads, and the loss without one, against explicit formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from field_cases import a_model, of, some_images
from scipy.spatial.distance import jensenshannon

from svda_analysis import indicators as ind
from svda_analysis.analysis import analyze
from svda_analysis.indicators import choose_indicators
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.streaming import Stream


@pytest.fixture
def images():
    return some_images()


@pytest.mark.parametrize("heads", [2, 3, 4, 5])
def test_head_distance_is_the_mean_jensen_shannon_distance_to_the_others(heads):
    a = torch.randn(2, heads, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).softmax(-1)
    got = ind.head_distance(a)
    for b in range(2):
        for h in range(heads):
            others = [a[b, g] for g in range(heads) if g != h]
            want = np.mean([jensenshannon(a[b, h], other, axis=-1, base=2).mean() for other in others])
            assert got[b, h].item() == pytest.approx(want, rel=1e-7)
    assert ind.head_distance(a[:, :1]) is None


@pytest.mark.parametrize("kind", ["dot", "svda"])
def test_ablation_is_the_loss_of_a_model_without_the_heads_weights(kind, images):
    labels, model = torch.tensor([0, 1, 2, 0, 1, 2]), a_model(kind)
    data = torch.utils.data.TensorDataset(images, labels)
    found = of(analyze(model, data, indicators=["ablation"], examples=0, batch_size=4).table, "ablation_loss", "test")
    with torch.no_grad():
        whole = F.cross_entropy(model(images), labels).item()
        for layer in range(2):
            for head in range(2):
                other = a_model(kind)
                other.blocks[layer].attention.proj.weight[:, 12 * head : 12 * (head + 1)] = 0
                assert found[layer, head] == pytest.approx(F.cross_entropy(other(images), labels).item() - whole)


def test_forwards_are_run_for_ablation_alone(images):
    calls = []

    class Watched(ViT):
        def forward(self, batch):
            calls.append(len(batch))
            return super().forward(batch)

    model = Watched(ViTConfig(image_size=16, dim=24, depth=2, heads=2, num_classes=3)).double().eval()
    for names, forwards in ((["field"], 1), (["ablation"], 1 + 2 * 2)):
        calls.clear()
        with torch.no_grad():
            Stream(model, choose_indicators(names)).update(images, torch.zeros(6, dtype=torch.long))
        assert calls == [6] * forwards


def test_a_query_without_keys_in_one_of_two_heads_is_left_out_of_their_distance():
    a = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 1.0]]]])
    assert ind.head_distance(a).tolist() == [[1, 1]]
