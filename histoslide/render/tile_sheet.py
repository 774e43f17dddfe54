"""A sheet of tiles to look at."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from histoslide import look, quantities
from histoslide.render.bars import scale_bar_um

_FONT = Path(mpl.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
"""Comes with Matplotlib; Pillow's own has no µ."""

_LETTER_PX, _LINE_PX = 13, 18
"""Size of letters, and from line to line."""


def contact_sheet(
    tiles: Sequence[NDArray[np.uint8]],
    *,
    label_px: int,
    columns: int = 10,
    title: str = "",
    mpp: float | None = None,
) -> NDArray[np.uint8]:
    """Tiles side by side on white, each with a box around its label footprint.

    Args:
        tiles: RGB squares of one size.
        label_px: side of the label footprint; the box is drawn just outside it.
        columns: tiles a row.
        title: lines above them.
        mpp: micrometres per pixel of the tiles, for a scale bar below them; None draws none.

    Returns:
        RGB, shape (h, w, 3).
    """
    if not tiles:
        raise ValueError("a contact sheet needs at least one tile")
    side, gap = tiles[0].shape[0], 4
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    width = columns * (side + gap) + gap
    font = ImageFont.truetype(_FONT, _LETTER_PX)
    letters = max(20, int(width / font.getlength("n")))
    lines = [part for line in title.splitlines() for part in textwrap.wrap(line, letters)]
    head = len(lines) * _LINE_PX + (gap if lines else 0)
    foot = 0 if mpp is None else 2 * _LINE_PX
    height = head + rows * (side + gap) + gap + foot
    sheet = Image.new("RGB", (width, height), (255, 255, 255))
    draw = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        draw.text((gap, gap + number * _LINE_PX), line, fill=(0, 0, 0), font=font)
    if mpp is not None:
        _draw_scale(draw, (gap, height - foot), side, mpp, font)
    margin = (side - label_px) // 2
    for i, tile in enumerate(tiles):
        x, y = gap + (i % columns) * (side + gap), head + gap + (i // columns) * (side + gap)
        sheet.paste(Image.fromarray(tile), (x, y))
        inner = (x + margin - 1, y + margin - 1, x + side - margin, y + side - margin)
        outer = (inner[0] - 1, inner[1] - 1, inner[2] + 1, inner[3] + 1)
        draw.rectangle(outer, outline=look.RIM)
        draw.rectangle(inner, outline=look.FOOTPRINT)
    return np.asarray(sheet)


def _draw_scale(
    draw: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    side: int,
    mpp: float,
    font: ImageFont.FreeTypeFont,
) -> None:
    """A bar of a round length, of about half a tile, with its length beside it."""
    length_um = scale_bar_um(side * mpp * 2.5)
    x, y = corner
    bar = round(length_um / mpp)
    draw.rectangle((x, y + _LINE_PX // 2, x + bar, y + _LINE_PX // 2 + 3), fill=(0, 0, 0))
    draw.text((x + bar + 6, y + 2), quantities.scale(length_um), fill=(0, 0, 0), font=font)
