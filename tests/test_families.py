"""Vision Transformers that nobody here wrote, small and random: the tap sees each layer and changes nothing."""

import pytest
import torch
import torchvision
from torch import nn

from svda_analysis.analysis import analyze
from svda_analysis.errors import InputError
from svda_analysis.tap import capture, records, without_head
from svda_analysis.trail import CallTrail

TIMM_SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 2, "num_classes": 5}
HF_SIZE = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}


def answer_of(output):
    """What a model returned: a tensor, or the first that Hugging Face's outputs hold."""
    names = ("logits", "pooler_output", "last_hidden_state")
    return output if isinstance(output, torch.Tensor) else next(getattr(output, n) for n in names if hasattr(output, n))


def of_timm(name, **size):
    def build():
        return pytest.importorskip("timm", reason="timm is optional").create_model(name, **{**TIMM_SIZE, **size})

    return build


def of_transformers(name, **size):
    def build():
        library = pytest.importorskip("transformers", reason="transformers is optional")
        config = getattr(library, name.replace("ForImageClassification", "").replace("Model", "") + "Config")
        model = getattr(library, name)(config(**{**HF_SIZE, **size}))
        model.set_attn_implementation("sdpa")
        return model

    return build


def open_clip_tower():
    library = pytest.importorskip("open_clip", reason="open_clip is optional")
    size = library.model.CLIPVisionCfg(layers=2, width=24, head_width=12, patch_size=8, image_size=32)
    return library.model._build_vision_tower(16, size)


def torchvision_vit():
    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=2, num_heads=2, hidden_dim=24, mlp_dim=48
    )


