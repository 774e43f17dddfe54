"""Missed lesions and the highest false detections, to look at."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion

from histoslide.errors import HistoslideError
from histoslide.evaluation.slides.lesion_truth import LesionTruth
from histoslide.geometry import Box, Size
from histoslide.judging.links import ViewerLinks
from histoslide.judging.options import JudgeOptions
from histoslide.judging.slide import JudgedLesion, JudgedSlide, slide_truth
from histoslide.render.blending import colours
from histoslide.report.pictures import jpeg
from histoslide.slide import Slide
from histoslide.slide.resampling import read_box
from histoslide.store import Heatmap
from histoslide.viewer.catalogue import Catalogue

logger = logging.getLogger(__name__)

SHOWN = 12
"""Of each kind."""

_SIDE_PX = 320
_SIDE_UM = 1000.0
"""Side of the part of the slide that is shown; more where a lesion is larger."""

_OPACITY = (0.1, 0.7)
"""Of the colour at probability 0 and 1."""

_PAPER = 245
_ANNOTATED, _POINT = (0, 229, 255), (255, 0, 200)
"""Colours of lines around what was annotated, and of the cross at a detection."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A place to look at."""

    slide: str
    """File name."""
    said: str
    """What it is."""
    tissue: str
    """Picture of the slide there, a data address; empty where it cannot be read."""
    heat: str
    """The same with the heatmap over it."""
    side_um: float
    """Side of both."""
    link: str
    """Address that opens the viewer there."""


def missed_lesions(
    slides: Sequence[JudgedSlide],
) -> list[tuple[JudgedSlide, JudgedLesion]]:
    """Lesions that are to be found and were not, the longest first."""
    missed = [
        (slide, lesion)
        for slide in slides
        if slide.hits is not None
        for lesion in slide.lesions
        if not lesion.found and not lesion.isolated
    ]
    return sorted(missed, key=lambda it: -it[1].longest_um)


def show_missed(
    slides: Sequence[JudgedSlide], catalogue: Catalogue, links: ViewerLinks, options: JudgeOptions
) -> list[Shown]:
    """Pictures of the longest missed lesions."""
    places = [
        _Place(
            slide=slide,
            x_l0=lesion.centre_l0[0],
            y_l0=lesion.centre_l0[1],
            side_um=max(_SIDE_UM, 1.3 * lesion.longest_um),
            detection=False,
            said=", ".join(
                text
                for text in (
                    f"lesion {lesion.number}",
                    f"{lesion.kind} of {lesion.longest_um:,.0f} µm",
                    "no cell was scored"
                    if lesion.highest_probability is None
                    else f"highest cell {lesion.highest_probability:.2f}",
                    lesion.remark,
                )
                if text
            ),
        )
        for slide, lesion in missed_lesions(slides)[:SHOWN]
    ]
    return _Gallery(catalogue, links, options).show(places)


def show_false(
    slides: Sequence[JudgedSlide], catalogue: Catalogue, links: ViewerLinks, options: JudgeOptions
) -> list[Shown]:
    """Pictures of the highest false detections."""
    found = [(it.score, slide, it) for slide in slides for it in slide.highest_false]
    places = [
        _Place(
            slide=slide,
            x_l0=it.x_l0,
            y_l0=it.y_l0,
            side_um=_SIDE_UM,
            detection=True,
            said=f"score {score:.3f}, "
            + ("beside the slide's lesions" if slide.tumour else "slide without tumour"),
        )
        for score, slide, it in heapq.nlargest(SHOWN, found, key=lambda it: it[0])
    ]
    return _Gallery(catalogue, links, options).show(places)


@dataclass(frozen=True, kw_only=True)
class _Place:
    slide: JudgedSlide
    x_l0: float
    y_l0: float
    side_um: float
    detection: bool
    said: str

    @property
    def box_l0(self) -> Box:
        side = self.side_um / self.slide.mpp
        return Box(self.x_l0 - side / 2, self.y_l0 - side / 2, side, side)


