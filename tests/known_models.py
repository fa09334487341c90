"""Models whose answers are known in a closed form, for the tests of metrics of faithfulness."""

import torch
from torch import nn

from svda_analysis.model import ViT, ViTConfig


def model_and_images(images=3, kind="dot"):
    torch.manual_seed(0)
    model = ViT(ViTConfig(attention=kind, image_size=12, in_channels=2, dim=24, depth=2, heads=2)).eval()
    nn.init.normal_(model.head.weight)  # a new head is zero, and gives every class the same probability
    for layer in model.attention_layers():
        nn.init.normal_(layer.qkv.weight, std=0.5)
    return model, torch.randn(images, 2, 12, 12)


class OnePatch(nn.Module):
    """The logit of class 0 is the sum over one 2 x 2 patch of a 4 x 6 image; that of class 1 is zero."""

    def __init__(self, patch):
        super().__init__()
        self.row, self.column = 2 * (patch // 3), 2 * (patch % 3)

    def forward(self, images):
        score = images[:, :, self.row : self.row + 2, self.column : self.column + 2].sum((1, 2, 3))
        return torch.stack([score, torch.zeros_like(score)], 1)


class Uneven(nn.Module):
    """Patches of 5 x 5 pixels of an image of 12 x 12: two pixels at the edge are in no token, but in the logit."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.embed = nn.Conv2d(1, 4, 5, stride=5)

    def forward(self, images):
        x = self.embed(images).flatten(2).mT[:, None]
        x = nn.functional.scaled_dot_product_attention(x, x, x).mean((1, 2))
        return x + images[:, :, 10:].mean((1, 2, 3))[:, None] * torch.arange(4.0)


class Sum(nn.Module):
    """Class 0 has probability 1/2 + the mean of the image / 8, a linear function."""

    def forward(self, images):
        p = 0.5 + images.mean((1, 2, 3)) / 8
        return torch.stack([p.log(), (1 - p).log()], 1)
