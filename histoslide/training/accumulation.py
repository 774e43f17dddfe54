"""Summing gradients until a batch is full that does not fit into memory at once."""

from __future__ import annotations

from fastai.callback.training import GradientAccumulation
from fastai.torch_core import find_bs


class WholeBatches(GradientAccumulation):
    """fastai's accumulation, started anew with every epoch.

    fastai's own carries what an epoch leaves over, less than a batch, into the next one, and into
    the next stage: no checkpoint has that, so a run that was interrupted would end otherwise.
    Here it is dropped, as the loader drops it where whole batches fit: a step on a few patches
    would be as large as one on a batch. But where all of an epoch is less than a batch, the step is
    made on that, as the loader then keeps it; or nothing would be learnt.
    """

    def before_train(self) -> None:
        """Begin an epoch with nothing."""
        self.count, self._stepped = 0, False

    def before_step(self) -> None:
        """Skip the step unless a batch is full, or the epoch ends without one."""
        seen = self.count + find_bs(self.learn.yb)
        last = self.learn.iter + 1 == self.learn.n_iter
        if last and not self._stepped and seen < self.n_acc:
            for parameter in self.learn.model.parameters():
                if parameter.grad is not None:  # each patch was weighed as one of a whole batch
                    parameter.grad *= self.n_acc / seen
            self.count = self.n_acc
        super().before_step()
        self._stepped = True

    def after_train(self) -> None:
        """Leave no gradient behind: the next stage may have no accumulation to forget it."""
        self.learn.opt.zero_grad()
