"""Tables of people as CSV: read in one way, and written so that spreadsheets never run a cell."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TextIO

from histoslide.errors import HistoslideError, reason
from histoslide.storage.location import Location

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet calculates (OWASP, CSV injection)."""

_AS_TEXT = "'"
"""What spreadsheets take for "this is text"."""


@dataclass(frozen=True, kw_only=True)
class TableRow:
    """A line below the header."""

    line: int
    """Its number in the file, from 1 on."""
    cells: Mapping[str, str]
    """By column, without white space about them; those that the line lacks are absent."""


def read_table(path: Location, *, error: type[HistoslideError]) -> tuple[list[str], list[TableRow]]:
    """The columns of a CSV file as its header has them, and its lines.

    Raises:
        HistoslideError: ``error``; it cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, skipinitialspace=True)
            columns = list(reader.fieldnames or ())
            rows = [TableRow(line=reader.line_num, cells=_cells(row)) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as problem:
        raise error(f"{path} cannot be read: {reason(problem)}") from problem
    return columns, rows


def _cells(row: Mapping[str | None, object]) -> dict[str, str]:
    """Without what stands beyond the last column, which DictReader gives as a list."""
    return {name: cell.strip() for name, cell in row.items() if name and isinstance(cell, str)}


def safe_cell(value: object) -> object:
    """A cell as it may be written: what would be a formula gets an apostrophe; numbers stay."""
    if not isinstance(value, str) or not value.startswith(_FORMULA) or _is_number(value):
        return value
    return _AS_TEXT + value


def original_cell(text: str) -> str:
    """What ``safe_cell`` made a cell of."""
    rest = text.removeprefix(_AS_TEXT)
    return rest if rest != text and safe_cell(rest) == text else text


class TableWriter:
    """Writes rows of CSV whose every cell is safe."""

    def __init__(self, file: TextIO, *, lineterminator: str = "\r\n") -> None:
        self._rows = csv.writer(file, lineterminator=lineterminator)

    def write(self, rows: Iterable[Iterable[object]]) -> None:
        """Write rows of cells."""
        self._rows.writerows([safe_cell(value) for value in row] for row in rows)

    def write_named(self, columns: Iterable[str], rows: Iterable[Mapping[str, object]]) -> None:
        """Write a header, and of each row the values of its columns."""
        names = list(columns)
        self.write([names])
        self.write([row.get(name) for name in names] for row in rows)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
