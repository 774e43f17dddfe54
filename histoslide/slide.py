"""Slides: what any reader must offer, the reader over OpenSlide, and one that is faster on TIFF.

OpenSlide reports errors by latching them: after one failed read a handle answers nothing else. A
failed read therefore closes its handle, opens a fresh one and tries once more before it gives up.
Handles are opened lazily, one a thread, and never cross a fork or a pickle.
"""

from __future__ import annotations

import csv
import logging
import math
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, Self

import numpy as np
import openslide
from numpy.typing import NDArray

from histoslide.errors import (
    HistoslideError,
    ResolutionError,
    ResolutionUnknownError,
    SlideOpenError,
    SlideReadError,
)
from histoslide.geometry import Box, Mpp, Size, true_downsample
from histoslide.place import is_remote, storage_errors
from histoslide.salvage import SalvagedTiff, file_hash
from histoslide.tiff_levels import direct_levels
from histoslide.tiff_tiles import TiffTiles
from histoslide.tile_reader import TileMissingError, TileReader

logger = logging.getLogger(__name__)

SLIDE_SUFFIXES = frozenset(
    {
        ".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu",
        ".bif", ".svslide", ".czi", ".dcm",
    }
)  # fmt: skip
"""File endings that a folder of slides is searched for."""

DEFAULT_CACHE_BYTES = 256 * 2**20
"""Bound on the decoded tiles that all handles of a slide keep together."""

MAX_AXIS_DIFFERENCE = 0.01
"""Relative difference of x and y resolution above which pixels are not treated as square."""

Reader = Literal["auto", "openslide"]
"""``auto`` takes the tiles of a TIFF directly where it can, ``openslide`` never does."""

MAX_CHANNEL_DIFFERENCE = 1
"""How far a channel of a directly decoded tile may lie from OpenSlide's, for rounding; it is 0 on
every slide seen so far. Beyond it the level is read through OpenSlide."""

_COMPARED_TILES = 3
"""Tiles of a level that are tried for a comparison with OpenSlide."""

_ALIGN_SEARCH_PX = 64
"""How far before a wanted level pixel to look for a better aligned start, see `_aligned_start`."""


