"""Slides made from nothing: real pyramidal TIFF files for tests, demonstrations and benchmarks.

Three kinds. A *fiducial* slide encodes in its colour where every pixel lies, so that a misplaced
read is seen at once. A *mosaic* lays labelled patches on a grid. A *scene* looks like a lymph node
with metastases in haematoxylin and eosin, and comes with the true outline of its tumour.

Everything follows from the arguments alone: the same call writes the same pixels.

``pyramid`` writes the files, ``fiducial``, ``mosaic`` and ``lymph_node`` fill them. Of a scene,
``anatomy`` and ``carcinoma`` say what lies where, ``stains`` and ``nuclei`` lay the stains down,
``light`` shines through them; ``field`` and ``sites`` are the noise and the points they draw from.
"""

from __future__ import annotations

from histoslide.synthetic.fiducial import (
    RAMP_FIRST,
    RAMP_LAST,
    decode_fiducial,
    fiducial_slide,
)
from histoslide.synthetic.lymph_node import Scene, scene, scene_slide
from histoslide.synthetic.mosaic import mosaic_slide
from histoslide.synthetic.pyramid import JPEG_QUALITY, TILE_PX, write_slide

__all__ = [
    "JPEG_QUALITY",
    "RAMP_FIRST",
    "RAMP_LAST",
    "TILE_PX",
    "Scene",
    "decode_fiducial",
    "fiducial_slide",
    "mosaic_slide",
    "scene",
    "scene_slide",
    "write_slide",
]
