"""Cells of CSV files that spreadsheets show as text and never run."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from typing import TextIO

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet calculates (OWASP, CSV injection)."""

_AS_TEXT = "'"
"""What spreadsheets take for "this is text"."""


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
