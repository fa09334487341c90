"""What a layer reads, and with which weights, told from made-up calls; whole models are in ``test_families.py``."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from svda_analysis.layer_inputs import LayerInputs
from svda_analysis.tap import capture

B, N, C, H, D = 2, 5, 12, 3, 4


class Layer(torch.nn.Module):
    """One attention layer: ``layout`` of its projection, a ``norm`` before it or none, and what happens to q and k."""

    def __init__(self, layout="3HD", norm="layer", change=lambda q: q):
        super().__init__()
        torch.manual_seed(0)
        self.layout, self.change = layout, change
        self.norm = {"layer": torch.nn.LayerNorm(C), "rms": torch.nn.RMSNorm(C), "none": torch.nn.Identity()}[norm]
        self.qkv, self.out = torch.nn.Linear(C, 3 * C), torch.nn.Linear(C, C)
        if norm != "none":
            torch.nn.init.uniform_(self.norm.weight, 0.5, 2)

    def parts(self, x):
        shape, at = {"3HD": ((3, H, D), -3), "H3D": ((H, 3, D), -2)}[self.layout]
        return [y.transpose(1, 2) for y in x.unflatten(-1, shape).unbind(at)]

    def forward(self, x):
        q, k, v = self.parts(self.qkv(self.norm(x)))
        y = F.scaled_dot_product_attention(self.change(q), self.change(k), v)
        return x + self.out(y.transpose(1, 2).flatten(2))


def tell(layer, x):
    inputs, found = LayerInputs(weights=True), []
    with torch.no_grad(), capture(layer, found.append, inputs=inputs):
        layer(x)
    return found[0], inputs.weights[0]


@pytest.mark.parametrize("norm", ["layer", "rms", "none"])
@pytest.mark.parametrize("layout", ["3HD", "H3D"])
def test_tokens_are_those_before_the_norm_and_weights_hold_its_gain(layout, norm):
    layer, x = Layer(layout, norm), torch.randn(B, N, C)
    record, weights = tell(layer, x)
    assert torch.equal(record.tokens, x)
    shape, at = {"3HD": ((3, H, D), 0), "H3D": ((H, 3, D), 1)}[layout]
    for got, plain in zip(weights[:3], layer.qkv.weight.detach().unflatten(0, shape).unbind(at), strict=True):
        want = plain if norm == "none" else plain * layer.norm.weight.detach()
        torch.testing.assert_close(got, want - want.mean(-1, keepdim=True) if norm == "layer" else want)
    torch.testing.assert_close(weights.w_o, layer.out.weight.detach().view(C, H, D).transpose(0, 1))


def test_lengths_of_rows_do_not_hide_the_weights_and_other_axes_do():
    x, turn = torch.randn(B, N, C), torch.linalg.qr(torch.randn(D, D)).Q
    _, unit = tell(Layer(change=lambda q: F.normalize(q, dim=-1)), x)
    assert unit.w_q is not None
    _, turned = tell(Layer(change=lambda q: q @ turn), x)
    assert turned.w_q is turned.w_k is None
    assert turned.w_v is not None


def test_what_the_calls_do_not_tell_is_none():
    class Bare(torch.nn.Module):
        def forward(self, x):
            return F.scaled_dot_product_attention(x, x, x)

    record, weights = tell(Bare(), torch.randn(B, H, N, D))
    assert record.tokens is None
    assert weights == (None, None, None, None)


def test_without_a_trail_records_hold_no_tokens():
    found = []
    with torch.no_grad():
        layer = Layer()
        with capture(layer, found.append):
            layer(torch.randn(B, N, C))
    assert found[0].tokens is None
