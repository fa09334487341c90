"""Attention against explicit formulas in float64."""

import copy
import itertools
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from svda_analysis.attention import (
    Attention,
    cosine_attention,
    dot_product_attention,
    svda_attention,
    unit_rows,
)
from svda_analysis.errors import InputError

KINDS = ("dot", "svda", "cosine")


def draws(*shapes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def explicit_attention(q, k, v, diagonal):
    """softmax(q diag k^T / sqrt(D)) v, one head and one query at a time."""
    B, H, N, D = q.shape
    out = torch.zeros(B, H, N, v.shape[-1], dtype=torch.float64)
    for b, h, i in itertools.product(range(B), range(H), range(N)):
        scores = torch.stack([(q[b, h, i] * diagonal[h] * k[b, h, j]).sum() / math.sqrt(D) for j in range(N)])
        weights = torch.exp(scores - scores.max())
        out[b, h, i] = (weights / weights.sum()) @ v[b, h]
    return out


shapes = st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 6), st.integers(1, 5), st.integers(1, 4))


@settings(max_examples=25, deadline=None)
@given(shapes, st.integers(0, 1000))
def test_attention_functions_equal_the_explicit_formulas(shape, seed):
    B, H, N, D, Dv = shape
    q, k, v, sigma, temperature = draws((B, H, N, D), (B, H, N, D), (B, H, N, Dv), (H, D), (H,), seed=seed)
    q_hat, k_hat = (x / x.norm(dim=-1, keepdim=True) for x in (q, k))
    ones = torch.ones(H, D, dtype=torch.float64)
    close = {"rtol": 1e-10, "atol": 1e-12}
    torch.testing.assert_close(dot_product_attention(q, k, v), explicit_attention(q, k, v, ones), **close)
    torch.testing.assert_close(
        svda_attention(unit_rows(q), unit_rows(k), v, sigma), explicit_attention(q_hat, k_hat, v, sigma), **close
    )
    torch.testing.assert_close(
        cosine_attention(unit_rows(q), unit_rows(k), v, temperature),
        explicit_attention(q_hat, k_hat, v, temperature[:, None] * ones),
        **close,
    )


def test_cosine_is_svda_with_a_flat_spectrum():
    q, k, v, temperature = draws((2, 3, 5, 4), (2, 3, 5, 4), (2, 3, 5, 4), (3,))
    flat = temperature[:, None].expand(3, 4)
    one, other = svda_attention(q, k, v, flat), cosine_attention(q, k, v, temperature)
    torch.testing.assert_close(one, other)


def test_unit_rows_have_norm_one_and_keep_zero_and_dtype():
    (x,) = draws((4, 5))
    x[2] = 0
    norms = unit_rows(x).norm(dim=-1)
    torch.testing.assert_close(norms, torch.tensor([1, 1, 0, 1], dtype=torch.float64))
    assert unit_rows(x.to(torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("kind", KINDS)
def test_attention_module_equals_its_formula_written_out(kind):
    torch.manual_seed(0)
    module = Attention(12, 3, kind=kind, sigma_start=3.0).double().eval()
    (x,) = draws((2, 5, 12))
    q, k, v = module.qkv(x).view(2, 5, 3, 3, 4).permute(2, 0, 3, 1, 4)
    if kind != "dot":
        q, k = (t / t.norm(dim=-1, keepdim=True) for t in (q, k))
    diagonal = torch.full((3, 4), 1.0 if kind == "dot" else 3.0, dtype=torch.float64)
    expected = module.proj(explicit_attention(q, k, v, diagonal).transpose(1, 2).reshape(2, 5, 12))
    torch.testing.assert_close(module(x), expected, rtol=1e-6, atol=1e-7)  # log and exp of the start value


@pytest.mark.parametrize("form", ["shape", "linear"])
def test_sigma_starts_at_its_rule(form):
    for start, value in (("one", 1.0), ("sqrt_dim", math.sqrt(8)), ("dim", 8.0), ("double_dim", 16.0), (2.5, 2.5)):
        module = Attention(16, 2, sigma_form=form, sigma_start=start)
        torch.testing.assert_close(module.sigma, torch.full((2, 8), value))
    assert Attention(96, 3, kind="dot").sigma is None


def test_shape_form_parts_temperature_from_shape():
    module = Attention(16, 2)
    with torch.no_grad():
        module.sigma_shape.copy_(torch.arange(1.0, 17).view(2, 8))
        module.log_temperature.copy_(torch.tensor([0.0, math.log(5)]))
    u = module.sigma_shape
    expected = torch.tensor([[1.0], [5.0]]) * math.sqrt(8) * u / u.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(module.sigma, expected)


def test_row_energy_is_the_mean_squared_share_of_each_direction():
    torch.manual_seed(0)
    module = Attention(12, 3, kind="svda")
    (x,) = draws((2, 5, 12))
    x = x.float()
    module(x)
    assert module.row_energy is None
    module.track_row_energy = True
    module(x)
    q, k, _ = module.qkv(x).view(2, 5, 3, 3, 4).permute(2, 0, 3, 1, 4)
    expected = sum((unit_rows(t) ** 2).mean((0, 2)) for t in (q, k)) / 2
    torch.testing.assert_close(module.row_energy, expected)
    torch.testing.assert_close(module.row_energy.sum(-1), torch.ones(3))


@pytest.mark.parametrize(
    ("kind", "form", "names"),
    [
        ("dot", "shape", []),
        ("svda", "shape", ["sigma_shape", "log_temperature"]),
        ("svda", "linear", ["sigma_linear"]),
        ("cosine", "shape", ["log_temperature"]),
    ],
)
def test_weights_have_the_names_that_checkpoints_hold(kind, form, names):
    module = Attention(12, 3, kind=kind, sigma_form=form)
    assert list(module.state_dict()) == [*names, "qkv.weight", "qkv.bias", "proj.weight", "proj.bias"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_can_be_copied_and_pickled(kind):
    module, x = Attention(12, 3, kind=kind).eval(), torch.randn(2, 5, 12)
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(other(x), module(x))


def test_dropout_is_of_training_alone():
    torch.manual_seed(0)
    module, x = Attention(12, 3, dropout=0.5), torch.randn(2, 5, 12)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"dim": 0}, "dim must be a whole number of at least 1, got 0"),
        ({"dim": 12.0}, "dim must be a whole number of at least 1, got 12.0"),
        ({"heads": True}, "heads must be a whole number of at least 1, got True"),
        ({"heads": 5}, "dim must be a multiple of heads 5, got 12"),
        ({"heads": 12}, "dim must give each head at least 2 dimensions, got 12 for 12 heads"),
        ({"kind": "linear"}, "attention must be one of dot, svda, cosine, got 'linear'"),
        ({"sigma_form": "flat"}, "sigma_form must be one of shape, linear, got 'flat'"),
        ({"sigma_start": 0}, "sigma_start must be a positive number or one of one, sqrt_dim, dim, double_dim, got 0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
    ],
)
def test_numbers_that_make_no_layer_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        Attention(**{"dim": 12, "heads": 3, **given})


def test_the_gradients_of_unit_rows_are_those_of_their_formula_twice():
    x = torch.randn(3, 4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(unit_rows, (x,))
    assert torch.autograd.gradgradcheck(unit_rows, (x,))
    ours = torch.func.grad(lambda x: unit_rows(x).sin().sum())(x)
    torch.testing.assert_close(ours, torch.func.grad(lambda x: F.normalize(x, dim=-1).sin().sum())(x))
