"""The run folder: what may be written there, which run it is of, and what a run begins with."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from histoslide.datasets import PatchData, save_split
from histoslide.errors import HistoslideError
from histoslide.evaluation.drawing import plain, to_png
from histoslide.evaluation.patches.history import RateSearch
from histoslide.evaluation.patches.report import REPORT_NAME
from histoslide.evaluation.patches.samples import patch_figure, pick_samples
from histoslide.storage.records import to_json
from histoslide.storage.writing import refuse_existing
from histoslide.training.checkpoint import FILE_NAME, load_checkpoint, run_settings
from histoslide.training.fit import LOG_NAME
from histoslide.training.rates import scale_rates
from histoslide.training.recipe import Recipe
from histoslide.training.records import write_log
from histoslide.training.teachers import Teacher

logger = logging.getLogger(__name__)

RECIPE_NAME = "recipe.json"
"""Name of the recipe in a run folder."""

SPLIT_NAME = "split.csv"
"""Name of the split in a run folder."""

RATES_NAME = "lr_find.json"
"""Name of what the learning-rate finder saw in a run folder."""


def prepare_folder(folder: Path, *, overwrite: bool) -> None:
    """Make the folder, unless it holds something else than an unfinished run.

    Raises:
        OutputExistsError: it does, and ``overwrite`` is false.
        HistoslideError: it cannot be written.
    """
    trained = (folder / FILE_NAME).exists()  # perhaps to its end, with no room for the results
    begun = (folder / LOG_NAME).exists() and not (folder / REPORT_NAME).exists()
    if folder.exists() and not (trained or begun) and any(folder.iterdir()):
        refuse_existing(folder, overwrite=overwrite)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HistoslideError(f"{folder} cannot be written: {error.strerror}") from error


def spare_inputs(folder: Path, inputs: Mapping[str, str | Path | None]) -> None:
    """Refuse to write over what the run is given.

    Args:
        folder: of the run.
        inputs: names of files, by the option that gave them; what is no file does not matter.

    Raises:
        HistoslideError: the run folder would get another file in the place of one that is read.
    """
    for option, given in inputs.items():
        for written in (folder / RECIPE_NAME, folder / SPLIT_NAME):
            if given and written.exists() and Path(given).exists() and written.samefile(given):
                raise HistoslideError(
                    f"{option} {given} would be written over by the run: choose another --run "
                    "than its folder, or copy it elsewhere first"
                )


def begin_run(
    folder: Path,
    data: PatchData,
    recipe: Recipe,
    *,
    seed: int,
    initial: dict[str, Tensor] | None,
    teachers: Sequence[Teacher],
    finds_rate: bool,
    overwrite: bool,
) -> None:
    """Go on with the run that has begun in the folder, or mark that one begins.

    With ``overwrite`` too a run goes on that is the same; any other is replaced.

    Raises:
        OutputExistsError: a run with other settings has begun there, and is not to be replaced.
        HistoslideError: its checkpoint cannot be read, or the folder cannot be written.
    """
    checkpoint, same = folder / FILE_NAME, True
    if checkpoint.exists():
        if finds_rate:
            search = read_rates(folder)
            same = search is not None and search.suggestion is not None
            if search is not None and search.suggestion is not None:
                recipe = scale_rates(recipe, search.suggestion)
        settings = run_settings(data, recipe, seed=seed, initial=initial, teachers=teachers)
        try:
            load_checkpoint(checkpoint, settings)
        except HistoslideError:
            if not overwrite:
                raise
            same = False
    if overwrite and not same:
        logger.info("%s is of a run with other settings, which is replaced", checkpoint)
        checkpoint.unlink()
    if not checkpoint.exists():
        write_log((), folder / LOG_NAME)  # no epoch yet, but by it the same command knows its run


def read_rates(folder: Path) -> RateSearch | None:
    """What the learning-rate finder saw, or None where it has not run.

    Raises:
        DataError: the file is something else.
    """
    path = folder / RATES_NAME
    return RateSearch.from_json(path.read_bytes(), source=path) if path.exists() else None


def write_inputs(folder: Path, data: PatchData, recipe: Recipe) -> None:
    """What the run will learn from and how, before it starts: split, recipe, pictures of patches.

    Raises:
        HistoslideError: the folder cannot be written.
    """
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
