"""What an interrupted run needs to go on as if nothing had happened.

A checkpoint is written after every epoch. Randomness needs no state of its own: each epoch starts
from a seed that follows from the run's seed and the epoch's number.
"""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fastai.torch_core import set_seed
from torch import Tensor

from histoslide.datasets import PatchData, PatchSet
from histoslide.errors import HistoslideError, OutputExistsError
from histoslide.model.bundle import bundle_sha256
from histoslide.model.torch_file import read_torch_file
from histoslide.storage.records import from_builtins, to_builtins
from histoslide.storage.writing import named_difference, whole_file
from histoslide.training.recipe import Recipe
from histoslide.training.records import EpochRecord
from histoslide.training.teachers import Teacher

FILE_NAME = "checkpoint.pt"
"""Name of the checkpoint in a run folder."""


@dataclass(kw_only=True)
class Checkpoint:
    """The state of a run after an epoch."""

    settings: dict[str, Any]
    """What must be equal for the run to be the same run; see ``run_settings``."""
    stage: int = 0
    """Index of the stage the run is in."""
    epochs_of_stage: int = 0
    """How many epochs of that stage are done."""
    records: list[EpochRecord] = field(default_factory=list)
    """Records of all epochs so far."""
    losses: list[float] = field(default_factory=list)
    """Training loss of every step so far."""
    rates: list[list[float]] = field(default_factory=list)
    """Learning rate of each parameter group at every step so far."""
    network: dict[str, Any] = field(default_factory=dict)
    """State dict of the network."""
    optimiser: dict[str, Any] | None = None
    """State dict of the optimiser; None at the start of a stage."""
    average: dict[str, Any] | None = None
    """State of the weight averaging; None where there is none."""
    smooth_loss: tuple[int, float] = (0, 0.0)
    """fastai's running training loss: number of steps and value."""
    scaler: dict[str, Any] | None = None
    """State of the gradient scaler; None where there is none."""
    best: dict[str, Any] | None = None
    """State dict of the best epoch of the last stage; None before it."""

    def save(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all.

        Raises:
            HistoslideError: the disk is full or the folder cannot be written.
        """
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values["records"] = to_builtins(self.records)
        values["optimiser"] = _plain(self.optimiser)
        try:
            with whole_file(path) as partial:
                torch.save(values, partial)
        except (OSError, RuntimeError) as error:
            raise HistoslideError(
                f"{path} cannot be written ({why_unwritten(error)}): make room and run the same "
                "command again, it goes on from the last epoch that was saved"
            ) from error


def why_unwritten(error: Exception) -> str:
    """Why ``torch.save`` failed, in one line.

    torch reports a full disk as a RuntimeError that speaks of positions in its file.
    """
    if "unexpected pos" in str(error):
        return "no space left"
    return str(error).splitlines()[0]


def load_checkpoint(path: Path, settings: Mapping[str, Any]) -> Checkpoint:
    """Read the checkpoint of the same run.

    Args:
        path: what ``Checkpoint.save`` wrote.
        settings: of the run that wants to go on.

    Raises:
        OutputExistsError: it is of a run with other settings.
        HistoslideError: it cannot be read.
    """
    try:
        values = read_torch_file(path)
        values["settings"] = from_builtins(values["settings"], dict[str, Any], source=path)
        values["records"] = from_builtins(values["records"], list[EpochRecord], source=path)
        checkpoint = Checkpoint(**values)
    except (HistoslideError, OSError, TypeError, KeyError) as error:
        raise HistoslideError(
            f"{path} cannot be read: pass --overwrite to start the run again"
        ) from error
    if difference := named_difference(checkpoint.settings, settings):
        raise OutputExistsError(
            f"{path} is of a run with other settings ({difference}): pass --overwrite to start "
            "again, or write elsewhere"
        )
    return checkpoint


def run_settings(
    data: PatchData,
    recipe: Recipe,
    *,
    seed: int,
    initial: Mapping[str, Tensor] | None,
    teachers: Sequence[Teacher] = (),
) -> dict[str, Any]:
    """What makes two runs the same run: data, recipe, seed, given weights and teachers.

    Returns:
        Flat JSON-ready values.
    """
    flat: dict[str, Any] = {}
    for key, value in recipe.as_dict().items():
        if isinstance(value, dict):
            flat |= {f"{key}.{name}": part for name, part in value.items()}
        else:
            flat[key] = value
    values = flat | {
        "seed": seed,
        "starts from given weights": initial is not None,
        "given weights sha256": None if initial is None else bundle_sha256("", initial),
        "classes": data.classes,
        "training set sha256": _digest(data.train),
        "validation set sha256": _digest(data.valid),
        "unlabelled sha256": None if data.unlabelled is None else _digest(data.unlabelled),
        "patches an epoch": len(data.shown),
        "order sha256": hashlib.sha256(data.shown.tobytes()).hexdigest(),
        "teachers": [teacher.spec.name for teacher in teachers],
        "teachers sha256": [teacher.sha256 for teacher in teachers],
    }
    # As JSON has them, so that what was stored and what is asked for have the same types.
    return dict(to_builtins(values))


def seed_epoch(seed: int, epoch: int, *, rank: int = 0) -> random.Random:
    """Seed every generator for one epoch, and return the one that shuffles.

    Args:
        seed: of the run.
        epoch: counted through all stages.
        rank: of this process among those that train together; they shuffle alike.
    """
    digest = hashlib.sha256(f"{seed} {epoch}".encode()).digest()
    set_seed((int.from_bytes(digest[:4], "little") + rank) % 2**32, reproducible=False)
    return random.Random(digest)  # noqa: S311


def _plain(value: Any) -> Any:
    """The same with numpy's numbers, which fastai's schedules put into an optimiser, as Python's.

    Only then can the file be read without running code from it.
    """
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_plain(part) for part in value)
    return value.item() if isinstance(value, np.generic) else value


def _digest(patches: PatchSet) -> str:
    digest = hashlib.sha256(patches.labels.tobytes())
    digest.update("\n".join(patches.names).encode())
    return digest.hexdigest()
