"""Which file holds the review of which heatmap's slide, and what the page is told of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from histoslide.errors import HistoslideError, OutlineError, ReviewError
from histoslide.review import (
    IGNORED,
    NORMAL,
    TUMOUR,
    FocusOrigin,
    ReviewedSlide,
    ReviewFile,
    ReviewObject,
    class_colour,
    decision_classes,
    focus_id,
    outline_of,
    polygons_of,
)
from histoslide.storage.lock import hold
from histoslide.store import Heatmap
from histoslide.viewer.catalogue import Catalogue
from histoslide.viewer.messages import (
    ReviewChange,
    ReviewClassMessage,
    ReviewMessage,
    ReviewObjectMessage,
)

FILE_ENDINGS = (".geojson", ".json")
"""Of names that are a file's; any other is a folder's."""

MAX_POINTS = 200_000
"""Corners of an outline at most; an outline of a focus has a few thousand."""

_OFFERED = (TUMOUR, NORMAL, IGNORED)


class Reviews:
    """Reviews of the slides of a catalogue; usable from several threads."""

    def __init__(self, path: Path, catalogue: Catalogue) -> None:
        """Look at what is there.

        Args:
            path: a file for one slide, or a folder that has or gets a file for each.
            catalogue: what may be seen, and so reviewed.

        Raises:
            ReviewError: a file cannot be read or speaks of another slide, or is one for several.
        """
        self._path, self._catalogue = path, catalogue
        self._lock = threading.Lock()
        self._files: dict[Path, ReviewFile] = {}
        self._is_file = not path.is_dir() and path.suffix.lower() in FILE_ENDINGS
        if path.is_file() and not self._is_file:
            raise ReviewError(f"{path} is no folder: end the name of a file in .geojson")
        slides = {}
        for entry in catalogue.entries():
            try:
                heat = catalogue.source(entry.key).heat
            except HistoslideError:
                continue  # the page says what is wrong with it
            slides[heat.record.slide.quickhash] = heat.record.slide.name
            self._file(heat).read()
        if self._is_file and (len(slides) > 1 or catalogue.is_growing):
            raise ReviewError(
                f"{path} is one file, and there may be several slides: name a folder, which gets "
                "a file for each"
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep others from writing the same reviews while the block runs.

        Raises:
            LockedError: another viewer does.
            ReviewError: nothing can be written there.
        """
        path = self._path.absolute()
        with ExitStack() as held:
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                held.enter_context(hold(path))
            except OSError as error:
                raise ReviewError(f"{path} cannot be written: {error.strerror or error}") from error
            yield

    def name(self, heat: Heatmap) -> str:
        """Name of the file that holds the review of a heatmap's slide."""
        return self._file(heat).path.name

    def judged(self, heat: Heatmap) -> int:
        """How many objects there are in the review of a heatmap's slide.

        Raises:
            ReviewError: it cannot be read.
        """
        return len(self._file(heat).read().objects)

    def describe(self, heat: Heatmap) -> ReviewMessage:
        """The review of a heatmap's slide.

        Raises:
            ReviewError: it cannot be read.
        """
        file = self._file(heat)
        review = file.read()
        decisions = tuple(decision_classes(name, heat.tumour_class) for name in heat.shown_classes)
        names = [*_OFFERED, *(name for pair in decisions for name in pair)]
        names += [it.class_name for it in review.objects if it.class_name is not None]
        return ReviewMessage(
            file=file.path.name,
            version=review.version,
            decisions=decisions,
            classes=tuple(
                ReviewClassMessage(name=name, colour=class_colour(name))
                for name in dict.fromkeys(names)
            ),
            objects=tuple(message_of(it) for it in review.objects),
        )

    def find(self, heat: Heatmap, id: str) -> ReviewObjectMessage | None:  # noqa: A002
        """One object as it is now; None where it is not.

        Raises:
            ReviewError: the review cannot be read.
        """
        objects = self._file(heat).read().objects
        return next((message_of(it) for it in objects if it.id == id), None)

    def change(self, heat: Heatmap, change: ReviewChange) -> ReviewObjectMessage | None:
        """Do what the page asks for, and say how the object is now.

        Raises:
            ReviewChangedError: somebody else has changed it since the page saw it.
            OutlineError: its outline cannot be kept.
            ReviewError: the file cannot be read or written.
        """
        to = None if change.to is None else _object_of(change, heat)
        now = self._file(heat).change(change.id, base=change.base, to=to)
        return None if now is None else message_of(now)

    def _file(self, heat: Heatmap) -> ReviewFile:
        reviewed = reviewed_slide(heat)
        path = self._path if self._is_file else self._path / f"{Path(reviewed.name).name}.geojson"
        with self._lock:
            known = self._files.get(path)
            if known is None or known.slide != reviewed:
                known = self._files[path] = ReviewFile(path, reviewed)
            return known


def reviewed_slide(heat: Heatmap) -> ReviewedSlide:
    """The slide of a heatmap as its review knows it."""
    slide = heat.record.slide
    corner = (0.0, 0.0) if slide.bounds_l0 is None else slide.bounds_l0[:2]
    return ReviewedSlide(
        name=slide.name,
        quickhash=slide.quickhash,
        size_l0=slide.size_l0,
        corner_l0=(float(corner[0]), float(corner[1])),
    )


def message_of(kept: ReviewObject) -> ReviewObjectMessage:
    """An object as the page knows it."""
    return ReviewObjectMessage(
        id=kept.id,
        version=kept.version,
        class_name=kept.class_name,
        is_focus=kept.is_focus,
        number=None if kept.origin is None else kept.origin.number,
        polygons_l0=polygons_of(kept.outline_l0),
    )


def _object_of(change: ReviewChange, heat: Heatmap) -> ReviewObject:
    """The object that the page asks for.

    Raises:
        OutlineError: its outline is none, or it says that it is a focus and is not.
    """
    shape = change.to
    assert shape is not None
    if sum(len(ring) for rings in shape.polygons_l0 for ring in rings) > MAX_POINTS:
        raise OutlineError(f"an outline may have {MAX_POINTS:,} corners at most")
    try:
        outline = outline_of(shape.polygons_l0)
    except ValueError:
        raise OutlineError("an outline needs three corners") from None
    origin = None
    if shape.number is not None:
        if change.id != focus_id(heat.record.slide.quickhash, outline):
            raise OutlineError("this is no focus that was found")
        origin = FocusOrigin(
            number=shape.number, heatmap_id=heat.id, model_sha256=heat.record.model.sha256
        )
    return ReviewObject(
        id=change.id, class_name=shape.class_name, outline_l0=outline, origin=origin
    )
