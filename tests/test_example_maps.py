"""A few images with their maps, as reports show them."""

import numpy as np
import pytest
import torch

from svda_analysis.analysis import analyze
from svda_analysis.example_maps import example_maps
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.sources import open_feed
from svda_analysis.specs import open_model
from svda_analysis.tap import capture


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ViT(ViTConfig(attention="svda", dim=24, depth=2, heads=2)).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(6, 1, 28, 28, generator=torch.Generator().manual_seed(0))


def test_examples_hold_the_maps_of_their_images(model, images):
    shown = analyze(model, images, examples=3).examples["ViT"]
    assert shown.images.shape == (3, 28, 28, 1)
    assert shown.images.dtype == np.uint8
    assert (shown.grid, shown.prefix) == ((7, 7), 1)
    records = []
    with capture(model, records.append), torch.no_grad():
        model(images[:3])
    expected = torch.stack([record.a for record in records], dim=1)
    np.testing.assert_allclose(shown.maps, expected, atol=1e-3)


def test_none_are_shown_where_none_are_wanted(model, images):
    subject = open_model(model)
    assert example_maps(subject, open_feed(images, subject), 0) is None
