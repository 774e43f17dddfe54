"""Exponential averaging of weights as a fastai callback."""

from __future__ import annotations

from typing import Any

from fastai.callback.core import Callback
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def plain_network(network: nn.Module) -> nn.Module:
    """The network itself, where it is wrapped to train on several devices."""
    return network.module if isinstance(network, nn.parallel.DistributedDataParallel) else network


class WeightAveraging(Callback):
    """Keep an exponential average of the weights; validate with it and end the stage with it."""

    order = 70  # after the optimiser's step, before the recorder reads the metrics

    def __init__(self, decay: float, state: dict[str, Any] | None = None) -> None:
        """Average with this decay a step.

        Args:
            decay: weight of the old average, 0-1.
            state: an earlier ``state`` to go on from.
        """
        self._decay = decay
        self._initial = state
        self._average: AveragedModel | None = None
        self._live: dict[str, Any] | None = None

    @property
    def state(self) -> dict[str, Any]:
        """What an uninterrupted run would go on with, to be handed to a new instance."""
        assert self._average is not None
        return self._average.state_dict()

    @property
    def weights(self) -> dict[str, Any]:
        """State dict of the averaged network."""
        assert self._average is not None
        return self._average.module.state_dict()

    def before_fit(self) -> None:
        """Start a stage's average at the present weights, or where it was."""
        self._average = AveragedModel(
            plain_network(self.learn.model),
            multi_avg_fn=get_ema_multi_avg_fn(self._decay),
            use_buffers=True,
        )
        if self._initial is not None:
            self._average.load_state_dict(self._initial)

    def after_step(self) -> None:
        """Move the average towards the weights after each step."""
        assert self._average is not None
        self._average.update_parameters(plain_network(self.learn.model))

    def before_validate(self) -> None:
        """Swap the average in."""
        network = plain_network(self.learn.model)
        self._live = {name: value.clone() for name, value in network.state_dict().items()}
        network.load_state_dict(self.weights)

    def after_epoch(self) -> None:
        """Swap the live weights back, except after the last epoch.

        Not sooner: whoever listens to the end of validation finds the weights that were judged.
        """
        if self._live is not None and self.learn.epoch + 1 < self.learn.n_epoch:
            plain_network(self.learn.model).load_state_dict(self._live)
        self._live = None
