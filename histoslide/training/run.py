"""The story of a training run: from a folder of patches to a bundle, a report and their records.

A run that was interrupted goes on from its last epoch when it is asked for again.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from histoslide.datasets import PatchData, PatchFolder, Subset
from histoslide.datasets.division import Duplicates
from histoslide.datasets.kaggle import KAGGLE_CLASSES
from histoslide.datasets.scan import OnPatches
from histoslide.errors import DataError, HistoslideError
from histoslide.evaluation.patches.gates import DEFAULT_RANGE_PATCHES, measure_fast_paths
from histoslide.evaluation.patches.history import RateSearch
from histoslide.machine.processors import usable_processors
from histoslide.model import ModelSpec, pick_device
from histoslide.model.fast_paths import fast_paths_file, write_fast_paths
from histoslide.model.openvino_extra import has_openvino
from histoslide.storage.writing import refuse_existing
from histoslide.training.callbacks import OnBatch, OnEpoch
from histoslide.training.checkpoint import FILE_NAME
from histoslide.training.distributed import process_group
from histoslide.training.fastai_export import pending_export
from histoslide.training.fit import TrainedModel, train
from histoslide.training.kept_patches import keep_patches
from histoslide.training.rank import is_first
from histoslide.training.rates import find_rate, scale_rates
from histoslide.training.recipe import Recipe
from histoslide.training.run_folder import (
    RATES_NAME,
    begin_run,
    prepare_folder,
    read_rates,
    spare_inputs,
    write_inputs,
)
from histoslide.training.teachers import Teacher, read_teachers
from histoslide.training.tensorboard import TensorBoard

logger = logging.getLogger(__name__)

CALIBRATION_PATCHES = 2048
"""Validation patches, at most, that faster paths are measured on at the end of a run."""

Watch = Callable[[str], AbstractContextManager[OnPatches | None]]
"""Makes what is called while patches are gone through: its name is ``reading`` or ``decoding``."""


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """What a run is given, and where it writes.

    Raises:
        HistoslideError: ``out`` is no bundle's name, or ``workers`` is negative.
    """

    patches: PatchFolder
    """What to train and validate on."""
    recipe: Recipe
    """How."""
    out: Path
    """Bundle to write, ``….safetensors``."""
    folder: Path | None = None
    """For log, checkpoint, split, recipe and report; None for ``out`` with the ending ``.run``."""
    duplicates: Duplicates = "drop"
    """Whether training patches are left out that validation has too."""
    class_names: tuple[str, ...] | None = None
    """Names for the classes in order; None leaves them."""
    tumour: str | None = None
    """The class that means tumour, where its name does not say so."""
    initial: dict[str, Tensor] | None = None
    """State dict to start from instead of ImageNet or random weights."""
    initial_file: Path | None = None
    """Where that was read from, for the record."""
    teachers: tuple[Path, ...] = ()
    """Bundles whose judgement of every training patch the network learns too."""
    finds_rate: bool = False
    """Try growing learning rates first, and take the suggestion for the recipe's."""
    name: str | None = None
    """Of the model; None takes that of ``out``."""
    licence: str = "unspecified"
    """Of the weights."""
    half: bool = False
    """Store weights in half precision."""
    export_pkl: Path | None = None
    """Where fastai's own export goes; None writes none."""
    tensorboard: bool = False
    """Write curves, patches and an embedding for TensorBoard into the folder."""
    device: str = "auto"
    """As for ``histoslide.model.pick_device``."""
    workers: int | None = None
    """Processes that decode; None for all cores but one beside a GPU, else none."""
    seed: int = 42
    """Of weights, order, augmentation and split."""
    calibrate: bool = True
    """At the end, measure whether int8 and bf16 are as good, where OpenVINO is installed and there
    are enough validation patches; see ``histoslide.evaluation.patches.gates``."""
    overwrite: bool = False
    """Replace an existing bundle and folder; an unfinished run of the same settings goes on."""
    recipe_file: str | None = None
    """What the recipe was read from, so that it is not written over."""

    def __post_init__(self) -> None:
        if self.out.suffix != ".safetensors":
            raise HistoslideError(f"--out {self.out} must end in .safetensors")
        if self.workers is not None and self.workers < 0:
            raise HistoslideError(f"--workers must be 0 or more, not {self.workers}")

    @property
    def run_folder(self) -> Path:
        """Where everything but the bundle goes."""
        return self.folder or self.out.with_suffix(".run")

    def workers_on(self, device: torch.device) -> int:
        """Processes that decode: on the CPU they would be in the way of the network."""
        if self.workers is not None:
            return self.workers
        return max(1, usable_processors() - 1) if device.type == "cuda" else 0


