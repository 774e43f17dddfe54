"""How lesions are found."""

from __future__ import annotations

from dataclasses import dataclass

from histoslide.errors import HistoslideError

DEFAULT_SEED = 0.84
"""Probability that at least one cell of a focus must reach: 97 % of the 710 tumour-free
validation patches that the ResNet50 that ships was chosen on lie below it (55 % of the 725 with
tumour above; of the light model 98 and 64 %)."""

DEFAULT_EXTEND = 0.5
"""Probability from which a cell belongs to the focus that it touches: 90 % of those tumour-free
patches lie below it (82 % of those with tumour above; of the light model 94 and 81 %)."""

DEFAULT_GAP_UM = 75.0
"""Foci nearer than this are one: five tumour cells, as in the evaluation of CAMELYON16."""


@dataclass(frozen=True, kw_only=True)
class LesionSettings:
    """How foci are found.

    Raises:
        HistoslideError: a value is out of range.
    """

    class_name: str | None = None
    """Class of the heatmap; None for its tumour class."""
    seed_probability: float = DEFAULT_SEED
    """A focus holds at least one cell at or above it."""
    extend_probability: float = DEFAULT_EXTEND
    """A focus consists of connected cells at or above it."""
    smoothing_um: float = 0.0
    """Standard deviation of the Gaussian that the heatmap is smoothed with before; 0 for none."""
    join_gap_um: float = DEFAULT_GAP_UM
    """Foci whose outlines are nearer than this are one lesion; 0 for none."""
    min_cells: int = 1
    """Lesions of fewer cells are left out."""
    score_cells: int = 4
    """Size of the group of cells that the slide score is taken from."""

    def __post_init__(self) -> None:
        for name in ("seed_probability", "extend_probability"):
            if not 0 < getattr(self, name) <= 1:
                raise HistoslideError(
                    f"the {name.replace('_', ' ')} must be above 0 and at most 1, "
                    f"not {getattr(self, name)}"
                )
        if self.extend_probability > self.seed_probability:
            raise HistoslideError(
                f"the extend probability {self.extend_probability:g} must not exceed the seed "
                f"probability {self.seed_probability:g}"
            )
        for name in ("smoothing_um", "join_gap_um"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise HistoslideError(
                    f"{name.removesuffix('_um').replace('_', ' ')} must be 0 µm or more, "
                    f"not {getattr(self, name)}"
                )
        for name in ("min_cells", "score_cells"):
            if getattr(self, name) < 1:
                raise HistoslideError(
                    f"{name.replace('_', ' ')} must be at least 1, not {getattr(self, name)}"
                )
