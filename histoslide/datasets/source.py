"""What a layout offers, before anything is divided or left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from histoslide.datasets.patches import PatchSet, UnlabelledPatches


@dataclass(frozen=True, kw_only=True)
class Source:
    """Labelled patches in the parts that their files bring."""

    root: Path
    """The folder they were found in."""
    layout: str
    """``pcam-hdf5``, ``kaggle`` or ``folders``."""
    classes: tuple[str, ...]
    """Class names in the order of their indices."""
    parts: Mapping[str, PatchSet]
    """``train``, ``valid``, ``test``, or ``all`` where the files tell no parts; and ``extra``,
    which is only ever trained on. Names are unique over all of them."""
    extra_repeats: tuple[tuple[int, int], ...] = ()
    """Of each folder that ``extra`` is made of, in order: its patches, and how often an epoch shows
    them."""
    unlabelled: UnlabelledPatches | None = None
    """A test set without labels."""
    problems: tuple[str, ...] = ()
    """Files that do not go together and were skipped, one line each."""
