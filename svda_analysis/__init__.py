"""How does a Vision Transformer attend? Train, measure and compare baseline and SVD-inspired attention.

>>> import svda_analysis as sa
>>> result = sa.analyze("checkpoint.pt")                       # doctest: +SKIP
>>> sa.plots.plot_indicator_by_layer(result.table, indicator="attention_entropy")  # doctest: +SKIP

Names below are imported when they are first used, so that importing the package does not import torch.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

from svda_analysis.errors import InputError

_HOMES = {
    "analyze": "analyze",
    "Analysis": "results",
    "Examples": "results",
    "AttentionRecord": "capture",
    "attribute": "attribute",
    "capture": "capture",
    "records": "capture",
    "compare": "compare",
    "compress": "compress",
    "compress_model": "compress",
    "compress_and_verify": "verify",
    "faithfulness": "faithfulness",
    "compare_maps": "maps",
    "summarise": "compare",
    "INDICATORS": "indicators",
    "ViT": "model",
    "ViTConfig": "model",
    "dot_product_attention": "model",
    "svda_attention": "model",
    "cosine_attention": "model",
    "DATASETS": "data",
    "load_dataset": "data",
    "Checkpoint": "checkpoint",
    "load_model": "checkpoint",
    "open_model": "specs",
    "MapBatch": "matching",
    "MapComparison": "matching",
    "TrainConfig": "train",
    "train": "train",
    "write_report": "report",
}
_MODULES = ("checkpoint", "data", "indicators", "model", "plots", "report", "results")
__all__ = ["InputError", *_HOMES, *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    elif name in _MODULES:
        value = import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        """Let no submodule hide the function of its name: ``sa.analyze`` stays callable once ``analyze.py`` is in."""
        if not (name in _HOMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
