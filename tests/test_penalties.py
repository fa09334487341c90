"""Penalties against their formulas, on models of ours and inside other ones."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import nn

from svda_analysis.errors import InputError
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.penalties import (
    attention_layers,
    decay_projections,
    energy_entropy,
    forget_row_energy,
    norm_share,
    orthogonality_gap,
    penalty,
    projection_gap,
    shape_entropy,
    track_row_energy,
)
from svda_analysis.recipe import TrainConfig


def small(kind):
    return ViTConfig(attention=kind, dim=24, depth=2, heads=2)


def test_penalties_equal_their_formulas():
    generator = torch.Generator().manual_seed(0)
    sigma = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    energy = torch.rand(3, 5, generator=generator, dtype=torch.float64)
    entropies, shares = [], []
    for u, e in zip(sigma.abs().numpy(), energy.numpy(), strict=True):
        p = u / u.sum()
        entropies.append(-(p * np.log(p)).sum() / math.log(5))
        shares.append(sum((1 - u[i] / u.max()) * e[i] for i in range(5)))
    assert shape_entropy(sigma).item() == pytest.approx(np.mean(entropies), rel=1e-12)
    assert shape_entropy(7 * sigma).item() == pytest.approx(np.mean(entropies), rel=1e-12)
    assert norm_share(sigma, energy).item() == pytest.approx(np.mean(shares), rel=1e-12)


def test_orthogonality_gap_is_zero_for_orthogonal_rows_alone():
    model = ViT(small("dot"))
    attention = model.attention_layers()[0]
    assert orthogonality_gap(attention) > 0.01
    with torch.no_grad():
        attention.qkv.weight[:48] = 3 * torch.eye(24).repeat(2, 1)
    assert orthogonality_gap(attention).item() == pytest.approx(0, abs=1e-12)


def test_penalty_adds_up_over_the_recipe():
    model = ViT(small("svda"))
    nothing = TrainConfig(shape_penalty=0, norm_penalty=0)
    assert penalty(model, **nothing.penalties).item() == 0
    both = dataclasses.replace(nothing, shape_penalty=0.5, sigma_l1=2.0)
    assert penalty(model, **both.penalties).item() == pytest.approx(
        0.5 * 1.0 + 2.0 * 24, rel=1e-6
    )  # flat, sigma = 2 D = 24
    assert penalty(ViT(small("dot")), **both.penalties).item() == 0


def test_the_norm_penalty_reaches_the_weights():
    model = ViT(small("svda"))
    with torch.no_grad():
        for attention in model.attention_layers():
            attention.track_row_energy = True
            attention.sigma_shape[:, 6:] = 0.1
    model(torch.randn(2, 1, 28, 28))
    penalty(model, **TrainConfig(shape_penalty=0, norm_penalty=1.0).penalties).backward()
    assert model.attention_layers()[0].qkv.weight.grad.abs().sum() > 0


def test_a_model_around_our_layers_is_penalised_as_ours_is():
    """Layers of two models in a third, whatever is between them; and nothing where there are none."""
    parts = [ViT(small("svda")), ViT(small("dot"))]
    both = nn.Sequential(nn.Linear(4, 4), *parts)
    assert attention_layers(both) == [layer for part in parts for layer in part.attention_layers()]
    weights = {"shape_penalty": 0.5, "sigma_l1": 2.0, "orthogonality": 0.3}
    apart = [penalty(part, **weights).item() for part in parts]
    assert penalty(both, **weights).item() == pytest.approx(np.mean(apart), rel=1e-6)
    assert penalty(nn.Linear(4, 4), **weights).item() == 0
    assert penalty(nn.GELU(), **weights).item() == 0


def test_row_energy_is_kept_by_svda_while_training_until_it_is_forgotten():
    model = nn.Sequential(ViT(small("svda")), nn.Linear(10, 10), nn.Identity())
    track_row_energy(model)
    layers = attention_layers(model)
    model(torch.randn(2, 1, 28, 28))
    assert all(torch.allclose(layer.row_energy.sum(-1), torch.ones(2)) for layer in layers)
    assert penalty(model, norm_penalty=1.0).item() == pytest.approx(
        np.mean([norm_share(layer.sigma, layer.row_energy).item() for layer in layers]), rel=1e-6
    )
    forget_row_energy(model)
    assert [layer.row_energy for layer in layers] == [None, None]
    track_row_energy(model, on=False)
    model(torch.randn(2, 1, 28, 28))
    assert [layer.row_energy for layer in layers] == [None, None]
    plain = ViT(small("dot"))
    track_row_energy(plain)
    plain(torch.randn(2, 1, 28, 28))
    assert [layer.row_energy for layer in plain.attention_layers()] == [None, None]


def test_a_compressed_layer_is_penalised_but_for_orthogonality():
    kept = {"score_dims": ((5, 3), (4, 4)), "norm_dims": ((2, 1), (0, 0))}
    model = ViT(dataclasses.replace(small("svda"), **kept))
    entropies = [shape_entropy(layer.sigma).item() for layer in model.attention_layers()]
    assert penalty(model, shape_penalty=1.0).item() == pytest.approx(np.mean(entropies), rel=1e-6)
    with pytest.raises(InputError, match=r"orthogonality must be 0 for a compressed model, got 0\.1"):
        penalty(model, orthogonality=0.1)


def test_a_target_leaves_alone_what_is_as_structured_as_that():
    D = 8
    sigma = torch.zeros(3, D, dtype=torch.float64)
    sigma[0] = 1  # 8 directions
    sigma[1, :4] = 1  # 4
    sigma[2, 0] = 1  # 1
    wanted = {0.0: (3 + 2) / 9, 1.0: 0.0, 0.5: 1 / 9, 0.25: (2 + 1) / 9, 0.125: (3 + 2) / 9}
    for target, value in wanted.items():
        assert shape_entropy(sigma, target).item() == pytest.approx(value, abs=1e-12)
    learned = sigma.clone().requires_grad_()
    shape_entropy(learned, 0.5).backward()
    assert learned.grad[1:].abs().max() == 0


def test_the_penalties_of_the_source_equal_their_formulas():
    model = ViT(small("svda"))
    layer = model.blocks[0].attention
    with torch.no_grad():
        layer.sigma_shape.copy_(torch.rand(2, 12) + 0.1)
    weight = layer.qkv.weight.detach().double().numpy()
    gaps = [np.mean((w.T @ w - np.eye(24)) ** 2) for w in (weight[:24], weight[24:48])]
    assert projection_gap(layer).item() == pytest.approx(sum(gaps), rel=1e-5)
    energy = layer.sigma.detach().double().numpy() ** 2
    shares = energy / (energy.sum(-1, keepdims=True) + 1e-8)
    entropy = np.mean(-(shares * np.log(shares + 1e-8)).sum(-1))
    assert energy_entropy(layer.sigma).item() == pytest.approx(entropy, rel=1e-5)
    found = [(projection_gap(one.attention).item(), energy_entropy(one.attention.sigma).item()) for one in model.blocks]
    both = penalty(model, soft_orthogonality=2.0, sigma_entropy=3.0).item()
    assert both == pytest.approx(np.mean([2 * gap + 3 * entropy for gap, entropy in found]), rel=1e-5)
    assert penalty(ViT(small("dot")), soft_orthogonality=2.0, sigma_entropy=3.0).item() == 0


def test_decay_of_the_projections_is_on_queries_and_keys_alone():
    model = ViT(small("dot"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    decay_projections(model, 0.1)
    for name, value in model.state_dict().items():
        if name.endswith("qkv.weight"):
            torch.testing.assert_close(value[:48], 0.9 * before[name][:48])
            assert torch.equal(value[48:], before[name][48:])
        else:
            assert torch.equal(value, before[name])
