"""Lesion settings that were chosen on a cohort, as a file that says on which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from histoslide.errors import HistoslideError
from histoslide.lesions.settings import LesionSettings
from histoslide.storage.location import Location, read_bytes
from histoslide.storage.records import Number, from_json, to_json
from histoslide.storage.writing import new_file

SETTINGS_NAME = "lesion-settings.json"
"""What the file is called in a folder of results."""


@dataclass(frozen=True, kw_only=True)
class ChosenOn:
    """A slide that settings were chosen on, and should not be judged on."""

    slide: str
    """File name."""
    quickhash: str
    """Tells slides apart whatever they are called."""
    patient: str | None
    """Whose it is, where the reference said."""


@dataclass(frozen=True, kw_only=True)
class ChosenSettings:
    """How lesions are found, and where that comes from."""

    kind: Literal["histoslide lesion settings"] = "histoslide lesion settings"
    """What the file is."""
    settings: LesionSettings
    """What was chosen."""
    aim: str
    """What they were chosen for, as the command was told."""
    reached: Mapping[str, Number | None]
    """Figures on the slides they were chosen on: for information, and too good to be reported."""
    tried: int
    """How many settings were compared."""
    models: tuple[str, ...]
    """SHA-256 of the weights of the models that scored these slides."""
    chosen_on: tuple[ChosenOn, ...]
    """The slides."""
    histoslide: str
    """Version that chose."""


def read_settings(path: Location) -> ChosenSettings:
    """Settings out of a file that ``evaluate slides --choose`` wrote.

    Raises:
        HistoslideError: it cannot be read, or is another file.
    """
    try:
        raw = read_bytes(path)
    except OSError as error:
        raise HistoslideError(f"{path} cannot be read: {error.strerror or error}") from error
    if raw is None:
        raise HistoslideError(
            f"{path} does not exist: 'histoslide evaluate slides --choose' writes such a file"
        )
    return from_json(raw, ChosenSettings, source=path)


def write_settings(chosen: ChosenSettings, path: Location, *, overwrite: bool) -> None:
    """Write settings to a file, whole or not at all.

    Raises:
        OutputExistsError: it exists and ``overwrite`` is false.
        StoreError: it cannot be written.
    """
    with new_file(path, overwrite=overwrite) as partial:
        partial.write_text(to_json(chosen), encoding="utf-8")
