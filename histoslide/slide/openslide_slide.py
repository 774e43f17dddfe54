"""The reader over OpenSlide.

OpenSlide reports errors by latching them: after one failed read a handle answers nothing else. A
failed read therefore closes its handle, opens a fresh one and tries once more before it gives up.
Handles are opened lazily, one a thread, and never cross a fork or a pickle.
"""

from __future__ import annotations

import logging
import math
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray

from histoslide.errors import HistoslideError, ResolutionError, SlideOpenError, SlideReadError
from histoslide.geometry import Box, Mpp, Region, Size
from histoslide.slide.alignment import aligned_start
from histoslide.slide.base import Slide
from histoslide.slide.dicom_colours import DicomColours
from histoslide.slide.downsamples import StoredLevel, find_downsamples, stated_by
from histoslide.slide.facts import SlideFacts
from histoslide.slide.file_hash import file_hash
from histoslide.slide.giving_up import GivingUp
from histoslide.slide.shrinking import average_squares
from histoslide.slide.ycbcr import looks_like_ycbcr, rgb_of_ycbcr, share_out_of_range
from histoslide.storage.location import readable_name

logger = logging.getLogger(__name__)

DEFAULT_CACHE_BYTES = 256 * 2**20
"""Bound on the decoded tiles that all handles of a slide keep together."""

MAX_AXIS_DIFFERENCE = 0.01
"""Relative difference of x and y resolution above which pixels are not treated as square."""

_SAMPLES, _SAMPLE_PX = 3, 128
"""Squares across and down, and their side, by which the colours of a level are judged."""

_CONTRADICTED = 0.1
"""Part of the pixels that are no luma and chroma from which a frame's word for it is not taken."""

_UNDONE = (
    "PhotometricInterpretation says {}, but the pixels are shown as luma and chroma: they are "
    "converted to colours"
)

_LOST = (
    "PhotometricInterpretation says {}, but the pixels are coded as red, green and blue: the "
    "colours are wrong, and probabilities with them; correct the header"
)


