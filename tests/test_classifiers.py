"""New heads on the models that can be converted: the rest is as it was, and the outputs are the classes."""

import pytest
import torch
from converted_cases import FAMILIES, images, made
from torch import nn

from svda_analysis.answers import logits_of
from svda_analysis.classifiers import with_new_head
from svda_analysis.errors import InputError

CLASSES = ("blue", "green", "red")
WITHOUT = {"timm siglip", "hf clip", "hf siglip"}  # the first has one when it is made without classes


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - WITHOUT))
def test_the_head_alone_is_new(family):
    before = {name: x.clone() for name, x in made(family).state_dict().items()}
    model = with_new_head(made(family), CLASSES, seed=1)
    after = model.state_dict()
    prefix = f"{model.base_model_prefix}." if not before.keys() & after.keys() else ""
    same = {name for name, x in before.items() if prefix + name in after and torch.equal(x, after[prefix + name])}
    new = {name.split(".")[0] for name in before.keys() - same}
    assert new <= {"head", "head_dist", "heads", "classifier", "pooler"}
    assert logits_of(model(images()), model).shape == (4, 3)
    again = with_new_head(made(family), CLASSES, seed=1).state_dict()
    assert all(torch.equal(x, again[name]) for name, x in after.items())
    other = with_new_head(made(family), CLASSES, seed=2).state_dict()
    assert {name for name, x in after.items() if not torch.equal(x, other[name])}


def test_an_encoder_of_timm_gets_one_too():
    model = with_new_head(made("timm siglip"), CLASSES)
    assert model(images()).shape == (4, 3)


def test_a_model_of_hugging_face_knows_the_names():
    for family in ("hf vit", "hf dinov2"):
        model = with_new_head(made(family), CLASSES)
        assert model.config.id2label == dict(enumerate(CLASSES)), family
        assert model.config.num_labels == 3, family


def test_what_is_drawn_disturbs_no_other_draw():
    model = made("ours")
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    with_new_head(model, CLASSES)
    assert torch.equal(torch.rand(3), want)


@pytest.mark.parametrize("family", ["hf clip", "hf siglip"])
def test_an_encoder_that_its_library_makes_no_classifier_of_is_refused(family):
    with pytest.raises(InputError, match="VisionModel cannot get a head for classes: Unrecognized"):
        with_new_head(made(family), CLASSES)


def test_a_model_of_unknown_make_is_refused():
    with pytest.raises(InputError, match="Linear cannot get a new head: where its own stands is not known"):
        with_new_head(nn.Linear(2, 2), CLASSES)
