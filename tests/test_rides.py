"""A tap on forwards that run anyway: which are seen, what they give, what stays behind."""

import pytest
import torch

from svda_analysis.model import ViT, ViTConfig
from svda_analysis.rides import Ride, ride
from svda_analysis.tap import records


def model_and_images():
    torch.manual_seed(0)
    return ViT(ViTConfig(attention="svda", dim=24, depth=3, heads=2)), torch.randn(2, 1, 28, 28)


def test_only_chosen_forwards_are_seen_and_their_output_is_the_models():
    model, images = model_and_images()
    expected, found, left = records(model, images), [], []
    plain = model(images)
    wanted = iter([True, False, True])
    off = ride(model, lambda given: Ride(found.append) if next(wanted) else None, lambda: left.append(len(found)))
    outputs = [model(images) for _ in range(3)]
    off()
    outputs.append(model(images))
    assert all(torch.equal(output, plain) for output in outputs)
    assert all(output.requires_grad for output in outputs)
    assert left == [3, 6]
    assert [record.layer for record in found] == [0, 1, 2, 0, 1, 2]
    for record, other in zip(found, expected * 2, strict=True):
        torch.testing.assert_close(record.a, other.a)
        assert not record.a.requires_grad
    assert not model._forward_hooks
    assert not model._forward_pre_hooks


def test_a_forward_that_fails_is_left_and_the_next_is_seen_whole():
    model, images = model_and_images()
    found, left = [], []
    off = ride(model, lambda given: Ride(found.append), lambda: left.append(len(found)))
    with pytest.raises(ValueError, match="images"):
        model(images[..., :20])
    model(images)
    off()
    assert left == [0, 3]
    assert torch.overrides._get_current_function_mode_stack() == []
