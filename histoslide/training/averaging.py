"""Exponential averaging of weights as a fastai callback."""

from __future__ import annotations

from fastai.callback.core import Callback
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class WeightAveraging(Callback):
    """Keep an exponential average of the weights; validate with it and end the run with it."""

    order = 70  # after the optimiser's step, before the recorder reads the metrics

    def __init__(self, decay: float) -> None:
        self._decay = decay
        self._average: AveragedModel | None = None

    def before_fit(self) -> None:
        """Start a stage's average at the present weights."""
        self._average = AveragedModel(
            self.learn.model, multi_avg_fn=get_ema_multi_avg_fn(self._decay), use_buffers=True
        )

    def after_step(self) -> None:
        """Move the average towards the weights after each step."""
        assert self._average is not None
        self._average.update_parameters(self.learn.model)

    def before_validate(self) -> None:
        """Swap the average in."""
        assert self._average is not None
        model = self.learn.model
        self._live = {name: value.clone() for name, value in model.state_dict().items()}
        model.load_state_dict(self._average.module.state_dict())

    def after_epoch(self) -> None:
        """Swap the live weights back, except after the last epoch.

        Not sooner: whoever listens to the end of validation finds the weights that were judged.
        """
        if self.learn.epoch + 1 < self.learn.n_epoch:
            self.learn.model.load_state_dict(self._live)
