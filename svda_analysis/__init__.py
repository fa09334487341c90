"""How does a Vision Transformer attend? Train, measure and compare baseline and SVD-inspired attention.

>>> import svda_analysis as sa
>>> result = sa.analyze("checkpoint.pt")                       # doctest: +SKIP
>>> sa.plots.plot_indicator_by_layer(result.table, indicator="attention_entropy")  # doctest: +SKIP

What there is stands in ``__init__.pyi``. Names are imported when they are first used, so that importing the package
does not import torch.
"""

from importlib import import_module
from typing import Any

import lazy_loader

__version__ = "0.3.0"

_attribute, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name == "plots":  # the figures by their short name
        return import_module("svda_analysis.figures")
    return _attribute(name)
