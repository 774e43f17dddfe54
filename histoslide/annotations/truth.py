"""What is tumour on one slide, as annotations say: from polygons, or from a mask picture."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from histoslide.annotations.annotation import UNCLASSIFIED
from histoslide.annotations.boxes import Boxes, on_slide
from histoslide.annotations.class_map import DEFAULT_CLASSES, ClassMap, Role
from histoslide.annotations.reading import is_picture, read_annotations
from histoslide.errors import AnnotationError
from histoslide.geometry import Size

if TYPE_CHECKING:
    import shapely

SUFFIXES = (".xml", ".geojson", ".json", ".tif", ".tiff", ".png")
"""Endings that a folder of annotations is searched for; the format is told by content."""

_MASK_ENDINGS = ("_mask", "-mask")
"""What CAMELYON16 and others add to the slide's name for its mask."""

NO_AREA = 1e-9
"""Part of a box below which an overlap is float rounding, not tissue."""


class Areas(Protocol):
    """Where each role is on a slide; boxes are on the slide."""

    def share(self, role: Role, boxes: Boxes) -> NDArray[np.float64]:
        """Part of each box that is of a role, 0-1, shape (n,)."""
        ...

    def mask(self, role: Role, size: Size) -> NDArray[np.bool_]:
        """Where a role is, shape (height, width) over the whole slide; a pixel by its centre."""
        ...

    def lesions(self) -> Sequence[shapely.Geometry]:
        """Connected regions of tumour, the largest first."""
        ...


@dataclass(frozen=True, kw_only=True)
class SlideTruth:
    """What is tumour, normal and excluded on one slide.

    The three never overlap: excluded wins over normal, and normal over tumour. Boxes are (left,
    top, right, bottom) in level-0 pixels, shape (n, 4); what of them lies beyond the slide is cut
    off first. Shares are exact: of polygons by the areas of overlaps, of a mask by its pixels,
    those at the edge of a box in part.
    """

    size_l0: Size
    """Of the slide."""
    areas: Areas
    """Where each role is."""
    source: Path | None = None
    """The file; None for what was made in memory, or a slide without any tumour."""
    mended: Mapping[str, int] = field(default_factory=dict)
    """What was mended or left out, in words for people, and how often."""
    classes: Mapping[str, Role] = field(default_factory=dict)
    """Roles of the classes that the file has."""

    @classmethod
    def nothing(cls, size_l0: Size) -> SlideTruth:
        """A slide on which nothing is drawn."""
        from histoslide.annotations.polygon_areas import PolygonAreas  # noqa: PLC0415 - shapely

        return cls(size_l0=size_l0, areas=PolygonAreas.of([], size_l0)[0])

    def share(self, role: Role, boxes_l0: Boxes) -> NDArray[np.float64]:
        """Part of each box that is of a role, 0-1, shape (n,)."""
        found = self.areas.share(role, on_slide(boxes_l0, self.size_l0))
        return np.where(found > NO_AREA, found, 0.0)

    def tumour_in(self, boxes_l0: Boxes) -> NDArray[np.float64]:
        """Part of each box that is tumour, 0-1, shape (n,); 0 is exactly none."""
        return self.share(Role.TUMOUR, boxes_l0)

    def touches_excluded(self, boxes_l0: Boxes) -> NDArray[np.bool_]:
        """Whether each box has a part that is excluded, shape (n,)."""
        return self.share(Role.EXCLUDED, boxes_l0) > 0

    def unknown_in(self, boxes_l0: Boxes, *, exhaustive: bool = True) -> NDArray[np.float64]:
        """Part of each box of which nobody says whether it is tumour, 0-1, shape (n,).

        Args:
            boxes_l0: see above.
            exhaustive: whether all tumour of the slide is drawn. Else what is neither tumour nor
                normal is not known.
        """
        excluded = self.share(Role.EXCLUDED, boxes_l0)
        if exhaustive:
            return excluded
        known = self.tumour_in(boxes_l0) + self.share(Role.NORMAL, boxes_l0)
        return np.where(1 - known > NO_AREA, 1 - known, 0.0)

    def tumour_mask(self, size: Size) -> NDArray[np.bool_]:
        """Tumour as a picture of the whole slide, shape (height, width); a pixel by its centre."""
        return self.areas.mask(Role.TUMOUR, size)

    def mask(self, role: Role, size: Size) -> NDArray[np.bool_]:
        """A role as a picture of the whole slide, shape (height, width); a pixel by its centre."""
        return self.areas.mask(role, size)

    def lesions(self) -> Sequence[shapely.Geometry]:
        """Connected regions of tumour in level-0 pixels, the largest first: number 0."""
        return self._lesions

    @cached_property
    def _lesions(self) -> Sequence[shapely.Geometry]:
        return tuple(self.areas.lesions())


