"""Which maps count, how their tokens lie, and what a model answers."""

import pytest
import torch
from torch import nn

from svda_analysis.errors import InputError
from svda_analysis.maps import class_row, class_scores, logits_of, token_layout, whole_maps
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.tap import records


def test_token_layout():
    model = ViT(ViTConfig(dim=24, depth=1, heads=2)).eval()
    assert token_layout(model, 50) == ((7, 7), 1)
    patches = nn.Sequential(nn.Conv2d(3, 8, 16, stride=16))
    assert token_layout(patches, 197, image_size=(224, 224)) == ((14, 14), 1)
    assert token_layout(patches, 14 * 10 + 5, image_size=(160, 224)) == ((10, 14), 5)
    assert token_layout(patches, 49, image_size=(224, 224)) == ((7, 7), 0)  # a window
    assert token_layout(nn.Linear(1, 1), 197, prefix=1) == ((14, 14), 1)
    with pytest.raises(InputError, match="does not say which of its 197 tokens are patches"):
        token_layout(nn.Linear(1, 1), 197)
    with pytest.raises(InputError, match="51 tokens with prefix 1 leave no square grid"):
        token_layout(model, 51)


def a_model(**changes):
    torch.manual_seed(0)
    return ViT(ViTConfig(**{"dim": 24, "depth": 3, "heads": 2, "patch_size": 7, **changes})).eval()


def test_whole_maps_are_those_of_the_records():
    model, images = a_model(), torch.randn(2, 1, 28, 28)
    with torch.no_grad():
        found = whole_maps(model, images)
        assert torch.equal(found.output, model(images))
    assert (found.grid, found.prefix, found.left_out) == ((4, 4), 1, ())
    for layer, record in zip(found.layers, records(model, images), strict=True):
        assert torch.equal(layer, record.a)
    assert torch.equal(class_row(found.layers[0], 1), found.layers[0][:, :, 0, 1:])
    assert torch.equal(class_row(found.layers[0], 0), found.layers[0].mean(-2))


def test_gradients_reach_whole_maps_when_they_are_asked_for():
    model, images = a_model(), torch.randn(2, 1, 28, 28)
    nn.init.normal_(model.head.weight)
    found = whole_maps(model, images, gradients=True)
    for gradient in torch.autograd.grad(found.output[:, 0].sum(), found.layers):
        assert gradient.abs().max() > 0


class Stages(nn.Module):
    """Attention over 16 tokens twice, over 4 once, inside windows once, and of one query over all."""

    num_prefix_tokens = 0

    def forward(self, x):
        tokens = x.flatten(2).transpose(1, 2)[:, None]  # (B, 1, 16, C)
        attend = nn.functional.scaled_dot_product_attention
        tokens = attend(tokens, tokens, tokens)
        few = tokens[:, :, ::4]
        attend(few, few, few)
        windows = tokens.unflatten(2, (4, 4)).transpose(1, 2).flatten(0, 1)  # (4 B, 1, 4, C)
        attend(windows, windows, windows)
        tokens = attend(tokens, tokens, tokens)
        return attend(few[:, :, :1], tokens, tokens)[:, 0, 0]


def test_what_is_no_map_of_the_whole_image_is_left_out():
    found = whole_maps(Stages(), torch.randn(2, 3, 4, 4))
    assert [tuple(a.shape) for a in found.layers] == [(2, 1, 16, 16)] * 2
    assert found.left_out == (4,)


def test_a_model_that_never_sees_the_whole_image_is_refused():
    class Windows(nn.Module):
        def forward(self, x):
            q = x.flatten(2).transpose(1, 2).unflatten(1, (4, 4)).flatten(0, 1)[:, None]
            return nn.functional.scaled_dot_product_attention(q, q, q)

    with pytest.raises(InputError, match="no self-attention over whole images, only windows or pooling"):
        whole_maps(Windows(), torch.randn(2, 3, 4, 4))


class Output:
    def __init__(self, logits):
        self.logits = logits


class Told(nn.Module):
    def __init__(self, **told):
        super().__init__()
        for name, value in told.items():
            setattr(self, name, value)


def test_scores_of_classes_are_told_from_features():
    logits, config = torch.randn(2, 5), type("Config", (), {"num_labels": 5})
    known = {
        "a tensor of as many outputs": (logits, Told(), 5, True),
        "of another number": (logits, Told(), 4, False),
        "where the data do not say": (logits, Told(), 0, True),
        "timm's model without a head": (logits, Told(num_classes=0), 0, False),
        "timm's model with one": (logits, Told(num_classes=5), 5, True),
        "Hugging Face's classifier": (Output(logits), Told(config=config), 5, True),
        "tokens": (torch.randn(2, 7, 5), Told(), 5, False),
        "no tensor at all": ((logits,), Told(), 5, False),
    }
    for what, (output, model, classes, there) in known.items():
        assert (class_scores(output, model, classes) is not None) == there, what


def test_logits_are_two_dimensional_or_named_in_the_complaint():
    logits = torch.randn(2, 5)
    assert logits_of(logits, Told()) is logits_of(Output(logits), Told()) is logits
    features = r"\(2, 5\), features of Told, which has no classifier"
    given = ((torch.randn(2, 3, 5), Told(), r"\(2, 3, 5\)"), ((logits,), Told(), "tuple"))
    for output, model, came in (*given, (logits, Told(num_classes=0), features)):
        with pytest.raises(InputError, match=f"must return class scores .* got {came}"):
            logits_of(output, model)
