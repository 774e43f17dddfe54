"""Patients divided into training, validation and test: nobody is in two of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from histoslide.datasets.table import read_columns
from histoslide.errors import DataError, HistoslideError
from histoslide.storage.tables import TableWriter
from histoslide.storage.writing import whole_file
from histoslide.tiling.labelled.slide_list import Part

PARTS: tuple[Part, ...] = get_args(Part)

DEFAULT_FRACTIONS = (0.8, 0.1, 0.1)
"""Training, validation, test; PatchCamelyon's are these."""


@dataclass(frozen=True)
class Fractions:
    """Parts of the patches that training, validation and test get."""

    each: tuple[float, float, float] = DEFAULT_FRACTIONS
    """They add up to 1."""

    @classmethod
    def parse(cls, text: str) -> Fractions:
        """From what a user types: ``0.8,0.1,0.1``.

        Raises:
            HistoslideError: not three such numbers.
        """
        try:
            numbers = [float(part) for part in text.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) != len(PARTS) or min(numbers) < 0 or not 0.999 < sum(numbers) < 1.001:
            raise HistoslideError(
                f"--split {text!r}: write three parts of 1 for training, validation and test, as "
                "0.8,0.1,0.1, or name the split.csv of an earlier run"
            )
        return cls((numbers[0], numbers[1], numbers[2]))


def split_patients(
    patches: Mapping[str, tuple[int, int]],
    *,
    fixed: Mapping[str, Part],
    fractions: Fractions,
    seed: int,
) -> dict[str, Part]:
    """The part of every patient.

    Those with tumour and those without are divided apart. In each group every part gets a patient
    as long as there are enough, training first; the others go where most patches are missing.

    Args:
        patches: normal and tumour patches of every patient.
        fixed: parts that are given; those of other patients do not matter.
        fractions: of the patches that each part should get.
        seed: of the order in which patients are given away.
    """
    part_of: dict[str, Part] = {name: fixed[name] for name in patches if name in fixed}
    rng = np.random.default_rng(seed)
    order = [sorted(patches)[i] for i in rng.permutation(len(patches))]
    share = dict(zip(PARTS, fractions.each, strict=True))
    for with_tumour in (True, False):
        group = [name for name in order if (patches[name][1] > 0) == with_tumour]
        free = [name for name in group if name not in part_of]
        total = sum(sum(patches[name]) for name in group)
        have = dict.fromkeys(PARTS, 0)
        members = dict.fromkeys(PARTS, 0)
        for name in group:
            if name in part_of:
                have[part_of[name]] += sum(patches[name])
                members[part_of[name]] += 1
        for left, name in zip(range(len(free), 0, -1), free, strict=True):
            empty = [part for part in PARTS if share[part] > 0 and not members[part]]
            missing = {part: share[part] * total - have[part] for part in PARTS if share[part] > 0}
            chosen = empty[0] if len(empty) >= left else max(missing, key=lambda p: missing[p])
            part_of[name] = chosen
            have[chosen] += sum(patches[name])
            members[chosen] += 1
    return part_of


def read_patient_split(path: Path) -> dict[str, Part]:
    """The part of every patient, from a ``split.csv``.

    Raises:
        DataError: it cannot be read, or names other parts.
    """
    found: dict[str, Part] = {}
    known = {str(part): part for part in PARTS}
    for patient, part in read_columns(path, (("patient",), ("part",))).items():
        if part not in known:
            raise DataError(f"{path} gives {patient} the part {part!r}: need {', '.join(PARTS)}")
        found[patient] = known[part]
    return found


def write_patient_split(path: Path, part_of: Mapping[str, Part], owners: Mapping[str, str]) -> None:
    """Write ``patient,part,slide``, one line a slide.

    Args:
        path: file to write, or to write anew.
        part_of: part of every patient.
        owners: patient of every slide.
    """
    with whole_file(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        table = TableWriter(file, lineterminator="\n")
        table.write([("patient", "part", "slide")])
        table.write((owner, part_of[owner], slide) for slide, owner in owners.items())
