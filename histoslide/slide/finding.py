"""Slide files among paths and folders."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from histoslide.errors import SlideOpenError, reason
from histoslide.storage.location import Location, as_location, is_remote, storage_errors

logger = logging.getLogger(__name__)

SLIDE_SUFFIXES = frozenset(
    {
        ".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu",
        ".bif", ".svslide", ".czi", ".dcm",
    }
)  # fmt: skip
"""File endings that a folder of slides is searched for."""

_NO_SLIDES = {
    b"\x89PNG": "a PNG picture",
    b"PK\x03\x04": "a ZIP archive",
    b"\x1f\x8b": "compressed by gzip",
    b"%PDF": "a PDF",
    b"\x89HDF": "an HDF5 file",
    b"GIF8": "a GIF picture",
}
"""First bytes of what people have beside their slides. JPEG is not among them: a ``.mrxs`` is."""

_TEXTS = frozenset({".vms", ".vmu"})
"""Endings of slides whose file is text that names others."""

_START_BYTES = 512

_PRINTABLE = frozenset(range(32, 127)) | {9, 10, 13}


def find_slides(
    paths: Sequence[Location | str], *, recursive: bool | None = None
) -> list[Location]:
    """Slide files among ``paths``; folders are searched by file ending.

    Of a DICOM series in a folder, whose files are the levels of one slide, the first file counts.
    Hidden folders and heatmaps are not looked into.

    Args:
        paths: slide files, and folders of them.
        recursive: also look into the folders below; None to do so, and say it, where a folder
            holds no slide itself.

    Raises:
        SlideOpenError: a folder holds no slide, or the only path does not exist.
    """
    found: list[Location] = []
    places = [as_location(path) for path in paths]
    try:
        with storage_errors(places[0]):
            missing = len(places) == 1 and not places[0].exists()
        if missing:
            raise SlideOpenError(f"{places[0]} does not exist")
        for path in places:
            with storage_errors(path):
                is_folder = path.is_dir()
                inside = _slides_in(path, recursive) if is_folder else []
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


def refuse_what_is_no_slide(path: Location) -> None:
    """Make sure, by a file's first bytes, that it is not another thing altogether.

    Costs nothing, so that it can be said before a model is loaded.

    Raises:
        SlideOpenError: it is missing, empty, or certainly no slide.
    """
    if is_remote(path) or path.is_dir():
        return
    try:
        with path.open("rb") as file:
            start = file.read(_START_BYTES)
    except OSError as error:
        why = "does not exist" if not path.exists() else f"cannot be read: {reason(error)}"
        raise SlideOpenError(f"{path} {why}") from error
    if not start:
        raise SlideOpenError(f"{path} is empty")
    kind = next((kind for sign, kind in _NO_SLIDES.items() if start.startswith(sign)), None)
    if kind is None and path.suffix.lower() not in _TEXTS and set(start) <= _PRINTABLE:
        kind = "text"
    if kind is not None:
        raise SlideOpenError(f"{path} is {kind}, not a slide: pass the slide file")


def _slides_in(folder: Location, recursive: bool | None) -> list[Location]:
    """Its slide files in order, and those of folders below where these are looked into."""
    own = _own_slides(folder)
    if recursive is False or (own and recursive is None):
        return own
    nested = [slide for each in _folders_below(folder) for slide in _slides_in(each, True)]
    if nested and recursive is None:
        logger.info("%s: its %d slides lie in folders below", folder, len(nested))
    return [*own, *nested]


def _own_slides(folder: Location) -> list[Location]:
    """A folder that is called like a slide is none."""
    if is_remote(folder):
        return sorted(path for path in folder.iterdir() if is_slide_file(path))
    found = sorted(path for path in folder.iterdir() if is_slide_file(path))
    return list(_one_a_series([path for path in found if not path.is_dir()]))


def _folders_below(folder: Location) -> list[Location]:
    """Those that may hold slides; links are not followed, which may lead round in circles."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.is_dir()
        and not path.name.startswith(".")
        and path.suffix != ".zarr"
        and not (isinstance(path, Path) and path.is_symlink())
    )


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