class Own(nn.Module):
    """Patches, then nn.MultiheadAttention with everything it can do."""

    num_prefix_tokens = 0

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 24, 8, stride=8)
        self.attention = nn.MultiheadAttention(24, 3, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(24, 2, 48, batch_first=True)
        self.head = nn.Linear(24, 5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.attention(x, x, x)[0]  # need_weights
        return self.head(self.encoder(x).mean(1))


# name -> (how to build it, image size, attention layers, prefix tokens)
FAMILIES = {
    "timm vit": (of_timm("vit_tiny_patch16_224"), 32, 2, 1),
    "timm vit, no class token": (of_timm("vit_base_patch16_siglip_gap_224"), 32, 2, 0),
    "timm deit, distilled": (of_timm("deit_tiny_distilled_patch16_224"), 32, 2, 2),
    "timm eva02, rotary": (of_timm("eva02_tiny_patch14_224"), 32, 2, 1),
    "timm beit, bias": (of_timm("beit_base_patch16_224"), 32, 2, 1),
    "timm dinov2, registers": (of_timm("vit_small_patch14_reg4_dinov2"), 32, 2, 5),
    "timm dinov3": (of_timm("vit_small_patch16_dinov3"), 32, 2, 5),
    "timm siglip, pooling": (of_timm("vit_base_patch16_siglip_224"), 32, 2, 0),
    "torchvision vit": (torchvision_vit, 32, 2, 1),
    "hf vit": (of_transformers("ViTForImageClassification"), 32, 2, 1),
    "hf deit": (of_transformers("DeiTForImageClassification"), 32, 2, 2),
    "hf dinov2": (of_transformers("Dinov2ForImageClassification", mlp_ratio=2), 32, 2, 1),
    "hf dinov2, registers": (of_transformers("Dinov2WithRegistersForImageClassification", mlp_ratio=2), 32, 2, 5),
    "hf clip": (of_transformers("CLIPVisionModel"), 32, 2, 1),
    "open_clip": (open_clip_tower, 32, 2, 1),
    "nn.MultiheadAttention": (Own, 32, 2, 0),
}


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    build, size, layers, prefix = FAMILIES[request.param]
    torch.manual_seed(0)
    model = build().eval()
    for parameter in model.parameters():  # many libraries begin with a head, or a scale, of zeros
        nn.init.normal_(parameter, std=0.2)
    return model, torch.randn(3, 3, size, size), layers, prefix


@pytest.fixture(autouse=True)
def slow_path():
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


def test_every_layer_is_recorded_and_nothing_changes(family):
    model, images, layers, _ = family
    with torch.no_grad():
        plain = answer_of(model(images))
        found = []
        with capture(model, found.append):
            assert torch.equal(answer_of(model(images)), plain)
        square = [record for record in found if record.a.shape[-2] == record.a.shape[-1]]
        assert len(square) == layers
        assert all(record.a.shape[:2] == record.q.shape[:2] for record in found)
        assert torch.equal(answer_of(model(images)), plain)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in [model])


def test_the_rebuilt_output_leads_to_the_same_logits(family):
    model, images, _, _ = family
    with torch.no_grad(), capture(model, lambda record: None, output="map"):
        rebuilt = answer_of(model(images))
        outside = model
    with torch.no_grad():
        plain = answer_of(outside(images))
    assert plain.abs().max() > 1e-3
    torch.testing.assert_close(rebuilt, plain, rtol=1e-4, atol=1e-5 * plain.abs().max().item())


def test_gradients_reach_the_maps(family):
    model, images, layers, _ = family
    found = []
    with capture(model, found.append, output="map"):
        logits = answer_of(model(images))
    square = [record.a for record in found if record.a.shape[-2] == record.a.shape[-1]]
    gradients = torch.autograd.grad(logits[..., 0].sum(), square)
    assert len(gradients) == layers
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_the_tokens_that_a_layer_reads_are_told(family):
    model, images, _, _ = family
    found = []
    with torch.no_grad(), capture(model, found.append, trail=CallTrail()):
        model(images)
    found = [record for record in found if record.a.shape[-2] == record.a.shape[-1]]
    assert [record.tokens.shape[:2] for record in found] == [(3, record.a.shape[-1]) for record in found]
    first, second = (record.tokens for record in found)
    assert not torch.equal(first, second)


ROTARY = {"timm eva02, rotary", "timm dinov3"}  # q and k are turned after their projections


def test_the_weights_give_the_rows_that_the_layer_attends_with(request, family):
    model, images, _, _ = family
    found, trail = [], CallTrail(weights=True)
    with torch.no_grad(), capture(model, found.append, trail=trail):
        model(images)
    name = request.node.callspec.params["family"]
    square = [(r, w) for r, w in zip(found, trail.weights, strict=True) if r.a.shape[-2] == r.a.shape[-1]]
    for record, weights in square:
        assert weights.w_v is not None
        assert weights.w_o.shape == weights.w_v.mT.shape
        assert (weights.w_q is None) == (weights.w_k is None) == (name in ROTARY)
        for w, rows in ((weights.w_q, record.q), (weights.w_v, record.v)):
            if w is None:
                continue
            x = record.tokens[0].double()
            if name != "nn.MultiheadAttention":  # the others have a layer norm before
                x = (x - x.mean(-1, keepdim=True)) / x.std(-1, keepdim=True, correction=0)
            got = x @ w.double().mT  # (H, N, D), without biases
            got, want = (y - y.mean(1, keepdim=True) for y in (got, rows[0].double()))
            assert torch.nn.functional.cosine_similarity(got.flatten(), want.flatten(), dim=0) > 0.999


def test_a_head_is_silenced_and_speaks_again(family):
    model, images, _, _ = family
    with torch.no_grad():
        plain = answer_of(model(images))
        with without_head(model, 0, 1):
            silent = answer_of(model(images))
        assert not torch.allclose(silent, plain, rtol=1e-4, atol=1e-5 * plain.abs().max().item())
        with without_head(model, 99, 0):
            assert torch.equal(answer_of(model(images)), plain)
        assert torch.equal(answer_of(model(images)), plain)


def test_a_silent_head_is_one_whose_output_has_no_weight():
    build, size, _, _ = FAMILIES["torchvision vit"]
    model, images = build().eval(), torch.randn(2, 3, size, size)
    nn.init.normal_(model.heads.head.weight)
    with torch.no_grad(), without_head(model, 1, 0):
        silent = model(images)
    with torch.no_grad():
        model.encoder.layers[1].self_attention.out_proj.weight[:, :12] = 0
        torch.testing.assert_close(silent, model(images), rtol=1e-4, atol=1e-5)


def test_analysis_tells_patches_from_prefix_tokens(family):
    model, images, layers, prefix = family
    result = analyze(model, images, indicators=["attention_entropy", "attention_distance"], examples=2)
    assert sorted(result.table["layer"].unique()) == list(range(layers))
    shown = next(iter(result.examples.values()))
    assert shown.prefix == prefix
    assert shown.grid == (4, 4)


def test_square_windows_are_measured_and_average_over_an_image():
    timm = pytest.importorskip("timm", reason="timm is optional")
    torch.manual_seed(0)
    model = timm.create_model("maxvit_rmlp_pico_rw_256", img_size=64).eval()
    images = torch.randn(2, 3, 64, 64)
    result = analyze(model, images, indicators=["attention_entropy"])
    assert (result.table["n"] == 2).all()
    assert not result.examples
    assert result.meta["warnings"] == [
        "MaxxVit attends inside windows: its numbers speak of windows, not of the whole image"
    ]
    first = next(record for record in records(model, images))
    from svda_analysis.indicators import attention_entropy

    by_window = attention_entropy(first.a)  # (images * windows, heads)
    expected = by_window.view(2, -1, by_window.shape[-1]).mean((0, 1))
    got = result.table[result.table["layer"] == 0].sort_values("head")["mean"].to_numpy()
    torch.testing.assert_close(torch.tensor(got), expected.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bias": False},
        {"add_bias_kv": True},
        {"add_zero_attn": True},
        {"kdim": 10, "vdim": 6},
        {"batch_first": True},
    ],
)
def test_multihead_attention_in_all_its_forms(options):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(12, 3, **options).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    shape = (2, 5) if options.get("batch_first") else (5, 2)
    x, key, value = (torch.randn(*shape, options.get(name, 12)) for name in ("x", "kdim", "vdim"))
    mask = torch.ones(5, 5).triu(1).bool()
    padding = torch.tensor([[False] * 4 + [True], [False] * 5])
    for masks in (
        {},
        {"attn_mask": mask},
        {"key_padding_mask": padding},
        {"attn_mask": mask, "key_padding_mask": padding},
    ):
        for weights in ({"need_weights": False}, {"average_attn_weights": True}, {"average_attn_weights": False}):
            plain = module(x, key, value, **masks, **weights)
            with capture(module, lambda record: None, output="map"):
                rebuilt = module(x, key, value, **masks, **weights)
            torch.testing.assert_close(rebuilt[0], plain[0], rtol=1e-4, atol=1e-5)
            assert (rebuilt[1] is None) == (plain[1] is None)
            if plain[1] is not None:
                torch.testing.assert_close(rebuilt[1], plain[1], rtol=1e-4, atol=1e-5)


