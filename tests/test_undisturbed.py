"""What measuring leaves as it was, and what it looks through."""

import contextlib
import random

import numpy as np
import torch
from torch import nn

from svda_analysis.undisturbed import full_precision, inner_model, is_compiled, same_randomness, undisturbed


def drawn():
    return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()  # noqa: NPY002  (as others draw)


def test_generators_go_on_where_they_were_also_after_an_error():
    torch.manual_seed(3), np.random.seed(3), random.seed(3)  # noqa: NPY002
    expected = drawn()
    torch.manual_seed(3), np.random.seed(3), random.seed(3)  # noqa: NPY002
    with contextlib.suppress(ValueError), same_randomness():
        drawn()
        raise ValueError
    assert drawn() == expected


def test_flags_gradients_and_autocast_come_back():
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)).train()
    model[1].eval()
    model(torch.ones(1, 2)).sum().backward()
    gradient = model[0].weight.grad.clone()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with undisturbed(model) as inside:
            assert inside is model
            assert not any(m.training for m in model.modules())
            assert not torch.is_grad_enabled()
            assert model(torch.ones(1, 2)).dtype == torch.float32
        assert model(torch.ones(1, 2)).dtype == torch.bfloat16
    assert [m.training for m in model.modules()] == [True, True, False]
    assert torch.is_grad_enabled()
    assert torch.equal(model[0].weight.grad, gradient)


def test_what_wraps_a_module_is_taken_off():
    model = nn.Linear(2, 2)
    assert inner_model(model) is model
    assert inner_model(nn.DataParallel(torch.compile(model, backend="eager"))) is model
    assert is_compiled(torch.compile(model, backend="eager"))
    assert not is_compiled(nn.Sequential(model))
    model.compile(backend="eager")
    assert is_compiled(nn.Sequential(model))


def test_autocast_is_off_on_any_device_of_the_model():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with full_precision(nn.Linear(1, 1, device="meta")):
            assert not torch.is_autocast_enabled("cpu")
        assert torch.is_autocast_enabled("cpu")
