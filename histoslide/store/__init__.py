"""heat.zarr: writing a heatmap block by block, resuming it, completing it, reading it.

Level 0 holds the probabilities, ``labels/status/0`` what happened to each cell. A block's
probabilities are written before its status, so a block whose status is there is done, whatever
moment a run was killed at. Pyramid levels and ``complete: true`` come last.

``arrays`` knows what the arrays are called, ``layout`` and ``pyramid`` make them; ``record`` is
what is said of them and ``metadata`` where it lies; ``stored`` reads, ``doubts`` says what speaks
against what was read; ``target`` chooses where to
write, ``blocks`` runs and writes, ``writing`` tells the whole story of it, and ``conversion``
writes once more what is stored.
"""

from histoslide.store.blocks import BlockTarget, reopened
from histoslide.store.conversion import convert_heatmap
from histoslide.store.doubts import doubts_of
from histoslide.store.layout import NgffVersion
from histoslide.store.metadata import metadata_schema, refuse_other_settings
from histoslide.store.pyramid import halve_probability, halve_status, level_shapes, pyramid
from histoslide.store.record import CellCounts, HeatmapRecord
from histoslide.store.stored import Heatmap, PyramidLevel, open_heatmap, readable
from histoslide.store.writing import plan_begun_with, store_heatmap

__all__ = [
    "BlockTarget",
    "CellCounts",
    "Heatmap",
    "HeatmapRecord",
    "NgffVersion",
    "PyramidLevel",
    "convert_heatmap",
    "doubts_of",
    "halve_probability",
    "halve_status",
    "level_shapes",
    "metadata_schema",
    "open_heatmap",
    "plan_begun_with",
    "pyramid",
    "readable",
    "refuse_other_settings",
    "reopened",
    "store_heatmap",
]
