"""What a model answers: scores of classes, told from features."""

import pytest
import torch
import torchvision
from torch import nn

from svda_analysis.analysis import analyze
from svda_analysis.answers import class_scores, logits_of, own_outputs
from svda_analysis.attribution import attribute
from svda_analysis.errors import InputError
from svda_analysis.model import ViT, ViTConfig


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


def test_a_model_tells_apart_as_many_classes_as_the_head_that_it_has():
    timm, vision = pytest.importorskip("timm", reason="timm is optional"), torchvision.models.VisionTransformer
    small = {"depth": 1, "embed_dim": 24, "num_heads": 2, "img_size": 32}

    def of_timm(**how):
        return timm.create_model("vit_tiny_patch16_224", **small, **how)

    def of_torchvision():
        return vision(image_size=32, patch_size=16, num_layers=1, num_heads=2, hidden_dim=24, mlp_dim=48)

    assert own_outputs(of_timm(num_classes=7)) == 7
    assert own_outputs(of_timm(num_classes=0)) == 0
    assert own_outputs(of_torchvision()) == 1000
    assert own_outputs(nn.Linear(2, 3)) is None
    assert own_outputs(ViT(ViTConfig(dim=24, heads=2, depth=1, num_classes=3))) == 3
    data = torch.utils.data.TensorDataset(torch.randn(4, 3, 32, 32), torch.arange(4))
    for model in (of_timm(), of_torchvision()):
        (model.heads if hasattr(model, "heads") else model).head = nn.Linear(24, 5)  # as most people fine-tune
        assert own_outputs(model) == 5
        assert "accuracy" in set(analyze(model, data, indicators=["attention_entropy"], examples=0).table["indicator"])
        assert attribute(model, data.tensors[0], method="relevance").shape == (4, 32, 32)
    headless = of_torchvision()
    headless.heads = nn.Identity()
    found = analyze(headless, data, indicators=["attention_entropy"], examples=0)
    assert "accuracy" not in set(found.table["indicator"])