def read_truth(path: Path, size_l0: Size, *, classes: ClassMap = DEFAULT_CLASSES) -> SlideTruth:
    """What a file of annotations says of a slide: polygons of any format, or a mask picture.

    Args:
        path: the file, recognised by content.
        size_l0: of the slide.
        classes: roles of classes; of a mask, the names are its values: ``1=tumour, 2=normal``.

    Raises:
        AnnotationError: it cannot be read, a class is not mapped, all of it lies outside the
            slide, or a mask is not in proportion to the slide.
    """
    from shapely.errors import GEOSException  # noqa: PLC0415

    from histoslide.annotations.mask_areas import MaskAreas  # noqa: PLC0415 - shapely is slow
    from histoslide.annotations.mask_image import read_mask_image  # noqa: PLC0415 - and tifffile
    from histoslide.annotations.polygon_areas import PolygonAreas, is_outside  # noqa: PLC0415

    if is_picture(path):
        image = read_mask_image(path)
        roles = classes.roles([str(value) for value in image.values], source=path)
        role_of = {int(value): role for value, role in roles.items()}
        areas: Areas = MaskAreas(size_l0=size_l0, image=image, role_of=role_of)
        return SlideTruth(size_l0=size_l0, areas=areas, source=path, classes=roles)
    drawn = read_annotations(path)
    roles = classes.roles(drawn.classes, source=path)
    of = [(item.polygon, roles[item.class_name or UNCLASSIFIED]) for item in drawn.items]
    meant = [(polygon, role) for polygon, role in of if role != Role.NOTHING]
    try:
        areas, mended = PolygonAreas.of(meant, size_l0)
    except GEOSException as error:
        raise AnnotationError(f"{path} has polygons that cannot be mended: {error}") from error
    if meant and is_outside(mended) == len(meant):
        raise AnnotationError(
            f"{path}: all {len(meant)} polygons lie outside the slide "
            f"({size_l0.width}×{size_l0.height} px): they are of another slide, or not in level-0 "
            "pixels"
        )
    return SlideTruth(
        size_l0=size_l0,
        areas=areas,
        source=path,
        mended={**drawn.mended, **mended},
        classes=roles,
    )


def find_truth(where: Path, slide: str, *, passing_over: Collection[Path] = ()) -> Path | None:
    """The file of annotations of a slide.

    Args:
        where: a file, which is taken as it is, or a folder: there the file of the slide's name,
            with or without its ending, or of that and ``_mask``; case does not matter where only
            one can be meant.
        slide: file name.
        passing_over: files that are known to be something else, as tissue masks are.

    Returns:
        None where the folder has none.

    Raises:
        AnnotationError: it cannot be read, or two files may be meant.
    """
    try:
        if not where.is_dir():
            if not where.exists():
                raise AnnotationError(f"{where} does not exist")
            return where
        files = sorted(
            path
            for path in where.iterdir()
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
        )
        known = {path.resolve() for path in passing_over}
        files = [path for path in files if path.resolve() not in known] if known else files
    except OSError as error:
        raise AnnotationError(f"{where} cannot be read: {error.strerror or error}") from error
    names = {name + ending for name in (slide, Path(slide).stem) for ending in ("", *_MASK_ENDINGS)}
    for fold in (str, str.casefold):
        wanted = {fold(name) for name in names}
        # The slide itself may lie there too.
        found = [path for path in files if fold(path.stem) in wanted and path.name != slide]
        if len(found) > 1:
            raise AnnotationError(
                f"{where} has {found[0].name} and {found[1].name} for {slide}: leave one there"
            )
        if found:
            return found[0]
    return None
