"""histoslide: whole-slide tiling and batch scoring, metastasis heatmaps of lymph nodes.

The names in ``__init__.pyi`` are loaded on first use, so that ``import histoslide`` costs nothing.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
