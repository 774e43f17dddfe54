"""Which heatmaps and slides may be seen, and under which keys.

Requests name a key, never a path: nothing outside the catalogue can be asked for.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cachetools import LRUCache

from histoslide.cohort.records import read_run
from histoslide.comparison.same_slide import check_same_slide
from histoslide.errors import HistoslideError, SlideCrashError, SlideOpenError, StoreError
from histoslide.geometry import Mpp
from histoslide.pipeline.result import SlideResult
from histoslide.slide import Slide, find_slides, is_slide_file
from histoslide.slide.access import DEFAULT_ACCESS, SlideAccess
from histoslide.slide.file_identity import FileIdentity
from histoslide.storage.location import Location, is_remote, storage_errors
from histoslide.storage.slide_copies import local_copy
from histoslide.storage.zarr_folder import has_root
from histoslide.store import Heatmap, open_heatmap
from histoslide.viewer.cells import CellSource

logger = logging.getLogger(__name__)

MAX_OPEN_SLIDES = 6
"""Slides kept open at a time; a cohort may have thousands."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A heatmap that may be seen."""

    key: str
    """Names it in links: letters, digits, dots, dashes and underscores."""
    path: Location
    """The heat.zarr."""


_FileKey = tuple[Path, float, FileIdentity]
"""A slide file, the resolution it is opened with, and which file it was then."""


class _OpenSlides(LRUCache[_FileKey, Slide]):
    """Slides by file; one that makes room for another is closed."""

    def popitem(self) -> tuple[_FileKey, Slide]:
        key, slide = super().popitem()
        slide.close()
        return key, slide


