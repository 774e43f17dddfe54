"""Resolutions from a table, for slides that record none."""

from __future__ import annotations

import csv
from pathlib import Path

from histoslide.errors import ResolutionError
from histoslide.geometry import Mpp


def read_mpp_csv(path: Path) -> dict[str, Mpp]:
    """Resolutions by slide file name from a CSV with the columns ``slide,mpp``.

    Raises:
        ResolutionError: unreadable, other columns, a value that is no positive number, or a slide
            named twice.
    """
    found: dict[str, Mpp] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames is None or not {"slide", "mpp"} <= set(rows.fieldnames):
                raise ResolutionError(
                    f"{path} has the columns {','.join(rows.fieldnames or ()) or '(none)'}: need "
                    "slide,mpp, separated by commas"
                )
            for row in rows:
                name = Path(row["slide"] or "").name
                if not name:
                    raise ResolutionError(f"{path}, line {rows.line_num}: names no slide")
                if name in found:
                    raise ResolutionError(f"{path} names {name} twice")
                try:
                    found[name] = Mpp(value=float(row["mpp"]), source="--mpp-csv")
                except (TypeError, ValueError, ResolutionError):
                    raise ResolutionError(
                        f"{path}: the mpp of {name} is {row['mpp']!r}, not a positive number"
                    ) from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ResolutionError(f"{path} cannot be read: {error}") from error
    return found