class OpenSlideSlide(Slide):
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
        recorded = dict(handle.properties)
        self._reported_downsamples = tuple(float(d) for d in handle.level_downsamples)
        colour = recorded.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR, "FFFFFF")
        self._background = np.frombuffer(bytes.fromhex(colour), dtype=np.uint8)
        self._stored_sizes = tuple(Size(*size) for size in handle.level_dimensions)
        self._stored = tuple(range(len(self._stored_sizes)))
        name = readable_name(path)
        self._ycbcr: frozenset[int] = frozenset()
        super().__init__(
            SlideFacts(
                name=name,
                level_sizes=self._stored_sizes,
                level_downsamples=self._reported_downsamples,
                mpp=mpp if mpp is not None else recorded_by_openslide(name, recorded),
                quickhash=recorded.get(openslide.PROPERTY_NAME_QUICKHASH1) or file_hash(path),
                bounds_l0=_recorded_bounds(recorded),
                properties=recorded,
            )
        )
        self._giving_up = GivingUp(name)
        if recorded.get(openslide.PROPERTY_NAME_VENDOR) == "dicom":
            self._know_colours()
        self._know_levels()

    @property
    def readers(self) -> tuple[str, ...]:
        """What reads each level, for people to see."""
        return ("openslide",) * len(self.level_sizes)

    def _know_levels(self) -> None:
        """Find the levels' true downsamples, and leave out images that are no levels."""
        reported = zip(self._stored_sizes, self._reported_downsamples, strict=True)
        levels = [
            StoredLevel(
                size=size,
                tile=_recorded_tile(self.properties, index),
                stated=stated_by(downsample, self._stored_sizes[0], size) if index else None,
            )
            for index, (size, downsample) in enumerate(reported)
        ]
        found = find_downsamples(self.name, levels, self._read_stored)
        known = [(index, downsample) for index, downsample in enumerate(found) if downsample]
        self._stored = tuple(index for index, _ in known)
        self._facts = replace(
            self.facts,
            level_sizes=tuple(self._stored_sizes[index] for index in self._stored),
            level_downsamples=tuple(downsample for _, downsample in known),
        )

    def _know_colours(self) -> None:
        """Find the levels whose luma and chroma are shown as colours, and warn of what is wrong."""
        ycbcr: set[int] = set()
        warnings: dict[str, None] = {}
        for colours in DicomColours.of_series(self._path):
            if colours.size not in self._stored_sizes:
                continue
            level = self._stored_sizes.index(colours.size)
            if colours.is_rgb_called_ycbcr:
                warnings[_LOST.format(colours.said)] = None
            elif self._shows_ycbcr(level, colours):
                ycbcr.add(level)
                warnings[_UNDONE.format(colours.said)] = None
        self._ycbcr = frozenset(ycbcr)
        for warning in warnings:
            logger.warning("%s: %s", self.name, warning)
        self._facts = replace(self.facts, warnings=tuple(warnings))

    def _shows_ycbcr(self, level: int, colours: DicomColours) -> bool:
        if colours.is_ycbcr_called_rgb:
            return share_out_of_range(self._sample(level)) < _CONTRADICTED
        return colours.is_doubtful and looks_like_ycbcr(self._sample(level))

    def _sample(self, level: int) -> NDArray[np.uint8]:
        """Squares spread over a level, as OpenSlide shows it, beside each other."""
        size = self._stored_sizes[level]
        side = min(_SAMPLE_PX, size.width, size.height)
        found = [np.empty((side, 0, 3), dtype=np.uint8)]
        for y in np.linspace(0, size.height - side, _SAMPLES, dtype=int):
            for x in np.linspace(0, size.width - side, _SAMPLES, dtype=int):
                try:
                    found.append(self._read_stored(Region(level, int(x), int(y), side, side)))
                except SlideReadError as error:
                    logger.debug("%s says nothing of colours", error)
        return np.concatenate(found, axis=1)

    def read(self, region: Region, shrink: int = 1) -> NDArray[np.uint8]:
        """Read RGB pixels of one level; see ``Slide.read``."""
        stored = replace(region, level=self._stored[region.level])
        size = self._stored_sizes[stored.level]
        return self._giving_up.read(
            stored, size, lambda part: self._read_stored(part, shrink if part is stored else 1)
        )

    def _read_stored(self, region: Region, shrink: int = 1) -> NDArray[np.uint8]:
        """Read pixels of a level counted as OpenSlide does, which knows more than there are."""
        downsample = self._reported_downsamples[region.level]
        left, x_l0 = aligned_start(region.x, downsample)
        top, y_l0 = aligned_start(region.y, downsample)
        size = (region.right - left, region.bottom - top)
        try:
            pixels = self._read_region((x_l0, y_l0), region.level, size)
        except openslide.OpenSlideError:
            self._drop_handle()
            try:
                pixels = self._read_region((x_l0, y_l0), region.level, size)
            except openslide.OpenSlideError as error:
                self._drop_handle()
                raise SlideReadError(f"{self.name}: {region} cannot be read: {error}") from error
        return average_squares(pixels[region.y - top :, region.x - left :], shrink)

    def close(self) -> None:
        """Let go of the handles of all threads; the slide opens new ones when it is read again.

        A handle that another thread is reading with closes when that read ends: closing it under
        the reader would abort the process.
        """
        self._start()

    def __getstate__(self) -> dict[str, object]:
        mine = ("_path", "_cache_bytes", "_facts", "_reported_downsamples", "_background")
        more = ("_stored", "_stored_sizes", "_ycbcr")
        return {name: self.__dict__[name] for name in (*mine, *more)}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._giving_up = GivingUp(self.name)
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
        if level in self._ycbcr:
            rgb = rgb_of_ycbcr(rgb)
        if alpha.min() == 255:
            return rgb
        weight = alpha.astype(np.float32) / 255
        blended = rgb * weight + self._background * (1 - weight)
        return np.rint(blended).astype(np.uint8)


def recorded_by_openslide(name: str, properties: Mapping[str, str]) -> Mpp | None:
    """The resolution among OpenSlide's properties; None where there is none, or it is no number.

    Raises:
        ResolutionError: x and y resolutions differ by more than 1 %.
    """
    texts = [
        properties.get(key)
        for key in (openslide.PROPERTY_NAME_MPP_X, openslide.PROPERTY_NAME_MPP_Y)
    ]
    if None in texts:
        return None
    try:
        x, y = (float(text) for text in texts if text is not None)
    except ValueError:
        return None
    if not (0 < x < math.inf and 0 < y < math.inf):
        return None
    if abs(x - y) > MAX_AXIS_DIFFERENCE * min(x, y):
        raise ResolutionError(
            f"{name} records {x:g} µm/px across but {y:g} µm/px down: pixels must be "
            "square, pass --mpp if the record is wrong"
        )
    return Mpp(value=math.sqrt(x * y), source="slide metadata")


def _recorded_tile(properties: Mapping[str, str], level: int) -> Size | None:
    try:
        names = (f"openslide.level[{level}].tile-{side}" for side in ("width", "height"))
        return Size(*(int(properties[name]) for name in names))
    except (KeyError, ValueError):
        return None


def _recorded_bounds(properties: Mapping[str, str]) -> Box | None:
    names = ("x", "y", "width", "height")
    values = [properties.get(f"openslide.bounds-{name}") for name in names]
    found = [float(value) for value in values if value is not None]
    return Box(*found) if len(found) == len(names) else None


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
