"""Training a patch model with fastai: the recipe in, a bundle out."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import fastai.callback.progress
import fastai.callback.schedule  # noqa: F401  (gives the Learner fit_one_cycle)
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.learner import Learner
from fastai.metrics import RocAuc, RocAucBinary, accuracy
from fastai.optimizer import OptimWrapper
from fastai.torch_core import params, set_seed
from torch import Tensor, nn

from histoslide.datasets import PatchData
from histoslide.errors import BundleError, DataError, HistoslideError
from histoslide.model.architectures import BODY_SPLIT, build_network
from histoslide.model.bundle import save_bundle
from histoslide.model.spec import ModelSpec
from histoslide.patch_evaluation.figures import Figures, fit_temperature, judge
from histoslide.training.averaging import WeightAveraging
from histoslide.training.loaders import make_loaders
from histoslide.training.recipe import Recipe, Stage

logger = logging.getLogger(__name__)

TUMOUR_NAMES = frozenset(
    {
        "1", "tumour", "tumours", "tumor", "tumors", "positive", "metastasis", "metastases",
        "metastatic", "cancer", "carcinoma", "malignant",
    }
)  # fmt: skip
"""Class names that mean tumour in a two-class set, compared in lower case."""


@dataclass(frozen=True, kw_only=True)
class EpochRecord:
    """What one epoch came to; one line of the log."""

    stage: int
    epoch: int
    """Counted from 1 through all stages."""
    train_loss: float
    valid_loss: float
    accuracy: float
    auc: float
    seconds: float


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A network, what it is, and how it came to be."""

    spec: ModelSpec
    """What goes into the bundle beside the weights."""
    learner: Learner
    """The fastai Learner of the last stage, for those who go on by hand."""
    epochs: tuple[EpochRecord, ...]
    """One record an epoch."""
    figures: Figures
    """On the validation set, after temperature scaling."""

    def save(self, path: Path, *, half: bool = False, overwrite: bool = False) -> None:
        """Write the bundle; see ``histoslide.model.bundle.save_bundle``."""
        state = self.learner.model.state_dict()
        save_bundle(path, self.spec, state, half=half, overwrite=overwrite)


def parameter_groups(network: nn.Module) -> list[list[nn.Parameter]]:
    """Fastai's three groups of a ResNet: up to layer2, layer3 and layer4, head."""
    body, head = network[0], network[1]  # type: ignore[index]
    return [params(body[:BODY_SPLIT]), params(body[BODY_SPLIT:]), params(head)]


def tumour_class(classes: tuple[str, ...], named: str | None = None) -> str | None:
    """The class whose probability a heatmap shows, or None for a model of more than two tissues.

    Args:
        classes: of the data.
        named: the class the user names; None goes by the name of the class, of two classes only.

    Raises:
        DataError: no such class, or it is not clear which of two classes means tumour.
    """
    if named is not None:
        if named not in classes:
            raise DataError(f"there is no class {named!r}: choose from {', '.join(classes)}")
        return named
    if len(classes) != 2:
        return None
    found = [name for name in classes if name.lower() in TUMOUR_NAMES]
    if len(found) != 1:
        raise DataError(
            f"it is not clear which of the classes {', '.join(classes)} means tumour: "
            "pass --tumour NAME"
        )
    return found[0]


