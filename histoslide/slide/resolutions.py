"""Resolutions from a table, for slides that record none."""

from __future__ import annotations

import csv
import logging
from collections.abc import Collection, Mapping
from pathlib import Path

from histoslide.errors import ResolutionError
from histoslide.geometry import Mpp

logger = logging.getLogger(__name__)


def read_mpp_csv(path: Path) -> dict[str, Mpp]:
    """Resolutions by slide file name from a CSV with the columns ``slide,mpp``.

    Raises:
        ResolutionError: unreadable, other columns, a value that is no positive number, or a slide
            named twice.
    """
    found: dict[str, Mpp] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file, skipinitialspace=True)
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


def refuse_misnamed(mpp_by_name: Mapping[str, Mpp], slides: Collection[str]) -> None:
    """Make sure that a table of resolutions means the slides that it is used with.

    It may name others, being one for a whole archive; naming none of them is worth a warning.

    Args:
        mpp_by_name: from ``read_mpp_csv``.
        slides: file names of the slides.

    Raises:
        ResolutionError: it names one of them by a name that differs in its ending.
    """
    stems = {Path(name).stem: name for name in slides if name not in mpp_by_name}
    for name in (name for name in mpp_by_name if name not in slides):
        meant = stems.get(Path(name).stem, stems.get(name))
        if meant is not None:
            raise ResolutionError(
                f"--mpp-csv names {name}, but the slide is called {meant}: correct the name"
            )
    if mpp_by_name and not any(name in mpp_by_name for name in slides):
        logger.warning("--mpp-csv names none of the slides: it is of no use here")
