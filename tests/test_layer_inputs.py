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


class Added(torch.nn.Module):
    """A linear layer and a branch of low rank beside it, as LoRA has it."""

    def __init__(self, base, *, silent=False):
        super().__init__()
        self.base, self.down = base, torch.nn.Linear(base.in_features, 2, bias=False)
        self.up = torch.nn.Linear(2, base.out_features, bias=False)
        if silent:
            torch.nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.base(x) + self.up(self.down(x))


@pytest.mark.parametrize("norm", ["layer", "none"])
@pytest.mark.parametrize("silent", [True, False])
def test_a_branch_beside_the_projection_does_not_hide_the_tokens(silent, norm):
    layer, x = Layer(norm=norm), torch.randn(B, N, C)
    _, plain = tell(layer, x)
    layer.qkv = Added(layer.qkv, silent=silent)
    record, weights = tell(layer, x)
    assert torch.equal(record.tokens, x)
    if silent:  # the weights are those of the projection alone
        assert all(torch.equal(w, want) for w, want in zip(weights[:3], plain[:3], strict=True))
    else:
        assert weights[:3] == (None, None, None)


def test_a_projection_in_two_steps_does_not_hide_the_tokens_and_has_no_weights_on_them():
    layer, x = Layer(), torch.randn(B, N, C)
    layer.qkv = torch.nn.Sequential(torch.nn.Linear(C, 5), torch.nn.Linear(5, 3 * C))
    record, weights = tell(layer, x)
    assert torch.equal(record.tokens, x)
    assert weights[:3] == (None, None, None)


class ByHand(torch.nn.Module):
    """A norm by the root mean square in float32, or one that takes the mean off first."""

    def __init__(self, *, centres=False):
        super().__init__()
        self.weight, self.centres = torch.nn.Parameter(torch.rand(C) + 0.5), centres

    def forward(self, x):
        wide = x.float()
        if self.centres:
            wide = wide - wide.mean(-1, keepdim=True)
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


@pytest.mark.parametrize("centres", [True, False])
def test_a_norm_by_hand_is_a_norm(centres):
    layer, x = Layer(), torch.randn(B, N, C)
    layer.norm = ByHand(centres=centres)
    record, weights = tell(layer, x)
    assert torch.equal(record.tokens, x)
    if centres:  # what was taken off is not known to be the mean
        assert weights[:3] == (None, None, None)
    else:
        plain = layer.qkv.weight.detach().unflatten(0, (3, H, D)).unbind(0)
        for got, want in zip(weights[:3], plain, strict=True):
            torch.testing.assert_close(got, want * layer.norm.weight.detach())


class Wide(torch.nn.LayerNorm):
    """A norm in float32 of what is in half precision."""

    def forward(self, x):
        return F.layer_norm(x.float(), self.normalized_shape, self.weight.float(), self.bias.float()).to(x.dtype)


def test_a_norm_in_another_precision_is_a_norm():
    layer = Layer()
    layer.norm = Wide(C)
    x = torch.randn(B, N, C).bfloat16()
    record, _ = tell(layer.bfloat16(), x)
    assert torch.equal(record.tokens, x.float())


def test_tokens_in_windows_are_those_of_the_stream_in_windows():
    def cut(y):
        return torch.roll(y, 1, 1).view(B, 2, 3, C).flatten(0, 1)

    layer, x = Layer(), torch.randn(B, 6, C)
    norm = layer.norm
    layer.norm = torch.nn.Identity()

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.norm = layer, norm

        def forward(self, x):
            return self.layer(cut(self.norm(x)))

    record, weights = tell(Model(), x)
    assert torch.equal(record.tokens, cut(x))
    want = layer.qkv.weight.detach()[:C].view(H, D, C) * norm.weight.detach()
    torch.testing.assert_close(weights.w_q, want - want.mean(-1, keepdim=True))


def test_an_embedding_that_merges_is_no_step_between():
    class Merging(Layer):
        def __init__(self):
            super().__init__(norm="none")
            self.first, self.merge = torch.nn.LayerNorm(2 * C), torch.nn.Linear(2 * C, C)

        def forward(self, x):
            return super().forward(self.merge(self.first(x.view(B, N, 2 * C))))

    layer, x = Merging(), torch.randn(B, 2 * N, C)
    assert torch.equal(tell(layer, x)[0].tokens, layer.merge(layer.first(x.view(B, N, 2 * C))).detach())


def encoder(**options):
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(C, H, 2 * C, **options)
    model = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.LayerNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 2)
    return model


