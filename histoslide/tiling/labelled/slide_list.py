"""The slides that patches are cut from, and what a list says of each."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from histoslide.errors import HistoslideError, SlideOpenError
from histoslide.geometry import Mpp
from histoslide.slide import find_slides, match_names
from histoslide.slide.resolutions import listed_mpp
from histoslide.storage.location import Location, listed_path
from histoslide.storage.tables import read_table

Part = Literal["train", "valid", "test"]

COLUMNS = ("slide", "mpp", "patient", "centre", "annotations", "exhaustive", "part")
"""Of a list; all but the first may be missing."""

NO_TUMOUR = "none"
"""In the column ``annotations``: the slide has no tumour."""

_YES, _NO = ("yes", "true", "1", ""), ("no", "false", "0")


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
    annotations: Path | None = None
    """File of its annotations; None to look for it."""
    tumour_free: bool = False
    """It has no tumour, and so needs no annotations."""
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
    """The slides of a CSV with the columns ``slide`` and any other of ``COLUMNS``.

    Raises:
        SlideOpenError: unreadable, other columns, or a value that cannot be used.
        ResolutionError: a resolution that is no positive number.
    """
    columns, rows = read_table(path, error=SlideOpenError)
    if "slide" not in columns or not set(columns) <= {*COLUMNS}:
        raise SlideOpenError(
            f"{path} has the columns {','.join(columns) or '(none)'}: need slide, and any of "
            f"{', '.join(COLUMNS[1:])}"
        )
    if not rows:
        raise SlideOpenError(f"{path} lists no slide")
    return [_slide(path, row.line, row.cells, exhaustive=exhaustive) for row in rows]


def _slide(path: Location, line: int, row: Mapping[str, str], *, exhaustive: bool) -> LabelledSlide:
    value = {name: row.get(name, "") for name in COLUMNS}
    if not value["slide"] or "\0" in "".join(value.values()):
        raise SlideOpenError(f"{path}, line {line}: names no slide that a system could open")
    told = value["exhaustive"].lower()
    if told not in _YES + _NO:
        raise SlideOpenError(f"{path}, line {line}: exhaustive is {told!r}: write yes or no")
    parts: dict[str, Part | None] = {"": None} | {name: name for name in get_args(Part)}
    if (part := value["part"]) not in parts:
        raise SlideOpenError(
            f"{path}, line {line}: the part is {part!r}: write {', '.join(get_args(Part))}"
        )
    tumour_free = value["annotations"].lower() == NO_TUMOUR
    drawn = value["annotations"] if not tumour_free else ""
    return LabelledSlide(
        path=listed_path(path, value["slide"]),
        mpp=listed_mpp(path, line, value["mpp"]),
        patient=value["patient"],
        centre=value["centre"],
        annotations=Path(str(path.parent / drawn)) if drawn else None,
        tumour_free=tumour_free,
        exhaustive=told in _YES if told else exhaustive,
        part=parts[part],
    )
