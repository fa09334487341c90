"""Labelled images: :func:`load_dataset` finds a data set, checks its files and hands out normalised batches.

Adding a data set is one entry in :data:`DATASETS` (``catalog.py``). Names are imported when they are first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
