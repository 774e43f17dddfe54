"""The lesions of a slide as CAMELYON16's evaluation sees them: annotated tumour, grown and joined.

Its code (``Evaluation_FROC.py``, CAMELYON16) works on the whole slide at level 5. Here every group
of tumour that can influence each other is worked on by itself, which gives the same and costs what
the tumour has in pixels, not what the slide has.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, binary_fill_holes, distance_transform_edt, find_objects
from scipy.spatial import ConvexHull
from scipy.spatial.distance import pdist
from skimage.measure import label, regionprops

from histoslide.evaluation.slides.rules import FrocRules

_BLOCK = 32
"""Side in mask pixels of the squares in which tumour is looked for at first."""

_Window = tuple[slice, slice]


@dataclass(frozen=True, kw_only=True)
class TrueLesion:
    """A region of the evaluation mask."""

    number: int
    """From 1, in reading order of the regions' first pixels."""
    window: _Window = field(repr=False)
    """Rows and columns of the evaluation mask that it lies in."""
    inside: NDArray[np.bool_] = field(repr=False, compare=False)
    """Its pixels in the window, grown and filled."""
    annotated: NDArray[np.bool_] = field(repr=False, compare=False)
    """Those of them that were annotated as tumour."""
    major_axis_um: float
    """Of the ellipse with the same second moments as the grown region."""
    isolated: bool
    """Whether that is below the limit: isolated tumour cells."""
    longest_um: float
    """Largest distance between two corners of annotated pixels."""
    area_mm2: float
    """Of the annotated pixels."""
    centre_l0: tuple[float, float]
    """(x, y): middle of the annotated pixel that is nearest to their centre of gravity."""


@dataclass(frozen=True, kw_only=True)
class LesionTruth:
    """All regions of a slide."""

    downsample: float
    """Level-0 pixels a pixel of the evaluation mask."""
    lesions: tuple[TrueLesion, ...]
    """By number."""

    @property
    def required(self) -> int:
        """How many are to be found: all but isolated tumour cells."""
        return sum(not lesion.isolated for lesion in self.lesions)

    def at(self, x_l0: NDArray[np.float64], y_l0: NDArray[np.float64]) -> NDArray[np.intp]:
        """Number of the lesion that each point lies in, 0 for none.

        Args:
            x_l0: level-0 pixels, shape (n,).
            y_l0: likewise.
        """
        row, col = ((it / self.downsample).astype(np.intp) for it in (y_l0, x_l0))
        found = np.zeros(len(row), dtype=np.intp)
        for lesion in self.lesions:
            down, across = lesion.window
            inside = (row >= down.start) & (row < down.stop)
            near = np.flatnonzero(inside & (col >= across.start) & (col < across.stop))
            hit = near[lesion.inside[row[near] - down.start, col[near] - across.start]]
            found[hit] = lesion.number
        return found


def lesion_truth(
    tumour: NDArray[np.bool_], *, downsample: float, mpp: float, rules: FrocRules
) -> LesionTruth:
    """Grow, fill, label and measure annotated tumour.

    Args:
        tumour: of the whole slide, one value a pixel of the evaluation mask.
        downsample: level-0 pixels a pixel of it.
        mpp: micrometres a level-0 pixel.
        rules: how.
    """
    um = downsample * mpp
    reach = rules.grow_um / um
    found: list[dict[str, Any]] = []
    for window in _groups(tumour, reach):
        here = tumour[window]
        grown = distance_transform_edt(~here) < reach if reach > 0 else here
        numbers = label(binary_fill_holes(grown), connectivity=2)
        found += [
            _measured(region, window, here, downsample, um, rules)
            for region in regionprops(numbers)
        ]
    # As labelling the whole mask numbers them: by the first pixel in reading order.
    found.sort(key=_first_pixel)
    numbered = tuple(TrueLesion(number=i, **it) for i, it in enumerate(found, start=1))
    return LesionTruth(downsample=downsample, lesions=numbered)


def _groups(tumour: NDArray[np.bool_], reach: float) -> Iterator[_Window]:
    """Windows with all tumour, none of which has to do with another."""
    rows, cols = tumour.shape
    with_any = np.flatnonzero(tumour.any(axis=1))
    if not len(with_any):
        return
    above = int(with_any[0]) // _BLOCK  # most of a slide is empty
    part = tumour[above * _BLOCK : int(with_any[-1]) + 1]
    pad = np.pad(part, ((0, -len(part) % _BLOCK), (0, -cols % _BLOCK)))
    down = len(pad) // _BLOCK
    blocks = pad.reshape(down, _BLOCK, -1, _BLOCK).any(axis=(1, 3))
    blocks = np.pad(blocks, ((above, -(-rows // _BLOCK) - above - down), (0, 0)))
    # Tumour in blocks that are not joined here is farther apart than both can grow.
    around = int(reach // _BLOCK) + 1
    side = 2 * around + 1
    near = binary_dilation(blocks, np.ones((side, side), np.bool_))
    boxes = [
        (lines.start, across.start, lines.stop, across.stop)
        for lines, across in find_objects(label(near, connectivity=2))
    ]
    # What grows around another group swallows it when its hole is filled.
    merged: list[tuple[int, int, int, int]] = []
    while boxes:
        box = boxes.pop()
        for other in [it for it in (*boxes, *merged) if _touch(box, it)]:
            (boxes if other in boxes else merged).remove(other)
            box = (*map(min, box[:2], other[:2]), *map(max, box[2:], other[2:]))
            boxes.append(box)
            break
        else:
            merged.append(box)
    for top, left, bottom, right in merged:
        yield (
            slice(top * _BLOCK, min(bottom * _BLOCK, rows)),
            slice(left * _BLOCK, min(right * _BLOCK, cols)),
        )


def _touch(one: tuple[int, int, int, int], other: tuple[int, int, int, int]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _measured(
    region: Any,
    window: _Window,
    tumour: NDArray[np.bool_],
    downsample: float,
    um: float,
    rules: FrocRules,
) -> dict[str, Any]:
    """All fields of a lesion but its number."""
    down, across = region.slice
    inside = np.asarray(region.image, dtype=np.bool_)
    annotated = inside & tumour[down, across]
    axis_um = float(region.axis_major_length) * um
    top, left = window[0].start + down.start, window[1].start + across.start
    pixels = np.argwhere(annotated)
    middle = pixels[((pixels - pixels.mean(axis=0)) ** 2).sum(axis=1).argmin()]
    y, x = (middle + (top, left) + 0.5) * downsample
    return {
        "window": (slice(top, top + inside.shape[0]), slice(left, left + inside.shape[1])),
        "inside": inside,
        "annotated": annotated,
        "major_axis_um": axis_um,
        "isolated": axis_um < rules.isolated_um,
        "longest_um": _longest(pixels) * um,
        "area_mm2": len(pixels) * um**2 / 1e6,
        "centre_l0": (float(x), float(y)),
    }


def _first_pixel(lesion: dict[str, Any]) -> tuple[int, int]:
    down, across = lesion["window"]
    return down.start, across.start + int(lesion["inside"][0].argmax())


def _longest(pixels: NDArray[np.intp]) -> float:
    """Largest distance between two corners of pixels (row, col), in pixels."""
    # The first and the last of each row: no other can be a corner of the hull.
    first = np.flatnonzero(np.diff(pixels[:, 0], prepend=-1))
    ends = pixels[np.unique([first, np.append(first[1:] - 1, len(pixels) - 1)])]
    corners = np.concatenate([ends + shift for shift in ((0, 0), (0, 1), (1, 0), (1, 1))])
    return float(pdist(corners[ConvexHull(corners).vertices]).max())
