"""The run folder of ``histoslide train``: what may be written there, and which run it is of."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from histoslide_cli.train_options import FIND

if TYPE_CHECKING:
    from torch import Tensor

    from histoslide.datasets import PatchData
    from histoslide.evaluation.patches.history import RateSearch
    from histoslide.training.recipe import Recipe
    from histoslide.training.teachers import Teacher

logger = logging.getLogger("histoslide.cli")

RECIPE_NAME = "recipe.json"
"""Name of the recipe in a run folder."""

SPLIT_NAME = "split.csv"
"""Name of the split in a run folder."""

RATES_NAME = "lr_find.json"
"""Name of what the learning-rate finder saw in a run folder."""


def prepare_outputs(arguments: argparse.Namespace, recipe: Recipe) -> Path:
    """Make sure that everything may be written; returns the run folder.

    Raises:
        HistoslideError: something exists, or cannot be written.
    """
    from histoslide.errors import HistoslideError
    from histoslide.evaluation.patches.report import REPORT_NAME
    from histoslide.storage.writing import refuse_existing
    from histoslide.training.checkpoint import FILE_NAME
    from histoslide.training.fit import LOG_NAME

    out: Path = arguments.out
    if out.suffix != ".safetensors":
        raise HistoslideError(f"--out {out} must end in .safetensors")
    folder: Path = arguments.run_folder or out.with_suffix(".run")
    _spare_inputs(arguments, recipe, folder)
    refuse_existing(out, overwrite=arguments.overwrite)
    if arguments.export_pkl is not None:
        refuse_existing(arguments.export_pkl, overwrite=arguments.overwrite)
    trained = (folder / FILE_NAME).exists()  # perhaps to its end, with no room for the results
    begun = (folder / LOG_NAME).exists() and not (folder / REPORT_NAME).exists()
    if folder.exists() and not (trained or begun) and any(folder.iterdir()):
        refuse_existing(folder, overwrite=arguments.overwrite)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HistoslideError(f"{folder} cannot be written: {error.strerror}") from error
    return folder


def _spare_inputs(arguments: argparse.Namespace, recipe: Recipe, folder: Path) -> None:
    """Refuse to write over what the run is given.

    Raises:
        HistoslideError: the run folder would get another file in the place of one that is read.
    """
    from histoslide.errors import HistoslideError

    for option, given in (
        ("--recipe", arguments.recipe),
        ("--split", recipe.split),
        ("--slides", arguments.slides),
    ):
        for written in (folder / RECIPE_NAME, folder / SPLIT_NAME):
            if given and written.exists() and Path(given).exists() and written.samefile(given):
                raise HistoslideError(
                    f"{option} {given} would be written over by the run: choose another --run "
                    "than its folder, or copy it elsewhere first"
                )


def begin_run(
    arguments: argparse.Namespace,
    data: PatchData,
    recipe: Recipe,
    folder: Path,
    *,
    initial: dict[str, Tensor] | None,
    teachers: Sequence[Teacher],
) -> None:
    """Go on with the run that has begun in the folder, or mark that one begins.

    With ``--overwrite`` too a run goes on that is the same; any other is replaced.

    Raises:
        OutputExistsError: a run with other settings has begun there, and is not to be replaced.
        HistoslideError: its checkpoint cannot be read, or the folder cannot be written.
    """
    from histoslide.errors import HistoslideError
    from histoslide.training.checkpoint import FILE_NAME, load_checkpoint, run_settings
    from histoslide.training.fit import LOG_NAME
    from histoslide.training.rates import scale_rates
    from histoslide.training.records import write_log

    checkpoint, same = folder / FILE_NAME, True
    if checkpoint.exists():
        if arguments.lr == FIND:
            search = read_rates(folder)
            same = search is not None and search.suggestion is not None
            if search is not None and search.suggestion is not None:
                recipe = scale_rates(recipe, search.suggestion)
        settings = run_settings(
            data, recipe, seed=arguments.seed, initial=initial, teachers=teachers
        )
        try:
            load_checkpoint(checkpoint, settings)
        except HistoslideError:
            if not arguments.overwrite:
                raise
            same = False
    if arguments.overwrite and not same:
        logger.info("%s is of a run with other settings, which is replaced", checkpoint)
        checkpoint.unlink()
    if not checkpoint.exists():
        write_log((), folder / LOG_NAME)  # no epoch yet, but by it the same command knows its run


def read_rates(folder: Path) -> RateSearch | None:
    """What the learning-rate finder saw, or None where it has not run."""
    from histoslide.evaluation.patches.history import RateSearch

    path = folder / RATES_NAME
    if not path.exists():
        return None
    return RateSearch.from_json(path.read_bytes(), source=path)