@pytest.fixture
def slow_path():
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.usefixtures("slow_path")
def test_tokens_are_what_a_block_adds_to_wherever_its_norms_and_its_images_are(norm_first, batch_first):
    model, x, found, seen = encoder(norm_first=norm_first, batch_first=batch_first), torch.randn(N, N, C), [], []
    for layer in model.layers:
        layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    inputs = LayerInputs(weights=True)
    with torch.no_grad(), capture(model, found.append, inputs=inputs):
        model(x)
    for record, stream, layer, weights in zip(found, seen, model.layers, inputs.weights, strict=True):
        assert torch.equal(record.tokens, stream if batch_first else stream.transpose(0, 1))
        w = layer.self_attn.in_proj_weight.detach()[:C].view(H, D, C)
        if norm_first:
            w = w * layer.norm1.weight.detach()
            w = w - w.mean(-1, keepdim=True)
        torch.testing.assert_close(weights.w_q, w)


def test_as_many_images_as_tokens_in_their_place_have_no_tokens():
    class SequenceFirst(Layer):
        def forward(self, x):  # (N, B, C)
            q, k, v = (y.unflatten(-1, (H, D)).permute(1, 2, 0, 3) for y in self.qkv(self.norm(x)).chunk(3, dim=-1))
            return F.scaled_dot_product_attention(q, k, v)

    x = torch.randn(N, N, C)
    assert tell(SequenceFirst(), x)[0].tokens is None
    assert torch.equal(tell(Layer(), x)[0].tokens, x)


def test_queries_with_positions_of_their_own_do_not_hide_the_stream():
    class Positions(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.attention = torch.nn.LayerNorm(C), torch.nn.MultiheadAttention(C, H, batch_first=True)
            self.places = torch.randn(1, N, C)

        def forward(self, x):
            queries = x + self.places
            return x + self.attention(queries, queries, x, need_weights=False)[0]

    x = torch.randn(B, N, C)
    assert torch.equal(tell(Positions(), x)[0].tokens, x)


class Changed(Layer):
    """What the heads gave is changed before its projection: as ``kind`` says."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.gate, self.second = kind, torch.nn.Linear(C, C), torch.nn.Linear(C, C)

    def forward(self, x):
        y = self.norm(x)
        given = F.scaled_dot_product_attention(*self.parts(self.qkv(y)))  # (B, H, N, D)
        merged = given.permute(0, 2, 3, 1) if self.kind == "merged by axis" else given.transpose(1, 2)
        merged = merged.flatten(2)
        if self.kind == "gated":
            merged = merged * self.gate(y).sigmoid()
        if self.kind == "gated in place":
            merged *= self.gate(y).sigmoid()
        if self.kind == "dropped":
            return x + self.out(merged) + self.gate(F.dropout(merged, training=True))
        if self.kind == "the gate first":
            gate = self.gate(y)
            return x + self.out(merged) * gate
        if self.kind == "in two steps":
            return x + self.second(self.out(merged))
        return x + self.out(merged)


@pytest.mark.parametrize("kind", ["gated", "gated in place", "dropped", "merged by axis", "in two steps"])
def test_what_heads_gave_has_no_projection_where_more_is_done_to_it(kind):
    _, weights = tell(Changed(kind), torch.randn(B, N, C))
    assert weights.w_o is None
    assert weights.w_v is not None


def test_the_projection_of_heads_is_told_where_attention_is_multiplied_by_hand():
    class Spelled(Layer):
        def forward(self, x):
            q, k, v = self.parts(self.qkv(self.norm(x)))
            given = torch.einsum("bhnm,bhmd->bnhd", (q @ k.mT / D**0.5).softmax(-1), v)
            return x + self.out(given.flatten(2))

    layer = Spelled()
    _, weights = tell(layer, torch.randn(B, N, C))
    assert torch.equal(weights.w_o, layer.out.weight.detach().view(C, H, D).transpose(0, 1))


@pytest.mark.parametrize("kind", ["plain", "the gate first"])
def test_the_projection_is_the_linear_call_that_reads_what_heads_gave(kind):
    layer = Changed(kind)
    _, weights = tell(layer, torch.randn(B, N, C))
    assert torch.equal(weights.w_o, layer.out.weight.detach().view(C, H, D).transpose(0, 1))


def test_a_branch_beside_the_projection_of_heads_leaves_them_without_one():
    layer = Layer()
    layer.out = Added(layer.out)
    assert tell(layer, torch.randn(B, N, C))[1].w_o is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("norm", ["layer", "none"])
def test_weights_that_norms_of_q_weigh_by_axis_are_not_told_in_any_precision(dtype, norm):
    gain = torch.linspace(0.9, 1.1, D, dtype=dtype)
    x = torch.randn(B, N, C, dtype=dtype)
    _, weights = tell(Layer(norm=norm, change=lambda q: q * gain).to(dtype), x)
    assert weights.w_q is weights.w_k is None
    assert weights.w_v is not None
    _, weights = tell(Layer(norm=norm, change=lambda q: F.normalize(q, dim=-1)).to(dtype), x)
    assert weights.w_q is not None
    assert weights.w_k is not None
    assert weights.w_v is not None
