"""Labelled patches as people have them, recognised by their layout."""

from __future__ import annotations

from histoslide.datasets.check import CheckReport, PartReport, check_patches
from histoslide.datasets.images import UnlabelledFiles
from histoslide.datasets.opening import Layout, Part, open_part, open_patches, open_unlabelled
from histoslide.datasets.patches import (
    UNKNOWN,
    ImageFiles,
    Joined,
    PatchData,
    PatchSet,
    Subset,
    UnlabelledPatches,
    WithoutLabels,
)
from histoslide.datasets.split import Split
from histoslide.datasets.split_file import save_split

__all__ = [
    "UNKNOWN",
    "CheckReport",
    "ImageFiles",
    "Joined",
    "Layout",
    "Part",
    "PartReport",
    "PatchData",
    "PatchSet",
    "Split",
    "Subset",
    "UnlabelledFiles",
    "UnlabelledPatches",
    "WithoutLabels",
    "check_patches",
    "open_part",
    "open_patches",
    "open_unlabelled",
    "save_split",
]
