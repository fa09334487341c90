"""Linear CKA against its definition as a mean over quadruples, and its properties."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from svda_analysis.errors import InputError
from svda_analysis.map_comparison import compare_maps
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.representations import MOST_IMAGES, RepresentationComparison, linear_cka


def draw(n=30, width=5, seed=0):
    return np.random.default_rng(seed).normal(size=(n, width))


def hsic_by_quadruples(k, other):
    """The unbiased estimator as a U-statistic: the mean over ordered quadruples of different images."""
    n = len(k)
    terms = [
        k[i, j] * (other[i, j] + other[q, r] - 2 * other[i, q]) for i, j, q, r in itertools.permutations(range(n), 4)
    ]
    return np.mean(terms)


def test_cka_is_the_ratio_of_unbiased_hsic():
    x, y = draw(7, 3, 0), draw(7, 4, 1)
    k, other = x @ x.T, y @ y.T
    parts = [hsic_by_quadruples(*pair) for pair in ((k, other), (k, k), (other, other))]
    assert linear_cka(x, y) == pytest.approx(parts[0] / math.sqrt(parts[1] * parts[2]), rel=1e-9)


def test_what_the_similarity_does_not_see():
    x, y = draw(), draw(seed=1) + 0.5 * draw()
    turn = np.linalg.qr(draw(5, 5, 2))[0]
    assert linear_cka(3 * x @ turn + 100, y) == pytest.approx(linear_cka(x, y), rel=1e-9)
    assert linear_cka(y, x) == pytest.approx(linear_cka(x, y), rel=1e-12)
    assert linear_cka(x, 7 * x - 1) == pytest.approx(1)
    order = np.random.default_rng(3).permutation(30)
    assert linear_cka(x[order], y[order]) == pytest.approx(linear_cka(x, y), rel=1e-9)


def test_wide_layers_are_not_alike_by_having_few_images():
    found = [linear_cka(draw(12, 400, s), draw(12, 400, 100 + s)) for s in range(40)]
    assert abs(np.mean(found)) < 0.1


def test_a_constant_representation_has_no_similarity_and_bad_sizes_are_named():
    assert math.isnan(linear_cka(np.ones((5, 2)), draw(5, 2)))
    for x, y in ((draw(3), draw(3)), (draw(5), draw(6)), (draw(5)[0], draw(5))):
        with pytest.raises(InputError, match="x, y must be"):
            linear_cka(x, y)


def test_batches_make_the_same_as_all_at_once_and_no_more_images_than_that():
    x, y = draw(MOST_IMAGES + 20), draw(MOST_IMAGES + 20, 3, 1)
    comparison = RepresentationComparison()
    for at in range(0, len(x), 300):
        comparison.update([x[at : at + 300], None], [y[at : at + 300]])
    (row,) = comparison.similarity().itertuples()
    assert (comparison.n, row.layer_a, row.layer_b) == (MOST_IMAGES, 0, 0)
    assert row.similarity == pytest.approx(linear_cka(x[:MOST_IMAGES], y[:MOST_IMAGES]), rel=1e-9)
    empty = RepresentationComparison()
    empty.update([x[:3]], [y[:3]])
    assert empty.similarity().empty


def test_the_layers_of_two_models_are_compared_by_their_mean_tokens():
    images = torch.randn(20, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    models, seen = [], {}
    for seed, depth in ((0, 2), (1, 3)):
        torch.manual_seed(seed)
        models.append(ViT(ViTConfig(dim=24, depth=depth, heads=2)).eval())
        seen[seed] = []
        for block in models[-1].blocks:
            block.register_forward_pre_hook(lambda _, given, at=seed: seen[at].append(given[0].mean(1).numpy()))
    found = compare_maps(*models, images, images=20, batch_size=20)["similarity"].query("measure == 'cka'")
    assert len(found) == 6
    for row in found.itertuples():
        assert row.similarity == pytest.approx(linear_cka(seen[0][row.layer_a], seen[1][row.layer_b]), rel=1e-5)
    itself = compare_maps(models[0], models[0], images, images=20)["similarity"].query("measure == 'cka'")
    np.testing.assert_allclose(itself.query("layer_a == layer_b")["similarity"], 1, rtol=1e-6)
