"""How the cells of a block come by their probabilities: exact, dense or a cascade."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np

from histoslide.errors import HistoslideError
from histoslide.model import ModelSpec
from histoslide.model.first_look import FirstLook
from histoslide.model.work import Areas, Glances, Tiles, Views, Work

Mode = Literal["exact", "cascade", "dense"]

MODES: tuple[Mode, ...] = ("exact", "cascade", "dense")

Extra = Literal["disagreement", "looks"]
"""What some modes leave of every cell beside probability and status: ``disagreement``, the standard
deviation of the probability over eight orientations; ``looks``, how many networks have seen the
cell, 0 where nothing was scored."""

EXTRA_TYPES: Mapping[Extra, np.dtype[Any]] = {
    "disagreement": np.dtype(np.float32),
    "looks": np.dtype(np.uint8),
}
"""How they are stored; nothing is NaN, or 0."""

DEFAULT_CASCADE_THRESHOLD = 0.15
"""Dense probability from which a cascade looks again; docs/explanation/engine.md has what it loses
with the weights that ship."""


class Compiles(Protocol):
    """What can be made ready for a kind of work, as ``histoslide.model.Model`` can."""

    def compile(self, work: Work, *, only_kept: bool = False) -> None:
        """See ``Model.compile``."""
        ...


@dataclass(frozen=True, kw_only=True)
class ScoreMode:
    """How the cells of a block come by their probabilities.

    Raises:
        HistoslideError: settings that do not go together, or a threshold outside 0-1.
    """

    mode: Mode = "exact"
    """``exact``: every tile by itself. ``dense``: areas in one pass, see
    ``histoslide.model.graphs.AreaGraph``. ``cascade``: tiles by the model of ``first_look``, or
    without one dense, then exact tiles where that leaves a doubt: from ``cascade_threshold`` on."""
    cascade_threshold: float = DEFAULT_CASCADE_THRESHOLD
    """Probability of tumour at the first look, 0-1, from which, up to ``first_look.certain``, a
    cell is scored again as a tile."""
    first_look: FirstLook | None = None
    """The model that looks first in a cascade; ``histoslide.scoring.cascade`` has it with it."""
    tta: bool = False
    """Test-time augmentation: every tile in all eight orientations."""

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise HistoslideError(f"unknown mode {self.mode!r}: choose from {', '.join(MODES)}")
        if self.tta and self.mode != "exact":
            raise HistoslideError(
                f"--tta turns single tiles: it needs --mode exact, not {self.mode}"
            )
        if self.first_look is not None and self.mode != "cascade":
            raise HistoslideError(f"a first look is for --mode cascade, not {self.mode}")
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
        if self.first_look is not None:
            return Glances(), tiles
        areas = Areas(stride_px=stride_px)
        return (areas,) if self.mode == "dense" else (areas, tiles)

    @property
    def extras(self) -> tuple[Extra, ...]:
        """What it leaves of every cell beside probability and status."""
        if self.tta:
            return ("disagreement",)
        return () if self.first_look is None else ("looks",)

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

    def compile(self, model: Compiles, *, stride_px: int, only_kept: bool = False) -> None:
        """Make ready what a model computes with in this mode; see ``Model.compile``."""
        for work in self.works(stride_px):
            model.compile(work, only_kept=only_kept)


EXACT = ScoreMode()
"""Every tile by itself, as it is."""
