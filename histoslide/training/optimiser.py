"""The optimiser of a recipe: fastai's Adam, in one fused kernel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from fastai.optimizer import OptimWrapper

from histoslide.training.recipe import Recipe

SQUARED_MOMENTUM = 0.99
"""Decay of the squared gradients in fastai's Adam."""


class SparingAdamW(torch.optim.AdamW):
    """AdamW whose weight decay spares batch norms and biases: everything of one dimension.

    They keep the parameter group they are in, so that fastai's freezing and rates still apply.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step, as ``torch.optim.AdamW.step``."""
        groups = self.param_groups
        self.param_groups = [part for group in groups for part in _decayed_and_not(group)]
        try:
            return super().step(closure)
        finally:
            self.param_groups = groups


def optimiser(recipe: Recipe) -> Callable[..., OptimWrapper]:
    """What a fastai Learner makes its optimiser with."""
    kind = torch.optim.AdamW if recipe.decay_norms else SparingAdamW
    # The same as fastai's Adam, in one fused kernel instead of dozens for every parameter.
    fused = partial(kind, betas=(0.9, SQUARED_MOMENTUM), eps=recipe.epsilon, fused=True)
    return partial(OptimWrapper, opt=fused)


def _decayed_and_not(group: dict[str, Any]) -> list[dict[str, Any]]:
    decayed = [p for p in group["params"] if p.ndim > 1]
    spared = [p for p in group["params"] if p.ndim <= 1]
    return [group | {"params": decayed}, group | {"params": spared, "weight_decay": 0.0}]
