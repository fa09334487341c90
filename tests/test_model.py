"""The model: sizes, what its kinds share, where its weights start, what its configuration refuses."""

import dataclasses
import math

import pytest
import torch

from svda_analysis.attention import Attention
from svda_analysis.compact import CompactSelfAttention
from svda_analysis.data import DATASETS
from svda_analysis.errors import InputError
from svda_analysis.model import PRESETS, ViT, ViTConfig, preset_for

KINDS = ("dot", "svda", "cosine")


def test_the_kinds_differ_in_sigma_alone():
    names = {}
    for kind in KINDS:
        names[kind] = {name for name, _ in ViT(ViTConfig(attention=kind)).named_parameters()}
    assert {name.rsplit(".", 1)[1] for name in names["svda"] - names["dot"]} == {"sigma_shape", "log_temperature"}
    assert {name.rsplit(".", 1)[1] for name in names["cosine"] - names["dot"]} == {"log_temperature"}
    assert not names["dot"] - names["svda"]


@pytest.mark.parametrize("preset", list(PRESETS))
@pytest.mark.parametrize("kind", KINDS)
def test_presets_build_and_give_logits_of_their_classes(preset, kind):
    config = ViTConfig.preset(preset, attention=kind, depth=1)
    images = torch.randn(1, config.in_channels, config.image_size, config.image_size)
    with torch.no_grad():
        assert ViT(config)(images).shape == (1, config.num_classes)


def test_standard_sizes_have_the_parameters_of_the_literature():
    # Ti, S and B at 224 px, patch 16, 1000 classes: 5.7, 22.1 and 86.6 million (Touvron et al. 2021, table 1)
    for preset, millions in (("vit_tiny", 5.7), ("vit_small", 22.1), ("vit_base", 86.6)):
        with torch.device("meta"):
            model = ViT(ViTConfig.preset(preset))
        assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == pytest.approx(millions, abs=0.06)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 30}, "multiple of patch_size 4, got 30"),
        ({"dim": 97}, "multiple of heads 3, got 97"),
        ({"dim": 90}, "multiple of 4"),
        ({"depth": 0}, "depth must be a whole number of at least 1, got 0"),
        ({"heads": 1.5}, "heads must be a whole number, got 1.5"),
        ({"depth": True}, "depth must be a whole number, got True"),
        ({"dropout": torch.tensor(0.1)}, "dropout must be a number, got tensor"),
        ({"mlp_ratio": "wide"}, "mlp_ratio must be a number, got 'wide'"),
        ({"qk_dim": 2.0}, "qk_dim must be a whole number or None, got 2.0"),
        ({"attention": "linear"}, "attention must be one of dot, svda, cosine, got 'linear'"),
        (
            {"sigma_start": "two"},
            "sigma_start must be a positive number or one of one, sqrt_dim, dim, double_dim, got 'two'",
        ),
        ({"sigma_start": -1.0}, "sigma_start must be a positive number"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"mlp_ratio": 0.0}, "mlp_ratio must be above 0"),
    ],
)
def test_bad_configurations_name_the_field(change, message):
    with pytest.raises(InputError, match=message):
        ViTConfig(**change)


def test_bad_preset_and_bad_images_are_named():
    with pytest.raises(InputError, match="preset must be one of fashion_mnist"):
        ViTConfig.preset("vit_huge")
    with pytest.raises(InputError, match=r"images must be \(B, 1, 28, 28\), got \(2, 3, 28, 28\)"):
        ViT(ViTConfig())(torch.zeros(2, 3, 28, 28))


def test_config_is_plain_data():
    config = ViTConfig(attention="svda", sigma_start=3.0)
    assert ViTConfig(**dataclasses.asdict(config)) == config


