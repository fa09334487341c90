"""Small models whose attention can be replaced, of every library, and what they answer."""

import pytest
import torch
import torchvision
from torch import nn

from svda_analysis.model import ViT, ViTConfig

HF = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}
TIMM = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 3, "num_heads": 2}


def of_timm(name, **size):
    def build():
        return pytest.importorskip("timm", reason="timm is optional").create_model(name, **{**TIMM, **size})

    return build


def of_transformers(name, config, **size):
    def build():
        library = pytest.importorskip("transformers", reason="transformers is optional")
        return getattr(library, name)(getattr(library, config)(**{**HF, **size}))

    return build


def of_torchvision():
    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=24, mlp_dim=48, num_classes=5
    )


def ours(kind="dot"):
    return ViT(ViTConfig(attention=kind, image_size=32, in_channels=3, dim=24, depth=3, heads=2))


FAMILIES = {
    "ours": ours,
    "timm vit": of_timm("vit_tiny_patch16_224", num_classes=5),
    "timm deit, distilled": of_timm("deit_tiny_distilled_patch16_224", num_classes=5),
    "timm dinov2": of_timm("vit_small_patch14_dinov2", num_classes=5),
    "timm siglip": of_timm("vit_base_patch16_siglip_224"),
    "timm vit, no bias": of_timm("vit_tiny_patch16_224", num_classes=5, qkv_bias=False),
    "torchvision vit": of_torchvision,
    "hf vit": of_transformers("ViTForImageClassification", "ViTConfig"),
    "hf deit": of_transformers("DeiTModel", "DeiTConfig"),
    "hf dinov2": of_transformers("Dinov2Model", "Dinov2Config"),
    "hf dinov2, registers": of_transformers("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig"),
    "hf clip": of_transformers("CLIPVisionModel", "CLIPVisionConfig"),
    "hf siglip": of_transformers("SiglipVisionModel", "SiglipVisionConfig"),
}


def made(family, seed=0):
    torch.manual_seed(seed)
    model = FAMILIES[family]().eval()
    for name, parameter in model.named_parameters():
        if not parameter.any() and "head" in name:  # a new head is zero, and passes nothing
            nn.init.normal_(parameter)
    return model


def images(number=4):
    return torch.randn(number, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def answer(model, given):
    found = model(given)
    if isinstance(found, torch.Tensor):
        return found
    return found["logits"] if "logits" in found else found["last_hidden_state"]
