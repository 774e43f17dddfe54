"""One one-cycle run of a recipe."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from histoslide.training.recipe.ranges import require

GROUPS = 3
"""Parameter groups of a ResNet in fastai: up to layer2, layer3 and layer4, head."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One one-cycle run of consecutive epochs (Smith 2018).

    Raises:
        DataError: a value is out of its range.
    """

    epochs: int
    """Passes over the training set."""
    lr: float | tuple[float, ...] = 1e-3
    """Highest learning rate of the cycle: one for all parameter groups; two as fastai's
    ``slice(first, last)``, spaced evenly in their logarithm; or one for each of the three groups,
    from the first layers to the head."""
    trainable_groups: int | None = None
    """How many parameter groups learn, counted from the head; 1 is fastai's ``freeze``."""
    train_frozen_norms: bool = True
    """Whether batch norms of frozen groups learn, as fastai's ``train_bn``. It takes the backward
    pass through all of them, which is most of the cost that freezing could save."""
    crop_px: int | None = None
    """Side of the centre crop that is trained on, in model pixels; None for the whole patch.
    Small crops make a run from nothing affordable; the last stage must see whole patches."""
    network_px: int | None = None
    """Side the crop is resized to, in pixels; None as the recipe says."""
    mosaic: float = 0.0
    """Part of the batches whose patches the network sees side by side in one mosaic, so that it
    learns to judge a patch whatever lies beside it; see ``--mode dense``."""
    pct_start: float = 0.25
    """Part of the stage in which the learning rate rises."""
    div: float = 25.0
    """The stage starts at ``lr / div``."""
    div_final: float = 1e5
    """The stage ends at ``lr / div_final``."""

    def __post_init__(self) -> None:
        if isinstance(self.lr, list):  # as TOML and JSON have it
            object.__setattr__(self, "lr", tuple(self.lr))
        require(self.epochs >= 1, "a stage's epochs", "at least 1", self)
        rates = self.lr if isinstance(self.lr, tuple) else (self.lr,)
        good = 1 <= len(rates) <= GROUPS and all(0 < rate < math.inf for rate in rates)
        require(good, "a stage's lr", f"one to {GROUPS} positive numbers", self)
        groups = self.trainable_groups
        good = groups is None or 1 <= groups <= GROUPS
        require(good, "a stage's trainable_groups", f"1 to {GROUPS}", self)
        require(0 < self.pct_start < 1, "a stage's pct_start", "in 0-1", self)
        require(0 <= self.mosaic <= 1, "a stage's mosaic", "in 0-1", self)
        for name in ("div", "div_final"):
            require(getattr(self, name) > 0, f"a stage's {name}", "positive", self)

    @property
    def rates(self) -> tuple[float, ...]:
        """Highest learning rate of each of the three parameter groups."""
        if not isinstance(self.lr, tuple):
            return (self.lr,) * GROUPS
        if len(self.lr) == 2:
            first, last = self.lr
            step = (last / first) ** (1 / (GROUPS - 1))
            return tuple(first * step**group for group in range(GROUPS))
        return self.lr if len(self.lr) == GROUPS else self.lr * GROUPS

    def scaled(self, factor: float) -> Stage:
        """The stage with all its learning rates multiplied."""
        lr = self.lr
        scaled = tuple(r * factor for r in lr) if isinstance(lr, tuple) else lr * factor
        return dataclasses.replace(self, lr=scaled)