class Catalogue:
    """Heatmaps and their slides, open until it is closed; usable from several threads."""

    def __init__(
        self,
        paths: Sequence[Location],
        *,
        slides: Sequence[Location] = (),
        force: bool = False,
        access: SlideAccess = DEFAULT_ACCESS,
    ) -> None:
        """Look at what was given.

        Args:
            paths: stores, or folders of them as ``score`` writes them.
            slides: slide files, or folders of them, for the stores. A slide that lies beside its
                store under its own name is found without.
            force: lay a slide under a heatmap even if it is not the one that was scored.
            access: how slides are opened; of those in object storage only those given are.

        Raises:
            StoreError: a path is neither a store nor a folder of stores, or a slide was given
                that none of them was made from.
            SlideOpenError: a slide that was given cannot be opened.
        """
        self._lock = threading.Lock()
        self._sources: dict[str, CellSource] = {}
        self._access, self._opening = access, threading.Lock()
        self._open = _OpenSlides(MAX_OPEN_SLIDES)
        self._broken: dict[_FileKey, str] = {}
        self._folders = [path for path in paths if not is_store(path)]
        self._stores = [path for path in paths if is_store(path)]
        self._keys: dict[Location, str] = {}
        for folder in self._folders:
            with storage_errors(folder):
                is_folder = folder.is_dir()
            if not is_folder:
                missing = "is not a heatmap" if folder.exists() else "does not exist"
                raise StoreError(f"{folder} {missing}: pass a heat.zarr or a folder of them")
            if not _stores_in(folder) and not (folder / "run.json").exists():
                raise StoreError(f"{folder} holds no heatmaps: pass what score wrote")
        for path in self._stores:  # says now what is wrong with it
            open_heatmap(path, allow_incomplete=True, allow_damaged=True)
        self._copies = ExitStack()
        copies = [self._copies.enter_context(local_copy(path, access.cache)) for path in slides]
        found = find_slides(copies) if copies else []
        self._slides = {path.name: path for path in found}
        given = [path for path in copies if not path.is_dir()]
        self._matched: dict[str, list[Path]] = {}
        self._forced = given[0] if force and len(given) == 1 else None
        if self._forced is None:
            self._match(given)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def is_cohort(self) -> bool:
        """Whether there is anything to choose from."""
        return bool(self._folders) or len(self._stores) > 1

    @property
    def first_view(self) -> str:
        """Where the page begins, after its address: two heatmaps of one slide are compared."""
        entries = self.entries()
        if self._folders or len(entries) != 2:
            return ""
        one, other = entries
        mine, its = (self.source(entry.key).heat.record.slide for entry in (one, other))
        if (mine.quickhash, mine.size_l0) != (its.quickhash, its.size_l0):
            return ""
        return f"view#heat={one.key}&with={other.key}"

    @property
    def is_growing(self) -> bool:
        """Whether a folder was given, in which a run may add more."""
        return bool(self._folders)

    def entries(self) -> list[Entry]:
        """All heatmaps there are now; a run that goes on adds more."""
        paths = [*self._stores, *(p for folder in self._folders for p in _stores_in(folder))]
        with self._lock:
            for path in paths:
                if path not in self._keys:
                    self._keys[path] = _key(path, taken=set(self._keys.values()))
            return [Entry(key=self._keys[path], path=path) for path in dict.fromkeys(paths)]

    def results(self) -> dict[Location | str, SlideResult]:
        """What score recorded, by path of the store, or by slide name where there is none."""
        found: dict[Location | str, SlideResult] = {}
        for folder in self._folders:
            try:
                results = read_run(folder)
            except HistoslideError:
                continue  # somebody else's run.json
            for result in results:
                found[folder / result.output if result.output else result.slide] = result
        return found

    def source(self, key: str) -> CellSource:
        """The cells of a heatmap.

        Raises:
            KeyError: no such heatmap.
            StoreError: it cannot be read.
        """
        path = self._path(key)
        with self._lock:
            if key not in self._sources:
                self._sources[key] = CellSource(path)
            return self._sources[key]

    def slide(self, key: str) -> Slide | None:
        """The slide that a heatmap was made from, or None where it is not at hand.

        Raises:
            KeyError: no such heatmap.
            StoreError: the heatmap cannot be read.
        """
        heat = self.source(key).heat
        if self._forced is not None:
            return self._opened(self._forced, heat.grid.slide_mpp)
        name = heat.record.slide.name
        beside = heat.path.parent / name
        for path in (self._slides.get(name), beside, *self._matched.get(key, ())):
            # A slide beside a heatmap in object storage has gigabytes: only if asked for.
            if path is None or is_remote(path) or not (path.is_file() and is_slide_file(path)):
                continue
            try:
                slide = self._opened(path, heat.grid.slide_mpp)
                check_same_slide(heat, slide)
            except HistoslideError as error:
                logger.debug("%s is shown without its slide: %s", heat.path, error)
                continue
            return slide
        return None

    def slide_warning(self, key: str) -> str | None:
        """What to say where the slide shown is not the one that was scored."""
        slide = self.slide(key)
        if slide is None:
            return None
        try:
            check_same_slide(self.source(key).heat, slide)
        except StoreError:
            return f"{slide.name} is not the slide that was scored: the places may be wrong"
        return None

    def close(self) -> None:
        """Let go of all slides."""
        with self._lock:
            while self._open:
                self._open.popitem()
            self._copies.close()

    def _path(self, key: str) -> Location:
        with self._lock:
            known = {known_key: path for path, known_key in self._keys.items()}
        if key not in known:
            known = {entry.key: entry.path for entry in self.entries()}
        return known[key]

    def _opened(self, path: Path, mpp: Mpp) -> Slide:
        """A slide that stays open; why one could not be opened is remembered while it is the same.

        Raises:
            HistoslideError: it cannot be opened.
        """
        try:
            key = (path, mpp.value, FileIdentity.of(path))
        except OSError as error:
            raise SlideOpenError(f"{path} cannot be read: {error.strerror or error}") from error
        with self._opening:  # not the lock of the heatmaps, which a slow slide must not hold up
            with self._lock:
                if (known := self._open.get(key)) is not None:
                    return known
            if key in self._broken:
                raise SlideOpenError(self._broken[key])
            try:
                slide = self._access.open(path, mpp=mpp)
            except HistoslideError as error:
                self._broken[key] = str(error)
                if isinstance(error, SlideCrashError):
                    logger.warning("%s", error)
                raise
            with self._lock:
                self._open[key] = slide
            return slide

    def _match(self, given: Sequence[Path]) -> None:
        """Find out which heatmaps each slide belongs to, whatever it is called by now."""
        for path in given:
            problem: StoreError | None = None
            with self._access.open(path, mpp=Mpp(value=1.0, source="not used")) as slide:
                for entry in self.entries():
                    try:
                        heat: Heatmap = self.source(entry.key).heat
                        check_same_slide(heat, slide)
                    except StoreError as error:
                        problem = error
                        continue
                    self._matched.setdefault(entry.key, []).append(path)
            if problem is not None and not any(path in paths for paths in self._matched.values()):
                raise StoreError(f"{problem}, or --force to see them together all the same")


def is_store(path: Location) -> bool:
    """Whether a path looks like a Zarr store, of either version."""
    return has_root(path)


def _stores_in(folder: Location) -> list[Location]:
    return sorted(
        path for path in folder.glob("*.zarr") if not path.name.startswith(".") and is_store(path)
    )


def _key(path: Location, *, taken: set[str]) -> str:
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip(".-") or "heatmap"
    key, number = stem, 2
    while key in taken:
        key, number = f"{stem}-{number}", number + 1
    return key
