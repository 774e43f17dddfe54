"""Labelled patches as people have them, recognised by their layout."""

from __future__ import annotations

from histoslide.datasets.check import CheckReport, PartReport
from histoslide.datasets.images import UnlabelledFiles
from histoslide.datasets.layout import Layout
from histoslide.datasets.patch_folder import Part, PatchFolder
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
from histoslide.datasets.unlabelled import open_unlabelled

__all__ = [
    "UNKNOWN",
    "CheckReport",
    "ImageFiles",
    "Joined",
    "Layout",
    "Part",
    "PartReport",
    "PatchData",
    "PatchFolder",
    "PatchSet",
    "Split",
    "Subset",
    "UnlabelledFiles",
    "UnlabelledPatches",
    "WithoutLabels",
    "open_unlabelled",
    "save_split",
]
