"""What lesions were found in."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version

from histoslide.storage.records import Number
from histoslide.store import Heatmap


@dataclass(frozen=True, kw_only=True)
class LesionSource:
    """Slide, cells, heatmap and model, as recorded in the heatmap."""

    slide: str
    """File name."""
    quickhash: str
    """Tells slides apart."""
    size_l0: tuple[int, int]
    """Width and height of the slide in level-0 pixels."""
    mpp: Number
    """Micrometres per level-0 pixel."""
    mpp_source: str
    """Where that comes from."""
    cell_um: Number
    """Side of a cell in micrometres."""
    cell_l0: Number
    """Side of a cell in level-0 pixels."""
    heatmap_id: str
    """``Heatmap.id``."""
    model: str
    """Name of the model."""
    model_sha256: str
    """Of its weights."""
    histoslide: str
    """Version that looked for the lesions."""

    @classmethod
    def of(cls, heatmap: Heatmap) -> LesionSource:
        """What is said of a heatmap."""
        slide, model, grid = heatmap.record.slide, heatmap.record.model, heatmap.grid
        return cls(
            slide=slide.name,
            quickhash=slide.quickhash,
            size_l0=slide.size_l0,
            mpp=slide.mpp,
            mpp_source=slide.mpp_source,
            cell_um=grid.cell_um,
            cell_l0=grid.cell_l0,
            heatmap_id=heatmap.id,
            model=model.name,
            model_sha256=model.sha256,
            histoslide=version("histoslide"),
        )
