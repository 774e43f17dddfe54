"""A table of slides: one CSV that serves every command, and what it says of each slide.

A command asks for the columns that it has a use for; those that only another one knows may stand
there too. A column that none knows is refused, so that a misspelt one is not passed over.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from histoslide.errors import ResolutionError, SlideListError
from histoslide.geometry import Mpp
from histoslide.storage.location import Location, is_remote, parse_location
from histoslide.storage.tables import read_table

COLUMNS = (
    "slide", "mpp", "output", "mask", "roi", "patient", "centre", "scanner", "annotations",
    "exhaustive", "label", "node", "stage", "part",
)  # fmt: skip
"""All but the first may be missing. Case does not matter."""

_OTHER_NAMES = {
    "annotation": "annotations", "center": "centre", "class": "label", "image": "slide",
    "node_class": "node", "set": "part", "split": "part",
}  # fmt: skip
"""What else columns are called."""

_NOTHING_DRAWN = "none"
"""In the column ``annotations``: the slide has no tumour to draw."""

_NEGATIVE_NODE = "negative"
"""In the column ``node``: the node has no tumour."""

TRAINING = frozenset({"train", "training"})
"""In the column ``part``: to be learnt from. Every other part is for choosing or judging models."""

_YES, _NO = {"yes", "true", "1"}, {"no", "false", "0"}
_TUMOUR = {"tumour", "tumor", "positive", "metastasis"} | _YES
_NORMAL = {"normal", "negative"} | _NO


@dataclass(frozen=True, kw_only=True)
class ListedSlide:
    """A line of a table. What a cell must be is checked when it is asked for."""

    table: Location
    """The file."""
    line: int
    """Number of the line."""
    cells: Mapping[str, str]
    """What it says, by name of the column; empty cells are left out."""

    @property
    def where(self) -> str:
        """The place, as errors begin with it."""
        return f"{self.table}, line {self.line}"

    def text(self, column: str) -> str:
        """A cell as it is; empty where there is none."""
        return self.cells.get(column, "")

    @property
    def name(self) -> str:
        """File name of the slide; folders are cut off, of Windows too."""
        return PureWindowsPath(self.text("slide")).name

    @property
    def path(self) -> Location:
        """The slide file: a URL, or a path seen from the table.

        Raises:
            HistoslideError: a URL that cannot be used.
        """
        cell = self.text("slide")
        return parse_location(cell) if "://" in cell else self.table.parent / cell

    @property
    def mpp(self) -> Mpp | None:
        """Resolution that replaces what the slide records.

        Raises:
            ResolutionError: it is no positive number.
        """
        cell = self.text("mpp")
        try:
            return Mpp(value=float(cell), source=self.table.name) if cell else None
        except (ValueError, ResolutionError):
            raise ResolutionError(
                f"{self.where}: the mpp {cell!r} is not a positive number"
            ) from None

    def file(self, column: str) -> Path | None:
        """A file, seen from the table; of a table in object storage, one of this machine."""
        cell = self.text(column)
        if not cell:
            return None
        return Path(cell) if is_remote(self.table) else self.table.parent / cell

    @property
    def masks(self) -> tuple[Path, ...]:
        """Its tissue mask and region of interest, where they are named: they are no annotations."""
        files = (self.file("mask"), self.file("roi"))
        return tuple(file for file in files if file is not None)

    @property
    def annotations(self) -> Path | None:
        """File of its annotations, or folder in which it lies; None where none is named."""
        return None if self._nothing_drawn else self.file("annotations")

    @property
    def tumour(self) -> bool | None:
        """Whether the slide holds any, by label, node and annotations; None where nobody says.

        Raises:
            SlideListError: they contradict each other, or the label cannot be understood.
        """
        told: dict[str, bool] = {}
        if self.text("label"):
            told["label"] = self._one_of("label", _TUMOUR, _NORMAL, "tumour/yes/1 nor normal/no/0")
        if self.text("node"):
            told["node"] = self.text("node").casefold() != _NEGATIVE_NODE
        if self._nothing_drawn:
            told["annotations"] = False
        if len(set(told.values())) > 1:
            cells = " and ".join(f"{column} {self.text(column)}" for column in told)
            raise SlideListError(f"{self.where}: {cells} contradict each other")
        return next(iter(told.values()), None)

    @property
    def exhaustive(self) -> bool | None:
        """Whether all tumour is drawn; None where nobody says.

        Raises:
            SlideListError: it is neither yes nor no.
        """
        return (
            self._one_of("exhaustive", _YES, _NO, "yes nor no") if self.text("exhaustive") else None
        )

    @property
    def _nothing_drawn(self) -> bool:
        return self.text("annotations").casefold() == _NOTHING_DRAWN

    def _one_of(self, column: str, yes: set[str], no: set[str], neither: str) -> bool:
        word = self.text(column).casefold()
        if word not in yes | no:
            raise SlideListError(
                f"{self.where}: {column} {self.text(column)!r} is neither {neither}"
            )
        return word in yes


def column_name(name: str) -> str:
    """A column by the name that it has in ``COLUMNS``, where it is one of them."""
    plain = name.strip().casefold()
    return _OTHER_NAMES.get(plain, plain)


def read_slide_table(path: Location) -> list[ListedSlide]:
    """The lines of a table of slides, in order.

    Raises:
        SlideListError: it cannot be read, has a column twice or one that no command knows, lists
            no slide, or has a line that names none.
    """
    columns, rows = read_table(path, error=SlideListError)
    names = [column_name(name) for name in columns]
    if "slide" not in names or not {*names} <= {*COLUMNS} or len({*names}) < len(names):
        raise SlideListError(
            f"{path} has the columns {','.join(columns)[:200] or '(none)'}: need slide, and may "
            f"have {', '.join(COLUMNS[1:])}, each once, separated by commas"
        )
    if not rows:
        raise SlideListError(f"{path} lists no slide")
    return [_listed(path, row.line, row.cells) for row in rows]


def _listed(path: Location, line: int, cells: Mapping[str, str]) -> ListedSlide:
    named = {column_name(name): cell for name, cell in cells.items() if cell}
    listed = ListedSlide(table=path, line=line, cells=named)
    if not listed.name:
        raise SlideListError(f"{listed.where}: names no slide")
    if any("\0" in cell for cell in named.values()):
        raise SlideListError(f"{listed.where}: has a NUL byte, which no name of a file has")
    return listed


def by_slide(listed: Sequence[ListedSlide]) -> dict[str, ListedSlide]:
    """Lines by what ``slide_key`` makes of their slides' names.

    Raises:
        SlideListError: a slide is listed twice.
    """
    found: dict[str, ListedSlide] = {}
    for slide in listed:
        if found.setdefault(slide_key(slide.name), slide) is not slide:
            raise SlideListError(f"{slide.where}: {slide.name} is listed twice")
    return found


def slide_key(name: str) -> str:
    """The same for names that can be meant by each other: without folder, ending and case."""
    plain = PureWindowsPath(name).name
    return Path(plain).stem.casefold() if Path(plain).suffix[1:2].isalpha() else plain.casefold()
