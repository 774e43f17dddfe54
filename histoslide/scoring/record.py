"""What a heatmap records before it is computed: of its slide, its mask, its model and its mode.

``histoslide.store.record`` holds these and the rest. They are as they lie in the store; what can be
computed with lies beside them in ``LazyHeatmap`` and ``Heatmap``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from histoslide.geometry import Mpp, Size
from histoslide.model import ModelSpec
from histoslide.model.first_look import FirstLook
from histoslide.scoring.mode import Mode, ScoreMode
from histoslide.slide import Slide
from histoslide.storage.records import ABSENT, Absent, FileName, Number, Positive, Share, Whole
from histoslide.tissue.masks import TissueMask


@dataclass(frozen=True, kw_only=True)
class SlideRecord:
    """The slide."""

    name: FileName
    """Of its file."""
    size_l0: tuple[Whole, Whole]
    """Width and height in level-0 pixels."""
    quickhash: str
    """Tells slides apart."""
    vendor: str | None
    """As OpenSlide calls it."""
    bounds_l0: tuple[Number, Number, Number, Number] | None
    """x, y, width and height of the scanned part in level-0 pixels, where the slide says so."""
    mpp: Positive
    """Micrometres per level-0 pixel."""
    mpp_source: str
    """Where that comes from."""

    @classmethod
    def of(cls, slide: Slide, mpp: Mpp) -> SlideRecord:
        """What is recorded of a slide whose resolution is known."""
        size, bounds = slide.size_l0, slide.bounds_l0
        return cls(
            name=slide.name,
            size_l0=(size.width, size.height),
            quickhash=slide.quickhash,
            vendor=slide.properties.get("openslide.vendor"),
            bounds_l0=None if bounds is None else (bounds.x, bounds.y, bounds.width, bounds.height),
            mpp=mpp.value,
            mpp_source=mpp.source,
        )

    @property
    def size(self) -> Size:
        """Of level 0."""
        return Size(*self.size_l0)

    @property
    def resolution(self) -> Mpp:
        """Of level 0, with its source."""
        return Mpp(value=self.mpp, source=self.mpp_source)


@dataclass(frozen=True, kw_only=True)
class MaskRecord:
    """How it was chosen which cells to score."""

    method: str
    """A key of ``histoslide.tissue.masks.METHODS``, or ``file``."""
    settings: Mapping[str, Any]
    """What the method was told."""
    threshold: Share
    """Part of the label footprint that had to be tissue."""
    tissue_share: Share
    """Part of the slide that is tissue."""
    roi: Mapping[str, Any] | None
    """The same of the region of interest, where there was one."""
    warnings: tuple[str, ...]
    """What a person should know before trusting the mask."""

    @classmethod
    def of(cls, tissue: TissueMask, roi: TissueMask | None, *, threshold: float) -> MaskRecord:
        """What is recorded of a mask and how it was used."""
        return cls(
            method=tissue.method,
            settings=dict(tissue.settings),
            threshold=threshold,
            tissue_share=tissue.tissue_share,
            roi=None if roi is None else dict(roi.settings),
            warnings=tissue.warnings,
        )


@dataclass(frozen=True, kw_only=True)
class ModelRecord:
    """The model."""

    name: str
    """As its spec has it."""
    sha256: str
    """Of the weights."""
    spec: Mapping[str, Any]
    """The whole spec of the bundle, word for word: that of another release may know more, and must
    not lose it. ``Heatmap.spec`` is the value."""
    ranges_sha256: str | Absent = ABSENT
    """Of the ranges that int8 rounds activations by; only where it did."""

    @classmethod
    def of(cls, spec: ModelSpec, *, sha256: str, ranges_sha256: str | None = None) -> ModelRecord:
        """What is recorded of a model."""
        return cls(
            name=spec.name,
            sha256=sha256,
            spec=json.loads(spec.to_json()),
            ranges_sha256=ABSENT if ranges_sha256 is None else ranges_sha256,
        )


@dataclass(frozen=True, kw_only=True)
class ModeRecord:
    """How the cells came by their probabilities."""

    mode: Mode
    """``exact``, ``cascade`` or ``dense``."""
    tta: bool
    """Whether every tile was scored in all eight orientations."""
    cascade_threshold: Share | Absent = ABSENT
    """Probability of tumour at the first look from which, up to ``first_look.certain``, a cell was
    scored again as a tile; of a cascade."""
    first_look: FirstLook | Absent = ABSENT
    """The model that looked first; of a cascade with one."""

    @classmethod
    def of(cls, mode: ScoreMode) -> ModeRecord:
        """What is recorded of a mode: what decides the values."""
        cascade = mode.mode == "cascade"
        return cls(
            mode=mode.mode,
            tta=mode.tta,
            cascade_threshold=mode.cascade_threshold if cascade else ABSENT,
            first_look=ABSENT if mode.first_look is None else mode.first_look,
        )

    @property
    def value(self) -> ScoreMode:
        """The mode, to score so again."""
        if isinstance(self.cascade_threshold, Absent):
            return ScoreMode(mode=self.mode, tta=self.tta)
        first = None if isinstance(self.first_look, Absent) else self.first_look
        threshold = self.cascade_threshold
        return ScoreMode(
            mode=self.mode, tta=self.tta, cascade_threshold=threshold, first_look=first
        )