@pytest.mark.skipif(torch.__version__.startswith("2.10."), reason="torch 2.10 draws other numbers from a seed")
@pytest.mark.parametrize(
    ("changes", "whole", "size"),
    [
        ({}, 238.39338707277784, 720.8345518196584),
        ({"attention": "svda"}, 256.63171171495924, 739.0728764618398),
        ({"attention": "svda", "sigma_form": "linear"}, 334.39338707277784, 816.8345518196584),
        ({"attention": "cosine"}, 244.63171171495924, 727.0728764618398),
    ],
)
def test_a_seed_gives_the_weights_that_it_always_gave(changes, whole, size):
    """Sums over all weights, as they were when the layer was a part of the model: runs can be made again."""
    torch.manual_seed(0)
    weights = [p.detach().double() for p in ViT(ViTConfig(depth=1, dim=12, heads=3, **changes)).parameters()]
    assert float(sum(p.sum() for p in weights)) == pytest.approx(whole, rel=1e-9)
    assert float(sum(p.abs().sum() for p in weights)) == pytest.approx(size, rel=1e-9)


def test_the_config_chooses_the_layer():
    whole = ViTConfig(depth=2, dim=24, heads=2, attention="svda", attention_dropout=0.2)
    for layer in ViT(whole).attention_layers():
        assert type(layer) is Attention
        assert (layer.kind, layer.heads, layer.head_dim, layer.dropout) == ("svda", 2, 12, 0.2)
    kept = dataclasses.replace(whole, score_dims=((3, 4), (5, 6)), norm_dims=((1, 0), (0, 2)))
    for at, layer in enumerate(ViT(kept).attention_layers()):
        assert type(layer) is CompactSelfAttention
        assert (layer.score_dims, layer.norm_dims) == (kept.score_dims[at], kept.norm_dims[at])


def test_configs_of_files_hold_lists_and_become_tuples():
    config = ViTConfig(depth=1, dim=24, heads=2, attention="svda", score_dims=[[3, 4]])
    assert config.score_dims == ((3, 4),)
    assert config.norm_dims == ((0, 0),)
    assert ViTConfig(**dataclasses.asdict(config)) == config


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"score_dims": [[3]]}, "score_dims must hold 2 numbers for each of 1 layers"),
        ({"score_dims": [[0, 1]]}, "score_dims must hold whole numbers of at least 1"),
        ({"score_dims": [[True, 1]]}, "whole numbers"),
        ({"score_dims": 3}, "score_dims must hold"),
        ({"norm_dims": [[1, 1]]}, "score_dims must hold"),
        ({"score_dims": [[12, 1]], "norm_dims": [[1, 0]]}, "must fit the head dimension 12, got 13"),
        ({"score_dims": [[2, 1]], "attention": "cosine"}, "cosine"),
        ({"score_dims": [[2, 1]], "norm_dims": [[1, 1]], "attention": "dot"}, "norm_dims must be 0"),
    ],
)
def test_impossible_sizes_are_refused(changes, complaint):
    with pytest.raises(InputError, match=complaint):
        ViTConfig(**{"depth": 1, "dim": 24, "heads": 2, "attention": "svda", **changes})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"depth": 10**8}, "depth must be at most 1000, got 100000000"),
        ({"dim": 2**40}, "dim must be at most 65536"),
        ({"heads": 2**70}, "heads must be at most 32768, got more"),
        ({"image_size": 2**14, "patch_size": 1}, "at most 65536 patches"),
        ({"dim": 2**16, "heads": 2**10}, "at most 2,147,483,648 weights"),
        ({"mlp_ratio": math.inf}, "mlp_ratio must be above 0"),
    ],
)
def test_what_would_never_end_or_take_all_memory_is_refused(change, said):
    with pytest.raises(InputError, match=said):
        ViTConfig(**change)


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        (DATASETS["cifar100"], ("cifar100", {})),
        (DATASETS["sample"], ("fashion_mnist", {})),
        (DATASETS["imagefolder"], ("vit_tiny", {})),
        (
            dataclasses.replace(DATASETS["cifar10"], name="svhn", channels=1, classes=("a", "b")),
            ("fashion_mnist", {"image_size": 32, "num_classes": 2}),
        ),
    ],
)
def test_a_data_set_has_a_preset_that_fits_its_images(spec, wanted):
    name, fields = preset_for(spec)
    assert (name, fields) == wanted
    config = ViTConfig.preset(name, **fields)
    assert (config.image_size, config.in_channels) == (spec.image_size, spec.channels)


