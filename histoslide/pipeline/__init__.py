"""The story: what happens to a slide from its file to its heatmap and picture.

Many slides are the work of ``histoslide.cohort.run``, which takes the same steps;
``histoslide.tiling.slide`` cuts a slide into tiles instead.

The names in ``__init__.pyi`` are loaded on first use: who only lists slides, or reads of results,
needs nothing that scores.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
