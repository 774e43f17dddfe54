"""The slides that patches are cut from, and what a list says of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from histoslide.errors import HistoslideError, SlideListError
from histoslide.geometry import Mpp
from histoslide.slide import find_slides, match_names
from histoslide.slide.slide_table import ListedSlide, read_slide_table
from histoslide.storage.location import Location

Part = Literal["train", "valid", "test"]

_PARTS: Mapping[str, Part] = {
    "train": "train", "training": "train", "valid": "valid", "validation": "valid",
    "test": "test", "testing": "test",
}  # fmt: skip
"""What a list may call them."""


@dataclass(frozen=True, kw_only=True)
class LabelledSlide:
    """A slide and what is known of it."""

    path: Location
    """Slide file."""
    mpp: Mpp | None = None
    """Resolution that replaces what the slide records."""
    patient: str = ""
    """Whose slide it is; empty where nobody says, and then the slide stands for itself."""
    centre: str = ""
    """Where it comes from; empty where nobody says."""
    mask: Path | None = None
    """Tissue mask of this slide instead of that of all, PNG or GeoJSON."""
    roi: Path | None = None
    """Region of interest of this slide, likewise."""
    annotations: Path | None = None
    """File of its annotations, or the folder in which it lies; None to look for it."""
    tumour: bool | None = None
    """Whether it has any; if not, it needs no annotations. None where nobody says."""
    exhaustive: bool = True
    """Whether all tumour on it is drawn."""
    part: Part | None = None
    """Where its patient belongs; None to be drawn."""

    @property
    def owner(self) -> str:
        """The patient, or the slide itself."""
        return self.patient or self.path.name


def find_labelled(
    paths: Sequence[Location],
    *,
    mpp: Mpp | None = None,
    mpp_by_name: Mapping[str, Mpp] | None = None,
    exhaustive: bool = True,
) -> list[LabelledSlide]:
    """The slides that files, folders and lists (``.csv``) name.

    Args:
        paths: slide files, folders of slides, and lists.
        mpp: resolution of slides that neither a list nor ``mpp_by_name`` gives one.
        mpp_by_name: resolutions by file name.
        exhaustive: of slides whose list does not say.

    Raises:
        HistoslideError: a list or a folder cannot be used, or two slides have one name.
    """
    found: list[LabelledSlide] = []
    for path in paths:
        if path.suffix.lower() == ".csv":
            found += read_labelled_list(path, exhaustive=exhaustive)
        else:
            found += [
                LabelledSlide(path=slide, exhaustive=exhaustive) for slide in find_slides([path])
            ]
    names = [slide.path.name for slide in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise HistoslideError(
            f"two slides are called {twice[0]}: patches name their slide by its file name, so "
            "rename one, or cut them apart"
        )
    known = match_names(mpp_by_name or {}, names)
    return [
        slide if slide.mpp else dataclasses.replace(slide, mpp=known.get(slide.path.name, mpp))
        for slide in found
    ]


def read_labelled_list(path: Location, *, exhaustive: bool = True) -> list[LabelledSlide]:
    """The slides of a table.

    Raises:
        SlideListError: see ``histoslide.slide.slide_table``; or a value that cannot be used.
        ResolutionError: a resolution that is no positive number.
    """
    return [_slide(listed, exhaustive=exhaustive) for listed in read_slide_table(path)]


def _slide(listed: ListedSlide, *, exhaustive: bool) -> LabelledSlide:
    part = listed.text("part")
    if part and part.casefold() not in _PARTS:
        raise SlideListError(f"{listed.where}: the part is {part!r}: write train, valid or test")
    told = listed.exhaustive
    return LabelledSlide(
        path=listed.path,
        mpp=listed.mpp,
        patient=listed.text("patient"),
        centre=listed.text("centre"),
        mask=listed.file("mask"),
        roi=listed.file("roi"),
        annotations=listed.annotations,
        tumour=listed.tumour,
        exhaustive=exhaustive if told is None else told,
        part=_PARTS[part.casefold()] if part else None,
    )
