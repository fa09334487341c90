"""A new classification head on a ViT of timm, torchvision, Hugging Face or ours, for the classes of other images."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from svda_analysis.errors import InputError, one_line
from svda_analysis.model import ViT

_START = 0.02  # the deviation of a new head's weights


def with_new_head(model: nn.Module, classes: Sequence[str], *, seed: int = 0) -> nn.Module:
    """``model`` with a new linear head for ``classes`` in the place of its own, in place; an encoder of Hugging Face
    that has none becomes its library's classifier, with the same weights.

    The head starts from N(0, 0.02^2), drawn from ``seed``, and a bias of zeros. Raises :class:`InputError` for a model
    whose head is not known.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, heads = _headed(model, classes)
        for head in heads:
            nn.init.normal_(head.weight, std=_START)
            if head.bias is not None:
                nn.init.zeros_(head.bias)
    return model


def _headed(model: Any, classes: Sequence[str]) -> tuple[nn.Module, list[nn.Linear]]:
    """The model and its new head, wherever that stands; two of a distilled one."""
    number = len(classes)
    if isinstance(model, ViT):
        model.head = _linear_like(model.head, number)
        model.config = dataclasses.replace(model.config, num_classes=number)
        return model, [model.head]
    if hasattr(model, "reset_classifier"):  # timm
        model.reset_classifier(number)
        return model, _linear_heads(model.get_classifier(), model)
    if hasattr(model, "config") and hasattr(model, "base_model_prefix"):
        return _of_hugging_face(model, classes)
    heads = getattr(model, "heads", None)
    if isinstance(getattr(heads, "head", None), nn.Linear):  # torchvision
        model.heads.head = _linear_like(model.heads.head, number)
        model.num_classes = number
        return model, [model.heads.head]
    raise InputError(f"{type(model).__name__} cannot get a new head: where its own stands is not known")


def _of_hugging_face(model: Any, classes: Sequence[str]) -> tuple[nn.Module, list[nn.Linear]]:
    told = {"id2label": dict(enumerate(classes)), "label2id": {name: at for at, name in enumerate(classes)}}
    if isinstance(head := getattr(model, "classifier", None), nn.Linear):
        for name, value in {**told, "num_labels": len(classes)}.items():
            setattr(model.config, name, value)
        model.num_labels = len(classes)
        model.classifier = _linear_like(head, len(classes))
        return model, [model.classifier]
    import transformers

    name = type(model).__name__
    config = type(model.config).from_dict({**model.config.to_dict(), **told, "architectures": []})
    try:
        found: Any = transformers.AutoModelForImageClassification.from_config(config, attn_implementation="sdpa")
        lacking = getattr(found, found.base_model_prefix).load_state_dict(model.state_dict(), strict=False).missing_keys
    except (ValueError, AttributeError, RuntimeError) as error:
        raise InputError(f"{name} cannot get a head for classes: {one_line(error)[:200]}") from None
    if lacking:
        raise InputError(f"{name} cannot get a head for classes: its weights lack {lacking[0]}")
    heads = _linear_heads(getattr(found, "classifier", None), found)
    return found.to(next(model.parameters())).train(model.training), heads


def _linear_heads(given: Any, model: nn.Module) -> list[nn.Linear]:
    heads = list(given) if isinstance(given, tuple) else [given]
    if not all(isinstance(head, nn.Linear) for head in heads):
        raise InputError(f"{type(model).__name__} cannot get a new head: its own would be no linear layer")
    return heads


def _linear_like(head: nn.Linear, outputs: int) -> nn.Linear:
    like = {"device": head.weight.device, "dtype": head.weight.dtype}
    return nn.Linear(head.in_features, outputs, bias=head.bias is not None, **like)
