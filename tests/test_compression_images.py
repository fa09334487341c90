"""The images of a compression: none is used twice, each data set is read once, a sample where it may be."""

from __future__ import annotations

import pytest
import torch

from svda_analysis.compression import images
from svda_analysis.compression.images import OpenedData, training_images, unseen_images
from svda_analysis.errors import InputError
from svda_analysis.specs import open_model


@pytest.fixture
def subject(tiny):
    return open_model(tiny["dot"])


def test_ranked_and_held_out_images_are_different_training_images(subject, fashion):
    opened = OpenedData(fashion)
    ranked, held_out, source = training_images(subject, None, opened, number=100, held_out=150, seed=3)
    others = torch.cat([batch for batch, _ in held_out.batches(64, None, 0)])
    assert (len(ranked), len(others)) == (100, 150)
    assert len(torch.cat([ranked, others]).flatten(1).unique(dim=0)) == 250
    assert "train" in source
    again = training_images(subject, None, opened, number=100, held_out=150, seed=3)[0]
    assert torch.equal(ranked, again)
    assert "test" in unseen_images(subject, None, opened).description


@pytest.mark.parametrize(
    ("number", "held_out", "complaint"),
    [
        (1, 10, "must be at least 2, got 1 and 10"),
        (300, 10, "data must have more training images than the 300 that .* got 300 of fashion_mnist: name a larger"),
    ],
)
def test_too_few_or_too_many_are_refused(number, held_out, complaint, subject, fashion):
    with pytest.raises(InputError, match=complaint):
        training_images(subject, None, OpenedData(fashion), number=number, held_out=held_out, seed=0)


def test_a_part_is_read_once(subject, fashion, monkeypatch):
    opened = OpenedData(fashion)
    first = opened.both("fashion_mnist", 28)
    monkeypatch.setattr(images, "load_dataset", lambda *_, **__: pytest.fail("read again"))
    assert opened.both("fashion_mnist", 28) == first
    training_images(subject, None, opened, number=10, held_out=10, seed=0)
    unseen_images(subject, "fashion_mnist", opened)


@pytest.mark.usefixtures("bare_machine")
def test_a_sample_stands_in_only_where_it_may():
    opened = OpenedData()
    assert opened.part("fashion_mnist", 28, train=False, or_sample=True).is_sample
    with pytest.raises(InputError, match="FashionMNIST failed"):
        opened.part("fashion_mnist", 28, train=False)
