"""Studies: the runs that a manifest asks for, measured once, and their report. Names are imported when used."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
