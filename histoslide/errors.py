"""Every error that a user of histoslide can cause or meet.

Each message is one line that carries the offending value and the way out. The commands turn these
into exit codes; anything that is not a ``HistoslideError`` is a bug.
"""

from __future__ import annotations

_LONGEST = 4000
"""Characters of a message; no path that a system opens is longer."""


class HistoslideError(Exception):
    """Base of all expected errors.

    Messages quote what files hold, so here each is made one line of a bearable length.
    """

    def __init__(self, message: str = "") -> None:
        line = " ".join(message.splitlines())
        if len(line) > _LONGEST:
            line = f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 :]}"
        super().__init__(line)


def reason(error: Exception) -> str:
    """Why something failed, without the path, which our messages begin with."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


class SlideOpenError(HistoslideError):
    """A file is missing, is not a slide, or is a slide no reader supports."""


class SlideListError(HistoslideError):
    """A table of slides cannot be read, or says what cannot be used."""


class SlideReadError(HistoslideError):
    """A slide opened, but some of its pixels cannot be read."""


class SlideGivenUpError(SlideReadError):
    """Nothing of a level could be read, again and again: it is not tried any more."""


class SlideReplacedError(HistoslideError):
    """A slide's file is no longer the one that was opened."""


class ResolutionUnknownError(HistoslideError):
    """A slide records no micrometres per pixel and none were given."""


class ResolutionError(HistoslideError):
    """A recorded or given resolution cannot be used (not positive, or x and y differ)."""


class MaskError(HistoslideError):
    """A tissue mask or region of interest cannot be read or does not fit the slide."""


class AnnotationError(HistoslideError):
    """Annotations cannot be read, name a class nobody mapped, or do not fit their slide."""


class BundleError(HistoslideError):
    """A model bundle is missing, malformed, or its weights are not those it was written with."""


class WeightsUnavailableError(HistoslideError):
    """Pretrained weights were asked for and can neither be found nor downloaded."""


class StalledError(HistoslideError):
    """A library that computes has hung, and what it was asked for will not come."""


class DataError(HistoslideError):
    """Training data are missing, empty, or not what their layout promises."""


class StoreError(HistoslideError):
    """A heat.zarr cannot be read or written."""


class LockedError(StoreError):
    """Another run is writing this heat.zarr."""


class LockLostError(StoreError):
    """Another run took a heat.zarr over, because this one gave no sign of life for too long."""


class SettingsDifferError(StoreError):
    """A heat.zarr was begun with settings that differ from those asked for now."""


class ReviewError(HistoslideError):
    """A review cannot be read or written, or is that of another slide."""


class OutlineError(ReviewError):
    """An outline that was drawn cannot be kept."""


class ReviewChangedError(ReviewError):
    """Somebody else changed the same object of a review in the meantime."""


class OutputExistsError(HistoslideError):
    """An output already exists and overwriting it was not asked for."""


class SlideCrashError(HistoslideError):
    """A slide library crashes or hangs on a slide, again and again: the slide is given up."""


class SlideTimeoutError(HistoslideError):
    """A slide took longer than it was allowed to."""
