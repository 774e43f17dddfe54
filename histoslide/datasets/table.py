"""CSV files that say one thing of every patch."""

from __future__ import annotations

import csv
from pathlib import Path

from histoslide.errors import DataError, reason
from histoslide.storage.tables import original_cell


def read_columns(path: Path, columns: tuple[tuple[str, ...], tuple[str, ...]]) -> dict[str, str]:
    """Two columns of a CSV file as a mapping; each may go by any of the given names.

    Raises:
        DataError: it cannot be read, lacks a column or a value, or gives a key twice.
    """
    found: dict[str, str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            header = rows.fieldnames or []
            chosen = [next((name for name in names if name in header), None) for names in columns]
            if None in chosen:
                expected = ",".join(names[0] for names in columns)
                raise DataError(f"{path} has the columns {header}: expected {expected}")
            key_column, value_column = (str(name) for name in chosen)
            for row in rows:
                key, value = row[key_column], row[value_column]
                if not key or not value:
                    raise DataError(
                        f"{path} has no {value_column} for {key!r} (line {rows.line_num})"
                    )
                key, value = original_cell(key), original_cell(value)
                if found.setdefault(key, value) != value:
                    raise DataError(f"{path} gives {key} both as {found[key]!r} and as {value!r}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a CSV file: {reason(error)}") from error
    return found
