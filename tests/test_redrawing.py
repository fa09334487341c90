"""Weights in another order, from the top of a model down, and correlations of maps."""

import numpy as np
import pytest
import torch
import torchvision
from known_models import Uneven, model_and_images
from scipy import stats

from svda_analysis.errors import InputError
from svda_analysis.redrawing import cascade, parts_from_the_top, rank_correlation, redrawn
from svda_analysis.specs import open_model


def torchvision_vit():
    return torchvision.models.VisionTransformer(
        image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=8, mlp_dim=8
    )


@pytest.mark.parametrize(
    ("build", "head", "block", "embedding"),
    [
        (lambda: model_and_images()[0], "head.weight", "blocks.1.attention.qkv.weight", "pos_embed"),
        (torchvision_vit, "encoder.ln.bias", "encoder.layers.encoder_layer_1.ln_1.bias", "conv_proj.weight"),
    ],
)
def test_the_parts_of_a_model_go_from_its_head_to_its_embedding(build, head, block, embedding):
    model = build()
    parts = parts_from_the_top(model)
    assert list(parts) == ["head", "block 1", "block 0", "embedding"]
    assert (head in parts["head"], block in parts["block 1"], embedding in parts["embedding"]) == (True, True, True)
    assert sorted(name for names in parts.values() for name in names) == sorted(
        name for name, _ in model.named_parameters()
    )


def test_a_model_without_blocks_has_no_cascade():
    with pytest.raises(InputError, match="Uneven has no list of blocks"):
        parts_from_the_top(Uneven())


def test_a_cascade_redraws_what_lies_above_and_nothing_else():
    model, _ = model_and_images()
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    subject = open_model(model)
    other = redrawn(subject, 3)
    above, parts = set(), parts_from_the_top(model)
    for part, each in cascade(subject, other):
        above |= set(parts[part])
        for name, weight in each.model.named_parameters():
            wanted = dict(other.model.named_parameters())[name] if name in above else before[name]
            assert torch.equal(weight, wanted)
            assert torch.equal(weight.sort().values if weight.ndim == 1 else weight.flatten().sort().values,
                               before[name].flatten().sort().values)  # fmt: skip
    assert above == set(before)
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())


def test_rank_correlation_is_spearmans():
    x, y = torch.randn(4, 3, 5), torch.randint(0, 4, (4, 3, 5)).double()
    wanted = [stats.spearmanr(a.flatten(), b.flatten()).statistic for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(rank_correlation(x, y), wanted, atol=1e-12)
    assert rank_correlation(x, torch.ones(4, 3, 5)).isnan().all()
