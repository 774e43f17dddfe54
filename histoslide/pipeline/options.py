"""How slides are worked on."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from histoslide.errors import HistoslideError
from histoslide.lesions import LesionSettings
from histoslide.render.png import DEFAULT_OVERLAY_PX
from histoslide.scoring.lazy import DEFAULT_THRESHOLD, DEFAULT_TISSUE_THRESHOLD
from histoslide.scoring.mode import ScoreMode
from histoslide.scoring.runners import Runner
from histoslide.slide import Slide, require_mpp
from histoslide.slide.access import DEFAULT_ACCESS, SlideAccess
from histoslide.store import NgffVersion
from histoslide.tissue.mask_files import read_mask
from histoslide.tissue.masks import METHODS, TissueMask, find_tissue
from histoslide.tissue.ruler import read_ruler

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class TissueOptions:
    """Which part of a slide is worked on."""

    method: str = "otsu"
    """A key of ``histoslide.tissue.masks.METHODS``."""
    threshold: float = DEFAULT_TISSUE_THRESHOLD
    """Part of the label footprint that must be tissue, 0-1."""
    mask: Path | None = None
    """Mask file (a picture or polygons) instead of a method."""
    roi: Path | None = None
    """Region of interest (a picture or polygons); everything else is excluded."""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise HistoslideError(
                f"unknown tissue method {self.method!r}: choose from {', '.join(METHODS)}"
            )
        if not 0 <= self.threshold <= 1:
            raise HistoslideError(f"the tissue threshold must lie in 0-1, not {self.threshold}")

    def with_files(self, *, mask: Path | None, roi: Path | None) -> TissueOptions:
        """The same with a slide's own mask and region of interest, where it has them."""
        return dataclasses.replace(self, mask=mask or self.mask, roi=roi or self.roi)

    def find(
        self, slide: Slide, *, ask_nuclei: bool = True
    ) -> tuple[TissueMask, TissueMask | None]:
        """The slide's tissue mask and region of interest.

        Where the slide's nuclei contradict its resolution, that is one of the mask's warnings.

        Args:
            slide: open.
            ask_nuclei: compare the resolution with them. That reads level 0, and where a read hangs
                it takes time that scoring may not have.

        Raises:
            MaskError: a file cannot be used.
            ResolutionUnknownError: the slide's resolution is not known.
        """
        roi = None if self.roi is None else read_mask(self.roi, slide)
        if self.mask is not None:
            tissue = read_mask(self.mask, slide)
        else:
            tissue = find_tissue(slide, METHODS[self.method])
        if roi is not None:
            new = tuple(it for it in roi.warnings if it not in tissue.warnings)
            tissue = dataclasses.replace(tissue, warnings=(*tissue.warnings, *new))
        return _with_doubts(slide, tissue) if ask_nuclei else tissue, roi


def _with_doubts(slide: Slide, tissue: TissueMask) -> TissueMask:
    """The mask, with a warning where the slide's nuclei contradict its resolution."""
    anywhere = np.ones((1, 1), dtype=np.bool_)  # a wrong resolution may leave no tissue at all
    reading = read_ruler(slide, tissue.mask if tissue.mask.any() else anywhere)
    doubt = None if reading is None else reading.doubts(require_mpp(slide))
    if doubt is None:
        return tissue
    logger.warning("%s: %s", slide.name, doubt)
    return dataclasses.replace(tissue, warnings=(*tissue.warnings, doubt))


DEFAULT_TISSUE = TissueOptions()
"""What is worked on where nothing else is asked for."""


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """How slides are scored."""

    stride_px: int | None = None
    """Side of a cell in model pixels; None for the model's label footprint."""
    tissue: TissueOptions = DEFAULT_TISSUE
    """Which part of the slide."""
    mode: ScoreMode | None = None
    """How cells come by their probabilities; None for exact tiles, after the model's first look."""
    runner: Runner | None = None
    """Computes the blocks; None for threads of this process."""
    ngff: NgffVersion = "0.5"
    """OME-Zarr version."""
    overlay: bool = True
    """Also draw a PNG beside the heatmap."""
    overlay_px: int = DEFAULT_OVERLAY_PX
    """Longest side of the slide in it."""
    overlay_threshold: float = DEFAULT_THRESHOLD
    """Probability that is outlined in it."""
    lesions: LesionSettings | None = dataclasses.field(default_factory=LesionSettings)
    """How lesions are found for the tables beside the heatmap; None for no tables."""
    mask_png: bool = False
    """Also draw mask and grid, before scoring."""
    overwrite: bool = False
    """Replace outputs that exist."""
    retry_unreadable: bool = False
    """Score the blocks of heatmaps again in which cells could not be read."""
    access: SlideAccess = DEFAULT_ACCESS
    """How slides are opened."""
    command: str | None = None
    """Command line for the metadata, without absolute paths."""
    timeout_s: float | None = None
    """Seconds that a slide may be in work, not counting its wait for others; None for ever."""
