"""Slide files among paths and folders."""

from __future__ import annotations

from pathlib import Path

from histoslide.errors import SlideOpenError
from histoslide.place import is_remote, storage_errors

SLIDE_SUFFIXES = frozenset(
    {
        ".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu",
        ".bif", ".svslide", ".czi", ".dcm",
    }
)  # fmt: skip
"""File endings that a folder of slides is searched for."""


def find_slides(paths: list[Path]) -> list[Path]:
    """Slide files among ``paths``; folders are searched (not recursively) by file ending.

    Raises:
        SlideOpenError: a folder holds no slide, or the only path does not exist.
    """
    found: list[Path] = []
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


def _slides_in(folder: Path) -> list[Path]:
    """Its slide files in order; a folder that is called like one is none."""
    found = sorted(path for path in folder.iterdir() if is_slide_file(path))
    return found if is_remote(folder) else [path for path in found if not path.is_dir()]


def is_slide_file(path: Path) -> bool:
    """Whether a file's ending is that of a slide; macOS's hidden companions (``._x``) are not."""
    return path.suffix.lower() in SLIDE_SUFFIXES and not path.name.startswith(".")
