"""What stands where a patch was taken away, and tokens dropped, against forwards written out."""

import pytest
import torch
from known_models import OnePatch, model_and_images
from torch import nn

from svda_analysis.errors import InputError
from svda_analysis.fillers import FILLERS, Scene, choose_filler, dropped_tokens, filler, first_block, pixel_fillers
from svda_analysis.perturbation import deletion_insertion
from svda_analysis.specs import open_model
from svda_analysis.tokens import Layout

NORMALISED = {"mean": (0.25, 0.5), "std": (0.5, 2.0)}
TIMM_SIZE = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 5}


class Echo(nn.Module):
    """Its logits are its pixels."""

    def forward(self, images):
        return images.flatten(1)


def shown(name, kept):
    """The pixels that a model sees of one 2-channel 4 x 6 image with a grid of 2 x 3, where only ``kept`` stay."""
    images = torch.randn(1, 2, 4, 6, generator=torch.Generator().manual_seed(0)).double()
    subject = open_model(Echo(), preprocessing=NORMALISED)
    answer = choose_filler(name).prepare(Scene(subject=subject, images=images, layout=Layout((2, 3))))
    return images[0], answer(torch.tensor([0]), kept[None]).view(2, 4, 6)


@pytest.mark.parametrize("name", ["mean", "black", "image_mean"])
def test_plain_fillers_are_one_colour_a_channel(name):
    kept = torch.tensor([True, False, True, True, True, False])
    image, seen = shown(name, kept)
    colours = {
        "mean": [0.0, 0.0],
        "black": [-0.25 / 0.5, -0.5 / 2.0],
        "image_mean": [sum(channel.flatten().tolist()) / 24 for channel in image],
    }[name]
    for patch, stays in enumerate(kept.tolist()):
        rows, columns = slice(2 * (patch // 3), 2 * (patch // 3) + 2), slice(2 * (patch % 3), 2 * (patch % 3) + 2)
        for channel, colour in enumerate(colours):
            wanted = image[channel, rows, columns] if stays else torch.full((2, 2), colour, dtype=torch.float64)
            torch.testing.assert_close(seen[channel, rows, columns], wanted, rtol=0, atol=1e-12)


def test_black_is_what_a_pixel_of_0_becomes_and_nothing_is_darker():
    pixels = torch.cat([torch.zeros(1, 2, 4, 6), torch.rand(3, 2, 4, 6)])
    mean, std = (torch.tensor(NORMALISED[x])[:, None, None] for x in ("mean", "std"))
    images = (pixels - mean) / std
    subject = open_model(Echo(), preprocessing=NORMALISED)
    answer = choose_filler("black").prepare(Scene(subject=subject, images=images, layout=Layout((2, 3))))
    black = answer(torch.arange(4), torch.zeros(4, 6, dtype=torch.bool)).view(4, 2, 4, 6)
    assert torch.equal(black, images[:1].expand(4, -1, -1, -1))
    assert (black <= images).all()


def test_black_needs_the_normalisation_for_each_channel():
    model, images = model_and_images()
    with pytest.raises(InputError, match=r"black needs the mean and deviation .* not known here: give preprocessing"):
        deletion_insertion(model, images, torch.zeros(3, 12, 12), baseline="black")
    subject = open_model(model, preprocessing={"mean": (0.1, 0.2, 0.3), "std": (1.0, 1.0, 1.0)})
    with pytest.raises(InputError, match="a number for each of 2 channels, got 3"):
        deletion_insertion(subject, images, torch.zeros(3, 12, 12), baseline="black")


def test_one_registration_is_a_filler():
    @filler("white", "made up here")
    def _white(scene):
        return torch.full_like(scene.images, 3.0)

    try:
        assert "white" in pixel_fillers()
        _, seen = shown("white", torch.zeros(6, dtype=torch.bool))
        assert (seen == 3).all()
    finally:
        del FILLERS["white"]


# --- tokens -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dot", "svda", "cosine"])
def test_dropped_tokens_are_not_there(kind):
    """Against a forward of each image written out, in which only the tokens that stay are put together."""
    model, images = model_and_images(kind=kind)
    model, images = model.double(), images.double()
    kept = torch.tensor([[1, 0, 1, 1, 0, 0, 0, 0, 1], [0, 0, 0, 1, 1, 1, 1, 0, 0], [1, 1, 0, 0, 0, 0, 0, 1, 1]]).bool()
    with torch.no_grad():
        with dropped_tokens(model, kept):
            found = model(images)
        for image, stay, logits in zip(images, kept, found, strict=True):
            tokens = [model.cls_token[0, 0] + model.pos_embed[0, 0]]
            for patch in range(9):
                if stay[patch]:
                    r, c = 4 * (patch // 3), 4 * (patch % 3)
                    pixels = image[:, r : r + 4, c : c + 4]
                    embedded = (model.patch_embed.weight * pixels).sum((1, 2, 3)) + model.patch_embed.bias
                    tokens.append(embedded + model.pos_embed[0, 1 + patch])
            x = torch.stack(tokens)[None]
            for block in model.blocks:
                x = block(x)
            torch.testing.assert_close(logits, model.head(model.norm(x[0, 0])), rtol=0, atol=1e-10)
        assert (model(images) - found).abs().max() > 1e-3  # and afterwards they are there again
    assert not first_block(model)[0]._forward_pre_hooks


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"])
def test_of_timm_it_is_the_answer_under_a_mask_of_keys(name):
    timm = pytest.importorskip("timm", reason="timm is optional")
    torch.manual_seed(0)
    model = timm.create_model(name, **TIMM_SIZE).double().eval()
    for name, weight in model.named_parameters():
        if name.endswith("gamma"):  # layer scale of a new model all but switches its blocks off
            nn.init.ones_(weight)
    images, prefix = torch.randn(2, 3, 16, 16).double(), model.num_prefix_tokens
    kept = torch.stack([torch.arange(16) % 3 == i for i in (1, 2)])
    seen = torch.cat([torch.ones(2, prefix, dtype=torch.bool), kept], 1)
    with torch.no_grad(), dropped_tokens(model, kept):
        found = model(images)
    with torch.no_grad():  # as if no query saw the keys that were dropped
        wanted = model.forward_head(model.forward_features(images, attn_mask=seen[:, None, None]))
        assert (model(images) - found).abs().max() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-10)


@pytest.mark.parametrize("steps", [None, 3])
def test_the_areas_of_dropped_tokens_are_those_of_a_loop(steps):
    model, images = model_and_images()
    model, images = model.double(), images.double()
    maps = torch.randn(3, 12, 12, generator=torch.Generator().manual_seed(1)).double()
    found = deletion_insertion(model, images, maps, target=2, baseline="tokens", steps=steps, batch_size=5)
    counts = [round(i * 9 / (steps or 9)) for i in range((steps or 9) + 1)]
    for i in range(3):
        weights = [
            maps[i, 4 * (p // 3) : 4 * (p // 3) + 4, 4 * (p % 3) : 4 * (p % 3) + 4].sum().item() for p in range(9)
        ]
        order = sorted(range(9), key=lambda p: -weights[p])
        for kind in range(2):
            heights = []
            for count in counts:
                stays = torch.zeros(1, 9, dtype=torch.bool)
                stays[0, order[:count] if kind else order[count:]] = True
                with torch.no_grad(), dropped_tokens(model, stays):
                    heights.append(model(images[i : i + 1]).softmax(-1)[0, 2].item())
            area = torch.trapezoid(torch.tensor(heights), torch.tensor(counts) / 9).item()
            assert found[kind][i].item() == pytest.approx(area, abs=1e-6)


def test_models_whose_tokens_cannot_be_dropped_are_refused():
    timm = pytest.importorskip("timm", reason="timm is optional")
    mean = timm.create_model("vit_tiny_patch16_224", global_pool="avg", class_token=False, **TIMM_SIZE)
    for model, told in ((mean, "VisionTransformer with global_pool 'avg'"), (OnePatch(0), "OnePatch")):
        with pytest.raises(InputError, match=f"tokens can be dropped from our ViT and .*, got {told}"):
            first_block(model)
    model, images = model_and_images()
    with pytest.raises(InputError, match="tokens are dropped patch by patch: 9 patch tokens, got 36 patches"):
        deletion_insertion(model, images, torch.zeros(3, 12, 12), baseline="tokens", patch_size=2)
