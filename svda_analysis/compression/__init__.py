"""Smaller models: score directions ranked, weak ones removed with their rows of W_q and W_k, and what that cost.

Names are imported when they are first used: ``keep`` needs no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
