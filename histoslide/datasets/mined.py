"""``mined.json``: what a folder of patches that heatmaps got wrong says of itself.

``histoslide.mining`` writes it, and training copies what of it matters into the bundle.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from histoslide.errors import DataError
from histoslide.storage.records import Count, Share, from_json, to_builtins

MINED_NAME = "mined.json"

Why = Literal["false positive", "miss"]
"""What was wrong with a cell: it is not tumour and was taken for it, or the other way round."""

Kind = Literal["annotations", "review", "negative"]
"""Where the truth comes from: a file of annotations, a review, or that there is no tumour."""


@dataclass(frozen=True, kw_only=True)
class MinedHeatmap:
    """A heatmap that was mined."""

    slide: str
    """File name of its slide."""
    quickhash: str
    """Tells slides apart."""
    heatmap: str
    """Name of the store."""
    heatmap_id: str
    """Of what decided its values."""
    model: str
    """Name of the model that scored it."""
    model_sha256: str
    """Of its weights."""
    truth: Kind
    """What it was compared with."""
    truth_file: str | None
    """Name of the file; None where there is none."""
    truth_sha256: str | None
    """Of the file."""
    exhaustive: bool
    """Whether all that is not drawn counted as normal."""


@dataclass(frozen=True, kw_only=True)
class MiningSettings:
    """What decides which patches are mined; a folder begun with others is refused."""

    heatmaps: tuple[MinedHeatmap, ...]
    """In order."""
    above: Share
    """A cell without tumour of this probability or more is a false positive."""
    below: Share
    """A cell with tumour of a lower probability is a miss."""
    label_rule: str
    """``any``, or the share of a cell's label footprint that must be tumour."""
    classes: Mapping[str, str]
    """Roles that were given to classes."""
    per_slide: Count
    """Most patches of each kind of a slide."""
    per_lesion: Count
    """Most patches of one focus."""
    folders: tuple[str, str]
    """What the folders of normal and tumour patches are called."""


@dataclass(frozen=True, kw_only=True)
class MinedPatch:
    """A patch."""

    file: str
    """Below the folder."""
    why: Why
    """What was wrong."""
    heatmap: Count
    """Index of the heatmap."""
    row: Count
    """Of the cell."""
    col: Count
    """Of the cell."""
    probability: Share
    """Of tumour, as the heatmap has it."""
    focus: Count
    """Number of the connected group of such cells that it is of, from 1 on each slide and kind."""


@dataclass(frozen=True, kw_only=True)
class MinedSlide:
    """What was found on one slide."""

    patches: tuple[MinedPatch, ...]
    """Those that were taken."""
    false_positives: Count
    """Cells that were wrongly taken for tumour, in all."""
    misses: Count
    """Cells with tumour that were missed, in all."""


@dataclass(frozen=True, kw_only=True)
class MinedRecord:
    """Everything that is recorded of a folder."""

    settings: MiningSettings
    """What decided it."""
    slides: tuple[MinedSlide, ...]
    """Of each heatmap, in the same order."""
    left_out: Mapping[str, str]
    """Heatmaps that were not mined, by name, with the reason."""
    notice: str = "Patches that a model got wrong: train on them, never judge on them."
    """What they are for."""
    schema_version: Literal[1] = 1
    """Of this record."""

    def __post_init__(self) -> None:
        if len(self.slides) != len(self.settings.heatmaps):
            raise DataError(
                f"{MINED_NAME} cannot be read: it tells of {len(self.slides)} slides and "
                f"{len(self.settings.heatmaps)} heatmaps"
            )

    @property
    def patches(self) -> list[MinedPatch]:
        """All of them."""
        return [patch for slide in self.slides for patch in slide.patches]


def read_mined(folder: Path) -> MinedRecord | None:
    """The record of a folder; None where there is none.

    Raises:
        DataError: it is damaged.
    """
    path = folder / MINED_NAME
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    return from_json(raw, MinedRecord, source=path, error=DataError)


def mining_facts(folders: Sequence[Path]) -> list[dict[str, Any]]:
    """What a bundle says of the mined patches that it was trained on: one entry a folder.

    Args:
        folders: of extra patches; those that were not mined are passed over.

    Raises:
        DataError: a record is damaged.
    """
    found = []
    for folder in folders:
        record = read_mined(folder)
        if record is None:
            continue
        raw = (folder / MINED_NAME).read_bytes()
        taken = [dict(Counter(patch.why for patch in slide.patches)) for slide in record.slides]
        found.append(
            {
                "folder": folder.name,
                "sha256": hashlib.sha256(raw).hexdigest(),
                "heatmaps": [
                    to_builtins(heat) | {"patches": counts}
                    for heat, counts in zip(record.settings.heatmaps, taken, strict=True)
                ],
            }
        )
    return found
