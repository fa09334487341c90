"""Which attention modules can be replaced, and why others cannot."""

import pytest
import torch
from converted_cases import FAMILIES, made, of_timm, of_transformers
from torch import nn

from svda_analysis.compact import CompactSelfAttention
from svda_analysis.errors import InputError
from svda_analysis.hosts import attention_hosts, choose_hosts, make_replacement, put

REFUSED = {
    "timm swin": (
        of_timm("swin_tiny_patch4_window7_224", img_size=56, patch_size=4, depth=None, num_heads=(1, 2), depths=(1, 1)),
        "WindowAttention.*position bias",
    ),
    "timm beit": (of_timm("beit_base_patch16_224"), "Attention.*position bias"),
    "timm eva": (of_timm("eva02_tiny_patch14_224", img_size=28, patch_size=14), "EvaAttention.*rotary"),
    "timm, norms of q and k": (
        of_timm("vit_tiny_patch16_224", qk_norm=True),
        "normalised between projection and score",
    ),
    "timm xcit": (of_timm("xcit_nano_12_p16_224", patch_size=16), "ClassAttentionBlock.*are known"),
    "hf beit": (of_transformers("BeitModel", "BeitConfig", use_relative_position_bias=True), "Beit.*position bias"),
    "hf dinov3": (of_transformers("DINOv3ViTModel", "DINOv3ViTConfig"), "DINOv3ViTAttention.*rotary"),
    "torch encoder": (
        lambda: nn.Sequential(nn.Linear(8, 8), nn.TransformerEncoderLayer(8, 2, batch_first=True)),
        r"1.self_attn \(MultiheadAttention\).*TransformerEncoderLayer",
    ),
    "torch, images behind": (lambda: nn.ModuleList([nn.MultiheadAttention(8, 2)]), "batch_first=False"),
    "torch, other keys": (
        lambda: nn.ModuleList([nn.MultiheadAttention(8, 2, kdim=4, batch_first=True)]),
        "other sizes",
    ),
    "compressed": (
        lambda: nn.ModuleList([CompactSelfAttention(8, 2, kind="dot", score_dims=[2, 3])]),
        "0 .CompactSelfAttention. cannot be converted: it is compressed",
    ),
}


class GroupedAttention(nn.Module):
    num_heads, num_key_value_heads = 4, 2

    def __init__(self):
        super().__init__()
        self.q_proj = nn.Linear(8, 8)


class MyAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(8, 24)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_replaced_is_named_with_the_reason(name):
    build, why = REFUSED[name]
    with pytest.raises(InputError, match=why) as refused:
        choose_hosts(build(), "all")
    assert "cannot be converted: " in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("module", "why"), [(GroupedAttention, "GQA"), (MyAttention, "are known")])
def test_modules_of_ones_own(module, why):
    with pytest.raises(InputError, match=f"0 .{module.__name__}. cannot be converted.*{why}"):
        choose_hosts(nn.ModuleList([module()]), "all")


def test_what_computes_something_else_is_not_replaced():
    """By its output, whatever it is called and holds."""
    timm = pytest.importorskip("timm", reason="timm is optional")

    class Attention(timm.layers.attention.Attention):
        def forward(self, x, attn_mask=None, is_causal=False):
            return super().forward(x) + 1

    Attention.__module__ = "timm.layers.attention"
    with pytest.raises(InputError, match=r"something else than softmax\(q k\^T scale\) v, off by"):
        choose_hosts(nn.ModuleList([Attention(8, 2)]), "all")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_block_of_a_family_can_be_replaced(family):
    hosts = attention_hosts(made(family))
    assert len(hosts) == 3
    assert not [host.why_not for host in hosts if host.why_not]


def test_blocks_are_named_from_either_end_or_by_place():
    model = made("ours")
    names = [host.name for host in attention_hosts(model)]
    wanted = {"all": [0, 1, 2], "last:2": [1, 2], "first:1": [0], "0,2": [0, 2], "2": [2], (2, 0, 2): [0, 2]}
    for blocks, places in wanted.items():
        assert [host.name for host in choose_hosts(model, blocks)] == [names[at] for at in places]
    for wrong in ("last:0", "last:4", "3", "-1", "last", "", "1,", [], [True], [3], "0, 1"):
        with pytest.raises(InputError, match="blocks must be all, last:N, first:N or places from 0 to 2 such as 3,7"):
            choose_hosts(model, wrong)


def test_a_replacement_has_the_mode_and_what_learns_of_the_module():
    model = made("timm vit")
    block = model.blocks[0].attn.train()
    block.qkv.requires_grad_(False)
    new = make_replacement(block, "svda")
    assert new.training
    assert new.attention.training
    assert not new.attention.qkv.weight.requires_grad
    assert not new.attention.qkv.bias.requires_grad
    assert new.attention.proj.weight.requires_grad
    assert new.attention.sigma_shape.requires_grad
    assert new.after is block.proj_drop


def test_nothing_is_drawn_from_the_generators():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    model = made("ours")
    torch.manual_seed(5)
    make_replacement(model.blocks[0].attention, "svda")
    choose_hosts(model, "all")
    assert torch.equal(torch.rand(3), expected)


def test_put_sets_attributes_and_places_of_lists():
    model = nn.ModuleDict({"a": nn.Sequential(nn.Linear(1, 1), nn.ReLU())})
    put(model, "a.1", nn.Tanh())
    put(model, "a.0.inner", nn.GELU())
    assert isinstance(model["a"][1], nn.Tanh)
    assert isinstance(model["a"][0].inner, nn.GELU)
