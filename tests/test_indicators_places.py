"""Mass on CLS, registers and sinks, and what position explains, against explicit formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from field_cases import B, H, N, a_model, by_head, layer, of, some_images, tensors
from torch import nn

from svda_analysis import indicators as ind
from svda_analysis.analysis import analyze
from svda_analysis.attention import Attention
from svda_analysis.errors import InputError
from svda_analysis.tap import records


@pytest.fixture
def images():
    return some_images()


def test_masses_are_means_over_queries():
    *_, a = layer()
    t = torch.as_tensor(a)
    np.testing.assert_allclose(ind.class_mass(t, 2), by_head(lambda m: m[2:, 0].mean(), a), rtol=1e-9)
    np.testing.assert_allclose(ind.register_mass(t, 3), by_head(lambda m: m[3:, 1:3].sum(-1).mean(), a), rtol=1e-9)
    np.testing.assert_allclose(ind.sink_mass(t, 2), by_head(lambda m: m.mean(0)[2:].max(), a), rtol=1e-9)
    assert ind.class_mass(t, 0) is None
    assert ind.register_mass(t, 1) is None
    assert ind.class_mass(t, 3, class_token=False) is None
    registers = ind.register_mass(t, 3, 1, class_token=False)
    others = [0, 1, 2, N - 1]
    np.testing.assert_allclose(registers, by_head(lambda m: m[3:-1, others].sum(-1).mean(), a), rtol=1e-9)
    assert ind.register_mass(t, 0, class_token=False) is None


@pytest.mark.parametrize(("prefix", "suffix"), [(1, 2), (2, 1), (0, 3), (1, 0)])
def test_tokens_behind_the_patches_are_registers_and_no_patches(prefix, suffix):
    *_, a = layer()
    t, end = torch.as_tensor(a), N - suffix
    first, mass = ind.class_mass(t, prefix, suffix), ind.register_mass(t, prefix, suffix)
    others = [j for j in range(1, N) if not prefix <= j < end]
    if prefix:
        np.testing.assert_allclose(first, by_head(lambda m: m[prefix:end, 0].mean(), a), rtol=1e-9)
    else:
        assert first is None
    if others:
        np.testing.assert_allclose(mass, by_head(lambda m: m[prefix:end, others].sum(-1).mean(), a), rtol=1e-9)
    else:
        assert mass is None
    want = by_head(lambda m: m.mean(0)[prefix:end].max(), a)
    np.testing.assert_allclose(ind.sink_mass(t, prefix, suffix), want, rtol=1e-9)


class Behind(nn.Module):
    """A class token, 3 x 4 patches, and four registers behind them."""

    def __init__(self):
        super().__init__()
        self.patches, self.attention = nn.Conv2d(1, 24, 4, 4), Attention(24, 2, kind="dot")
        self.first, self.registers = nn.Parameter(torch.randn(1, 1, 24)), nn.Parameter(torch.randn(1, 4, 24))

    def forward(self, images):
        x = self.patches(images).flatten(2).mT
        x = torch.cat([self.first.expand(len(x), -1, -1), x, self.registers.expand(len(x), -1, -1)], 1)
        return x + self.attention(x)


def test_every_indicator_of_places_hears_of_the_tokens_behind():
    torch.manual_seed(0)
    model, names = Behind(), ["class_mass", "register_mass", "sink_mass", "high_norm_tokens", "attention_distance"]
    model, images = model.double(), torch.randn(6, 1, 12, 16, dtype=torch.float64)
    table = analyze(model, images, indicators=names, examples=0).table
    for record in records(model, images):
        for name in names[:3]:
            want = getattr(ind, name)(record.a, 1, 4).mean(0)
            np.testing.assert_allclose(of(table, name, "attention")[record.layer], want, rtol=1e-9)
        distance = ind.attention_distance(record.a, (3, 4), 1, 4).mean(0)
        np.testing.assert_allclose(of(table, "attention_distance", "attention")[record.layer], distance, rtol=1e-9)
    assert set(table["indicator"]) >= set(names)


def test_position_share_is_the_squared_cosine_of_deviations_from_uniform():
    *_, a = layer()
    other = layer(1)[-1]
    got = ind.position_share(*tensors(a, other))
    want = by_head(lambda x, y: np.corrcoef(x.ravel(), y.ravel())[0, 1] ** 2, a, other)  # both have the mean 1 / N
    np.testing.assert_allclose(got, want, rtol=1e-9)
    assert np.allclose(ind.position_share(*tensors(a, a)), 1)
    uniform = torch.full((B, H, N, N), 1 / N)
    assert torch.equal(ind.position_share(torch.as_tensor(a).float(), uniform), torch.zeros(B, H))
    with pytest.raises(InputError, match="position_map must suit a"):
        ind.position_share(uniform, uniform[:, :1])


def test_the_position_map_is_that_of_the_other_images_of_the_first_batch(images):
    model = a_model()
    table = analyze(model, images, indicators=["position_share"], examples=0, batch_size=4).table
    for record in records(model, images):
        first = record.a[:4]
        mean = torch.stack([*((first.sum(0) - a) / 3 for a in first), first.mean(0), first.mean(0)])
        want = ind.position_share(record.a, mean).mean(0)
        np.testing.assert_allclose(of(table, "position_share", "attention")[record.layer], want, rtol=1e-9)


def test_queries_that_attend_to_nothing_are_left_out():
    a = torch.tensor([[[[1.0, 0, 0, 0], [0.5, 0.25, 0.25, 0], [0, 0, 0, 0], [0.5, 0, 0, 0.5]]]])
    assert ind.class_mass(a, 1).item() == 0.5
    assert ind.register_mass(a, 2).item() == 0
    assert ind.sink_mass(a, 1).item() == pytest.approx(0.5 / 3)
