"""The layer of a compressed model against its definition, and what it refuses."""

import math

import pytest
import torch

from svda_analysis.attention import Attention, unit_rows
from svda_analysis.compact import CompactSelfAttention
from svda_analysis.errors import InputError

C, H, D, N = 24, 2, 12, 5
SCORE = (3, 7)
NORM = {"dot": (0, 0), "svda": (2, 0)}
KINDS = ("dot", "svda")


def made(kind, score=SCORE, norm=None, **options):
    torch.manual_seed(0)
    layer = CompactSelfAttention(C, H, kind=kind, score_dims=score, norm_dims=norm or NORM[kind], **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.rand_like(parameter))
    return layer


def explicit(layer, x):
    """One head at a time, from the stored rows alone."""
    counts, outputs = layer.row_counts, []
    parts = layer.qkv(x).split([*counts, *counts, *[D] * H], dim=-1)
    sigma = layer.sigma_linear.split(layer.score_dims) if layer.kind == "svda" else [1.0] * H
    for h, score in enumerate(layer.score_dims):
        q, k, v = parts[h], parts[H + h], parts[2 * H + h]
        if layer.kind == "svda":
            lengths = layer.norm_length[:, h]
            q, k = (r / (r.square().sum(-1, keepdim=True) + c**2).sqrt() for r, c in zip((q, k), lengths, strict=True))
        scores = q[..., :score] * sigma[h] @ k[..., :score].mT / math.sqrt(D)
        outputs.append(scores.softmax(-1) @ v)
    return layer.proj(torch.cat(outputs, dim=-1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("score", [SCORE, (4, 4), (1, 12)])
def test_it_equals_its_definition(kind, score):
    layer, x = made(kind, score, (0, 0) if score[1] == 12 else None).double(), torch.randn(2, N, C).double()
    torch.testing.assert_close(layer(x), explicit(layer, x))


@pytest.mark.parametrize("kind", KINDS)
def test_with_every_row_it_is_the_whole_layer(kind):
    torch.manual_seed(0)
    whole = Attention(C, H, kind=kind, sigma_form="linear")
    layer = CompactSelfAttention(C, H, kind=kind, score_dims=(D, D))
    weights = {name: x.flatten() if name == "sigma_linear" else x for name, x in whole.state_dict().items()}
    layer.load_state_dict(weights, strict=False)
    x = torch.randn(2, N, C)
    torch.testing.assert_close(layer(x), whole(x))


def test_weights_have_the_names_that_checkpoints_hold():
    projections = ["qkv.weight", "qkv.bias", "proj.weight", "proj.bias"]
    assert list(made("svda").state_dict()) == ["sigma_linear", "norm_length", *projections]
    assert list(made("dot").state_dict()) == projections


def test_sigma_has_d_values_and_zeros_where_directions_are_gone():
    layer = made("svda")
    assert layer.sigma.shape == (H, D)
    assert (layer.sigma != 0).sum(-1).tolist() == list(SCORE)
    assert made("dot").sigma is None


def test_row_energy_is_that_of_the_rows_that_stay():
    layer, x = made("svda"), torch.randn(2, N, C)
    layer.track_row_energy = True
    layer(x)
    qk, _ = layer.rows(x)
    torch.testing.assert_close(layer.row_energy, qk.square().mean((0, 1, 2)))
    assert (layer.row_energy.sum(-1) < 1).all()  # the rest is the constant length
    with torch.no_grad():
        layer.norm_length.zero_()
    layer(x)
    torch.testing.assert_close(layer.row_energy.sum(-1), torch.ones(H))


def test_zero_rows_stay_zero_and_finite():
    layer, x = made("svda"), torch.randn(2, N, C, requires_grad=True)
    with torch.no_grad():
        for parameter in (*layer.qkv.parameters(), layer.norm_length):
            parameter.zero_()
    assert not layer.rows(x)[0].any()
    layer(x).sum().backward()
    assert x.grad.isfinite().all()


def test_on_the_meta_device_its_places_are_real():
    with torch.device("meta"):
        layer = CompactSelfAttention(C, H, kind="svda", score_dims=SCORE)
    layer.load_state_dict(made("svda", norm=(0, 0)).state_dict(), assign=True)
    x = torch.randn(2, N, C)
    torch.testing.assert_close(layer(x), made("svda", norm=(0, 0))(x))


def test_unit_rows_without_a_constant():
    layer, x = made("svda", norm=(0, 0)), torch.randn(2, N, C)
    with torch.no_grad():
        layer.norm_length.zero_()
    qk, _ = layer.rows(x)
    torch.testing.assert_close(qk, unit_rows(qk))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kind": "cosine"}, "score_dims must be None for cosine attention, which has no spectrum to shorten"),
        ({"score_dims": (3,)}, "score_dims must hold 2 numbers"),
        ({"score_dims": (0, 3)}, "score_dims must hold whole numbers of at least 1"),
        ({"norm_dims": (-1, 0)}, "norm_dims must hold whole numbers of at least 0"),
        ({"norm_dims": (10, 0)}, "must fit the head dimension 12, got 13"),
        ({"kind": "dot", "norm_dims": (1, 0)}, "norm_dims must be 0 for dot attention"),
        ({"heads": 5}, "dim must be a multiple of heads 5, got 24"),
    ],
)
def test_sizes_that_fit_no_layer_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        CompactSelfAttention(**{"dim": C, "heads": H, "kind": "svda", "score_dims": SCORE, **given})
