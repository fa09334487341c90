"""Score directions: what they add up to, what their energies mean, how many stay."""

from __future__ import annotations

import math

import pytest
import torch
from compression_models import D, H, made, truncated
from hypothesis import given, settings
from hypothesis import strategies as st

from svda_analysis.checkpoint import build_model
from svda_analysis.compression.keep import CRITERIA
from svda_analysis.compression.ranking import direction_energy, keep_energy, keep_logit, rank
from svda_analysis.errors import InputError


@pytest.fixture(scope="module")
def images():
    return torch.randn(6, 1, 28, 28, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("criterion", CRITERIA)
def test_numbers_that_are_not_finite_have_no_directions(criterion, images):
    model = build_model(made("svda"))
    model.attention_layers()[1].qkv.weight.data[0, 0] = math.nan
    with pytest.raises(InputError, match=r"not finite .*: the first are in attention layer 1, its weights"):
        rank(model, images, criterion=criterion)
    model = build_model(made("dot"))
    model.blocks[0].mlp[-1].bias.data.fill_(math.inf)
    if criterion != "sigma":
        with pytest.raises(InputError, match="the first are in attention layer 1, what it sees of the images"):
            rank(model, images, criterion=criterion)


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("attention", ["svda", "dot"])
def test_the_triples_add_up_to_sigma(attention, criterion, images):
    model = build_model(made(attention))
    found = rank(model, images, criterion=criterion)
    for layer, whole in zip(model.attention_layers(), truncated(found, [[D] * H] * 2), strict=True):
        sigma = torch.ones(H, D) if layer.sigma is None else layer.sigma
        torch.testing.assert_close(whole, torch.diag_embed(sigma.double()), atol=1e-6, rtol=1e-6)


def test_weight_spectrum_of_dot_product_is_that_of_the_augmented_product():
    model = build_model(made("dot"))
    for layer, energy in zip(model.attention_layers(), direction_energy(model, criterion="sigma"), strict=True):
        augmented = torch.cat([layer.qkv.weight, layer.qkv.bias[:, None]], dim=1).double().view(3, H, D, -1)
        values = torch.linalg.svdvals(augmented[0].mT @ augmented[1])[:, :D]
        torch.testing.assert_close(energy, values.square() / D)


def test_operator_energies_are_the_mean_squared_logits(images):
    """Their sum over all directions: the logits about each image's mean over keys, squared, over independent pairs."""
    model = build_model(made())
    found = rank(model, images)
    layer, sigma = found.layers[0], model.attention_layers()[0].sigma.detach().double()
    for h in range(H):
        rows, norms = layer.rows(h)
        q, k = rows / norms
        k = k - k.mean(1, keepdim=True)
        all_pairs = (q.flatten(0, 1) * sigma[h]) @ k.flatten(0, 1).T / math.sqrt(D)
        torch.testing.assert_close(found.energy[0][h].sum(), all_pairs.square().mean())


def test_the_operator_is_the_best_of_its_rank(images):
    """Eckart and Young in the metric of the data: no other criterion leaves a smaller error in the logits."""
    model = build_model(made())
    counts = [[4, 4], [4, 4]]

    def error(criterion):
        found = rank(model, images, criterion=criterion)
        kept, total = truncated(found, counts), 0.0
        for at, layer in enumerate(found.layers):
            for h in range(H):
                rows, norms = layer.rows(h)
                q, k = rows / norms
                k = k - k.mean(1, keepdim=True)
                gap = torch.diag(model.attention_layers()[at].sigma[h].detach().double()) - kept[at][h]
                total += float((q.flatten(0, 1) @ gap @ k.flatten(0, 1).T).square().mean())
        return total

    errors = {criterion: error(criterion) for criterion in CRITERIA}
    assert min(errors, key=errors.get) == "operator"
    assert errors["random"] > errors["data"]


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=20).filter(lambda x: sum(x) > 0), st.floats(0.01, 1))
@settings(deadline=None, max_examples=50)
def test_the_fewest_directions_that_hold_the_energy(values, energy):
    values = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)[None]
    (count,) = keep_energy(type("R", (), {"energy": [values]}), energy)[0]
    total = float(values.sum())
    assert float(values[0, :count].sum()) >= energy * total * (1 - 1e-9)
    assert count == 1 or float(values[0, : count - 1].sum()) < energy * total


def test_thresholds_keep_at_least_one_direction(images):
    found = rank(build_model(made()), images)
    assert keep_logit(found, 1e9) == [[1] * H] * 2
    assert keep_logit(found, 0) == [[D] * H] * 2


def test_rows_are_known_by_images_alone():
    with pytest.raises(InputError, match="images must be given"):
        rank(build_model(made()), criterion="sigma").layers[0].rows(0)
