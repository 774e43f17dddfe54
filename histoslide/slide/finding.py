"""Slide files among paths and folders."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from histoslide.errors import SlideOpenError
from histoslide.storage.location import Location, is_remote, storage_errors

logger = logging.getLogger(__name__)

SLIDE_SUFFIXES = frozenset(
    {
        ".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu",
        ".bif", ".svslide", ".czi", ".dcm",
    }
)  # fmt: skip
"""File endings that a folder of slides is searched for."""


def find_slides(paths: Sequence[Location]) -> list[Location]:
    """Slide files among ``paths``; folders are searched (not recursively) by file ending.

    Of a DICOM series in a folder, whose files are the levels of one slide, the first file counts.

    Raises:
        SlideOpenError: a folder holds no slide, or the only path does not exist.
    """
    found: list[Location] = []
    try:
        with storage_errors(paths[0]):
            missing = len(paths) == 1 and not paths[0].exists()
        if missing:
            raise SlideOpenError(f"{paths[0]} does not exist")
        for path in paths:
            with storage_errors(path):
                is_folder = path.is_dir()
                inside = _slides_in(path) if is_folder else []
            if not is_folder:
                found.append(path)
                continue
            if path.suffix == ".zarr":
                raise SlideOpenError(f"{path} is a heatmap, not a slide: pass the slide file")
            if not inside:
                raise SlideOpenError(f"{path} is a folder without slides")
            found += inside
    except OSError as error:
        raise SlideOpenError(f"{error.filename} cannot be read: {error.strerror}") from error
    return list(dict.fromkeys(found))


def _slides_in(folder: Location) -> Sequence[Location]:
    """Its slide files in order; a folder that is called like one is none."""
    if is_remote(folder):
        return sorted(path for path in folder.iterdir() if is_slide_file(path))
    found = sorted(path for path in folder.iterdir() if is_slide_file(path))
    return _one_a_series([path for path in found if not path.is_dir()])


def _one_a_series(paths: list[Path]) -> list[Path]:
    """The paths, of each DICOM series only the first: its files are the levels of one slide."""
    several = sum(path.suffix.lower() == ".dcm" for path in paths) > 1
    if several and find_spec("pydicom") is None:
        logger.warning(
            "%s: DICOM files of one slide count as several: pip install 'histoslide[dicom]'",
            paths[0].parent,
        )
        return paths
    chosen: dict[str, Path] = {}
    for path in paths:
        series = _series_of(path) if several and path.suffix.lower() == ".dcm" else None
        chosen.setdefault(series or str(path), path)
    return list(chosen.values())


def _series_of(path: Path) -> str | None:
    """The series that a DICOM file belongs to; None where it does not say."""
    import pydicom  # noqa: PLC0415 - an extra

    try:
        found = pydicom.dcmread(path, specific_tags=["SeriesInstanceUID"], stop_before_pixels=True)
    except (OSError, pydicom.errors.InvalidDicomError):  # opening it as a slide will say why
        return None
    return str(found.SeriesInstanceUID) if "SeriesInstanceUID" in found else None


def is_slide_file(path: Location) -> bool:
    """Whether a file's ending is that of a slide; macOS's hidden companions (``._x``) are not."""
    return path.suffix.lower() in SLIDE_SUFFIXES and not path.name.startswith(".")
