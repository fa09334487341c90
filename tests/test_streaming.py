"""The stream of images: moments alone are kept, and merged exactly."""

import torch

from svda_analysis.indicators import choose_indicators
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.streaming import Stream


def test_memory_does_not_grow_with_the_number_of_images():
    stream = Stream(ViT(ViTConfig(attention="svda", dim=24, depth=2, heads=2)).eval(), choose_indicators())
    sizes = []
    for seed in range(3):
        stream.update(torch.randn(4, 1, 28, 28, generator=torch.Generator().manual_seed(seed)))
        moments = [*stream.moments.values(), *stream.spectrum_moments.values()]
        sizes.append(sum(m.mean.size + m.m2.size for m in moments))
    assert sizes[0] == sizes[1] == sizes[2]
