"""What compression replaces, what it refuses, and what a smaller module can be asked."""

from __future__ import annotations

import pytest
import torch
from compression_models import logits, made
from torch import nn

from svda_analysis.compression.ranking import rank
from svda_analysis.compression.removal import compress, compress_model
from svda_analysis.compression.sites import attention_sites
from svda_analysis.errors import InputError
from svda_analysis.kinds import ATTENTIONS, AttentionKind
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.stand_in import StandIn


@pytest.fixture(scope="module")
def images():
    return torch.randn(6, 1, 28, 28, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("swin_tiny_patch4_window7_224", "windows"),
        ("eva02_tiny_patch14_224", "rotary"),
        ("beit_base_patch16_224", "can be replaced"),
        ("resnet18", "can be replaced"),
    ],
)
def test_models_that_cannot_be_changed_are_refused(name, complaint):
    timm = pytest.importorskip("timm")
    with torch.device("meta"):
        model = timm.create_model(name)
    with pytest.raises(InputError, match=complaint):
        rank(model, criterion="sigma")


def test_norms_of_q_and_k_stand_in_the_way():
    timm = pytest.importorskip("timm")
    model = timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=1, num_heads=2, qk_norm=True)
    with pytest.raises(InputError, match="rows of q and k are normalised between"):
        rank(model, criterion="sigma")


def timm_model():
    return pytest.importorskip("timm").models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=48, depth=1, num_heads=2, num_classes=10
    )


def test_what_timm_does_otherwise_is_refused():
    model = timm_model()
    model.blocks[0].attn.norm = nn.LayerNorm(48)
    with pytest.raises(InputError, match="its output is normalised before"):
        rank(model, criterion="sigma")
    model = timm_model()
    model.blocks[0].attn.scale *= 2
    with pytest.raises(
        InputError, match=r"scale of its scores must be 1/sqrt\(head dimension\), 0.204124, got 0.408248"
    ):
        rank(model, criterion="sigma")


def test_older_timm_has_no_norm_before_its_projection():
    model, images = timm_model(), torch.randn(4, 3, 32, 32)
    del model.blocks[0].attn.norm
    model.blocks[0].attn.forward = lambda x, **_: x  # the attribute that is gone is not read
    assert len(rank(model, images).energy) == 1


class Calls(nn.Module):
    """A model whose attention is called as ``call(attention, tokens)`` says."""

    def __init__(self, call, timm=False):
        super().__init__()
        torch.manual_seed(0)
        self.patch = nn.Conv2d(3, 48, 8, 8)
        self.attn = timm_model().blocks[0].attn if timm else nn.MultiheadAttention(48, 2, batch_first=True)
        self.head, self.call = nn.Linear(48, 10), call

    def forward(self, images):
        x = self.patch(images).flatten(2).transpose(1, 2)  # (B, 16, 48)
        out = self.call(self.attn, x)
        return self.head((out[0] if isinstance(out, tuple) else out).mean(1))


PAIR = [
    (lambda a, x: a(x, x + 1, x), "key must be the query itself"),
    (lambda a, x: a(x, x, x + 1), "value must be the query itself"),
    (lambda a, x: a(query=x, key=x, value=x + 1), "value must be the query itself"),
    (lambda a, x: a(x, key=x + 1, value=x), "key must be the query itself"),
    (lambda a, x: a((y := x + 1), y, x), "value must be the query itself"),  # q and k with positions, as in DETR
    (lambda a, x: a(x, x, x, None, False, torch.eye(16).bool().logical_not()), "attn_mask must be left out.* a mask"),
    (lambda a, x: a(x, x, x, attn_mask=torch.zeros(16, 16)), "attn_mask must be left out.* a mask"),
    (lambda a, x: a(x, x, x, torch.zeros(len(x), 16).bool()), "key_padding_mask must be left out.* a mask"),
    (lambda a, x: a(x, x, x, key_padding_mask=torch.zeros(len(x), 16).bool()), "key_padding_mask must be left out"),
    (lambda a, x: a(x, x, x, need_weights=True), "need_weights must be False or left out.* got True"),
    (lambda a, x: a(x, x, x, None, True), "need_weights must be False or left out.* got True"),
]
SINGLE = [
    (lambda a, x: a(x, torch.zeros(16, 16)), "attn_mask must be left out.* a mask"),
    (lambda a, x: a(x, attn_mask=torch.zeros(16, 16)), "attn_mask must be left out.* a mask"),
    (lambda a, x: a(x, is_causal=True), "is_causal must be left out.* got True"),
]
REFUSED = [*((False, *one) for one in PAIR), *((True, *one) for one in SINGLE)]


@pytest.mark.parametrize(("timm", "call", "complaint"), REFUSED)
def test_calls_that_are_no_plain_self_attention_are_refused(timm, call, complaint):
    """By the images when they are there, else when the smaller model is called."""
    model, images = Calls(call, timm).eval(), torch.randn(2, 3, 32, 32)
    logits(model, images)  # the module itself allows it
    with pytest.raises(InputError, match=f"Calls cannot be compressed: {complaint}"):
        compress_model(model, images, energy=1.0)
    blind = compress_model(model, energy=1.0, criterion="sigma")
    with pytest.raises(InputError, match=f"^{complaint}") as refused:
        logits(blind, images)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("timm", "call"),
    [
        (False, lambda a, x: a(x, x, x)),
        (False, lambda a, x: a(query=x, key=x, value=x)),
        (False, lambda a, x: a(x, x, x, None, False, None, True, False)),
        (False, lambda a, x: a(x, x, value=x, need_weights=False, key_padding_mask=None)),
        (True, lambda a, x: a(x)),
        (True, lambda a, x: a(x, None)),
        (True, lambda a, x: a(x=x, attn_mask=None)),
    ],
)
def test_calls_that_are_plain_self_attention_stay_exact(timm, call):
    model, images = Calls(call, timm).eval(), torch.randn(2, 3, 32, 32)
    for options in ({"images": images}, {"criterion": "sigma"}):
        whole = compress_model(model, energy=1.0, **options)
        torch.testing.assert_close(logits(whole, images), logits(model, images), atol=1e-5, rtol=1e-5)


def test_the_pair_of_torch_has_none_for_weights():
    images = torch.randn(2, 3, 32, 32)
    whole = compress_model(Calls(lambda a, x: a(x, x, x)), images, energy=1.0)
    assert whole.attn(*[torch.randn(1, 5, 48)] * 3)[1] is None


def test_attention_that_is_never_called_is_refused():
    with pytest.raises(InputError, match="it has an attention module that it never calls"):
        rank(Calls(lambda a, x: x), torch.randn(2, 3, 32, 32))


def test_cosine_has_no_spectrum(images):
    with pytest.raises(InputError, match="no spectrum"):
        compress(made("cosine"), images)


def test_kinds_without_a_smaller_form_are_refused(monkeypatch):
    toy = AttentionKind(name="toy", model="toy", role="studied", layer="svda_analysis.attention:DOT", about="a toy")
    monkeypatch.setitem(ATTENTIONS, "toy", toy)
    with pytest.raises(InputError, match="Block cannot be compressed: toy attention has no smaller form"):
        rank(ViT(ViTConfig(attention="toy", depth=1)), criterion="sigma")


def test_a_stand_in_answers_as_the_module_that_it_replaced():
    model = Calls(lambda a, x: a(x, x, x)).eval()
    whole = compress_model(model, torch.randn(2, 3, 32, 32), energy=1.0)
    assert isinstance(whole.attn, StandIn)
    (site,) = attention_sites(whole)
    assert (site.parent, site.name) == (whole.attn, "attention")
