"""fastai callbacks that tell what happens in a run and keep what it needs to go on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.learner import Learner
from fastai.torch_core import find_bs, num_distrib, rank_distrib

from histoslide.errors import DataError, HistoslideError
from histoslide.training.averaging import WeightAveraging, plain_network
from histoslide.training.checkpoint import Checkpoint, seed_epoch
from histoslide.training.loaders import reseed
from histoslide.training.recipe import Recipe
from histoslide.training.records import EpochRecord, best_record, out_of_patience

OnEpoch = Callable[[EpochRecord], None]
OnBatch = Callable[[int, int, int, float, float], None]
"""Called with the epoch, counted from 1 through all stages, steps done in it, steps of an epoch,
the running training loss, and patches a second in this epoch."""


def was_skipped(learner: Learner) -> bool:
    """Whether the epoch that ends was only passed over, as a resumed run does with old ones."""
    return not len(learner.recorder.values[-1])


class SeedEpochs(Callback):
    """Start every epoch from its own seed, so that a resumed run draws what it would have drawn."""

    order = -5

    def __init__(self, seed: int, first_epoch: int) -> None:
        """Seed epochs that are counted from ``first_epoch`` on."""
        self._seed, self._first = seed, first_epoch

    def before_epoch(self) -> None:
        """Seed."""
        epoch = self._first + self.learn.epoch
        reseed(self.learn.dls, seed_epoch(self._seed, epoch, rank=rank_distrib()))


class GoOn(Callback):
    """Bring back the optimiser and the counters of a stage that was interrupted."""

    order = 30  # after mixed precision has its scaler and before the recorder

    def __init__(self, checkpoint: Checkpoint) -> None:
        """Go on from the state that ``checkpoint`` has now."""
        self._done = checkpoint.epochs_of_stage
        self._optimiser, self._scaler = checkpoint.optimiser, checkpoint.scaler
        self._smooth_loss = checkpoint.smooth_loss

    def before_train(self) -> None:
        """Restore once, when everything that is restored exists."""
        if self._optimiser is None:
            return
        learn = self.learn
        learn.opt.load_state_dict(self._optimiser)
        if self._scaler is not None:
            learn.scaler.load_state_dict(self._scaler)
        learn.train_iter = self._done * len(learn.dls.train)
        count, value = self._smooth_loss
        learn.recorder.smooth_loss.count = count
        learn.recorder.smooth_loss.val = torch.tensor(value)
        self._optimiser = None


class StopAtNonsense(Callback):
    """Stop on a loss that is not a number, before it reaches the weights."""

    order = 75

    def __init__(self, first_epoch: int) -> None:
        """Name epochs that are counted from ``first_epoch`` on."""
        self._first = first_epoch
        # fastai rewrites the message of an error that leaves a callback, so it is kept here and
        # raised after the fit.
        self.failure: HistoslideError | None = None

    def after_loss(self) -> None:
        """Look at the loss of a training step."""
        if self.training and not torch.isfinite(self.learn.loss_grad):
            epoch = self._first + self.learn.epoch + 1
            kept = "; the state after the epoch before is kept" if epoch > 1 else ""
            self.failure = DataError(
                f"the loss became {self.learn.loss_grad.item()} in epoch {epoch}: lower the "
                f"learning rate with --lr{kept}"
            )
            raise CancelFitException


class Report(Callback):
    """Record every step and every epoch, and remember the weights of the best."""

    order = 65  # after the recorder has its numbers, before the averaged weights are swapped out

    def __init__(
        self,
        run: Checkpoint,
        recipe: Recipe,
        *,
        on_epoch: OnEpoch | None,
        on_batch: OnBatch | None,
    ) -> None:
        """Record into ``run``."""
        self._run, self._recipe = run, recipe
        self._on_epoch, self._on_batch = on_epoch, on_batch

    @property
    def steps(self) -> int:
        """Training steps of all stages so far, those before an interruption too."""
        return len(self._run.losses)

    @property
    def epochs(self) -> int:
        """Epochs of all stages so far, likewise."""
        return len(self._run.records)

    def before_epoch(self) -> None:
        """Start the clock."""
        self._start = time.monotonic()
        self._patches, self._rate = 0, 0.0

    def after_batch(self) -> None:
        """Record a training step."""
        if not self.training:
            return
        self._run.losses.append(float(self.learn.loss.detach()))
        self._run.rates.append([float(h["lr"]) for h in self.learn.opt.hypers])
        self._patches += find_bs(self.learn.yb)
        self._rate = max(1, num_distrib()) * self._patches / (time.monotonic() - self._start)
        if self._on_batch is not None:
            loss = float(self.learn.recorder.smooth_loss.value)
            epoch = len(self._run.records) + 1
            self._on_batch(epoch, self.learn.iter + 1, self.learn.n_iter, loss, self._rate)

    def after_epoch(self) -> None:
        """Record the epoch."""
        if was_skipped(self.learn):
            return
        run, recipe = self._run, self._recipe
        train_loss, valid_loss, accuracy, auc = self.learn.recorder.values[-1]
        stage = run.stage + 1
        record = EpochRecord(
            stage=stage,
            epoch=len(run.records) + 1,
            train_loss=float(train_loss),
            valid_loss=float(valid_loss),
            accuracy=float(accuracy),
            auc=float(auc),
            seconds=time.monotonic() - self._start,
            patches_per_second=self._rate,
        )
        run.records.append(record)
        if stage == len(recipe.stages) and best_record(run.records, stage, recipe) is record:
            network = plain_network(self.learn.model)
            run.best = {k: v.detach().cpu().clone() for k, v in network.state_dict().items()}
        if self._on_epoch is not None:
            self._on_epoch(record)


class SaveCheckpoints(Callback):
    """Write a checkpoint after every epoch, when the weights are those that training goes on with.

    Also ends the stage when its patience is out.
    """

    order = 90

    def __init__(self, run: Checkpoint, recipe: Recipe, path: Path | None) -> None:
        """Write to ``path``; None only ends stages."""
        self._run, self._recipe, self._path = run, recipe, path
        self.failure: HistoslideError | None = None

    def after_epoch(self) -> None:
        """Gather the state and write it."""
        if was_skipped(self.learn):
            return
        run, learn = self._run, self.learn
        stop = out_of_patience(run.records, run.stage + 1, self._recipe)
        done = learn.epoch + 1 == learn.n_epoch or stop
        average = next((cb for cb in learn.cbs if isinstance(cb, WeightAveraging)), None)
        if stop and average is not None:  # it ends with the average, as a whole stage does
            plain_network(learn.model).load_state_dict(average.weights)
        run.network = dict(plain_network(learn.model).state_dict())
        run.epochs_of_stage = learn.epoch + 1
        run.optimiser, run.average, run.scaler = None, None, None
        if done:
            run.stage, run.epochs_of_stage = run.stage + 1, 0
            run.smooth_loss = (0, 0.0)
        else:
            run.optimiser = learn.opt.state_dict()
            run.average = average.state if average is not None else None
            scaler = getattr(learn, "scaler", None)
            run.scaler = scaler.state_dict() if scaler is not None else None
            smooth = learn.recorder.smooth_loss
            run.smooth_loss = (int(smooth.count), float(smooth.val))
        if self._path is not None and rank_distrib() == 0:
            try:
                run.save(self._path)
            except HistoslideError as error:
                self.failure = error
                raise CancelFitException from error
        if stop and done:
            raise CancelFitException
