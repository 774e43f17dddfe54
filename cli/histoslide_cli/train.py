"""``histoslide train``: patches in, a model bundle and a report out."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histoslide_cli.console import Progress
from histoslide_cli.model_choice import is_pickle, read_weights
from histoslide_cli.outcomes import EXIT_DONE, EXIT_USAGE
from histoslide_cli.patch_options import patch_folder
from histoslide_cli.run_folder import (
    RATES_NAME,
    RECIPE_NAME,
    SPLIT_NAME,
    begin_run,
    prepare_outputs,
    read_rates,
)
from histoslide_cli.train_options import FIND, add_options, choose_recipe
from histoslide_cli.train_progress import TrainProgress

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from histoslide.datasets import PatchData
    from histoslide.evaluation.patches.history import RateSearch
    from histoslide.training.fit import TrainedModel
    from histoslide.training.recipe import Recipe
    from histoslide.training.teachers import Teacher

logger = logging.getLogger("histoslide.cli")


def add_parser(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    common: argparse.ArgumentParser,
) -> argparse.ArgumentParser:
    """Add this command's options."""
    parser = subparsers.add_parser(
        "train",
        parents=[common],
        help="train a patch model",
        description="Trains a patch model with fastai on the official PatchCamelyon HDF5 files, "
        "the Kaggle layout, or one folder per class (with or without train/ and valid/). A run "
        "that was interrupted goes on from its last epoch when the same command is given again.",
        epilog="example: histoslide train pcam/ --out model.safetensors",
    )
    add_options(parser)
    parser.set_defaults(after_interrupt="the same command goes on from the last epoch")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Check the data, or train, calibrate, and write bundle and report."""
    from histoslide.errors import DataError

    if not arguments.data.exists():  # said before fastai is imported, which takes its time
        raise DataError(f"{arguments.data} does not exist")
    # torch says of itself, when fastai imports it, that scripting is going away: not our user's.
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
    if not is_first():  # the first speaks for all
        logging.getLogger("histoslide").setLevel(logging.ERROR)
    if arguments.verify and not arguments.check:
        raise DataError("--verify is a part of --check: pass both, and train afterwards")
    recipe = choose_recipe(arguments)
    return _check(arguments, recipe) if arguments.check else _train(arguments, recipe)


def _check(arguments: argparse.Namespace, recipe: Recipe) -> int:
    with Progress("reading", unit="patch", quiet=arguments.quiet) as progress:
        folder = patch_folder(arguments, patch_px=arguments.patch_size, cache=arguments.cache)
        report = folder.check(
            recipe.division(seed=arguments.seed),
            verify=arguments.verify,
            on_patches=progress.update,
        )
    shown = json.dumps(report.as_dict(), indent=2) if arguments.json else str(report)
    print(shown)  # noqa: T201
    wanted = (recipe.input_px, recipe.input_px)
    fits = report.expected_px in (None, wanted)
    if not fits and report.expected_px is not None:
        height, width = report.expected_px
        logger.error(
            "the patches are %d×%d px, recipe %s trains on %d×%d: pass --patch-size and --mpp as "
            "the patches are, or another --recipe",
            width, height, recipe.name, *wanted,
        )  # fmt: skip
    return EXIT_DONE if fits and not report.problems else EXIT_USAGE


def _train(arguments: argparse.Namespace, recipe: Recipe) -> int:
    import torch

    from histoslide.model import pick_device
    from histoslide.training.distributed import process_group
    from histoslide.training.fit import train
    from histoslide.training.teachers import read_teachers

    folder = prepare_outputs(arguments, recipe)
    data = _open_data(arguments, recipe)
    initial = _initial_weights(arguments, recipe)
    teachers = read_teachers(arguments.teacher, recipe, data.classes)
    if is_first():
        begin_run(arguments, data, recipe, folder, initial=initial, teachers=teachers)
    with process_group(torch.device(pick_device(arguments.device))) as device:
        data = _keep(arguments, data, recipe)
        _say(data, recipe, device)
        workers = _workers(arguments.workers, device)
        recipe, finder = _find_rate(
            arguments,
            data,
            recipe,
            folder,
            device=device,
            workers=workers,
            initial=initial,
            teachers=teachers,
        )
        board = _tensorboard(arguments, data, recipe, folder)
        if is_first():
            _write_inputs(data, recipe, folder)
        with TrainProgress(recipe, quiet=arguments.quiet or not is_first()) as progress:
            model = train(
                data,
                recipe,
                name=arguments.name or arguments.out.stem,
                device=device,
                seed=arguments.seed,
                workers=workers,
                licence=arguments.licence,
                tumour=arguments.tumour,
                folder=folder,
                initial=initial,
                initial_file=None if initial is None else Path(arguments.pretrained),
                teachers=teachers,
                finder=finder,
                callbacks=[] if board is None else [board],
                on_epoch=progress.finish_epoch,
                on_batch=progress.step,
            )
        if is_first():
            if board is not None:
                board.embed(model.learner)
            _write_results(arguments, model, data, folder)
    return EXIT_DONE


def is_first() -> bool:
    """Whether this process writes: the only one, or the first of those torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _open_data(arguments: argparse.Namespace, recipe: Recipe) -> PatchData:
    with Progress("reading", unit="patch", quiet=arguments.quiet) as progress:
        folder = dataclasses.replace(
            patch_folder(arguments, patch_px=recipe.input_px, cache=arguments.cache),
            extra_repeat=tuple(arguments.extra_repeat),
            unlabelled=tuple(arguments.unlabelled),
        )
        data = folder.divide(
            recipe.division(seed=arguments.seed),
            duplicates=arguments.duplicates,
            on_patches=progress.update,
        )
    return name_classes(data, arguments.class_names)


