"""Labelled images: :func:`load_dataset` finds a data set, checks its files and hands out normalised batches.

What there is stands in ``__init__.pyi``. Names are imported when they are first used, so that the catalogue can be read
without torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
