"""One registration is enough for a kind of attention of one's own."""

import subprocess
import sys

import pytest
import torch

from svda_analysis.attention import COSINE, DOT, SVDA, Attention, Rule, dot_product_attention, unit_rows
from svda_analysis.errors import InputError
from svda_analysis.kinds import ATTENTIONS, AttentionKind, attention_kind, register_attention
from svda_analysis.model import ViT, ViTConfig


def unit_keys(qk):
    """q as it is, k of norm one."""
    return torch.stack([qk[:, :, 0], unit_rows(qk[:, :, 1])], dim=2)


def attend(layer, q, k, v, dropout_p):
    return dot_product_attention(q, layer.sharpness * k, v, dropout_p=dropout_p)


def one_sharpness(heads, head_dim, form, start):
    return {"sharpness": torch.ones(1)}


@pytest.fixture
def toy():
    kind = AttentionKind(
        name="toy",
        model="keys",
        role="studied",
        layer=Rule(attend=attend, rows=unit_keys, learned=one_sharpness),
        about="unit keys, queries as they are",
    )
    yield register_attention(kind)
    del ATTENTIONS["toy"]


def test_the_kinds_stand_in_their_order_and_resolve_their_rules():
    assert list(ATTENTIONS) == ["dot", "svda", "cosine"]
    assert [kind.model for kind in ATTENTIONS.values()] == ["vit", "svda", "cosine"]
    assert [kind.role for kind in ATTENTIONS.values()] == ["baseline", "studied", "control"]
    assert [kind.place for kind in ATTENTIONS.values()] == [0, 1, 2]
    assert [kind.rule for kind in ATTENTIONS.values()] == [DOT, SVDA, COSINE]
    assert all(kind.about for kind in ATTENTIONS.values())


@pytest.mark.parametrize("name", ["linear", None, ["svda"]])
def test_an_unknown_kind_is_refused_with_the_names_that_are_known(name):
    with pytest.raises(InputError, match="attention must be one of dot, svda, cosine, got"):
        attention_kind(name)
    with pytest.raises(InputError, match="attention must be one of dot, svda, cosine, got"):
        ViTConfig(attention=name)


def test_names_and_roles_are_checked():
    given = {"name": "new", "model": "new", "role": "studied", "layer": DOT, "about": "?"}
    for change in ({"name": "dot"}, {"model": "vit"}):
        with pytest.raises(InputError, match="name and model must be new"):
            register_attention(AttentionKind(**{**given, **change}))
    with pytest.raises(InputError, match="role must be one of baseline, studied, control, got 'best'"):
        AttentionKind(**{**given, "role": "best"})
    assert list(ATTENTIONS) == ["dot", "svda", "cosine"]


def test_a_layer_of_a_new_kind_learns(toy):
    torch.manual_seed(0)
    layer, x = Attention(12, 3, kind="toy"), torch.randn(2, 5, 12)
    q, k, v = layer.qkv(x).view(2, 5, 3, 3, 4).permute(2, 0, 3, 1, 4)
    expected = layer.proj(dot_product_attention(q, unit_rows(k), v).transpose(1, 2).reshape(2, 5, 12))
    torch.testing.assert_close(layer(x), expected)
    assert layer.sigma is None


def test_a_model_of_a_new_kind_takes_a_step(toy):
    torch.manual_seed(0)
    model, images = ViT(ViTConfig(attention="toy", depth=1, dim=12, heads=3)), torch.randn(4, 1, 28, 28)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(model(images), torch.arange(4))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert model.blocks[0].attention.sharpness.item() != 1
    with pytest.raises(InputError, match="score_dims must be None for toy attention"):
        ViTConfig(attention="toy", depth=1, dim=12, heads=3, score_dims=((1, 1, 1),))


def test_a_model_of_a_new_kind_opens_by_its_name(toy):
    from svda_analysis.specs import open_model

    opened = open_model("toy:vit_tiny?image_size=32&depth=1&num_classes=5")
    assert (opened.name, opened.attention) == ("toy_vit_tiny", "toy")
    assert opened.model.config == ViTConfig.preset("vit_tiny", attention="toy", image_size=32, depth=1, num_classes=5)


def test_a_kind_that_is_gone_is_unknown_again():
    with pytest.raises(InputError, match="got 'toy'"):
        ViTConfig(attention="toy")


def test_the_registry_needs_no_torch():
    code = "import sys; from svda_analysis.kinds import ATTENTIONS; assert 'torch' not in sys.modules, ATTENTIONS"
    subprocess.run([sys.executable, "-c", code], check=True)