def name_classes(data: PatchData, names: list[str] | None) -> PatchData:
    """Rename the classes.

    Raises:
        DataError: not as many names as classes.
    """
    from histoslide.errors import DataError

    if names is None:
        return data
    if len(names) != len(data.classes):
        raise DataError(f"--class-names gives {len(names)} names for {list(data.classes)}")
    return dataclasses.replace(data, classes=tuple(names))


def _keep(arguments: argparse.Namespace, data: PatchData, recipe: Recipe) -> PatchData:
    from histoslide.training.kept_patches import keep_patches

    quiet = arguments.quiet or not is_first()
    with Progress("decoding", unit="patch", quiet=quiet) as progress:
        return keep_patches(data, recipe, on_patches=progress.update)


def _initial_weights(arguments: argparse.Namespace, recipe: Recipe) -> dict[str, Tensor] | None:
    from histoslide.errors import DataError
    from histoslide.model import is_bundle
    from histoslide.model.given_weights import STATE_SUFFIXES, body_weights, read_state

    if arguments.pretrained in (None, "imagenet", "none"):
        return None
    path = Path(arguments.pretrained)
    if not is_pickle(path) and not path.is_file():
        raise DataError(
            f"--pretrained {path} does not exist: pass imagenet, none, a .safetensors bundle, or a "
            "file of weights"
        )
    if path.suffix.lower() in STATE_SUFFIXES and not is_bundle(path):
        return body_weights(read_state(path), recipe.architecture)
    facts = {
        "mpp": arguments.mpp,
        "input_px": arguments.patch_size,
        "label_px": arguments.label_size,
    }
    _, state = read_weights(path, trust_pickle=arguments.trust_pickle, facts=facts)
    return state


