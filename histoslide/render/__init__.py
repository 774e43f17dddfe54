"""Pictures for people: heatmap overlays, mask checks, differences and contact sheets.

``overlay``, ``mask_picture``, ``difference`` and ``tile_sheet`` draw one picture each, which
``png`` writes. They lay ``outlines`` and ``bars`` on a ``canvas``; ``blending`` and ``cell_pixels``
turn cells into colours and pixels, ``paper`` takes the place of a slide that is not at hand, and
``notebook`` shows a heatmap in Jupyter.

The names in ``__init__.pyi`` are loaded on first use: most bring Matplotlib, which who only reads
or writes a PNG does not need.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
