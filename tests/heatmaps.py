"""Heatmaps of known values, stored as a run would store them, without a slide or a network."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from histoslide.geometry import Box, Mpp, Size
from histoslide.grid.cells import TileGrid
from histoslide.grid.status import Status
from histoslide.model import ModelSpec
from histoslide.model.engine import FULL_PRECISION
from histoslide.scoring.block import block_dtype
from histoslide.scoring.lazy import LazyHeatmap
from histoslide.scoring.mode import EXACT
from histoslide.scoring.record import MaskRecord, ModelRecord, SlideRecord
from histoslide.store import Heatmap, NgffVersion, store_heatmap


def stored_heatmap(
    path: Path,
    probability: NDArray[Any],
    *,
    status: NDArray[np.uint8] | None = None,
    mpp: float = 0.25,
    model_mpp: float = 1.0,
    stride_px: int = 32,
    size_l0: Size | None = None,
    bounds_l0: Box | None = None,
    classes: tuple[str, ...] = ("normal", "tumour"),
    ngff: NgffVersion = "0.5",
    name: str = "made.tif",
    quickhash: str = "made",
    model: str = "made",
) -> Heatmap:
    """Store given probabilities; see ``lazy_of`` for the arguments."""
    lazy = lazy_of(
        probability,
        status=status,
        mpp=mpp,
        model_mpp=model_mpp,
        stride_px=stride_px,
        size_l0=size_l0,
        bounds_l0=bounds_l0,
        classes=classes,
        name=name,
        quickhash=quickhash,
        model=model,
    )
    return store_heatmap(lazy, path, ngff=ngff)


def lazy_of(
    probability: NDArray[Any],
    *,
    status: NDArray[np.uint8] | None = None,
    mpp: float = 0.25,
    model_mpp: float = 1.0,
    stride_px: int = 32,
    size_l0: Size | None = None,
    bounds_l0: Box | None = None,
    classes: tuple[str, ...] = ("normal", "tumour"),
    name: str = "made.tif",
    quickhash: str = "made",
    model: str = "made",
) -> LazyHeatmap:
    """A heatmap of given probabilities, to be stored.

    Args:
        probability: of the tumour, shape (rows, cols), or of all classes (rows, cols, classes);
            NaN becomes background unless `status` says otherwise.
        status: of every cell.
        mpp: of the slide.
        model_mpp: of the model.
        stride_px: side of a cell, in model pixels; the label footprint is 32.
        size_l0: of the slide; None for one that ends where the cells end.
        bounds_l0: of the slide.
        classes: of the model; two have a tumour class, the second.
        name: of the slide.
        quickhash: of the slide.
        model: name of the model.
    """
    rows, cols = probability.shape[:2]
    cell_l0 = stride_px * model_mpp / mpp
    spec = ModelSpec(
        name=model,
        architecture="none",
        classes=classes,
        tumour_class=classes[1] if len(classes) == 2 else None,
        mpp=model_mpp,
        input_px=96,
        label_px=32,
    )
    grid = TileGrid(
        size_l0=size_l0 or Size(int(cols * cell_l0), int(rows * cell_l0)),
        slide_mpp=Mpp(value=mpp, source="--mpp"),
        model_mpp=model_mpp,
        input_px=96,
        label_px=32,
        stride_px=stride_px,
        block_cells=32,
    )
    assert grid.shape == (rows, cols)
    blocks = np.zeros((rows, cols), dtype=block_dtype(len(classes)))
    values = np.asarray(probability, dtype=np.float32)
    if values.ndim == 2:
        values = np.stack([1 - values, values], axis=2)
    blocks["probability"] = values
    scored = np.isfinite(values[..., 0])
    if status is None:
        status = np.where(scored, Status.SCORED, Status.BACKGROUND).astype(np.uint8)
    blocks["status"] = status
    return LazyHeatmap(
        scorer=lambda _, block_id: blocks[grid.block(*block_id).slices],
        plan=np.where(scored, Status.PENDING, status).astype(np.uint8),
        grid=grid,
        spec=spec,
        slide=SlideRecord(
            name=name,
            size_l0=(grid.size_l0.width, grid.size_l0.height),
            quickhash=quickhash,
            vendor=None,
            bounds_l0=None
            if bounds_l0 is None
            else (bounds_l0.x, bounds_l0.y, bounds_l0.width, bounds_l0.height),
            mpp=mpp,
            mpp_source="--mpp",
        ),
        mask=MaskRecord(
            method="none", settings={}, threshold=0.1, tissue_share=1.0, roi=None, warnings=()
        ),
        mode=EXACT,
        engine=FULL_PRECISION,
        model=ModelRecord.of(spec, sha256="made"),
        device="cpu",
    )
