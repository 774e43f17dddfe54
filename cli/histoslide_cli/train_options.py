"""The options of ``histoslide train``, and the recipe that they make."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histoslide_cli.model_choice import add_trust_option
from histoslide_cli.patch_options import add_patch_options

if TYPE_CHECKING:
    from histoslide.training.recipe import Recipe, Stage

logger = logging.getLogger("histoslide.cli")

DEFAULT_OUT = Path("model.safetensors")
"""Where the bundle goes unless ``--out`` says otherwise."""

FIND = "find"
"""The value of ``--lr`` that asks for the learning-rate finder."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add all of them, in groups."""
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of patches")
    _add_data_options(parser.add_argument_group("data"))
    _add_recipe_options(parser.add_argument_group("recipe"))
    _add_run_options(parser.add_argument_group("run"))
    add_trust_option(parser)


def _add_data_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--check",
        action="store_true",
        help="read every patch once and report counts, sizes, balance, what is corrupt and what "
        "occurs twice, without training",
    )
    group.add_argument(
        "--verify",
        action="store_true",
        help="with --check: compare gzipped PCam files with their MD5, and Kaggle ids with the "
        "SHA-1 of their pixels",
    )
    add_patch_options(
        group,
        extra=" to train on",
        slides="",
        skip_bad="patches that cannot be read or have another size, and labels or files without "
        "their counterpart",
    )
    group.add_argument(
        "--extra-repeat",
        type=int,
        action="append",
        default=[],
        metavar="N",
        help="how often an epoch shows the patches of --extra: once for all of them, or once for "
        "each (default: 1)",
    )
    group.add_argument(
        "--unlabelled",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER|SLIDE",
        help="patches without labels, or a slide whose tissue is cut into such, of which only "
        "--teacher says what they show; may be repeated",
    )
    group.add_argument(
        "--split",
        metavar="HOW",
        help="official, slide, last, random, or the split.csv of an earlier run (default: the "
        "first of these that the data allow; random for a folder per class)",
    )
    group.add_argument(
        "--valid-fraction",
        type=float,
        metavar="PART",
        help="held back where the data have no validation set (default: as the recipe says)",
    )
    group.add_argument(
        "--duplicates",
        choices=("drop", "keep"),
        default="drop",
        help="what to do with training patches that validation has too (default: drop)",
    )
    group.add_argument(
        "--cache",
        type=Path,
        metavar="FOLDER",
        help="for unpacked files and what reading has shown (default: the user's cache folder)",
    )
    group.add_argument(
        "--class-names",
        nargs="+",
        metavar="NAME",
        help="names for the classes in order, for example: normal tumour",
    )
    group.add_argument(
        "--tumour",
        metavar="NAME",
        help="the class that means tumour (default: the one named tumour, positive, …, or 1 "
        "beside 0)",
    )
    group.add_argument(
        "--mpp",
        type=float,
        metavar="UM",
        help="micrometres per pixel of the patches (default: as the recipe says, 0.972 for pcam)",
    )
    group.add_argument(
        "--patch-size", type=int, metavar="PX", help="side of the patches (default: the recipe's)"
    )
    group.add_argument(
        "--label-size",
        type=int,
        metavar="PX",
        help="side of the centre that the labels speak of (default: the recipe's, 32 for pcam)",
    )