def test_post_norm_blocks_are_those_of_the_formula():
    torch.manual_seed(0)
    model = ViT(ViTConfig(dim=24, depth=1, heads=2, norm="post")).eval()
    block, x = model.blocks[0], torch.randn(2, 5, 24)
    inner = torch.nn.functional.layer_norm(x + block.attention(x), (24,), block.norm1.weight, block.norm1.bias)
    wanted = torch.nn.functional.layer_norm(inner + block.mlp(inner), (24,), block.norm2.weight, block.norm2.bias)
    torch.testing.assert_close(block(x), wanted)


def test_without_positions_the_order_of_patches_is_nothing():
    torch.manual_seed(0)
    changes = {"image_size": 8, "dim": 24, "depth": 2, "heads": 2, "init": "torch"}
    image = torch.randn(1, 1, 8, 8)
    turned = image.view(1, 1, 2, 4, 2, 4).flip(2, 4).reshape(1, 1, 8, 8)  # the four patches in another order
    for positions, same in (("none", True), ("learned", False)):
        model = ViT(ViTConfig(positions=positions, **changes)).eval()
        assert torch.allclose(model(image), model(turned), atol=1e-6) == same
        assert ("pos_embed" in model.state_dict()) == (not same)


def test_starts_are_those_that_they_are_named_for():
    torch.manual_seed(0)
    sizes = {"dim": 96, "depth": 2, "heads": 3}
    bound = {"torch": 96**-0.5, "source": math.sqrt(6 / (3 * 96 + 96)), "xavier": math.sqrt(6 / (2 * 96))}
    for init, widest in bound.items():
        layer = ViT(ViTConfig(attention="dot", init=init, **sizes)).blocks[0].attention
        assert widest * 0.99 < layer.qkv.weight.abs().max() <= widest
        assert bool((layer.qkv.bias == 0).all()) == (init != "torch")
    for init in ("torch", "source"):
        layer = ViT(ViTConfig(attention="svda", init=init, **sizes)).blocks[0].attention
        assert layer.qkv.weight.abs().max() <= 96**-0.5
        assert layer.qkv.bias.abs().max() > 0


@pytest.mark.parametrize("form", ["linear", "shape"])
def test_sigma_may_start_about_its_value(form):
    torch.manual_seed(0)
    start = {"sigma_form": form, "sigma_start": 1.0, "sigma_noise": 0.1}
    model = ViT(ViTConfig(attention="svda", dim=512, depth=4, heads=2, **start))
    values = torch.cat([layer.sigma.flatten() for layer in model.attention_layers()])
    assert values.std().item() == pytest.approx(0.1, rel=0.1 if form == "linear" else 0.15)
    with pytest.raises(InputError, match="sigma_noise must be a finite number of at least 0, got -1"):
        ViTConfig(sigma_noise=-1)


def test_queries_and_keys_may_be_short():
    config = ViTConfig(attention="dot", dim=24, depth=2, heads=2, qk_dim=3)
    assert config.score_dims == ((3, 3), (3, 3))
    assert ViTConfig(**dataclasses.asdict(config)) == config
    model = ViT(config)
    assert model(torch.randn(2, 1, 28, 28)).shape == (2, 10)
    whole = ViT(ViTConfig(attention="dot", dim=24, depth=2, heads=2))
    count = [sum(p.numel() for p in one.parameters()) for one in (whole, model)]
    assert count[0] - count[1] == 2 * 2 * 2 * (12 - 3) * (24 + 1)  # layers, heads, W_q and W_k: rows and their biases
    for layer in model.attention_layers():  # they start as in the whole model: entries within xavier's bound for it
        bound = math.sqrt(6 / (24 + 24))
        assert layer.qkv.weight.abs().max().item() <= bound
        assert layer.qkv.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
    assert not config.compressed
    assert not whole.config.compressed
    for of in (config, whole.config):
        assert dataclasses.replace(of, score_dims=((2, 3), (3, 3))).compressed
    for wrong in (0, 13):
        with pytest.raises(InputError, match="qk_dim must be"):
            ViTConfig(attention="dot", dim=24, heads=2, qk_dim=wrong)
