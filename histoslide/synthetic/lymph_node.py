"""Scenes: a lymph node with metastases, drawn, and the truth about it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from histoslide.synthetic.anatomy import draw_anatomy
from histoslide.synthetic.carcinoma import draw_carcinoma
from histoslide.synthetic.light import see
from histoslide.synthetic.pyramid import write_slide
from histoslide.synthetic.stains import stain_fat, stain_ground, stain_nuclei


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A drawn lymph node and the truth about it."""

    pixels: NDArray[np.uint8]
    """RGB, shape (height, width, 3)."""
    tumour: NDArray[np.bool_]
    """True in metastatic carcinoma, shape (height, width)."""
    mpp: float
    """Micrometres per pixel."""


def scene_slide(
    path: Path | str,
    *,
    width: int,
    height: int,
    mpp: float,
    seed: int,
    downsamples: Sequence[float] = (4.0,),
    overwrite: bool = False,
) -> Scene:
    """Write ``scene`` as a JPEG-compressed slide and return it.

    Raises:
        OutputExistsError: ``path`` exists and ``overwrite`` is false.
        ValueError: an argument is out of range, or a level would have no pixel.
    """
    path = Path(path)
    drawn = scene(width, height, mpp=mpp, seed=seed)
    write_slide(path, drawn.pixels, mpp=mpp, downsamples=downsamples, overwrite=overwrite)
    return drawn


def scene(width: int, height: int, *, mpp: float, seed: int) -> Scene:
    """Draw a lymph node with one or two metastases, as in haematoxylin and eosin.

    The organ fits itself to the picture; its cells have their true size in micrometres. Stains are
    laid down as concentrations and seen through Beer and Lambert's law. It is made to be looked at
    and to exercise a pipeline, not to measure how well a model finds tumour.

    Args:
        width: pixels, at least 64.
        height: pixels, at least 64.
        mpp: micrometres per pixel.
        seed: picks the node; the same arguments draw the same pixels.

    Raises:
        ValueError: the size or the resolution is out of range.
    """
    if min(width, height) < 64 or not (math.isfinite(mpp) and mpp > 0):
        raise ValueError(f"cannot draw {width}×{height} pixels at {mpp} µm/px")
    rng = np.random.default_rng(seed)
    anatomy = draw_anatomy(width, height, mpp, rng)
    carcinoma = draw_carcinoma(anatomy, mpp, rng)
    haematoxylin, eosin = stain_ground(anatomy, carcinoma, mpp, rng)
    stain_fat(anatomy, haematoxylin, eosin, mpp, rng)
    stain_nuclei(anatomy, carcinoma, haematoxylin, mpp, rng)
    pixels = see(haematoxylin, eosin, mpp, rng)
    return Scene(pixels=pixels, tumour=carcinoma.mask, mpp=mpp)