@dataclass(frozen=True, kw_only=True)
class FinishedRun:
    """What a run has made."""

    model: TrainedModel
    """The calibrated model, with its Learner and its figures."""
    report: Path | None
    """The page; None in processes of torchrun that do not write."""


def run_training(
    run: TrainingRun,
    *,
    watch: Watch = lambda _: nullcontext(),
    on_epoch: OnEpoch | None = None,
    on_batch: OnBatch | None = None,
) -> FinishedRun:
    """Open and divide the patches, train, calibrate, and write bundle, report and records.

    Args:
        run: what to do.
        watch: makes what is called with (patches done, patches in all).
        on_epoch: called after every epoch.
        on_batch: called after every training step.

    Raises:
        HistoslideError: the data, the weights or the options do not fit, an output exists or
            cannot be written, or the loss is no longer a number.
    """
    folder, recipe = run.run_folder, run.recipe
    _prepare_outputs(run)
    with watch("reading") as on_patches:
        data = _open(run, on_patches)
    teachers = read_teachers(run.teachers, recipe, data.classes)
    if is_first():
        begin_run(
            folder,
            data,
            recipe,
            seed=run.seed,
            initial=run.initial,
            teachers=teachers,
            finds_rate=run.finds_rate,
            overwrite=run.overwrite,
        )
    with process_group(torch.device(pick_device(run.device))) as device:
        with watch("decoding") as on_patches:
            data = keep_patches(data, recipe, on_patches=on_patches)
        _say(data, recipe, device)
        finder = _find_rate(run, data, teachers, device) if run.finds_rate else None
        if finder is not None and finder.suggestion is not None:
            recipe = scale_rates(recipe, finder.suggestion)
        board = _tensorboard(run, data, recipe)
        if is_first():
            write_inputs(folder, data, recipe)
        model = train(
            data,
            recipe,
            name=run.name or run.out.stem,
            device=device,
            seed=run.seed,
            workers=run.workers_on(device),
            licence=run.licence,
            tumour=run.tumour,
            folder=folder,
            initial=run.initial,
            initial_file=run.initial_file,
            teachers=teachers,
            finder=finder,
            callbacks=[] if board is None else [board],
            on_epoch=on_epoch,
            on_batch=on_batch,
        )
        if board is not None:
            board.embed(model.learner)
        page = _write_results(run, model, data) if is_first() else None
    if is_first() and run.calibrate:
        with watch("calibrate") as on_patches:
            _calibrate(run, model.spec, data, on_patches)
    return FinishedRun(model=model, report=page)


def _prepare_outputs(run: TrainingRun) -> None:
    spare_inputs(
        run.run_folder,
        {"--recipe": run.recipe_file, "--split": run.recipe.split, "--slides": run.patches.slides},
    )
    refuse_existing(run.out, overwrite=run.overwrite)
    if run.export_pkl is not None:
        refuse_existing(run.export_pkl, overwrite=run.overwrite)
    prepare_folder(run.run_folder, overwrite=run.overwrite)


