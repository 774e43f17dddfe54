"""How the cells of a block come by their probabilities: exact, dense or a cascade."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from histoslide.errors import HistoslideError
from histoslide.model import Model, ModelSpec
from histoslide.model.work import Areas, Tiles, Views, Work

Mode = Literal["exact", "cascade", "dense"]

MODES: tuple[Mode, ...] = ("exact", "cascade", "dense")

DEFAULT_CASCADE_THRESHOLD = 0.15
"""Dense probability from which a cascade looks again; docs/explanation/engine.md has what it loses
with the weights that ship."""


@dataclass(frozen=True, kw_only=True)
class ScoreMode:
    """How the cells of a block come by their probabilities.

    Raises:
        HistoslideError: settings that do not go together, or a threshold outside 0-1.
    """

    mode: Mode = "exact"
    """``exact``: every tile by itself. ``dense``: areas in one pass, see
    ``histoslide.model.graphs.AreaGraph``. ``cascade``: dense, then exact tiles where the dense
    probability of tumour reaches ``cascade_threshold``."""
    cascade_threshold: float = DEFAULT_CASCADE_THRESHOLD
    """Dense probability of tumour, 0-1, from which a cell is scored again as a tile."""
    tta: bool = False
    """Test-time augmentation: every tile in all eight orientations."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise HistoslideError(f"unknown mode {self.mode!r}: choose from {', '.join(MODES)}")
        if self.tta and self.mode != "exact":
            raise HistoslideError(
                f"--tta turns single tiles: it needs --mode exact, not {self.mode}"
            )
        if not 0 <= self.cascade_threshold <= 1:
            raise HistoslideError(
                f"the cascade threshold must lie in 0-1, not {self.cascade_threshold}"
            )

    def works(self, stride_px: int) -> tuple[Work, ...]:
        """What the network is given, in this order.

        Args:
            stride_px: side of a cell, in model pixels.
        """
        tiles = Views() if self.tta else Tiles()
        if self.mode == "exact":
            return (tiles,)
        areas = Areas(stride_px=stride_px)
        return (areas,) if self.mode == "dense" else (areas, tiles)

    def check(self, spec: ModelSpec, *, stride_px: int) -> None:
        """Make sure that a model can be used so, as far as its spec tells.

        Raises:
            HistoslideError: it cannot, and why.
        """
        for work in self.works(stride_px):
            work.check(spec)
        if self.mode == "cascade" and spec.tumour_class is None:
            raise HistoslideError(
                f"--mode cascade looks for tumour, and model {spec.name} has no tumour class"
            )

    def compile(self, model: Model, *, stride_px: int, only_kept: bool = False) -> None:
        """Make ready what a model computes with in this mode; see ``Model.compile``."""
        for work in self.works(stride_px):
            model.compile(work, only_kept=only_kept)


EXACT = ScoreMode()
"""Every tile by itself, as it is."""