def _workers(asked: int | None, device: torch.device) -> int:
    """Processes that decode: beside a GPU all cores but one; on the CPU they would be in its way.

    Raises:
        HistoslideError: a negative number.
    """
    from histoslide.errors import HistoslideError
    from histoslide.machine.processors import usable_processors

    if asked is None:
        return max(1, usable_processors() - 1) if device.type == "cuda" else 0
    if asked < 0:
        raise HistoslideError(f"--workers must be 0 or more, not {asked}")
    return asked


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
    arguments: argparse.Namespace,
    data: PatchData,
    recipe: Recipe,
    folder: Path,
    *,
    device: torch.device,
    workers: int,
    initial: dict[str, Tensor] | None,
    teachers: Sequence[Teacher],
) -> tuple[Recipe, RateSearch | None]:
    """The recipe with the rate that the finder suggests, if it was asked for.

    What it found is kept in the run folder: a run that goes on must go on with the same rate.
    """
    from histoslide.training.checkpoint import FILE_NAME
    from histoslide.training.rates import find_rate, scale_rates

    if arguments.lr != FIND:
        return recipe, None
    known = read_rates(folder) if (folder / FILE_NAME).exists() else None
    search = known or find_rate(
        data,
        recipe,
        device=device,
        seed=arguments.seed,
        workers=workers,
        initial=initial,
        teachers=teachers,
    )
    if known is None and is_first():
        (folder / RATES_NAME).write_text(search.to_json(), encoding="utf-8")
    assert search.suggestion is not None
    logger.info("learning rate %.2g, from the longest valley of the loss", search.suggestion)
    return scale_rates(recipe, search.suggestion), search


def _tensorboard(
    arguments: argparse.Namespace, data: PatchData, recipe: Recipe, folder: Path
) -> Any:
    if not (arguments.tensorboard and is_first()):
        return None
    from histoslide.training.tensorboard import TensorBoard

    board = folder / "tensorboard"
    logger.info("look at it with: tensorboard --logdir %s", board)
    return TensorBoard(board, data, recipe)


def _write_inputs(data: PatchData, recipe: Recipe, folder: Path) -> None:
    """What the run will learn from and how, before it starts: split, recipe, pictures of patches.

    Raises:
        HistoslideError: the folder cannot be written.
    """
    from histoslide.datasets import save_split
    from histoslide.errors import HistoslideError
    from histoslide.evaluation.patches.plots import plain, to_png
    from histoslide.evaluation.patches.samples import patch_figure, pick_samples
    from histoslide.storage.records import to_json

    save_split(data, folder / SPLIT_NAME, overwrite=True)
    try:
        names = data.train.names
        text = to_json(recipe, ascii_only=True)  # it may name a file
        (folder / RECIPE_NAME).write_text(text, encoding="utf-8")
        for label, name in enumerate(data.classes):
            chosen = pick_samples(data.train.labels, label)
            if len(chosen):
                titles = [plain(str(names[i]), 20) for i in chosen]
                figure = patch_figure(data.train, chosen, titles, label_px=recipe.label_px)
                path = folder / f"training-{label}-{_file_name(name)}.png"
                path.write_bytes(to_png(figure))
    except OSError as error:
        raise HistoslideError(f"{folder} cannot be written: {error.strerror}") from error


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in name)


def _write_results(
    arguments: argparse.Namespace, model: TrainedModel, data: PatchData, folder: Path
) -> None:
    from histoslide.training.checkpoint import FILE_NAME
    from histoslide.training.fastai_export import pending_export

    out, overwrite = arguments.out, arguments.overwrite
    with ExitStack() as stack:
        if arguments.export_pkl is not None:
            pending = pending_export(
                model.learner, arguments.export_pkl, model.spec, overwrite=overwrite
            )
            stack.enter_context(pending)
        page = model.report(folder, data.valid, overwrite=True)
        # The bundle last: while it is missing, the same command goes on from the checkpoint.
        model.save(out, half=arguments.half, overwrite=overwrite)
    (folder / FILE_NAME).unlink(missing_ok=True)  # it has served, and is large
    figures = model.figures
    if arguments.json:
        facts = {
            "model": str(out),
            "report": str(page),
            "validation": dataclasses.asdict(figures),
            "temperature": model.spec.temperature,
        }
        print(json.dumps(facts, indent=2))  # noqa: T201
        return
    print(  # noqa: T201
        f"{out}: accuracy {figures.accuracy:.4f}, AUC {figures.auc:.4f} on "
        f"{figures.patches} validation patches"
    )
    print(f"{page}: curves, figures and the patches it is most wrong about")  # noqa: T201