def _open(run: TrainingRun, on_patches: OnPatches | None) -> PatchData:
    data = run.patches.divide(
        run.recipe.division(seed=run.seed), duplicates=run.duplicates, on_patches=on_patches
    )
    names = run.class_names
    if names is None:
        if run.tumour is not None or data.classes != ("0", "1"):
            return data
        logger.info(
            "folders 0 and 1 are taken for normal and tumour, as PatchCamelyon has them: "
            "--class-names calls them otherwise"
        )
        names = KAGGLE_CLASSES
    if len(names) != len(data.classes):
        raise DataError(f"--class-names gives {len(names)} names for {list(data.classes)}")
    return dataclasses.replace(data, classes=names)


def _say(data: PatchData, recipe: Recipe, device: torch.device) -> None:
    logger.info(
        "%s layout: %d patches to train on, %d to validate on, classes %s",
        data.layout,
        len(data.train),
        len(data.valid),
        ", ".join(data.classes),
    )
    logger.info(
        "patches of %d px at %g µm/px, labels speak of the centre %d px, the network sees %d px",
        recipe.input_px,
        recipe.mpp,
        recipe.label_px,
        recipe.side_px(recipe.stages[-1]),
    )
    logger.info("recipe %s, %s on %s", recipe.name, recipe.architecture, device)


def _find_rate(
    run: TrainingRun, data: PatchData, teachers: tuple[Teacher, ...], device: torch.device
) -> RateSearch:
    """What the finder saw, now or when this run began: it must go on with the same rate."""
    folder = run.run_folder
    known = read_rates(folder) if (folder / FILE_NAME).exists() else None
    search = known or find_rate(
        data,
        run.recipe,
        device=device,
        seed=run.seed,
        workers=run.workers_on(device),
        initial=run.initial,
        teachers=teachers,
    )
    if known is None and is_first():
        (folder / RATES_NAME).write_text(search.to_json(), encoding="utf-8")
    assert search.suggestion is not None
    logger.info("learning rate %.2g, from the longest valley of the loss", search.suggestion)
    return search


def _tensorboard(run: TrainingRun, data: PatchData, recipe: Recipe) -> TensorBoard | None:
    if not (run.tensorboard and is_first()):
        return None
    board = run.run_folder / "tensorboard"
    logger.info("look at it with: tensorboard --logdir %s", board)
    return TensorBoard(board, data, recipe)


def _write_results(run: TrainingRun, model: TrainedModel, data: PatchData) -> Path:
    with ExitStack() as stack:
        if run.export_pkl is not None:
            pending = pending_export(
                model.learner, run.export_pkl, model.spec, overwrite=run.overwrite
            )
            stack.enter_context(pending)
        page = model.report(run.run_folder, data.valid, overwrite=True)
        # The bundle last: while it is missing, the same command goes on from the checkpoint.
        model.save(run.out, half=run.half, overwrite=run.overwrite)
    (run.run_folder / FILE_NAME).unlink(missing_ok=True)  # it has served, and is large
    fast_paths_file(run.out).unlink(missing_ok=True)  # of the weights that were replaced
    return page


def _calibrate(
    run: TrainingRun, spec: ModelSpec, data: PatchData, on_patches: OnPatches | None
) -> None:
    """Measure the model's faster paths on validation patches, where that can be done here.

    A model is finished without them: what stands in the way is said, not raised.
    """
    needed = 2 * DEFAULT_RANGE_PATCHES
    if spec.tumour_class is None or not has_openvino():
        return
    if len(data.valid) < needed:
        logger.info(
            "int8 and bf16 were not measured, which makes scoring on CPUs several times faster: "
            "that takes %d validation patches; see histoslide model calibrate",
            needed,
        )
        return
    order = np.random.default_rng(run.seed).permutation(len(data.valid))
    some = Subset(data.valid, np.sort(order[:CALIBRATION_PATCHES]))
    try:
        paths = measure_fast_paths(
            run.out,
            some,
            data=f"validation patches of {run.patches.root.resolve().name}",
            class_map=np.arange(len(data.classes)),
            range_patches=DEFAULT_RANGE_PATCHES,
            progress=None if on_patches is None else lambda _, done, all_: on_patches(done, all_),
        )
        write_fast_paths(run.out, paths)
    except HistoslideError as error:
        logger.warning("int8 and bf16 were not measured: %s", error)
