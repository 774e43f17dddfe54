"""How heatmaps are judged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from histoslide.annotations.class_map import DEFAULT_CLASSES, ClassMap
from histoslide.errors import DataError, HistoslideError
from histoslide.evaluation.bootstrap import RESAMPLES
from histoslide.evaluation.slides.rules import FrocRules
from histoslide.evaluation.slides.slide_level import SPECIFICITIES
from histoslide.lesions import LesionSettings
from histoslide.lesions.peaks import DEFAULT_MAXIMA_ABOVE, DEFAULT_MAXIMA_RADIUS_UM

ScoreKind = Literal["group", "highest", "detection"]
"""The score of a slide: the highest probability that a connected group of cells reaches in common,
the highest of any cell, or the highest of a detection."""

SCORE_KINDS: dict[ScoreKind, str] = {
    "group": "the highest probability that {cells} connected cells reach in common",
    "highest": "the highest probability of any cell",
    "detection": "the highest score of a detection",
}


@dataclass(frozen=True, kw_only=True)
class JudgeOptions:
    """How heatmaps are judged.

    Raises:
        HistoslideError: a value is out of range.
    """

    detections: Literal["lesions", "maxima"] | Path = "lesions"
    """Peaks of lesions, local maxima, or a CSV or a folder of one a slide."""
    settings: LesionSettings = field(default_factory=LesionSettings)
    """How lesions are found; local maxima take class and smoothing from it."""
    maxima_above: float = DEFAULT_MAXIMA_ABOVE
    """Lowest local maximum that counts."""
    maxima_radius_um: float = DEFAULT_MAXIMA_RADIUS_UM
    """No two local maxima are nearer."""
    rules: FrocRules = field(default_factory=FrocRules)
    """How detections and lesions are compared."""
    classes: ClassMap = DEFAULT_CLASSES
    """What the classes of annotations mean."""
    slide_score: ScoreKind = "group"
    """Which score tells slides apart."""
    specificities: Sequence[float] = SPECIFICITIES
    """At which the sensitivity of slides is told."""
    resamples: int = RESAMPLES
    """Of the bootstrap; 0 leaves intervals out."""
    seed: int = 0
    """Of the bootstrap."""

    def __post_init__(self) -> None:
        for value in self.specificities:
            if not 0 < value <= 1:
                raise HistoslideError(f"--specificity must lie above 0 and up to 1, not {value:g}")
        if isinstance(self.detections, Path) and not self.detections.exists():
            raise DataError(f"--detections {self.detections} does not exist")

    @property
    def foreign(self) -> bool:
        """Whether another program detected."""
        return isinstance(self.detections, Path)

    @property
    def detections_of_one(self) -> bool:
        """Whether they are one file, and so of one slide."""
        return isinstance(self.detections, Path) and not self.detections.is_dir()

    def detections_of(self, slide: str) -> Path:
        """The file of another program's detections on a slide.

        Args:
            slide: file name.

        Raises:
            DataError: there is none.
        """
        assert isinstance(self.detections, Path)
        if not self.detections.is_dir():
            return self.detections
        for name in (f"{Path(slide).stem}.csv", f"{slide}.csv"):
            if (self.detections / name).is_file():
                return self.detections / name
        raise DataError(
            f"{self.detections} holds no {Path(slide).stem}.csv: write an empty one where nothing "
            "was detected"
        )

    @property
    def described(self) -> str:
        """What detections are, for a reader."""
        used = self.settings
        if isinstance(self.detections, Path):
            return f"read from {self.detections.name}"
        smooth = f", smoothed by {used.smoothing_um:g} µm" if used.smoothing_um else ""
        if self.detections == "maxima":
            return (
                f"local maxima from {self.maxima_above:g} on, none nearer to a higher one than "
                f"{self.maxima_radius_um:g} µm{smooth}"
            )
        return (
            f"the highest cell of each lesion (seed {used.seed_probability:g}, extended to "
            f"{used.extend_probability:g}, joined under {used.join_gap_um:g} µm, at least "
            f"{used.min_cells} {'cell' if used.min_cells == 1 else 'cells'}{smooth})"
        )
