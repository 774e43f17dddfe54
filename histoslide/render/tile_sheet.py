"""A sheet of tiles to look at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw


def contact_sheet(
    tiles: Sequence[NDArray[np.uint8]], *, label_px: int, columns: int = 10
) -> NDArray[np.uint8]:
    """Tiles side by side on white, each with a box around its label footprint.

    Args:
        tiles: RGB squares of one size.
        label_px: side of the label footprint; the box is drawn just outside it.
        columns: tiles a row.

    Returns:
        RGB, shape (h, w, 3).
    """
    if not tiles:
        raise ValueError("a contact sheet needs at least one tile")
    side, gap = tiles[0].shape[0], 4
    columns = min(columns, len(tiles))
    rows = -(-len(tiles) // columns)
    sheet = Image.new(
        "RGB", (columns * (side + gap) + gap, rows * (side + gap) + gap), (255, 255, 255)
    )
    draw = ImageDraw.Draw(sheet)
    margin = (side - label_px) // 2
    for i, tile in enumerate(tiles):
        x, y = gap + (i % columns) * (side + gap), gap + (i // columns) * (side + gap)
        sheet.paste(Image.fromarray(tile), (x, y))
        inner = (x + margin - 1, y + margin - 1, x + side - margin, y + side - margin)
        draw.rectangle(inner, outline=(255, 230, 0))
    return np.asarray(sheet)
