"""Which slide each patch was cut from, as a CSV file says."""

from __future__ import annotations

from pathlib import Path

from histoslide.datasets.images import IMAGE_SUFFIXES
from histoslide.datasets.table import read_columns
from histoslide.errors import DataError


def read_slides(path: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    """The slide of every named patch, from the columns ``name,slide`` (or ``id,wsi``).

    Names may carry the ending of an image file. Patches that only the file knows do not matter.

    Raises:
        DataError: the file is malformed, or a patch is missing from it.
    """
    slides = {
        _without_ending(name): slide
        for name, slide in read_columns(path, (("name", "id"), ("slide", "wsi"))).items()
    }
    if missing := [name for name in names if name not in slides]:
        raise DataError(
            f"{path} gives no slide for {len(missing)} of {len(names)} patches, the first is "
            f"{missing[0]}: add a line name,slide for each"
        )
    return tuple(slides[name] for name in names)


def _without_ending(name: str) -> str:
    path = Path(name)
    return name[: -len(path.suffix)] if path.suffix.lower() in IMAGE_SUFFIXES else name