class Slide(Protocol):
    """A whole-slide image; every reader offers exactly this."""

    @property
    def name(self) -> str:
        """File name without its folder."""
        ...

    @property
    def size_l0(self) -> Size:
        """Size of the finest level, in level-0 pixels."""
        ...

    @property
    def level_sizes(self) -> tuple[Size, ...]:
        """Size of every level in its own pixels, finest first."""
        ...

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Level-0 pixels a pixel of each level."""
        ...

    @property
    def mpp(self) -> Mpp | None:
        """Resolution of level 0, or None where it is not known."""
        ...

    @property
    def bounds_l0(self) -> Box | None:
        """The part that holds all scanned tissue, in level-0 pixels, where the slide records it."""
        ...

    @property
    def quickhash(self) -> str:
        """Tells slides apart: OpenSlide's quickhash, or a hash of the file's size and ends."""
        ...

    @property
    def properties(self) -> Mapping[str, str]:
        """The reader's own metadata, for people to read."""
        ...

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read RGB pixels of one level.

        Args:
            level: index, 0 is the finest.
            x: left edge in pixels of that level.
            y: upper edge in pixels of that level.
            width: of the region, which lies wholly inside the level.
            height: likewise.

        Returns:
            Shape (height, width, 3).

        Raises:
            SlideReadError: the pixels cannot be read.
        """
        ...


class OpenSlideSlide:
    """A slide read through OpenSlide; picklable, and usable from any thread or process."""

    def __init__(
        self, path: Path, *, mpp: Mpp | None = None, cache_bytes: int = DEFAULT_CACHE_BYTES
    ) -> None:
        """Open a slide.

        Args:
            path: slide file.
            mpp: resolution that replaces what the slide records.
            cache_bytes: bound on decoded tiles kept for all threads together.

        Raises:
            SlideOpenError: missing, a folder, empty, or in no format OpenSlide knows.
            ResolutionError: x and y resolutions differ by more than 1 % (unless ``mpp`` is given).
        """
        self._path = path
        self._cache_bytes = cache_bytes
        self._start()
        handle = self._handle()
        self._properties = dict(handle.properties)
        self._level_sizes = tuple(Size(*size) for size in handle.level_dimensions)
        self._reported_downsamples = tuple(float(d) for d in handle.level_downsamples)
        self._downsamples = tuple(true_downsample(self.size_l0, s) for s in self._level_sizes)
        self._mpp = mpp if mpp is not None else self._recorded_mpp()
        colour = self._properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "FFFFFF")
        self._background = np.frombuffer(bytes.fromhex(colour), dtype=np.uint8)

    @property
    def name(self) -> str:
        """File name without its folder."""
        return self._path.name

    @property
    def size_l0(self) -> Size:
        """Size of the finest level, in level-0 pixels."""
        return self._level_sizes[0]

    @property
    def level_sizes(self) -> tuple[Size, ...]:
        """Size of every level in its own pixels, finest first."""
        return self._level_sizes

    @property
    def level_downsamples(self) -> tuple[float, ...]:
        """Level-0 pixels a pixel of each level."""
        return self._downsamples

    @property
    def mpp(self) -> Mpp | None:
        """Resolution of level 0, or None where it is not known."""
        return self._mpp

    @property
    def quickhash(self) -> str:
        """OpenSlide's quickhash, or a hash of the file's size and ends where it has none."""
        recorded = self._properties.get(openslide.PROPERTY_NAME_QUICKHASH1)
        return file_hash(self._path) if recorded is None else recorded

    @property
    def properties(self) -> Mapping[str, str]:
        """OpenSlide's properties."""
        return self._properties

    @property
    def bounds_l0(self) -> Box | None:
        """The part that holds all scanned tissue, in level-0 pixels, where the slide records it."""
        names = ("x", "y", "width", "height")
        values = [self._properties.get(f"openslide.bounds-{name}") for name in names]
        found = [float(value) for value in values if value is not None]
        return Box(*found) if len(found) == len(names) else None

    @property
    def readers(self) -> tuple[str, ...]:
        """What reads each level, for people to see."""
        return ("openslide",) * len(self._level_sizes)

    def read_level(self, level: int, x: int, y: int, width: int, height: int) -> NDArray[np.uint8]:
        """Read RGB pixels of one level; see ``Slide.read_level``."""
        return self._read_pixels(level, x, y, width, height)

    def _read_pixels(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> NDArray[np.uint8]:
        downsample = self._reported_downsamples[level]
        left, x_l0 = _aligned_start(x, downsample)
        top, y_l0 = _aligned_start(y, downsample)
        size = (x - left + width, y - top + height)
        try:
            pixels = self._read_region((x_l0, y_l0), level, size)
        except openslide.OpenSlideError:
            self._drop_handle()
            try:
                pixels = self._read_region((x_l0, y_l0), level, size)
            except openslide.OpenSlideError as error:
                self._drop_handle()
                raise SlideReadError(
                    f"{self.name}: level {level} cannot be read at ({x}, {y}), "
                    f"{width}×{height} px: {error}"
                ) from error
        return pixels[y - top :, x - left :]

    def close(self) -> None:
        """Let go of the handles of all threads; the slide opens new ones when it is read again.

        A handle that another thread is reading with closes when that read ends: closing it under
        the reader would abort the process.
        """
        self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, object]:
        mine = ("_path", "_cache_bytes", "_properties", "_level_sizes", "_downsamples", "_mpp")
        more = ("_reported_downsamples", "_background")
        return {name: self.__dict__[name] for name in (*mine, *more)}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._start()

    def _start(self) -> None:
        self._lock = threading.Lock()
        self._local = threading.local()
        self._handles: list[openslide.OpenSlide] = []
        self._cache = openslide.OpenSlideCache(self._cache_bytes)
        self._process = os.getpid()

    def _handle(self) -> openslide.OpenSlide:
        if self._process != os.getpid():
            self._start()  # forked: the parent's handles and cache are not ours to use
        handle = getattr(self._local, "handle", None)
        if handle is None:
            handle = self._local.handle = _open_handle(self._path)
            handle.set_cache(self._cache)
            with self._lock:
                self._handles.append(handle)
        return handle

    def _drop_handle(self) -> None:
        handle = getattr(self._local, "handle", None)
        if handle is not None:
            self._local.handle = None
            with self._lock:
                if handle in self._handles:
                    self._handles.remove(handle)

    def _read_region(
        self, location_l0: tuple[int, int], level: int, size: tuple[int, int]
    ) -> NDArray[np.uint8]:
        image = self._handle().read_region(location_l0, level, size)
        rgba = np.asarray(image)
        rgb, alpha = rgba[..., :3], rgba[..., 3:]
        if alpha.min() == 255:
            return rgb
        weight = alpha.astype(np.float32) / 255
        blended = rgb * weight + self._background * (1 - weight)
        return np.rint(blended).astype(np.uint8)

    def _recorded_mpp(self) -> Mpp | None:
        texts = [
            self._properties.get(name)
            for name in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
        ]
        if None in texts:
            return None
        x, y = (float(text) for text in texts if text is not None)
        if not (x > 0 and y > 0):
            return None
        if abs(x - y) > MAX_AXIS_DIFFERENCE * min(x, y):
            raise ResolutionError(
                f"{self.name} records {x:g} µm/px across but {y:g} µm/px down: pixels must be "
                "square, pass --mpp if the record is wrong"
            )
        return Mpp(value=math.sqrt(x * y), source="slide metadata")


