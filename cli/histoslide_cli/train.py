"""``histoslide train``: patches in, a model bundle and a report out."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from histoslide_cli.console import Progress
from histoslide_cli.model_choice import is_pickle, read_weights
from histoslide_cli.outcomes import EXIT_DONE, EXIT_USAGE
from histoslide_cli.patch_options import patch_folder
from histoslide_cli.train_options import DEFAULT_OUT, FIND, add_options, choose_recipe
from histoslide_cli.train_progress import TrainProgress

if TYPE_CHECKING:
    from torch import Tensor

    from histoslide.training.recipe import Recipe
    from histoslide.training.run import FinishedRun, TrainingRun

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
    from histoslide.training.rank import is_first

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
    from histoslide.training.rank import is_first
    from histoslide.training.run import TrainingRun, run_training

    initial = _initial_weights(arguments, recipe)
    initial_file = Path(str(arguments.pretrained))
    if arguments.pretrained == "shipped":
        initial_file = _shipped(recipe.architecture)
    folder = patch_folder(arguments, patch_px=recipe.input_px, cache=arguments.cache)
    run = TrainingRun(
        patches=dataclasses.replace(
            folder,
            extra_repeat=tuple(arguments.extra_repeat),
            unlabelled=_unlabelled(arguments, recipe),
        ),
        recipe=recipe,
        out=arguments.out,
        folder=arguments.run_folder,
        duplicates=arguments.duplicates,
        class_names=None if arguments.class_names is None else tuple(arguments.class_names),
        tumour=arguments.tumour,
        initial=initial,
        initial_file=None if initial is None else initial_file,
        teachers=tuple(arguments.teacher),
        finds_rate=arguments.lr == FIND,
        name=arguments.name or _named_after_data(arguments),
        licence=arguments.licence,
        half=arguments.half,
        export_pkl=arguments.export_pkl,
        tensorboard=arguments.tensorboard,
        device=arguments.device,
        workers=arguments.workers,
        seed=arguments.seed,
        calibrate=not arguments.no_calibrate,
        overwrite=arguments.overwrite,
        recipe_file=arguments.recipe,
    )
    quiet = arguments.quiet or not is_first()
    with TrainProgress(recipe, quiet=quiet) as progress:
        finished = run_training(
            run, watch=progress.watch, on_epoch=progress.finish_epoch, on_batch=progress.step
        )
    if is_first():
        _print(finished, run, as_json=arguments.json)
    return EXIT_DONE


def _named_after_data(arguments: argparse.Namespace) -> str | None:
    """A name for a model whose user has thought of none, not even of the file's."""
    return arguments.data.resolve().name if arguments.out == DEFAULT_OUT else None


def _unlabelled(arguments: argparse.Namespace, recipe: Recipe) -> tuple[Path, ...]:
    """Folders of patches; slides are cut into such beside the bundle."""
    if not arguments.unlabelled:
        return ()
    from histoslide.tiling.unlabelled import cut_slides

    return cut_slides(
        arguments.unlabelled,
        arguments.out.with_suffix(".tiles"),
        input_px=recipe.input_px,
        label_px=recipe.label_px,
        mpp=recipe.mpp,
        watch=lambda name: _watch_tiles(name, quiet=arguments.quiet),
    )


@contextmanager
def _watch_tiles(name: str, *, quiet: bool) -> Iterator[Callable[[int, int], None]]:
    with Progress(name, unit="tile", quiet=quiet) as progress:
        yield progress.update


def _print(finished: FinishedRun, run: TrainingRun, *, as_json: bool) -> None:
    figures, page = finished.model.figures, finished.report
    if as_json:
        facts = {
            "model": str(run.out),
            "report": str(page),
            "validation": dataclasses.asdict(figures),
            "temperature": finished.model.spec.temperature,
        }
        print(json.dumps(facts, indent=2))  # noqa: T201
        return
    print(  # noqa: T201
        f"{run.out}: accuracy {figures.accuracy:.4f}, AUC {figures.auc:.4f} on "
        f"{figures.patches} validation patches"
    )
    print(f"{page}: curves, figures and the patches it is most wrong about")  # noqa: T201


def _shipped(architecture: str) -> Path:
    """The bundle that ships and has an architecture."""
    from histoslide.errors import DataError
    from histoslide.model import SHIPPED, read_spec, shipped_bundle

    bundles = {read_spec(shipped_bundle(name)).architecture: name for name in SHIPPED}
    if architecture not in bundles:
        raise DataError(
            f"no model that ships is a {architecture}: pass --arch {' or '.join(bundles)}"
        )
    return shipped_bundle(bundles[architecture])


def _initial_weights(arguments: argparse.Namespace, recipe: Recipe) -> dict[str, Tensor] | None:
    from histoslide.errors import DataError
    from histoslide.model import is_bundle
    from histoslide.model.given_weights import STATE_SUFFIXES, body_weights, read_state

    if arguments.pretrained in (None, "imagenet", "none"):
        return None
    path = Path(arguments.pretrained)
    if arguments.pretrained == "shipped":
        path = _shipped(recipe.architecture)
    if not is_pickle(path) and not path.is_file():
        raise DataError(
            f"--pretrained {path} does not exist: pass imagenet, shipped, none, a .safetensors "
            "bundle, or a file of weights"
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
