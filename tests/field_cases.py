"""A layer, a model and images for the indicators of the groups field and ablation."""

from __future__ import annotations

import numpy as np
import torch

from svda_analysis.model import ViT, ViTConfig

B, H, N, D = 2, 3, 7, 4


def layer(seed=0):
    """Queries, keys, sigma and maps of one layer in float64, from nearly uniform (head 0) to peaked (head 2)."""
    rng = np.random.default_rng(seed)
    q, k = rng.normal(size=(2, B, H, N, D)) + 1
    sigma = rng.normal(size=(H, D)) * np.array([0.1, 1, 5])[:, None]
    scores = np.einsum("bhid,hd,bhjd->bhij", q, sigma, k)
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return q, k, sigma, scores, e / e.sum(-1, keepdims=True)


def by_head(function, *arrays):
    """``function`` of one image and head at a time."""
    return [[function(*(x[b, h] for x in arrays)) for h in range(H)] for b in range(B)]


def tensors(*arrays):
    return [torch.as_tensor(x) for x in arrays]


def a_model(kind="dot", classes=3):
    torch.manual_seed(0)
    model = ViT(ViTConfig(image_size=16, dim=24, depth=2, heads=2, attention=kind, num_classes=classes)).double().eval()
    torch.nn.init.normal_(model.head.weight)
    return model


def some_images():
    return torch.randn(6, 1, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def of(table, name, source):
    """Means ``(layers, heads)``."""
    found = table[(table["indicator"] == name) & (table["source"] == source)]
    return found.pivot(index="layer", columns="head", values="mean").to_numpy()


def random_weights():
    rng = np.random.default_rng(0)
    return (*rng.normal(size=(3, H, D, 9)), rng.normal(size=(H, 9, D)), rng.normal(size=(H, D)))
