"""``patches.json``: what a folder of labelled patches says of itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from histoslide.storage.records import Count, Number
from histoslide.tiling.labelled.slide_list import Part

PatchFormat = Literal["pcam-hdf5", "png", "jpg"]

SCHEMA_VERSION = 1
"""Of the record."""


@dataclass(frozen=True, kw_only=True)
class PatchSettings:
    """What decides which patches there are; a folder begun with others is refused."""

    slides: tuple[str, ...]
    """File names."""
    list_sha256: str
    """Of what the list says of them."""
    target_mpp: Number
    """Micrometres per pixel of the patches."""
    input_px: int
    """Side of a patch."""
    label_px: int
    """Side of the centre that its label speaks of."""
    stride_px: int
    """Distance between the places where a patch may lie."""
    label_rule: str
    """``any``, or the share of the centre that must be tumour."""
    classes: dict[str, str]
    """Roles that were given to classes."""
    tissue: str
    """Method that found the tissue, or name of the mask file."""
    tissue_threshold: Number
    """Part of the centre that must be tissue, 0-1."""
    roi: str | None
    """Name of the file with the region of interest."""
    per_slide: int | None
    """Most patches of each class of a slide."""
    balance: Number | None
    """Most normal patches for each of tumour."""
    seed: int
    """Of all that is drawn."""
    unannotated: Literal["normal", "refused"]
    """What slides without annotations were taken for."""
    split: str
    """Fractions, or the name of the file that says who is where."""
    format: PatchFormat
    """Of the files."""
    schema_version: int = SCHEMA_VERSION
    """Of the record."""


@dataclass(frozen=True, kw_only=True)
class SlideCounts:
    """What came of one slide."""

    slide: str
    """File name."""
    quickhash: str
    """Tells slides apart."""
    patient: str
    """Whose it is, or its own name."""
    part: Part
    """Where its patches are."""
    mpp: Number
    """Micrometres per level-0 pixel."""
    mpp_source: str
    """Who says so."""
    annotations: str | None
    """Name of the file; None where it has no tumour."""
    annotations_sha256: str | None
    """Of that file."""
    exhaustive: bool
    """Whether all tumour of the slide is drawn."""
    mended: dict[str, int]
    """What was mended in the annotations, and how often."""
    lesions: Count
    """Connected regions of tumour."""
    normal: Count
    """Normal patches."""
    tumour: Count
    """Patches with tumour."""
    possible_normal: Count
    """Normal patches that there would have been."""
    possible_tumour: Count
    """Patches with tumour that there would have been."""
    unreadable: Count
    """Patches that could not be read and are missing."""
    equal: Count
    """Patches left out, because a part that is judged on has the same pixels."""
    mask: str | None = None
    """Name of the slide's own tissue mask; None where it has none."""
    roi: str | None = None
    """Name of the file with its own region of interest, likewise."""


@dataclass(frozen=True, kw_only=True)
class PatchesRecord:
    """What a folder of labelled patches says of itself."""

    settings: PatchSettings
    """What was asked for."""
    complete: bool
    """Whether all slides are in it."""
    slides: tuple[SlideCounts, ...] = ()
    """Those whose patches are in it."""
    failed: dict[str, str] | None = None
    """Slides that could not be used, and why."""