class _Gallery:
    def __init__(self, catalogue: Catalogue, links: ViewerLinks, options: JudgeOptions) -> None:
        self._catalogue, self._links, self._options = catalogue, links, options
        self._keys = {entry.path: entry.key for entry in catalogue.entries()}

    def show(self, places: Sequence[_Place]) -> list[Shown]:
        """Pictures of places in their order; slide by slide, so that each is read once."""
        by_slide: dict[str, list[int]] = {}
        for i, place in enumerate(places):
            by_slide.setdefault(self._keys[place.slide.path], []).append(i)
        shown: dict[int, Shown] = {}
        for key, numbers in by_slide.items():
            pictures = self._of_slide(key, [places[i] for i in numbers])
            shown |= dict(zip(numbers, pictures, strict=True))
        return [shown[i] for i in sorted(shown)]

    def _of_slide(self, key: str, places: Sequence[_Place]) -> Iterator[Shown]:
        judged = places[0].slide
        heat = self._catalogue.source(key).heat
        probability, _ = heat.cells(self._options.settings.class_name)
        _, truth = slide_truth(heat, judged.reference, self._options)
        try:
            slide = self._catalogue.slide(key)
        except HistoslideError as error:
            logger.warning("%s is not shown: %s", judged.slide, error)
            slide = None
        for place in places:
            pixels = _tissue(slide, place.box_l0)
            plain = np.full((_SIDE_PX, _SIDE_PX, 3), _PAPER, np.uint8) if pixels is None else pixels
            lines = _lines(truth, place)
            yield Shown(
                slide=judged.slide,
                said=place.said,
                tissue="" if pixels is None else jpeg(_drawn(pixels, lines, place)),
                heat=jpeg(_drawn(_coloured(plain, heat, probability, place.box_l0), lines, place)),
                side_um=place.side_um,
                link=self._links.to(key, place.x_l0, place.y_l0),
            )


def _tissue(slide: Slide | None, box_l0: Box) -> NDArray[np.uint8] | None:
    if slide is None:
        return None
    try:
        return read_box(slide, box_l0, Size(_SIDE_PX, _SIDE_PX))
    except HistoslideError as error:
        logger.warning("%s", error)
        return None


def _middles(box_l0: Box) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """X and y in level-0 pixels of the middles of a picture's columns and rows."""
    middle = (np.arange(_SIDE_PX) + 0.5) / _SIDE_PX
    return box_l0.x + middle * box_l0.width, box_l0.y + middle * box_l0.height


def _coloured(
    pixels: NDArray[np.uint8], heat: Heatmap, probability: NDArray[np.float32], box_l0: Box
) -> NDArray[np.uint8]:
    """The heatmap over a picture, low probabilities too: they are what was missed by."""
    colour = colours()
    low, high = _OPACITY
    opacity = low + (high - low) * (np.arange(len(colour)) + 0.5) / len(colour)
    across, down = (np.floor(it / heat.grid.cell_l0).astype(np.intp) for it in _middles(box_l0))
    padded = np.pad(probability, 1, constant_values=np.nan)
    rows, cols = heat.grid.shape
    values = padded[np.ix_(np.clip(down, -1, rows) + 1, np.clip(across, -1, cols) + 1)]
    known = np.isfinite(values)
    level = np.minimum(np.where(known, values, 0) * len(opacity), len(opacity) - 1).astype(np.intp)
    share = np.where(known, opacity[level], 0.0)[..., None]
    return np.rint(pixels * (1 - share) + 255 * colour[level] * share).astype(np.uint8)


def _lines(truth: LesionTruth | None, place: _Place) -> NDArray[np.bool_]:
    """Lines around what was annotated."""
    inside = np.zeros((_SIDE_PX, _SIDE_PX), dtype=np.bool_)
    if truth is not None:
        across, down = (
            np.floor(it / truth.downsample).astype(int) for it in _middles(place.box_l0)
        )
        for lesion in truth.lesions:
            rows, cols = lesion.window
            row, col = down - rows.start, across - cols.start
            in_rows = np.flatnonzero((row >= 0) & (row < lesion.annotated.shape[0]))
            in_cols = np.flatnonzero((col >= 0) & (col < lesion.annotated.shape[1]))
            part = lesion.annotated[np.ix_(row[in_rows], col[in_cols])]
            inside[np.ix_(in_rows, in_cols)] |= part
    return inside & ~binary_erosion(inside, np.ones((3, 3), np.bool_), iterations=2, border_value=1)


def _drawn(pixels: NDArray[np.uint8], lines: NDArray[np.bool_], place: _Place) -> NDArray[np.uint8]:
    drawn = pixels.copy()
    drawn[lines] = _ANNOTATED
    if place.detection:
        middle = _SIDE_PX // 2
        for arm in (slice(middle - 16, middle - 5), slice(middle + 5, middle + 16)):
            drawn[arm, middle - 1 : middle + 1] = _POINT
            drawn[middle - 1 : middle + 1, arm] = _POINT
    return drawn
