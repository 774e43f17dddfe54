"""Areas of roles that polygons make: exact in level-0 pixels, with no raster between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from histoslide.annotations.boxes import Boxes, areas
from histoslide.annotations.class_map import Role
from histoslide.annotations.polygons import Polygon
from histoslide.annotations.rasterise import rasterise
from histoslide.geometry import Size

_FEW_VERTICES = 128
"""Vertices of a piece, on which a box is not cheaper to lay than on two halves of it."""


@dataclass(frozen=True, kw_only=True)
class PolygonAreas:
    """Where each role is, as shapes that do not overlap."""

    size_l0: Size
    """Of the slide."""
    shapes: dict[Role, shapely.Geometry]
    """The area of each role but ``NOTHING``, cut at the slide's edge."""
    _pieces: dict[Role, tuple[NDArray[np.object_], shapely.STRtree]] = field(
        default_factory=dict, repr=False
    )

    @classmethod
    def of(
        cls, drawn: Sequence[tuple[Polygon, Role]], size_l0: Size
    ) -> tuple[PolygonAreas, dict[str, int]]:
        """The areas of polygons, and how many had to be mended.

        A ring that crosses itself covers what the even-odd rule says, as in ``rasterise``.

        Args:
            drawn: polygons and their roles.
            size_l0: of the slide, which they are cut to.
        """
        mended = {_CROSSING: 0, _CUT: 0, _OUTSIDE: 0}
        slide = shapely.box(0, 0, size_l0.width, size_l0.height)
        parts: dict[Role, list[Any]] = {role: [] for role in Role}
        for polygon, role in drawn:
            shape: Any = shapely.Polygon(polygon.outline, polygon.holes)
            if not shape.is_valid:
                mended[_CROSSING] += 1
                shape = _valid(polygon)
            if not shape.intersects(slide):
                mended[_OUTSIDE] += 1
                continue
            if not slide.covers(shape):
                mended[_CUT] += 1
            parts[role].append(shape)
        shapes: dict[Role, shapely.Geometry] = {}
        above: Any = shapely.Polygon()
        for role in (Role.EXCLUDED, Role.NORMAL, Role.TUMOUR):
            whole = shapely.intersection(shapely.union_all(parts[role]), slide)
            shapes[role] = _surfaces(shapely.difference(whole, above))
            above = shapely.union(above, whole)
        found = {what: count for what, count in mended.items() if count}
        return cls(size_l0=size_l0, shapes=shapes), found

    def share(self, role: Role, boxes: Boxes) -> NDArray[np.float64]:
        """Part of each box that is of a role, 0-1, shape (n,)."""
        pieces, tree = self._cut(role)
        sums = np.zeros(len(boxes))
        whole = areas(boxes)
        wanted = np.flatnonzero(whole > 0)
        if len(pieces) and len(wanted):
            rectangles: Any = shapely.box(*boxes[wanted].T)
            box, piece = tree.query(rectangles, predicate="intersects")
            overlap = shapely.area(shapely.intersection(rectangles[box], pieces[piece]))
            np.add.at(sums, wanted[box], overlap)
        return np.divide(sums, whole, out=np.zeros_like(sums), where=whole > 0).clip(0, 1)

    def mask(self, role: Role, size: Size) -> NDArray[np.bool_]:
        """Where a role is, shape (height, width) over the whole slide; a pixel by its centre."""
        return rasterise(_polygons(self.shapes[role]), self.size_l0, size)

    def lesions(self) -> tuple[shapely.Polygon, ...]:
        """Connected regions of tumour, the largest first."""
        parts = [*shapely.get_parts(self.shapes[Role.TUMOUR])]
        return tuple(sorted(parts, key=lambda part: (-part.area, part.bounds)))

    def _cut(self, role: Role) -> tuple[NDArray[np.object_], shapely.STRtree]:
        """The area of a role in pieces of few vertices, and where to find them."""
        if role not in self._pieces:
            pieces = np.array(_pieces(self.shapes[role]), dtype=object)
            self._pieces[role] = pieces, shapely.STRtree(pieces)
        return self._pieces[role]


_CROSSING = "polygons that cross themselves taken by the even-odd rule"
_CUT = "polygons cut at the slide's edge"
_OUTSIDE = "polygons wholly outside the slide left out"


def is_outside(mended: dict[str, int]) -> int:
    """How many polygons lay wholly outside the slide."""
    return mended.get(_OUTSIDE, 0)


def _valid(polygon: Polygon) -> Any:
    """What a polygon covers by the even-odd rule, ring by ring."""
    outline = shapely.make_valid(shapely.Polygon(polygon.outline))
    holes = [shapely.make_valid(shapely.Polygon(hole)) for hole in polygon.holes]
    return _surfaces(shapely.difference(outline, shapely.union_all(holes)))


def _surfaces(shape: Any) -> Any:
    """Only what has an area: operations leave lines and points where shapes touch."""
    if shape.geom_type in ("Polygon", "MultiPolygon"):
        return shape
    parts = shapely.get_parts(shape)
    return shapely.union_all([part for part in parts if shapely.get_dimensions(part) == 2])


def _pieces(shape: Any) -> list[Any]:
    """A shape halved until its pieces have few vertices."""
    waiting, done = [*shapely.get_parts(shape)], []
    while waiting:
        part = waiting.pop()
        if part.is_empty or part.geom_type not in ("Polygon", "MultiPolygon"):
            continue
        if shapely.get_num_coordinates(part) <= _FEW_VERTICES:
            done.append(part)
            continue
        left, top, right, bottom = part.bounds
        if right - left >= bottom - top:
            middle = (left + right) / 2
            halves = ((left, top, middle, bottom), (middle, top, right, bottom))
        else:
            middle = (top + bottom) / 2
            halves = ((left, top, right, middle), (left, middle, right, bottom))
        if not left < right or not top < bottom or middle in (left, right, top, bottom):
            done.append(part)
            continue
        for half in halves:
            waiting += [
                *shapely.get_parts(_surfaces(shapely.intersection(part, shapely.box(*half))))
            ]
    return done


def _polygons(shape: Any) -> list[Polygon]:
    return [
        Polygon(
            shapely.get_coordinates(part.exterior)[:-1],
            tuple(shapely.get_coordinates(ring)[:-1] for ring in part.interiors),
        )
        for part in shapely.get_parts(shape)
    ]
