"""What a model answers: scores of classes, told from features."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from svda_analysis.errors import InputError
from svda_analysis.soundness import NotFiniteError, is_finite


def own_outputs(model: nn.Module) -> int | None:
    """How many classes a model tells apart; 0: it has no classifier; None: not known.

    It says so itself (``num_classes``), unless another head was put in the place of its own: then that does.
    """
    config = getattr(model, "config", None)
    told = getattr(model, "num_classes", getattr(config, "num_classes", None))
    told = told if isinstance(told, int) else None
    heads = (getattr(model, name, None) for name in ("classifier", "heads", "head"))
    layers = [x for head in heads if isinstance(head, nn.Module) for x in head.modules() if isinstance(x, nn.Linear)]
    if layers and (told or (told is None and hasattr(config, "num_labels"))):
        return layers[-1].out_features
    return told


def class_scores(output: Any, model: nn.Module, classes: int = 0) -> Tensor | None:
    """The logits ``(B, classes)`` of what a model returned, a tensor or Hugging Face's output, if they are scores of
    ``classes`` classes (0: their number is not known).

    None for a model without a classifier: what it returns are features, and their largest is no prediction. A model
    says how many classes it tells apart (:func:`own_outputs`), or its logits do.
    Raises :class:`InputError` for scores that are not finite numbers.
    """
    logits = _told_logits(output)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        return None
    told = own_outputs(model)
    if told is None and logits is not output:
        told = getattr(getattr(model, "config", None), "num_labels", None)
    if told is not None and told != logits.shape[-1]:
        return None
    return _answer(logits) if classes in (0, logits.shape[-1]) else None


def logits_of(output: Any, model: nn.Module) -> Tensor:
    """:func:`class_scores`, where there must be some. Raises :class:`InputError` where there are none."""
    if (scores := class_scores(output, model)) is not None:
        return scores
    logits = _told_logits(output)
    came = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    told = f", features of {type(model).__name__}, which has no classifier" if getattr(logits, "ndim", 0) == 2 else ""
    raise InputError(f"model must return class scores (B, classes), got {came}{told}")


def _told_logits(output: Any) -> Any:
    return getattr(output, "logits", output)


def _answer(logits: Tensor) -> Tensor:
    if not is_finite(logits):
        raise NotFiniteError("model must return finite logits, got NaN or inf")
    return logits
