"""Two-tower models of images and texts as classifiers: what is asked of an image is how well each text fits it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from svda_analysis.errors import InputError, reading

_OF_TOKENIZERS = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")


class ImageText(nn.Module):
    """The similarity of images with fixed texts, ``(B, C, H, W) -> (B, texts)``, as the model itself gives it:
    ``exp(logit_scale) cos(image, text)`` (Radford et al. 2021, CLIP), plus ``logit_bias`` where there is one (Zhai et
    al. 2023, SigLIP, whose outputs are logits of a sigmoid). The texts are embedded once.
    """

    embedded: Tensor

    def __init__(self, model: Any, texts: Sequence[str], embedded: Tensor) -> None:
        super().__init__()
        self.model, self.classes, self.num_classes = model, tuple(texts), len(texts)
        self.register_buffer("embedded", F.normalize(embedded, dim=-1))
        self.config = copy.deepcopy(getattr(model.config, "vision_config", model.config))
        if self._bias is not None:
            self.config.problem_type = "multi_label_classification"

    @property
    def _bias(self) -> Any:
        return getattr(self.model, "logit_bias", None)

    def forward(self, pixel_values: Tensor, interpolate_pos_encoding: bool = False) -> Tensor:
        options = {"interpolate_pos_encoding": True} if interpolate_pos_encoding else {}
        model: Any = self.model
        images = F.normalize(_pooled(model.get_image_features(pixel_values=pixel_values, **options)), dim=-1)
        logits = model.logit_scale.exp() * images @ self.embedded.T
        return logits if self._bias is None else logits + self._bias


def with_texts(transformers: Any, model: Any, folder: str, texts: Sequence[str], local: Any) -> ImageText:
    """A two-tower model that asks for ``texts``, by the tokenizer in its folder."""
    if not all(hasattr(model, name) for name in ("get_image_features", "get_text_features", "logit_scale")):
        raise InputError(f"text needs a model of images and texts as CLIP or SigLIP, got {type(model).__name__}")
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise InputError(f"text must be one or more texts, got {texts!r}")
    if not any((Path(folder) / name).is_file() for name in _OF_TOKENIZERS):
        raise InputError(f"its folder has no tokenizer, which text needs: one of {', '.join(_OF_TOKENIZERS)}")
    with reading("its tokenizer cannot be read"):
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **local)
    fixed = model.config.model_type.startswith("siglip")  # it learned from texts filled up to one length
    length = {"padding": "max_length", "max_length": model.config.text_config.max_position_embeddings} if fixed else {}
    most = model.config.text_config.max_position_embeddings
    with reading("its tokenizer fails on text"):
        for text, words in zip(texts, tokenizer(list(texts))["input_ids"], strict=True):
            if len(words) > most:
                raise InputError(
                    f"text must have at most {most} tokens for this model, got {len(words)}: {text[:40]!r}"
                )
        tokens = tokenizer(list(texts), return_tensors="pt", **{"padding": True, **length})
        with torch.no_grad():
            embedded = _pooled(model.eval().get_text_features(**tokens))
    return ImageText(model, texts, embedded)


def _pooled(found: Any) -> Tensor:
    return found if isinstance(found, Tensor) else found.pooler_output
