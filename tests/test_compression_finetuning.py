"""What was compressed is taught the whole model's logits."""

from __future__ import annotations

import dataclasses
import urllib.error

import pytest
import torch

from svda_analysis.checkpoint import build_model, load
from svda_analysis.compression import run as compression_run
from svda_analysis.compression.finetuning import finetune, further_recipe
from svda_analysis.compression.removal import compress
from svda_analysis.compression.run import compress_and_verify
from svda_analysis.data import DATASETS
from svda_analysis.errors import InputError
from svda_analysis.recipe import TrainConfig


def test_finetuning_continues_from_the_weights(tiny, fashion):
    origin = load(tiny["svda"])
    smaller = compress(origin, torch.randn(8, 1, 28, 28), energy=0.5)
    teacher = build_model(origin)
    trained = finetune(smaller, teacher, 1, lr=0.0, data_root=fashion)
    assert trained.config == smaller.config
    assert trained.epoch == smaller.epoch + 1
    for name, value in smaller.model.items():
        torch.testing.assert_close(trained.model[name], value, atol=0, rtol=0)
    moved = finetune(smaller, teacher, 1, data_root=fashion)
    assert any(not torch.equal(moved.model[name], value) for name, value in smaller.model.items())
    with pytest.raises(InputError, match="finetune must be at least 1"):
        finetune(smaller, teacher, 0)


def test_finetuning_on_what_only_the_sample_stands_for_is_refused_first(tiny, monkeypatch, tmp_path):
    """The evaluation falls back to the bundled sample; training does not, and says so before the work."""

    def refuse(*_, **__):
        raise urllib.error.URLError("no network")

    monkeypatch.delenv("SVDA_DATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, spec in DATASETS.items():
        monkeypatch.setitem(DATASETS, name, dataclasses.replace(spec, usual_folders=()))
    monkeypatch.setattr("torchvision.datasets.utils.download_url", refuse)
    monkeypatch.setattr(compression_run, "rank", lambda *_, **__: pytest.fail("it began"))
    with pytest.raises(InputError, match=r"FashionMNIST failed .* or pass --data-root"):
        compress_and_verify(tiny["svda"], epochs=1)
    with pytest.raises(pytest.fail.Exception, match="it began"):
        compress_and_verify(tiny["svda"], rank_images=10, held_out=10)


def test_any_recipe_is_finetuned_without_its_penalties_and_decay(tiny):
    """Also a penalty that a compressed model cannot have, such as those of the source's recipe."""
    origin = load(tiny["svda"])
    weights = dict.fromkeys([*TrainConfig().penalties, "weight_decay", "qk_weight_decay"], 0.5)
    trained = dataclasses.replace(origin, recipe={**origin.recipe, **weights})
    recipe = further_recipe(trained, epochs=1)
    assert {name: getattr(recipe, name) for name in weights} == dict.fromkeys(weights, 0.0)