def train(
    data: PatchData,
    recipe: Recipe,
    *,
    name: str,
    device: torch.device,
    seed: int = 42,
    workers: int = 0,
    licence: str = "unspecified",
    tumour: str | None = None,
    log: Path | None = None,
    checkpoint: Path | None = None,
    initial: dict[str, Tensor] | None = None,
    on_epoch: Callable[[EpochRecord], None] | None = None,
) -> TrainedModel:
    """Train a network and calibrate it on the validation set.

    Args:
        data: training and validation patches.
        recipe: how.
        name: the model's name in its spec.
        device: where.
        seed: of weights, order and augmentation.
        workers: processes that decode patches.
        licence: of the weights, for the spec.
        tumour: the class that means tumour, where its name does not say so.
        log: file that gets one JSON object a line after every epoch.
        checkpoint: bundle that is rewritten after every epoch.
        initial: state dict to start from instead of ImageNet or random weights.
        on_epoch: called after every epoch.

    Raises:
        DataError: a patch cannot be read, or the loss is no longer a number.
        WeightsUnavailableError: ImageNet weights are asked for and cannot be had.
    """
    set_seed(seed, reproducible=True)
    network = build_network(
        recipe.architecture, len(data.classes), imagenet=recipe.imagenet and initial is None
    )
    if initial is not None:
        try:
            network.load_state_dict(initial)
        except RuntimeError as error:
            raise BundleError(
                f"the weights to start from are not those of {recipe.architecture} with "
                f"{len(data.classes)} classes"
            ) from error
    network = network.to(device).to(memory_format=torch.channels_last)
    seen_px = recipe.stages[-1].crop_px or recipe.input_px
    spec = ModelSpec(
        name=name,
        architecture=recipe.architecture,
        classes=data.classes,
        tumour_class=tumour_class(data.classes, tumour),
        input_px=seen_px,
        label_px=recipe.label_px,
        mpp=recipe.mpp,
        network_px=recipe.stages[-1].network_px or seen_px,
        mean=recipe.mean,
        std=recipe.std,
        licence=licence,
    )
    records: list[EpochRecord] = []

    def finish_epoch(record: EpochRecord) -> None:
        records.append(record)
        if log is not None:
            with log.open("a") as file:
                file.write(json.dumps(dataclasses.asdict(record)) + "\n")
        if on_epoch is not None:
            on_epoch(record)

    for index, stage in enumerate(recipe.stages):
        learner = make_learner(data, recipe, stage, network, device=device, workers=workers)
        reporter = _EpochReporter(index + 1, len(records), finish_epoch, spec, checkpoint)
        learner.add_cb(reporter)
        # Always: the network remembers what an earlier stage froze.
        learner.freeze_to(-(stage.trainable_groups or 0))
        try:
            with learner.no_bar(), learner.no_logging():
                learner.fit_one_cycle(stage.epochs, stage.lr)
        except DataError as error:
            # torch wraps what a worker process raises in its traceback; the user needs one line.
            line = str(error).strip().splitlines()[-1]
            raise DataError(line.rpartition("DataError: ")[2]) from error
        if reporter.failure is not None:
            raise reporter.failure
    logits, labels = predict_logits(learner)
    temperature = fit_temperature(logits, labels)
    figures = judge(logits / temperature, labels, positive=spec.tumour_index)
    before = judge(logits, labels, positive=spec.tumour_index)
    spec = dataclasses.replace(
        spec,
        temperature=temperature,
        training={
            "data": {
                "layout": data.layout,
                "train_patches": len(data.train),
                "valid_patches": len(data.valid),
            },
            "recipe": recipe.as_dict(),
            "seed": seed,
            "epochs": [dataclasses.asdict(record) for record in records],
            "validation": dataclasses.asdict(figures),
            "validation_before_calibration": dataclasses.asdict(before),
            "versions": {p: version(p) for p in ("torch", "torchvision", "fastai")},
        },
    )
    return TrainedModel(spec=spec, learner=learner, epochs=tuple(records), figures=figures)


def make_learner(
    data: PatchData,
    recipe: Recipe,
    stage: Stage,
    network: nn.Module,
    *,
    device: torch.device,
    workers: int = 0,
) -> Learner:
    """The fastai Learner of one stage, with AUC and accuracy as its metrics."""
    callbacks = [WeightAveraging(recipe.ema_decay)] if recipe.ema_decay else []
    auc = RocAucBinary() if len(data.classes) == 2 else RocAuc()
    return Learner(
        make_loaders(data, recipe, stage, device=device, workers=workers),
        network,
        loss_func=nn.CrossEntropyLoss(label_smoothing=recipe.label_smoothing),
        opt_func=partial(OptimWrapper, opt=partial(torch.optim.AdamW, fused=True)),
        splitter=parameter_groups,
        wd=recipe.weight_decay,
        # Batch norms of frozen groups do not learn either: that would need the backward pass
        # through all of them, which is most of the cost that freezing is meant to save. Their
        # running statistics still follow the data, as they must when the crop grows.
        train_bn=False,
        metrics=[accuracy, auc],
        cbs=callbacks,
    )


def predict_logits(learner: Learner) -> tuple[Tensor, Tensor]:
    """Logits (n, classes) and labels (n,) of the validation set, on the CPU."""
    learner.model.eval()
    logits, labels = [], []
    with torch.no_grad():
        for images, targets in learner.dls.valid:
            logits.append(learner.model(images).float().cpu())
            labels.append(targets.cpu())
    return torch.cat(logits), torch.cat(labels)


class _EpochReporter(Callback):
    """Turn fastai's recorder rows into records; stop on a loss that is no number."""

    order = 80  # after the recorder has the epoch's values and the average is swapped in

    def __init__(
        self,
        stage: int,
        done: int,
        finish: Callable[[EpochRecord], None],
        spec: ModelSpec,
        checkpoint: Path | None,
    ) -> None:
        self._stage, self._done, self._finish = stage, done, finish
        self._spec, self._checkpoint = spec, checkpoint
        # fastai rewrites the message of an error that leaves a callback, so it is kept here and
        # raised after the fit.
        self.failure: HistoslideError | None = None

    def before_epoch(self) -> None:
        self._start = time.monotonic()

    def after_loss(self) -> None:
        if self.training and not torch.isfinite(self.learn.loss_grad):
            self.failure = DataError(
                f"the loss became {self.learn.loss_grad.item()} in epoch "
                f"{self._done + self.learn.epoch + 1}: lower the learning rate with --lr"
            )
            raise CancelFitException

    def after_validate(self) -> None:
        if self._checkpoint is not None:
            state = self.learn.model.state_dict()
            try:
                save_bundle(self._checkpoint, self._spec, state, overwrite=True)
            except BundleError as error:
                self.failure = error
                raise CancelFitException from error

    def after_epoch(self) -> None:
        train_loss, valid_loss, accuracy_, auc = self.learn.recorder.values[-1]
        self._finish(
            EpochRecord(
                stage=self._stage,
                epoch=self._done + self.learn.epoch + 1,
                train_loss=float(train_loss),
                valid_loss=float(valid_loss),
                accuracy=float(accuracy_),
                auc=float(auc),
                seconds=time.monotonic() - self._start,
            )
        )