def test_models_that_hide_their_maps_say_what_to_switch():
    timm = pytest.importorskip("timm", reason="timm is optional")
    images = torch.randn(1, 3, 32, 32)
    swin = timm.create_model(
        "swin_tiny_patch4_window7_224", img_size=56, window_size=7, embed_dim=8, depths=(1, 1), num_heads=(1, 1)
    )
    with pytest.raises(InputError, match="windows are not maps of the image"):
        records(swin, torch.randn(1, 3, 56, 56))
    unfused = of_timm("vit_tiny_patch16_224")()
    for block in unfused.blocks:
        block.attn.fused_attn = False
    with pytest.raises(InputError, match="set fused_attn = True"):
        records(unfused, images)
    with pytest.raises(InputError, match="it seems to have no attention"):
        records(torchvision.models.resnet18(), images)


def test_hugging_face_eager_names_the_switch():
    model = of_transformers("ViTForImageClassification")()
    model.set_attn_implementation("eager")
    with pytest.raises(InputError, match=r'switch with model.set_attn_implementation\("sdpa"\)'):
        records(model, torch.randn(1, 3, 32, 32))


def test_a_layout_that_cannot_be_told_is_an_error_and_can_be_given():
    class Plain(nn.Module):
        def forward(self, x):
            x = x.flatten(2).transpose(1, 2)
            return nn.functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None]).mean((1, 2))

    images = torch.randn(2, 3, 4, 4)
    with pytest.raises(InputError, match="does not say which of its 16 tokens are patches"):
        analyze(Plain(), images, indicators=["attention_distance"])
    assert analyze(Plain(), images, prefix_tokens=0, indicators=["attention_distance"]).examples["Plain"].grid == (4, 4)
    with pytest.raises(InputError, match="16 tokens with prefix 3 leave no square grid"):
        analyze(Plain(), images, prefix_tokens=3, indicators=["attention_distance"])
