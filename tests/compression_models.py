"""What the tests of compression share: models of random weights, and Sigma as a sum of triples."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from svda_analysis.checkpoint import Checkpoint, build_model
from svda_analysis.model import ViT, ViTConfig

H, D, N = 2, 12, 50


def made(attention="svda", seed=0, **changes) -> Checkpoint:
    """A model whose weights are random, sigma and biases too: nothing that is zero at the start hides a fault."""
    torch.manual_seed(seed)
    config = ViTConfig(depth=2, dim=H * D, heads=H, attention=attention, **changes)
    model = ViT(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "bias" in name or "head" in name:
                parameter.normal_(std=0.3)
            if "sigma" in name:
                parameter.mul_(torch.randn_like(parameter))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    return Checkpoint(config=config, model=weights, epoch=1, recipe={"seed": 0, "dataset": "fashion_mnist"})


def logits(checkpoint_or_model, images):
    model = build_model(checkpoint_or_model) if isinstance(checkpoint_or_model, Checkpoint) else checkpoint_or_model
    with torch.no_grad():
        return model.eval()(images)


def truncated(found, counts):
    """Sigma of each layer, ``(H, D, D)``, as the sum of the triples that are kept."""
    return [
        torch.stack(
            [
                (found.left[at][h][:, :r] * found.size[at][h, :r]) @ found.right[at][h][:, :r].T
                for h, r in enumerate(counts[at])
            ]
        )
        for at in range(len(counts))
    ]


def foreign(name):
    torch.manual_seed(0)
    if name == "timm":
        timm = pytest.importorskip("timm")
        return timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2).eval()
    from torchvision.models import VisionTransformer

    model = VisionTransformer(32, 8, 2, 4, 64, 128, num_classes=10).eval()
    nn.init.normal_(model.heads.head.weight)
    return model