class TiffSlide(OpenSlideSlide):
    """A slide whose pixels come straight from the compressed tiles of its TIFF where that is safe.

    All facts are OpenSlide's, and so is every pixel that cannot be had otherwise: of other formats
    and kinds of tiles, of tiles that are missing, and of levels whose tiles do not decode to what
    OpenSlide makes of them. The pixels are OpenSlide's, only faster; at fractional downsamples they
    are those of the file, which OpenSlide may move by one. A tile that is damaged is an error also
    where OpenSlide would show what is left of it.
    """

    @property
    def readers(self) -> tuple[str, ...]:
        """What reads each level, for people to see."""
        levels = range(len(self._level_sizes))
        return tuple("tiff tiles" if self._is_direct(level) else "openslide" for level in levels)

    def _start(self) -> None:
        super()._start()
        self._tile_reader: TileReader | None = None
        self._direct: dict[int, bool] = {}

    def _read_pixels(
        self, level: int, x: int, y: int, width: int, height: int
    ) -> NDArray[np.uint8]:
        if self._is_direct(level):
            try:
                return self._tiles().read(level, x, y, width, height)
            except (TileMissingError, SlideOpenError) as error:
                logger.debug("%s; OpenSlide is asked", error)
        return super()._read_pixels(level, x, y, width, height)

    def _tiles(self) -> TileReader:
        if self._process != os.getpid():
            self._start()
        reader = self._tile_reader
        if reader is None:
            vendor = self._properties.get(openslide.PROPERTY_NAME_VENDOR, "")
            reader = TileReader(
                self._path,
                direct_levels(self._path, vendor, self._level_sizes),
                cache_bytes=self._cache_bytes,
                # Philips leaves out tiles without tissue, which are transparent in OpenSlide.
                missing=self._background if vendor == "philips" else None,
            )
            with self._lock:
                reader = self._tile_reader = self._tile_reader or reader
        return reader

    def _is_direct(self, level: int) -> bool:
        known = self._direct  # another thread may close the slide, which begins a new one
        if level not in known:
            tiles = self._tiles().levels[level]
            known[level] = tiles is not None and self._agrees(level, tiles)
        return known[level]

    def _agrees(self, level: int, tiles: TiffTiles) -> bool:
        """Whether tiles of a level decode to what OpenSlide makes of them.

        Those with the most bytes are compared, for they have the most to differ in, out of those
        that OpenSlide reads unshifted. Tiles that are damaged say nothing of the others, but where
        only OpenSlide reads any, it is left to it.
        """
        verdict = True
        for x, y in _best_compared(tiles, self._reported_downsamples[level]):
            width = min(tiles.tile.width, tiles.size.width - x)
            height = min(tiles.tile.height, tiles.size.height - y)
            try:
                theirs = super()._read_pixels(level, x, y, width, height)
                verdict = False
                ours = self._tiles().read(level, x, y, width, height).astype(np.int16)
            except SlideReadError as error:
                logger.debug("%s: level %d cannot be compared there: %s", self.name, level, error)
                continue
            difference = int(np.abs(ours - theirs).max())
            if difference > MAX_CHANNEL_DIFFERENCE:
                logger.debug("%s: level %d differs by %d", self.name, level, difference)
            return difference <= MAX_CHANNEL_DIFFERENCE
        return verdict


