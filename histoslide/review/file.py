"""The file of a review while it is changed: one change at a time, each of what its maker saw."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import replace
from pathlib import Path

import shapely

from histoslide.errors import OutlineError, ReviewChangedError, ReviewError
from histoslide.review.geojson import parse_review, review_text
from histoslide.review.objects import Outline, Review, ReviewedSlide, ReviewObject
from histoslide.storage.writing import whole_file


class ReviewFile:
    """One slide's review in one file; usable from several threads.

    Every change is in the file, whole, before it is answered. The file is read anew before each, so
    that what another program saved in between is kept.
    """

    def __init__(self, path: Path, slide: ReviewedSlide) -> None:
        self._path, self._slide = path, slide
        self._lock = threading.Lock()
        self._known: Review | None = None

    @property
    def slide(self) -> ReviewedSlide:
        """What it speaks of."""
        return self._slide

    @property
    def path(self) -> Path:
        """Of the file, which need not exist."""
        return self._path

    def read(self) -> Review:
        """What the file says now; an empty review where there is none.

        Raises:
            ReviewError: it cannot be read, or speaks of another slide.
        """
        with self._lock:
            return self._read()

    def change(self, id: str, *, base: str | None, to: ReviewObject | None) -> ReviewObject | None:  # noqa: A002 - as GeoJSON says
        """Change, add or remove one object, if it is still what the change was made from.

        Args:
            id: of the object.
            base: the version that was seen; None for no such object.
            to: what it shall be; None to remove it. An outline that crosses itself or leaves the
                slide is mended.

        Returns:
            The object as it was written, or None where it was removed.

        Raises:
            ReviewChangedError: somebody else has changed the object since.
            OutlineError: the outline has no area on the slide.
            ReviewError: the file cannot be read or written.
        """
        if to is not None:
            to = replace(to, outline_l0=mended(to.outline_l0, self._slide.size_l0))
        with self._lock:
            review = self._read()
            there = next((it for it in review.objects if it.id == id), None)
            version = None if there is None else there.version
            if version == (None if to is None else to.version):
                return there  # asked before; only the answer was lost
            if version != base:
                raise ReviewChangedError(f"{id} was changed by somebody else in the meantime")
            self._write(replace(review, objects=_changed(review.objects, id, there, to)))
            return to

    def _read(self) -> Review:
        try:
            raw = self._path.read_bytes()
        except FileNotFoundError:
            self._known = Review(version="")
            return self._known
        except OSError as error:
            raise ReviewError(f"{self._path} cannot be read: {error.strerror or error}") from error
        version = hashlib.sha256(raw).hexdigest()[:16]
        if self._known is None or self._known.version != version:
            self._known = parse_review(raw, self._slide, source=self._path, version=version)
        return self._known

    def _write(self, review: Review) -> None:
        raw = "".join(review_text(review, self._slide)).encode()
        try:
            with whole_file(self._path) as partial:
                partial.write_bytes(raw)
        except OSError as error:
            raise ReviewError(
                f"{self._path} cannot be written: {error.strerror or error}"
            ) from error


def _changed(
    objects: tuple[ReviewObject, ...],
    id: str,  # noqa: A002 - as GeoJSON says
    there: ReviewObject | None,
    to: ReviewObject | None,
) -> tuple[ReviewObject, ...]:
    """The objects with one of them changed in its place, added at the end, or removed."""
    if there is None or to is None:
        rest = tuple(it for it in objects if it.id != id)
        return rest if to is None else (*rest, to)
    kept = replace(to, properties=there.properties, origin=to.origin or there.origin)
    return tuple(kept if it.id == id else it for it in objects)


def mended(outline: Outline, size_l0: tuple[int, int]) -> Outline:
    """An outline that does not cross itself and lies on the slide.

    One that is right already stays as it is, to the last bit.

    Raises:
        OutlineError: it has no area there.
    """
    found: shapely.Geometry = outline
    if not outline.is_valid:
        found = shapely.make_valid(outline, method="structure", keep_collapsed=False)
    slide = shapely.box(0, 0, *size_l0)
    if not slide.covers(found):
        found = shapely.intersection(found, slide)
    parts = [
        part
        for part in getattr(found, "geoms", [found])
        if isinstance(part, shapely.Polygon) and part.area > 0
    ]
    if not parts:
        raise OutlineError("an outline without an area on the slide cannot be kept")
    if found is outline:
        return outline
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)
