"""A model called on images: whatever holds them, its failure in one line, and gradients that arrive or are missed."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from svda_analysis.attribution import attribute
from svda_analysis.errors import InputError
from svda_analysis.forward import call_model, own_channels, own_size, without_checkpointing
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.tap import records

IMAGES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Own(nn.Module):
    """Patches of 4, two layers of attention, five classes; ``how`` is what a forward may do to its gradient."""

    num_prefix_tokens = 0

    def __init__(self, how="plain", reentrant=False):
        super().__init__()
        self.how, self.reentrant, self.grad_checkpointing = how, reentrant, how == "flag"
        torch.manual_seed(0)
        self.patch, self.head = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)
        self.qkv = nn.ModuleList(nn.Linear(8, 24) for _ in range(2))
        self.eval()

    def attend(self, t, layer):
        q, k, v = layer(t).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        return t + F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

    def features(self, x):
        t = self.patch(x).flatten(2).transpose(1, 2)
        for at, layer in enumerate(self.qkv):
            if self.grad_checkpointing or self.how == "always":
                t = checkpoint(self.attend, t, layer, use_reentrant=self.reentrant)
            else:
                t = self.attend(t, layer)
            t = t.detach() if self.how == "halfway" and at == 0 else t
        return t.mean(1)

    def forward(self, x):
        if self.how == "no_grad":
            with torch.no_grad():
                return self.head(self.features(x))
        if self.how == "inference":
            with torch.inference_mode():
                t = self.features(x)
            return self.head(t.clone())
        t = self.features(x)
        return self.head(t.detach() if self.how == "detached" else t)


@pytest.mark.parametrize("how", ["no_grad", "detached", "inference", "halfway"])
@pytest.mark.parametrize("method", ["relevance", "saliency", "integrated_gradients"])
def test_a_gradient_that_never_arrives_is_named(how, method):
    with pytest.raises(InputError, match=r"no gradient reaches the (attention maps|pixels) of Own: torch.no_grad\(\)"):
        attribute(Own(how), IMAGES, method=method)
    assert attribute(Own(how), IMAGES, method="rollout").any()


def test_gradient_checkpointing_is_off_for_the_call():
    model = Own("flag")
    wanted = attribute(Own(), IMAGES, method="relevance")
    torch.testing.assert_close(attribute(model, IMAGES, method="relevance"), wanted)
    assert model.grad_checkpointing is True
    with without_checkpointing(model):
        assert model.grad_checkpointing is False
    assert model.grad_checkpointing is True


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointing_without_a_switch_is_named(reentrant):
    with pytest.raises(InputError, match=r"no gradient reaches the attention maps of Own: .* gradient checkpointing"):
        attribute(Own("always", reentrant), IMAGES, method="relevance")


def test_maps_of_zeros_are_no_answer():
    model = Own()
    nn.init.zeros_(model.head.weight)
    with pytest.raises(InputError, match="is 0 everywhere: its output does not depend on them"):
        attribute(model, IMAGES, method="relevance")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_images_take_the_precision_of_the_weights(dtype):
    model = Own().to(dtype)
    assert records(model, IMAGES)[0].v.dtype == dtype
    found = attribute(model, IMAGES, method="relevance")
    tolerance = {"rtol": 0.2, "atol": 1e-3} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(found, attribute(Own(), IMAGES, method="relevance"), **tolerance)


def test_a_processors_mapping_is_a_models_arguments():
    class Named(Own):
        def forward(self, pixel_values, scale=1):
            return super().forward(pixel_values * scale)

    wanted = records(Own(), IMAGES * 2)
    found = records(Named(), {"pixel_values": IMAGES, "scale": 2})
    assert all(torch.equal(x.a, y.a) for x, y in zip(found, wanted, strict=True))


def test_what_a_forward_raises_is_one_line_with_what_it_takes():
    class Placed(Own):
        image_size = (16, 32)

        def features(self, x):
            return super().features(x + torch.zeros(16, 32))

    grey = r"Own fails on images torch.float32 \(2, 1, 16, 16\): .*; it takes images of 3 channels"
    for model, images, said in (
        (Own(), IMAGES[:, :1], grey),
        (Placed(), IMAGES, r"it takes images of 16 x 32 \(--preprocess image_size=16x32\)"),
        (Own(), IMAGES.long(), "Own fails on images torch.int64.*; give floating-point images"),
        (Own(), IMAGES[0], r"Own fails on images torch.float32 \(3, 16, 16\): .*; give a batch \(B, C, H, W\)"),
    ):
        for call in (call_model, records):
            with pytest.raises(InputError, match=said) as caught:
                call(model, images)
            assert "\n" not in str(caught.value)
            assert caught.value.__cause__ is not None


def test_a_model_of_hugging_face_takes_images_of_another_size_where_it_can():
    transformers = pytest.importorskip("transformers", reason="transformers is optional")
    size = {"hidden_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
    model = transformers.ViTModel(transformers.ViTConfig(**size, image_size=16, patch_size=8)).eval()
    larger = torch.randn(1, 3, 24, 32)
    with torch.no_grad():
        got, wanted = call_model(model, larger), model(larger, interpolate_pos_encoding=True)
    assert got.last_hidden_state.shape == (1, 13, 24)
    assert torch.equal(got.last_hidden_state, wanted.last_hidden_state)


def test_size_and_channels_that_a_model_says():
    timm = pytest.importorskip("timm", reason="timm is optional")
    small = {"depth": 1, "embed_dim": 24, "num_heads": 2, "patch_size": 8}
    assert own_size(timm.create_model("vit_tiny_patch16_224", img_size=(32, 48), in_chans=13, **small)) == (32, 48)
    assert own_channels(timm.create_model("vit_tiny_patch16_224", in_chans=13, **small)) == 13
    assert own_size(timm.create_model("vit_tiny_patch16_224", dynamic_img_size=True, **small)) is None
    assert own_size(Own()) is None
    assert own_channels(ViT(ViTConfig(attention="dot", in_channels=2, dim=24, heads=2, depth=1))) == 2


def test_images_take_the_precision_of_the_layers_where_norms_keep_another():
    model = Own().to(torch.bfloat16)
    model.first = nn.Parameter(torch.zeros(1))
    model._parameters = {"first": model._parameters.pop("first"), **model._parameters}
    assert next(model.parameters()).dtype == torch.float32
    assert records(model, IMAGES.to(torch.bfloat16))[0].v.dtype == records(model, IMAGES)[0].v.dtype == torch.bfloat16


# --- targets that are no class ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", ["relevance", "saliency", "integrated_gradients", "gradient_shap", "occlusion", "input_x_gradient"]
)
def test_a_function_of_the_output_is_a_target(method):
    wanted = attribute(Own(), IMAGES, method=method, target=3)
    torch.testing.assert_close(attribute(Own(), IMAGES, method=method, target=lambda y: y[:, 3]), wanted)

    class Dense(Own):
        """Scores of a segmentation (B, classes, rows, columns), in a table."""

        def forward(self, x):
            return {"out": super().forward(x)[:, :, None, None].expand(-1, -1, 2, 2)}

    torch.testing.assert_close(attribute(Dense(), IMAGES, method=method, target=lambda y: y["out"][:, 3, 1, 0]), wanted)


def test_a_function_that_is_no_target_is_named():
    for target, said in (
        (lambda y: y, r"one floating-point score for each image, \(2,\), got torch.float32 \(2, 5\)"),
        (lambda y: y.argmax(-1), r"got torch.int64 \(2,\)"),
        (lambda y: y["logits"], "target fails on what the model returns: "),
    ):
        with pytest.raises(InputError, match=said):
            attribute(Own(), IMAGES, method="relevance", target=target)
