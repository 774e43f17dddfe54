"""Areas of roles that a mask picture makes: each of its pixels is a rectangle of the slide."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage

from histoslide.annotations.boxes import Boxes, areas
from histoslide.annotations.class_map import Role
from histoslide.annotations.mask_image import MaskImage
from histoslide.errors import AnnotationError
from histoslide.geometry import Size

_OUTLINE_PX = 4096
"""Longest side of the picture that lesions of a mask are outlined on: pixels of a mask would make
outlines of millions of corners."""


@dataclass(frozen=True, kw_only=True)
class MaskAreas:
    """Where each role is on a slide."""

    size_l0: Size
    """Of the slide."""
    image: MaskImage
    """Spans it."""
    role_of: Mapping[int, Role]
    """Of every value that occurs."""

    def __post_init__(self) -> None:
        width, height = self.image.size.width, self.image.size.height
        expected = self.size_l0.width / self.size_l0.height * height
        # Either side of a shrunk mask may have been rounded by up to a pixel.
        if abs(width - expected) > 1 + self.size_l0.width / self.size_l0.height:
            raise AnnotationError(
                f"{self.image.source} is {width}×{height} px, which is not in proportion to the "
                f"slide ({self.size_l0.width}×{self.size_l0.height}): a mask must span the whole "
                "slide"
            )

    @property
    def _scale(self) -> NDArray[np.float64]:
        """Pixels of the mask a level-0 pixel, across and down."""
        return np.array(
            [
                self.image.size.width / self.size_l0.width,
                self.image.size.height / self.size_l0.height,
            ]
        )

    def _is(self, role: Role, values: NDArray[np.uint8]) -> NDArray[np.bool_]:
        table = np.zeros(256, np.bool_)
        table[[value for value, of in self.role_of.items() if of == role]] = True
        return table[values]

    def share(self, role: Role, boxes: Boxes) -> NDArray[np.float64]:
        """Part of each box that is of a role, 0-1, shape (n,); pixels at its edge count in part."""
        found = np.zeros(len(boxes))
        if role not in self.role_of.values():
            return found
        scaled = boxes * np.tile(self._scale, 2)
        for i in np.flatnonzero((areas(boxes) > 0) & self._may_hold(role, scaled)):
            left, top, right, bottom = scaled[i]
            x0, y0 = math.floor(left), math.floor(top)
            x1 = min(self.image.size.width, max(x0 + 1, math.ceil(right)))
            y1 = min(self.image.size.height, max(y0 + 1, math.ceil(bottom)))
            inside = self._is(role, self.image.window(x0, y0, x1, y1))
            if inside.any():
                across, down = _covered(x0, x1, left, right), _covered(y0, y1, top, bottom)
                found[i] = down @ inside @ across / ((right - left) * (bottom - top))
        return found.clip(0, 1)

    def _may_hold(self, role: Role, scaled: Boxes) -> NDArray[np.bool_]:
        """Whether a tile that a box lies on has a role or is mixed: nearly all are empty."""
        uniform = self.image.uniform
        holds = np.where(uniform < 0, True, self._is(role, uniform.clip(0).astype(np.uint8)))
        table = np.pad(holds.cumsum(axis=0).cumsum(axis=1), ((1, 0), (1, 0)))
        tile = np.array([self.image.tile.width, self.image.tile.height])
        limit = np.array(uniform.shape[::-1])
        left, top = np.minimum(np.floor(scaled[:, :2] / tile).astype(np.intp), limit - 1).T
        right, bottom = np.minimum(np.floor(scaled[:, 2:] / tile).astype(np.intp) + 1, limit).T
        return (
            table[bottom, right] - table[top, right] - table[bottom, left] + table[top, left]
        ) > 0

    def mask(self, role: Role, size: Size) -> NDArray[np.bool_]:
        """Where a role is, shape (height, width) over the whole slide; a pixel by its centre."""
        found = np.zeros((size.height, size.width), np.bool_)
        rows = _nearest(size.height, self.image.size.height)
        cols = _nearest(size.width, self.image.size.width)
        for chosen, top, bottom in _bands(rows, self.image.tile.height, self.image.size.height):
            for across, left, right in _bands(cols, self.image.tile.width, self.image.size.width):
                part = self._is(role, self.image.window(left, top, right, bottom))
                found[chosen, across] = part[rows[chosen, None] - top, cols[None, across] - left]
        return found

    def lesions(self) -> tuple[shapely.Geometry, ...]:
        """Connected regions of tumour (also over corners), the largest first.

        Large masks are outlined as a picture of at most ``_OUTLINE_PX`` pixels a side shows them:
        a pixel of it is tumour where its centre is.
        """
        longest = max(self.image.size.width, self.image.size.height)
        factor = min(1.0, _OUTLINE_PX / longest)
        size = Size(
            max(1, round(self.image.size.width * factor)),
            max(1, round(self.image.size.height * factor)),
        )
        labels, count = ndimage.label(self.mask(Role.TUMOUR, size), structure=np.ones((3, 3)))
        to_l0 = np.array([self.size_l0.width / size.width, self.size_l0.height / size.height])
        lesions = [
            shapely.transform(_outline(labels[where] == number, where), lambda p: p * to_l0)
            for number, where in enumerate(ndimage.find_objects(labels, count), start=1)
            if where is not None
        ]
        return tuple(
            sorted(lesions, key=lambda part: (-shapely.area(part), *shapely.bounds(part).tolist()))
        )


def _covered(first: int, stop: int, low: float, high: float) -> NDArray[np.float64]:
    """How much of each pixel from ``first`` to ``stop`` lies between two real-valued borders."""
    edges = np.clip(np.arange(first, stop + 1), low, high)
    return np.diff(edges)


def _nearest(count: int, of: int) -> NDArray[np.intp]:
    """The pixel among ``of`` that the centre of each of ``count`` lies in."""
    return np.minimum(((np.arange(count) + 0.5) * of / count).astype(np.intp), of - 1)


def _bands(chosen: NDArray[np.intp], side: int, stop: int) -> Iterator[tuple[slice, int, int]]:
    """Runs of chosen pixels that lie in one row of tiles, and where that begins and ends."""
    starts = np.flatnonzero(np.diff(chosen // side, prepend=-1))
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(chosen)], strict=True):
        first = int(chosen[start]) // side * side
        yield slice(start, end), first, min(first + side, stop)


def _outline(region: NDArray[np.bool_], where: tuple[slice, ...]) -> shapely.Geometry:
    """The pixels of a region as one shape."""
    padded = np.pad(region.astype(np.int8), ((0, 0), (1, 1)))
    steps = np.diff(padded, axis=1)
    rows, starts = np.nonzero(steps == 1)
    _, stops = np.nonzero(steps == -1)
    top, left = where[0].start, where[1].start
    return shapely.union_all(shapely.box(starts + left, rows + top, stops + left, rows + top + 1))
