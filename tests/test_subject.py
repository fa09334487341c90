"""A model opened to be looked at: as it was afterwards, and with what is known of it."""

import dataclasses
from types import SimpleNamespace

import pytest
import torch

from svda_analysis.data import Preprocessing
from svda_analysis.errors import InputError
from svda_analysis.model import ViT, ViTConfig
from svda_analysis.specs import open_model
from svda_analysis.subject import Subject, resolve_device


def test_what_is_known_comes_from_the_checkpoint(tiny):
    subject = open_model(tiny["svda"])
    assert subject.checkpoint is not None
    assert (subject.seed, subject.epoch, subject.attention) == (0, 1, "svda")
    assert subject.identity == {"model": "svda_s0", "attention": "svda", "seed": 0, "epoch": 1}
    assert subject.data["name"] == "fashion_mnist"
    assert subject.recipe["batch_size"] == 100
    assert len(subject.history)
    assert subject.preprocessing == Preprocessing(image_size=28, resize=28, mean=(0.2860,), std=(0.3530,))


def test_of_a_module_little_is_known():
    subject = open_model(ViT(ViTConfig(dim=8, depth=1, heads=2)))
    assert (subject.seed, subject.epoch, subject.data, subject.recipe, subject.trace) == (None, None, {}, {}, None)
    assert subject.history.empty
    assert subject.preprocessing == Preprocessing(image_size=28)


@pytest.mark.parametrize(
    ("names", "known"),
    [
        ({1: "cat", 0: "dog"}, ("dog", "cat")),
        ({0: "LABEL_0", 1: "LABEL_1"}, ()),
        ({0: "dog", 2: "cat"}, ()),
        ({}, ()),
    ],
)
def test_a_config_names_the_classes_in_the_order_of_the_outputs(names, known):
    model = ViT(ViTConfig(dim=8, depth=1, heads=2))
    model.config = SimpleNamespace(id2label=names)
    assert Subject(model=model, name="own").classes == known


def test_names_of_other_outputs_than_its_head_has_are_not_its_classes():
    model = torch.nn.Module()
    model.config = SimpleNamespace(id2label={0: "dog", 1: "cat"}, num_labels=2)
    for outputs, known in ((2, ("dog", "cat")), (5, ())):
        model.classifier = torch.nn.Linear(4, outputs)
        subject = Subject(model=model, name="own")
        assert (subject.classes, subject.outputs) == (known, outputs)


def test_a_model_runs_in_eval_mode_and_is_as_before():
    model = ViT(ViTConfig(dim=8, depth=1, heads=2)).train()
    model.blocks[0].eval()
    flags = [module.training for module in model.modules()]

    def run():
        with Subject(model=model, name="x").running() as running:
            assert running is model
            assert not any(module.training for module in model.modules())
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        run()
    assert [module.training for module in model.modules()] == flags


def test_what_is_said_over_a_subject_is_applied_once():
    subject = open_model(ViT(ViTConfig(dim=8, depth=1, heads=2)))
    own = Preprocessing(image_size=28, resize=40, mean=(0.5,), std=(0.5,))
    changed = open_model(subject, preprocessing=own, prefix_tokens=3, device="cpu", name="mine")
    assert (changed.preprocessing, changed.prefix_tokens, changed.name) == (own, 3, "mine")
    assert open_model(changed) is changed
    again = open_model(changed, preprocessing={"mean": (0.1,)})
    assert again.preprocessing == dataclasses.replace(own, mean=(0.1,))
    assert open_model(subject, preprocessing={"image_size": 56}).preprocessing.resize == 64  # as is usual
    with pytest.raises(InputError, match="prefix_tokens must be at least 0, got -1"):
        open_model(subject, prefix_tokens=-1)


def test_devices_are_this_machines():
    assert resolve_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="device must be cpu or an accelerator of this machine, got 'tpu9'"):
        resolve_device("tpu9")
