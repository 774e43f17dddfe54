"""``histoslide train``: patches in, a model bundle out."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from histoslide_cli.console import EXIT_DONE

if TYPE_CHECKING:
    from histoslide.datasets import PatchData
    from histoslide.training.fit import EpochRecord
    from histoslide.training.recipe import Recipe

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
        "the Kaggle layout, or one folder per class (with or without train/ and valid/).",
        epilog="example: histoslide train pcam/ --out model.safetensors",
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of patches")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("model.safetensors"),
        metavar="FILE",
        help="bundle to write (default: model.safetensors); a .jsonl log lies beside it",
    )
    parser.add_argument(
        "--extra",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="further folder per class to train on; may be repeated",
    )
    parser.add_argument(
        "--recipe",
        choices=("one-cycle", "from-scratch"),
        default="one-cycle",
        help="one-cycle fine-tunes ImageNet weights; from-scratch made the weights that ship "
        "(default: one-cycle)",
    )
    parser.add_argument("--arch", metavar="NAME", help="resnet18, resnet34 or resnet50")
    parser.add_argument(
        "--epochs", type=int, metavar="N", help="passes over the data (one-cycle only; default: 5)"
    )
    parser.add_argument(
        "--lr",
        type=float,
        metavar="RATE",
        help="highest learning rate (one-cycle only; default: 0.001)",
    )
    parser.add_argument("--batch-size", type=int, metavar="N", help="patches a step (default: 64)")
    parser.add_argument(
        "--pretrained",
        metavar="WHAT",
        help="imagenet, none, or a bundle to start from (default: as the recipe says)",
    )
    parser.add_argument(
        "--class-names",
        nargs="+",
        metavar="NAME",
        help="names for the classes in order, for example: normal tumour",
    )
    parser.add_argument(
        "--tumour",
        metavar="NAME",
        help="the class that means tumour (default: the one named 1, tumour, positive, …)",
    )
    parser.add_argument(
        "--mpp",
        type=float,
        metavar="UM",
        help="micrometres per pixel of the patches (default: 0.972, as PatchCamelyon)",
    )
    parser.add_argument(
        "--patch-size", type=int, metavar="PX", help="side of the patches (default: 96)"
    )
    parser.add_argument(
        "--label-size",
        type=int,
        metavar="PX",
        help="side of the centre that the labels speak of (default: 32)",
    )
    parser.add_argument(
        "--valid-fraction",
        type=float,
        default=0.05,
        metavar="PART",
        help="held back where the data have no validation set (default: 0.05)",
    )
    parser.add_argument("--name", metavar="NAME", help="of the model (default: that of --out)")
    parser.add_argument("--licence", default="unspecified", help="of the weights")
    parser.add_argument("--half", action="store_true", help="store weights in half precision")
    parser.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes that decode patches (default: 0, none besides this one)",
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=42,
        help="of weights, order, augmentation and split (default: 42)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace an existing bundle")
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Train, calibrate, and write the bundle."""
    from histoslide.datasets import Split, open_patches
    from histoslide.errors import HistoslideError
    from histoslide.model import load_bundle, pick_device
    from histoslide.outputs import refuse_existing

    out: Path = arguments.out
    log = out.with_suffix(".jsonl")
    checkpoint = out.with_name(f"{out.stem}.last{out.suffix}")
    if out.suffix != ".safetensors":
        raise HistoslideError(f"--out {out} must end in .safetensors")
    for path in (out, log, checkpoint):
        refuse_existing(path, overwrite=arguments.overwrite)
    data = open_patches(
        arguments.data,
        extra=tuple(arguments.extra),
        split=Split(fraction=arguments.valid_fraction, seed=arguments.seed),
    )
    data = name_classes(data, arguments.class_names)
    device = pick_device(arguments.device)
    initial = None
    if arguments.pretrained not in (None, "imagenet", "none"):
        _, initial = load_bundle(Path(arguments.pretrained))

    # torch says of itself, when fastai imports it, that scripting is going away: not our user's.
    warnings.filterwarnings("ignore", message="`torch.jit.script` is deprecated")
    from histoslide.training.fit import train

    recipe = adjust(arguments)
    logger.info(
        "%s layout: %d patches to train on, %d to validate on, classes %s",
        data.layout,
        len(data.train),
        len(data.valid),
        ", ".join(data.classes),
    )
    logger.info(
        "patches of %d px at %g µm/px, labels speak of the centre %d px",
        recipe.input_px,
        recipe.mpp,
        recipe.label_px,
    )
    logger.info("recipe %s, %s on %s", recipe.name, recipe.architecture, device)
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("")
    except OSError as error:
        raise HistoslideError(f"{log} cannot be written: {error.strerror}") from error
    model = train(
        data,
        recipe,
        name=arguments.name or out.stem,
        device=device,
        seed=arguments.seed,
        workers=arguments.workers,
        licence=arguments.licence,
        tumour=arguments.tumour,
        log=log,
        checkpoint=checkpoint,
        initial=initial,
        on_epoch=lambda record: report(record, recipe),
    )
    model.save(out, half=arguments.half, overwrite=arguments.overwrite)
    checkpoint.unlink(missing_ok=True)
    figures = model.figures
    print(  # noqa: T201
        f"{out}: accuracy {figures.accuracy:.4f}, AUC {figures.auc:.4f} on "
        f"{figures.patches} validation patches"
    )
    return EXIT_DONE


def report(record: EpochRecord, recipe: Recipe) -> None:
    """Say how an epoch went."""
    logger.info(
        "epoch %d/%d: train loss %.4f, valid loss %.4f, accuracy %.4f, AUC %.4f, %.0f s",
        record.epoch,
        recipe.epochs,
        record.train_loss,
        record.valid_loss,
        record.accuracy,
        record.auc,
        record.seconds,
    )


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


def adjust(arguments: argparse.Namespace) -> Recipe:
    """The recipe with what the options change.

    Raises:
        DataError: an option does not fit the recipe, or a value is out of range.
    """
    from histoslide.errors import DataError
    from histoslide.training.recipe import RECIPES

    recipe = RECIPES[arguments.recipe]
    given = {
        "architecture": arguments.arch,
        "mpp": arguments.mpp,
        "input_px": arguments.patch_size,
        "label_px": arguments.label_size,
    }
    changes: dict[str, object] = {k: v for k, v in given.items() if v is not None}
    if arguments.batch_size is not None:
        if arguments.batch_size < 2:
            raise DataError(f"--batch-size must be at least 2, not {arguments.batch_size}")
        changes["batch_size"] = arguments.batch_size
    if arguments.pretrained is not None:
        changes["imagenet"] = arguments.pretrained == "imagenet"
    stage = {
        name: value
        for name, value in (("epochs", arguments.epochs), ("lr", arguments.lr))
        if value is not None
    }
    if stage:
        if len(recipe.stages) > 1:
            raise DataError(
                f"--epochs and --lr need a recipe of one stage, {recipe.name} has "
                f"{len(recipe.stages)}: use --recipe one-cycle"
            )
        changes["stages"] = (dataclasses.replace(recipe.stages[0], **stage),)
    return dataclasses.replace(recipe, **changes)  # type: ignore[arg-type]