def _add_recipe_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--recipe",
        default="pcam",
        metavar="NAME|FILE",
        help="pcam, colorectal, fine-tune, pcam-robust, from-scratch, or a .toml or .json file "
        "(default: pcam)",
    )
    group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="any value of the recipe, for example augmentation.stain=0.1; may be repeated",
    )
    group.add_argument(
        "--arch",
        metavar="NAME",
        help="resnet18, resnet34, resnet50, or any network of timm as timm/NAME, for example "
        "timm/tf_efficientnet_lite0",
    )
    group.add_argument(
        "--size",
        type=int,
        metavar="PX",
        help="side of what the network sees, after resizing; in every stage, whatever the recipe "
        "says of it",
    )
    group.add_argument(
        "--pretrained",
        metavar="WHAT",
        help="imagenet, shipped (the weights of the model that ships with this architecture, so "
        "that no network is needed), none (which freezes nothing unless --freeze-epochs asks for "
        "it), a bundle to start from, or a file of weights (.pth, .safetensors) with the names of "
        "timm, torchvision or efficientnet-pytorch (default: as the recipe says)",
    )
    group.add_argument(
        "--teacher",
        type=Path,
        nargs="+",
        default=[],
        metavar="BUNDLE",
        help="trained models; the network learns their mean probabilities of each patch as it is "
        "shown, beside the labels",
    )
    group.add_argument(
        "--epochs", type=int, metavar="N", help="epochs in which the whole network learns"
    )
    group.add_argument(
        "--freeze-epochs",
        type=int,
        metavar="N",
        help="epochs before them in which only the head learns; 0 for none",
    )
    group.add_argument(
        "--lr",
        metavar="RATE",
        help="highest learning rate of the first stage, the others in proportion; or find, which "
        "tries growing rates and takes the suggestion",
    )
    for name, kind, text in (
        ("--batch-size", int, "patches a step"),
        ("--weight-decay", float, "decoupled weight decay"),
        ("--label-smoothing", float, "part of the target spread over all classes"),
        ("--teacher-weight", float, "part of the loss that --teacher makes, 0-1, labels the rest"),
        ("--teacher-temperature", float, "what logits are divided by before they are compared"),
        ("--mixup", float, "alpha of the mixing of pairs of patches, 0 for none"),
        ("--ema", float, "decay a step of the average of the weights that is kept, 0 for none"),
        ("--patience", int, "epochs without a better one after which a stage ends"),
    ):
        group.add_argument(name, type=kind, metavar=name.rpartition("-")[2][0].upper(), help=text)
    group.add_argument(
        "--class-weights",
        metavar="WHAT",
        help="none, balanced, or one number a class, with commas between",
    )
    group.add_argument(
        "--precision",
        choices=("auto", "fp32", "fp16", "bf16", "mixed"),
        help="auto is bf16 where GPU or processor have it and the network gains from it; mixed is "
        "fp16 on CUDA and fp32 elsewhere (default: as the recipe says, mostly auto)",
    )
    group.add_argument(
        "--keep", choices=("best", "last"), help="weights of the best or the last epoch"
    )


def _add_run_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--out",
        type=Path,
        default=DEFAULT_OUT,
        metavar="FILE",
        help="bundle to write (default: model.safetensors)",
    )
    group.add_argument(
        "--run",
        dest="run_folder",
        type=Path,
        metavar="FOLDER",
        help="for log, checkpoint, split, recipe and report (default: --out with the ending .run)",
    )
    group.add_argument(
        "--name", metavar="NAME", help="of the model (default: that of --out, or of DATA)"
    )
    group.add_argument("--licence", default="unspecified", help="of the weights")
    group.add_argument("--half", action="store_true", help="store weights in half precision")
    group.add_argument(
        "--export-pkl",
        type=Path,
        metavar="FILE",
        help="write fastai's own export too, for those who go on in a notebook",
    )
    group.add_argument(
        "--tensorboard",
        action="store_true",
        help="write curves, patches and an embedding for TensorBoard into the run folder",
    )
    group.add_argument(
        "--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: auto)"
    )
    group.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that decode patches (default: all cores but one beside a GPU, else none)",
    )
    group.add_argument(
        "--seed",
        type=int,
        default=42,
        help="of weights, order, augmentation and split (default: 42)",
    )
    group.add_argument(
        "--no-calibrate",
        action="store_true",
        help="do not measure at the end whether int8 and bf16 are as good, see histoslide model "
        "calibrate",
    )
    group.add_argument("--json", action="store_true", help="print JSON")
    group.add_argument(
        "--overwrite",
        action="store_true",
        help="replace an existing bundle and run folder; an unfinished run of the same settings "
        "goes on",
    )