def open_slide(
    path: Path,
    *,
    mpp: Mpp | None = None,
    cache_bytes: int = DEFAULT_CACHE_BYTES,
    reader: Reader = "auto",
) -> OpenSlideSlide | SalvagedTiff:
    """Open a slide; see ``OpenSlideSlide`` for the other arguments and errors.

    A tiled TIFF that OpenSlide refuses because its end is missing is opened as far as it goes. A
    resolution that no microscope slide has is logged as a warning, not refused.

    Args:
        path: slide file.
        mpp: resolution that replaces what the slide records.
        cache_bytes: bound on decoded tiles kept for all threads together.
        reader: ``openslide`` to read every pixel through OpenSlide.
    """
    slide: OpenSlideSlide | SalvagedTiff
    kind = TiffSlide if reader == "auto" else OpenSlideSlide
    try:
        slide = kind(path, mpp=mpp, cache_bytes=cache_bytes)
    except SlideOpenError as error:
        rest = SalvagedTiff.open(path, mpp=mpp)
        if rest is None:
            raise
        logger.warning(
            "%s; it is a damaged TIFF: what is left of it is read, %d of %d tiles",
            error,
            rest.tiles_left,
            rest.tiles_in_all,
        )
        slide = rest
    if slide.mpp is not None and not slide.mpp.plausible:
        logger.warning(
            "%s: %g µm/px (%s) is implausible for a slide scan: check it, or pass --mpp",
            slide.name,
            slide.mpp.value,
            slide.mpp.source,
        )
    return slide


def require_mpp(slide: Slide) -> Mpp:
    """The slide's resolution.

    Raises:
        ResolutionUnknownError: the slide records none and none was given.
    """
    if slide.mpp is None:
        raise ResolutionUnknownError(
            f"{slide.name} records no resolution: pass --mpp (micrometres per pixel) "
            "or --mpp-csv FILE with the columns slide,mpp"
        )
    return slide.mpp


def read_mpp_csv(path: Path) -> dict[str, Mpp]:
    """Resolutions by slide file name from a CSV with the columns ``slide,mpp``.

    Raises:
        ResolutionError: unreadable, other columns, a value that is no positive number, or a slide
            named twice.
    """
    found: dict[str, Mpp] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if rows.fieldnames is None or not {"slide", "mpp"} <= set(rows.fieldnames):
                raise ResolutionError(
                    f"{path} has the columns {','.join(rows.fieldnames or ()) or '(none)'}: need "
                    "slide,mpp, separated by commas"
                )
            for row in rows:
                name = Path(row["slide"] or "").name
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
        raise ResolutionError(f"{path} cannot be read: {error}") from error
    return found


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


def _open_handle(path: Path) -> openslide.OpenSlide:
    try:
        if path.is_dir():
            what = "heatmap" if path.suffix == ".zarr" else "folder"
            raise SlideOpenError(f"{path} is a {what}, not a slide: pass the slide file")
        if not path.exists():
            raise SlideOpenError(f"{path} does not exist")
        if path.stat().st_size == 0:
            raise SlideOpenError(f"{path} is empty")
        return openslide.OpenSlide(path)
    except HistoslideError:
        raise
    except (openslide.OpenSlideError, OSError) as error:
        raise SlideOpenError(f"{path} is not a slide that OpenSlide can open: {error}") from error


def _best_compared(tiles: TiffTiles, downsample: float) -> list[tuple[int, int]]:
    """Corners, in level pixels, of the tiles to compare with OpenSlide's, the best first."""
    rows, cols = tiles.byte_counts.shape
    exact_rows = [_is_aligned(row * tiles.tile.height, downsample) for row in range(rows)]
    exact_cols = [_is_aligned(col * tiles.tile.width, downsample) for col in range(cols)]
    worth = np.where(np.outer(exact_rows, exact_cols), tiles.byte_counts, 0).ravel()
    best = np.argsort(worth, kind="stable")[::-1][:_COMPARED_TILES]
    return [
        (int(i) % cols * tiles.tile.width, int(i) // cols * tiles.tile.height)
        for i in best
        if worth[i]
    ]


def _is_aligned(start: int, downsample: float) -> bool:
    """Whether OpenSlide can read from a level pixel on without a fraction."""
    candidate, location = _aligned_start(start, downsample)
    return abs(location / downsample - candidate) < 1e-9


def _aligned_start(start: int, downsample: float) -> tuple[int, int]:
    """Where to begin reading so that level pixel ``start`` comes out unshifted.

    OpenSlide takes locations in whole level-0 pixels and divides by the downsample. Where that
    leaves a fraction it stretches each of the file's tiles over the fraction, which moves pixels
    by up to one. Starting a few pixels earlier, where the fraction all but vanishes, avoids it
    for most downsamples; for those a hair from whole, such as 4.0012, it makes it rarer.

    Returns:
        The level pixel to start at (at most ``start``) and its location in level-0 pixels.
    """
    best = (math.inf, start, 0)
    for candidate in range(start, max(-1, start - _ALIGN_SEARCH_PX), -1):
        location = round(candidate * downsample)
        fraction = abs(location / downsample - candidate)
        if fraction < best[0]:
            best = (fraction, candidate, location)
        if fraction == 0:
            break
    return best[1], best[2]
