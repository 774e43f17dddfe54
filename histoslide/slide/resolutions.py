"""Resolutions from a table, for slides that record none."""

from __future__ import annotations

import csv
import logging
from collections.abc import Collection, Mapping
from pathlib import Path, PureWindowsPath

from histoslide.errors import ResolutionError, reason
from histoslide.geometry import Mpp

logger = logging.getLogger(__name__)


def read_mpp_csv(path: Path | str) -> dict[str, Mpp]:
    """Resolutions by slide file name from a CSV with the columns ``slide,mpp``.

    Raises:
        ResolutionError: unreadable, other columns, a value that is no positive number, or a slide
            named twice.
    """
    path = Path(path)
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
                name = PureWindowsPath(row["slide"] or "").name  # of / and \\ alike
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
        raise ResolutionError(f"{path} cannot be read: {reason(error)}") from error
    return found


def match_names(mpp_by_name: Mapping[str, Mpp], slides: Collection[str]) -> dict[str, Mpp]:
    """A table's resolutions by the names that the slides really have.

    A name may differ in case where only one slide and one row can be meant. The table may name
    other slides, being one for a whole archive; those are named in a warning.

    Args:
        mpp_by_name: from ``read_mpp_csv``.
        slides: file names of the slides.

    Raises:
        ResolutionError: it names one of them by a name that differs in its ending.
    """
    found = {name: mpp_by_name[name] for name in slides if name in mpp_by_name}
    unmatched = [name for name in mpp_by_name if name not in found]
    free = sorted(set(slides) - set(found))
    rows, names = (_by_folded(of) for of in (unmatched, free))
    for folded in rows.keys() & names.keys():
        if len(rows[folded]) == len(names[folded]) == 1:
            found[names[folded][0]] = mpp_by_name[rows[folded][0]]
            unmatched.remove(rows[folded][0])
    stems = {Path(name).stem: name for name in free if name not in found}
    for name in unmatched:
        meant = stems.get(Path(name).stem, stems.get(name))
        if meant is not None:
            raise ResolutionError(
                f"--mpp-csv names {name}, but the slide is called {meant}: correct the name"
            )
    if unmatched and not found:
        logger.warning("--mpp-csv names none of the slides: it is of no use here")
    if unmatched:
        logger.warning(
            "--mpp-csv names %s that %s not among the slides: %s",
            "a file" if len(unmatched) == 1 else f"{len(unmatched)} files",
            "is" if len(unmatched) == 1 else "are",
            ", ".join(unmatched),
        )
    return found


def _by_folded(names: Collection[str]) -> dict[str, list[str]]:
    """Names by what is left of them without case, and without folders of Windows."""
    found: dict[str, list[str]] = {}
    for name in names:  # of which files elsewhere may have backslashes
        found.setdefault(PureWindowsPath(name).name.casefold(), []).append(name)
    return found
