"""One look for one thing: the colours of everything that is drawn, and what each of them means.

Pictures, reports, the viewer and files for other programs take them from here; the rules stand in
docs/design.md. A test looks at them as people with the three common deficiencies of colour vision
do.
"""

from __future__ import annotations

from collections.abc import Mapping

Rgb = tuple[int, int, int]
"""Red, green and blue, 0-255."""

PROBABILITY_MAP = "viridis"
"""Matplotlib's name of the colours of probability. Perceptually uniform; from its middle up unlike
any colour of haematoxylin and eosin."""

CLASSES: Mapping[str, Rgb] = {
    "isolated tumour cells": (255, 102, 0),
    "micrometastasis": (102, 204, 255),
    "macrometastasis": (51, 51, 255),
}
"""Of outlines by what a focus is called, drawn on ``RIM``: unlike each other, and unlike the upper
half of the colours of probability on which they lie."""

OPACITY = 0.55
"""Of the colour of a cell at or above the threshold, over the slide. One below it is clear: the
tissue there is to be seen as it is."""

SELECTED: Rgb = (255, 255, 255)
"""Of what somebody has chosen, drawn wide on ``RIM``: as far from every colour of probability and
class as a colour can be for all eyes. A label of it is the other way round."""

FOOTPRINT: Rgb = (255, 255, 255)
"""Of the box around the part of a tile that its label speaks of, drawn on ``RIM``."""

ANNOTATED: Rgb = (255, 255, 255)
"""Of outlines that people have drawn, thin on ``RIM``."""

PATCHES: Mapping[str, Rgb] = {"normal": (0, 183, 255), "tumour": (224, 32, 32)}
"""Of the squares that were cut from a slide, by their label."""

RIM: Rgb = (0, 0, 0)
"""Of the wider line under a coloured one, so that it is seen on tissue, glass and heatmap alike."""

TO_SCORE: Rgb = (26, 127, 55)
"""Of the line around the cells that will be scored."""

UNREADABLE: Rgb = (192, 28, 40)
"""Of the hatching over cells that could not be read."""

EXCLUDED: Rgb = (28, 84, 178)
"""Of the hatching over what lies outside the region of interest, the other way round."""

ALARM: Rgb = (165, 29, 45)
"""Of warnings in pictures."""


def hexadecimal(colour: Rgb) -> str:
    """A colour as HTML and Matplotlib take it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)