def choose_recipe(arguments: argparse.Namespace) -> Recipe:
    """The recipe that ``--recipe`` names, with what the other options change.

    Raises:
        DataError: no such recipe, an option that does not fit it, or a value out of range.
    """
    from histoslide.training.rates import scale_rates
    from histoslide.training.recipe_file import change_recipe, find_recipe, parse_settings

    recipe = find_recipe(arguments.recipe)
    recipe = change_recipe(recipe, parse_settings(arguments.set))
    given = {
        "architecture": arguments.arch,
        "network_px": arguments.size,
        "mpp": arguments.mpp,
        "input_px": arguments.patch_size,
        "label_px": arguments.label_size,
        "split": arguments.split,
        "valid_fraction": arguments.valid_fraction,
        "batch_size": arguments.batch_size,
        "weight_decay": arguments.weight_decay,
        "label_smoothing": arguments.label_smoothing,
        "teacher_weight": arguments.teacher_weight,
        "teacher_temperature": arguments.teacher_temperature,
        "mixup": arguments.mixup,
        "ema_decay": arguments.ema,
        "patience": arguments.patience,
        "precision": arguments.precision,
        "keep": arguments.keep,
    }
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if arguments.size is not None:  # a stage's own would win over the recipe's
        stages = (dataclasses.replace(stage, network_px=None) for stage in recipe.stages)
        changes["stages"] = tuple(stages)
    if arguments.class_weights is not None:
        changes["class_weights"] = _class_weights(arguments.class_weights)
    if arguments.pretrained not in (None, "none"):
        changes["imagenet"] = arguments.pretrained == "imagenet"
    recipe = dataclasses.replace(recipe, **changes)
    recipe = _change_epochs(recipe, arguments.epochs, arguments.freeze_epochs)
    # A recipe says so too, by --set imagenet=false or in its file; but --pretrained goes first.
    if arguments.pretrained == "none" or (arguments.pretrained is None and not recipe.imagenet):
        recipe = _from_random_weights(recipe, freezes=arguments.freeze_epochs is not None)
    if arguments.lr not in (None, FIND):
        recipe = scale_rates(recipe, _rate(arguments.lr))
    return recipe


def _from_random_weights(recipe: Recipe, *, freezes: bool) -> Recipe:
    """The recipe without ImageNet weights, whose first stage freezes only where that is asked."""
    if freezes:
        return dataclasses.replace(recipe, imagenet=False)
    thawed = recipe.from_random_weights()
    if thawed.stages != recipe.stages:
        logger.info(
            "nothing is pretrained: the %d epochs that recipe %s gives to the head train the "
            "whole network; --freeze-epochs 0 leaves them out",
            thawed.stages[0].epochs, recipe.name,
        )  # fmt: skip
    return thawed


def _change_epochs(recipe: Recipe, epochs: int | None, freeze_epochs: int | None) -> Recipe:
    from histoslide.errors import DataError

    if epochs is None and freeze_epochs is None:
        return recipe
    frozen = [stage for stage in recipe.stages if stage.trainable_groups == 1]
    whole = [stage for stage in recipe.stages if stage.trainable_groups != 1]
    wanted = {
        id(stage): share
        for group, given, option in (
            (frozen, freeze_epochs, "--freeze-epochs"),
            (whole, epochs, "--epochs"),
        )
        for stage, share in zip(group, _shares(group, given, option, recipe.name), strict=True)
    }
    stages = tuple(
        dataclasses.replace(stage, epochs=wanted[id(stage)])
        for stage in recipe.stages
        if wanted[id(stage)]
    )
    if not stages:
        raise DataError(f"recipe {recipe.name} has no epoch left: ask for at least one")
    return dataclasses.replace(recipe, stages=stages)


def _shares(stages: list[Stage], epochs: int | None, option: str, name: str) -> list[int]:
    """Epochs divided among stages as the recipe divides its own, the last one first to get one."""
    from histoslide.errors import DataError

    own = [stage.epochs for stage in stages]
    if epochs is None:
        return own
    if not stages and epochs:
        raise DataError(f"recipe {name} has no stage that {option} speaks of: use a .toml file")
    if epochs < 0 or (epochs == 0 and option == "--epochs"):
        raise DataError(f"{option} must be at least {int(option == '--epochs')}, not {epochs}")
    if not epochs:
        return [0] * len(own)
    exact = [epochs * each / sum(own) for each in own]
    shares = [int(each) for each in exact]
    shares[-1] = max(1, shares[-1])  # which alone sees whole patches
    by_rest = sorted(range(len(own)), key=lambda i: (shares[i] - exact[i], -i))
    for i in by_rest[: max(0, epochs - sum(shares))]:
        shares[i] += 1
    return shares


def _rate(text: str) -> float:
    from histoslide.errors import DataError

    try:
        rate = float(text)
    except ValueError:
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise DataError(f"--lr {text} is neither a positive number nor {FIND}")
    return rate


def _class_weights(text: str) -> str | tuple[float, ...]:
    from histoslide.errors import DataError

    if text in {"none", "balanced"}:
        return text
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise DataError(
            f"--class-weights {text} is neither none, balanced, nor numbers with commas"
        ) from None
