"""Finding a learning rate: fastai's finder on the first stage of a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from fastai.callback.schedule import LRFinder, ParamScheduler, valley
from fastai.learner import Learner

from histoslide.datasets import PatchData
from histoslide.errors import DataError
from histoslide.evaluation.patches.history import RateSearch
from histoslide.model.devices import pick_device
from histoslide.training.checkpoint import seed_epoch
from histoslide.training.learner import fitted_learner
from histoslide.training.loaders import reseed
from histoslide.training.network import start_network
from histoslide.training.recipe import Recipe
from histoslide.training.teachers import Teacher

STEPS = 100
"""Steps of the finder; fastai's own number."""


def find_rate(
    data: PatchData,
    recipe: Recipe,
    *,
    device: torch.device | None = None,
    seed: int = 42,
    workers: int = 0,
    initial: dict[str, torch.Tensor] | None = None,
    teachers: Sequence[Teacher] = (),
) -> RateSearch:
    """Train the first stage with a growing rate, and suggest one from the longest valley.

    The network, as the stage freezes it, is a fresh one: training starts where it would anyway.

    Args:
        data: what to train on.
        recipe: whose first stage is tried.
        device: where; None picks as ``histoslide.model.pick_device``.
        seed: of weights, order and augmentation.
        workers: processes that decode patches.
        initial: state dict to start from instead of ImageNet or random weights.
        teachers: models whose judgement it learns too.

    Raises:
        DataError: the loss has no valley, or a patch cannot be read.
    """
    device = torch.device(pick_device()) if device is None else device
    network = start_network(data, recipe, device=device, seed=seed, initial=initial)
    learner = fitted_learner(
        data,
        recipe,
        recipe.stages[0],
        network,
        device=device,
        workers=workers,
        teachers=teachers,
    )
    reseed(learner.dls, seed_epoch(seed, 0))
    epochs = STEPS // len(learner.dls.train) + 1
    with learner.no_bar(), learner.no_logging():
        learner.fit(epochs, cbs=_Finder(num_it=STEPS))
    return _search(learner)


def scale_rates(recipe: Recipe, highest: float) -> Recipe:
    """The recipe whose first stage rises to ``highest``, the others in proportion."""
    factor = highest / max(recipe.stages[0].rates)
    stages = tuple(stage.scaled(factor) for stage in recipe.stages)
    return dataclasses.replace(recipe, stages=stages)


class _Finder(LRFinder):
    """fastai's finder without the files that bring the weights back: this network has served."""

    def before_fit(self) -> None:
        ParamScheduler.before_fit(self)
        self.best_loss = float("inf")

    def after_fit(self) -> None:
        ParamScheduler.after_fit(self)


def _search(learner: Learner) -> RateSearch:
    """What was seen, and the suggestion of fastai's ``lr_find`` for it."""
    losses = np.array([float(loss) for loss in learner.recorder.losses])
    rates = np.array(learner.recorder.lrs, dtype=np.float64)
    known = np.isfinite(losses)
    losses, rates = losses[known], rates[known]
    inner = slice(STEPS // 10, -5)
    if len(losses[inner]) < 2 or losses[inner].min() >= losses[inner][0]:
        raise DataError("no learning rate can be suggested: the loss never fell; pass --lr RATE")
    suggestion, _ = valley(torch.tensor(rates[inner]), torch.tensor(losses[inner]), STEPS)
    return RateSearch(lrs=rates, losses=losses, suggestion=float(suggestion))
