"""Training a patch model with fastai: the recipe in, a bundle out."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import fastai.callback.progress
import fastai.callback.schedule  # noqa: F401  (gives the Learner fit_one_cycle and lr_find)
import numpy as np
import torch
from fastai.learner import Learner
from fastai.torch_core import rank_distrib
from torch import Tensor, nn

from histoslide.datasets import PatchData, PatchSet
from histoslide.errors import DataError
from histoslide.evaluation.patches.figures import Figures, fit_temperature, judge
from histoslide.evaluation.patches.history import History, RateSearch
from histoslide.evaluation.patches.predictions import Predictions, predict_patches
from histoslide.evaluation.patches.report import write_report
from histoslide.model.bundle import file_sha256, save_bundle
from histoslide.model.devices import pick_device
from histoslide.model.prediction import Model
from histoslide.model.spec import ModelSpec
from histoslide.training.averaging import WeightAveraging
from histoslide.training.callbacks import (
    GoOn,
    OnBatch,
    OnEpoch,
    Report,
    SaveCheckpoints,
    SeedEpochs,
    StopAtNonsense,
)
from histoslide.training.checkpoint import FILE_NAME, Checkpoint, load_checkpoint, run_settings
from histoslide.training.distributed import is_distributed, train_together
from histoslide.training.kept_patches import keep_patches
from histoslide.training.learner import fit_stage, fitted_learner
from histoslide.training.network import start_network
from histoslide.training.precision import choose_precision
from histoslide.training.recipe import Recipe
from histoslide.training.records import EpochRecord, write_log
from histoslide.training.teachers import Teacher

logger = logging.getLogger(__name__)

TUMOUR_NAMES = frozenset(
    {
        "tumour", "tumours", "tumor", "tumors", "positive", "metastasis", "metastases",
        "metastatic", "cancer", "carcinoma", "malignant",
    }
)  # fmt: skip
"""Class names that mean tumour in a two-class set, compared in lower case."""

NORMAL_NAMES = frozenset({"0", "normal", "negative", "benign", "healthy"})
"""Names, in lower case, of the other class of a set whose class ``1`` means tumour: a number alone
says nothing, and the ``1`` of ``1`` and ``2`` is as likely the normal tissue."""

LOG_NAME = "log.jsonl"
"""Name of the log in a run folder: one JSON object an epoch."""


@dataclass(frozen=True, kw_only=True)
class TrainedModel:
    """A network, what it is, and how it came to be."""

    spec: ModelSpec
    """What goes into the bundle beside the weights."""
    learner: Learner
    """The fastai Learner of the last stage with the weights that were kept, to go on by hand."""
    history: History
    """Every step and every epoch."""
    predictions: Predictions
    """Of the validation set, as the bundle will give them."""
    figures: Figures
    """On the validation set, after temperature scaling."""

    @property
    def epochs(self) -> tuple[EpochRecord, ...]:
        """One record an epoch."""
        return tuple(EpochRecord(**record) for record in self.history.epochs)

    def report(self, folder: Path, patches: PatchSet, *, overwrite: bool = False) -> Path:
        """Write curves, figures and pictures; see ``histoslide.evaluation.patches.report``.

        Args:
            folder: where to.
            patches: the validation set it was trained with, to show samples of.
            overwrite: replace an earlier report.

        Returns:
            Path of the page.
        """
        return write_report(
            folder,
            predictions=self.predictions,
            patches=patches,
            spec=self.spec,
            history=self.history,
            title=self.spec.name,
            data="its validation set",
            overwrite=overwrite,
        )

    def save(self, path: Path, *, half: bool = False, overwrite: bool = False) -> None:
        """Write the bundle; see ``histoslide.model.bundle.save_bundle``."""
        state = self.learner.model.state_dict()
        save_bundle(path, self.spec, state, half=half, overwrite=overwrite)


def train(
    data: PatchData,
    recipe: Recipe,
    *,
    name: str | None = None,
    device: torch.device | None = None,
    seed: int = 42,
    workers: int = 0,
    licence: str = "unspecified",
    tumour: str | None = None,
    folder: Path | None = None,
    initial: dict[str, Tensor] | None = None,
    initial_file: Path | None = None,
    teachers: Sequence[Teacher] = (),
    finder: RateSearch | None = None,
    callbacks: Sequence[object] = (),
    on_epoch: OnEpoch | None = None,
    on_batch: OnBatch | None = None,
) -> TrainedModel:
    """Train a network and calibrate it on the validation set.

    Args:
        data: training and validation patches.
        recipe: how.
        name: the model's name in its spec; None takes that of the recipe.
        device: where; None picks as ``histoslide.model.pick_device``.
        seed: of weights, order and augmentation.
        workers: processes that decode patches.
        licence: of the weights, for the spec.
        tumour: the class that means tumour, where its name does not say so.
        folder: run folder that gets a log and a checkpoint after every epoch. A run that was
            interrupted goes on from there.
        initial: state dict to start from instead of ImageNet or random weights.
        initial_file: where that was read from, for the record.
        teachers: models whose judgement of every training patch it learns too; see
            ``histoslide.training.teachers``.
        finder: what the learning-rate finder saw, for the record.
        callbacks: further fastai callbacks, added to the learner of every stage.
        on_epoch: called after every epoch.
        on_batch: called after every training step.

    Raises:
        DataError: a patch cannot be read, or the loss is no longer a number.
        OutputExistsError: the folder holds a run with other settings.
        WeightsUnavailableError: ImageNet weights are asked for and cannot be had.
    """
    device = torch.device(pick_device()) if device is None else device
    name = recipe.name if name is None else name
    data = keep_patches(data, recipe)
    network = start_network(data, recipe, device=device, seed=seed, initial=initial)
    precision = choose_precision(recipe.precision, device, network)
    logger.info("%s trains in %s: %s", recipe.architecture, precision.name, precision.reason)
    spec = _uncalibrated_spec(data, recipe, name=name, licence=licence, tumour=tumour)
    settings = run_settings(data, recipe, seed=seed, initial=initial, teachers=teachers)
    run = _begin(folder, settings, network)

    def finish_epoch(record: EpochRecord) -> None:
        if folder is not None and rank_distrib() == 0:
            write_log(run.records, folder / LOG_NAME)
        if on_epoch is not None:
            on_epoch(record)

    report = Report(run, recipe, on_epoch=finish_epoch, on_batch=on_batch)
    keeper = SaveCheckpoints(run, recipe, None if folder is None else folder / FILE_NAME)
    make = partial(
        fitted_learner,
        data,
        recipe,
        network=network,
        device=device,
        workers=workers,
        teachers=teachers,
    )
    learner = None
    while run.stage < len(recipe.stages):
        learner = make(stage=recipe.stages[run.stage])
        _run_stage(learner, recipe, run, seed, [report, keeper, *callbacks])
    if learner is None:  # every stage was done before
        learner = make(stage=recipe.stages[-1])
    if recipe.keep == "best" and run.best is not None:
        network.load_state_dict(run.best)
    predictions = predict_patches(Model(spec, network, device=str(device), sha256=""), data.valid)
    facts = _training_facts(data, recipe, run, seed, initial_file)
    facts["teachers"] = [teacher.as_dict() for teacher in teachers]
    facts["computed"] = {
        "device": device.type,
        "precision": precision.name,
        "reason": precision.reason,
    }
    spec, figures = _calibrate(spec, predictions, facts)
    return TrainedModel(
        spec=spec,
        learner=learner,
        history=_history(run, finder),
        predictions=predictions,
        figures=figures,
    )


def _begin(folder: Path | None, settings: dict[str, object], network: nn.Module) -> Checkpoint:
    path = None if folder is None else folder / FILE_NAME
    if path is None or not path.exists():
        return Checkpoint(settings=settings)
    run = load_checkpoint(path, settings)
    network.load_state_dict(run.network)
    logger.info("going on after epoch %d, from %s", len(run.records), path)
    return run


def _run_stage(
    learner: Learner, recipe: Recipe, run: Checkpoint, seed: int, callbacks: list[object]
) -> None:
    """Run the stage that ``run`` is in, from where it is, to its end."""
    stage, first = recipe.stages[run.stage], len(run.records) - run.epochs_of_stage
    ours = [SeedEpochs(seed, first), GoOn(run), StopAtNonsense(first), *callbacks]
    if recipe.ema_decay:
        ours.append(WeightAveraging(recipe.ema_decay, run.average))
    learner.add_cbs(ours)
    if is_distributed():
        train_together(learner)
    index = run.stage
    try:
        fit_stage(learner, stage, first_epoch=run.epochs_of_stage)
    except DataError as error:
        # torch wraps what a worker process raises in its traceback; the user needs one line.
        line = str(error).strip().splitlines()[-1]
        raise DataError(line.rpartition("DataError: ")[2]) from error
    for callback in learner.cbs:
        if getattr(callback, "failure", None) is not None:
            raise callback.failure
    assert run.stage == index + 1, "a stage that ends without failure is done"
    # All of them: who goes on with the Learner by hand must not get the same epochs once more.
    learner.remove_cbs([cb for cb in ours if cb in learner.cbs])


def _uncalibrated_spec(
    data: PatchData, recipe: Recipe, *, name: str, licence: str, tumour: str | None
) -> ModelSpec:
    last = recipe.stages[-1]
    mean, std = recipe.normalisation
    return ModelSpec(
        name=name,
        architecture=recipe.architecture,
        classes=data.classes,
        tumour_class=tumour_class(data.classes, tumour),
        input_px=recipe.input_px,
        label_px=recipe.label_px,
        mpp=recipe.mpp,
        network_px=recipe.side_px(last),
        mean=mean,
        std=std,
        licence=licence,
    )


def _training_facts(
    data: PatchData, recipe: Recipe, run: Checkpoint, seed: int, initial_file: Path | None
) -> dict[str, object]:
    pretrained = None
    if initial_file is not None:
        pretrained = {"file": initial_file.name, "sha256": file_sha256(initial_file)}
    return {
        "data": {
            "layout": data.layout,
            "split": None if data.split is None else data.split.as_dict(),
            "train_patches": len(data.train),
            "unlabelled_patches": 0 if data.unlabelled is None else len(data.unlabelled),
            "shown_an_epoch": len(data.shown),
            "valid_patches": len(data.valid),
            "train_classes": _counts(data, data.train),
            "valid_classes": _counts(data, data.valid),
            "left_out": dict(Counter(data.left_out.values())),
            "mined": list(data.mined),
        },
        "recipe": recipe.as_dict() | {"split": Path(recipe.split).name},  # no folders of ours
        "pretrained": pretrained,
        "seed": seed,
        "epochs": [dataclasses.asdict(record) for record in run.records],
        "versions": {p: version(p) for p in ("torch", "torchvision", "fastai", "timm")},
    }


def _counts(data: PatchData, patches: PatchSet) -> dict[str, int]:
    counts = np.bincount(patches.labels, minlength=len(data.classes)).tolist()
    return dict(zip(data.classes, counts, strict=True))


def _calibrate(
    spec: ModelSpec, predictions: Predictions, facts: dict[str, object]
) -> tuple[ModelSpec, Figures]:
    """Fit the temperature, and record the figures before and after."""
    logits = torch.from_numpy(predictions.logits)
    labels = torch.from_numpy(predictions.known_labels)
    temperature = fit_temperature(logits, labels)
    before = judge(logits, labels, positive=spec.tumour_index)
    after = judge(logits / temperature, labels, positive=spec.tumour_index)
    training = facts | {
        "validation": dataclasses.asdict(after),
        "validation_before_calibration": dataclasses.asdict(before),
    }
    return dataclasses.replace(spec, temperature=temperature, training=training), after


def _history(run: Checkpoint, finder: RateSearch | None) -> History:
    rates = np.array(run.rates, dtype=np.float64)
    return History(
        loss=np.array(run.losses, dtype=np.float64),
        lr=rates if rates.ndim == 2 else np.empty((0, 1)),
        finder=finder,
        epochs=tuple(dataclasses.asdict(record) for record in run.records),
    )


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
    if not found and any(name.lower() in NORMAL_NAMES for name in classes):
        found = [name for name in classes if name == "1"]
    if len(found) != 1:
        raise DataError(
            f"it is not clear which of the classes {', '.join(classes)} means tumour: "
            "pass --tumour NAME"
        )
    return found[0]
