"""Pictures for people: heatmap overlays, mask checks and contact sheets."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import matplotlib as mpl
import numpy as np
import shapely
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap, Normalize, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.patheffects import Normal as PathNormal
from matplotlib.patheffects import Stroke as PathStroke
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from PIL.PngImagePlugin import PngInfo

from histoslide.comparison import Comparison
from histoslide.errors import StoreError
from histoslide.geometry import Size
from histoslide.grid import TileGrid
from histoslide.lesions import LESION_COLOURS, Lesion, LesionReport
from histoslide.outputs import refuse_existing, whole_file
from histoslide.place import read_bytes
from histoslide.scoring import Status
from histoslide.slide import Slide
from histoslide.store import Heatmap
from histoslide.tiles import fit_size, read_overview
from histoslide.tissue import TissueMask

DEFAULT_OVERLAY_PX = 1600
"""Longest side of the slide in an overlay, in pixels."""

DEFAULT_THRESHOLD = 0.5
"""Probability above which cells are outlined."""

COLOUR_MAP = "viridis"
"""Perceptually uniform; from its middle up unlike any colour of haematoxylin and eosin."""

DIFFERENCE_MAP = "coolwarm"
"""Blue to red over a grey that is darker than the white of cells nobody scored; told apart by
readers who do not see red and green."""

ONLY_COLOURS = ("#1b7837", "#e8a800")
"""Cells that only the first, only the second heatmap scored: unlike any colour of the map."""

_OPACITY = (0.10, 0.70)
"""Opacity of the colour at probability 0 and 1: tissue stays readable where nothing is found."""

_NUMBERED_LESIONS = 30
"""Lesions that have their number beside them, the longest ones; more would hide the tissue."""

_GREY = (0.62, 0.62, 0.62)
_DPI = 100
_LABEL_KEY = "histoslide"


@dataclass(frozen=True, kw_only=True)
class Overlay:
    """A rendered overlay and where the slide lies in it."""

    image: NDArray[np.uint8]
    """RGB, shape (h, w, 3), with titles and bars."""
    left: int
    """Column of the slide's left edge in the image."""
    top: int
    """Row of the slide's upper edge in the image."""
    slide_size: Size
    """Size of the slide in the image, in pixels."""


def blend(
    thumbnail: NDArray[np.uint8], grid: TileGrid, probability: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Colour a picture of the whole slide by probability, on an absolute scale from 0 to 1.

    Args:
        thumbnail: RGB, shape (h, w, 3), spanning the slide exactly.
        grid: of the heatmap.
        probability: shape ``grid.shape``; NaN leaves the picture untouched.

    Returns:
        RGB, shape (h, w, 3).
    """
    values = cells_to_pixels(probability, grid, Size(thumbnail.shape[1], thumbnail.shape[0]))
    scored = np.isfinite(values)
    values = values[scored]
    colour = mpl.colormaps[COLOUR_MAP](values)[:, :3].astype(np.float32) * 255
    opacity = _opacity(values)[:, None]
    blended = thumbnail.copy()
    blended[scored] = np.rint(thumbnail[scored] * (1 - opacity) + colour * opacity)
    return blended


def cells_to_pixels(values: NDArray[np.float32], grid: TileGrid, size: Size) -> NDArray[np.float32]:
    """The value of the cell under each pixel of a picture that spans the slide.

    Where pixels are larger than cells, the highest value of all cells whose centre lies in the
    pixel is taken, so that a single cell does not vanish from the picture of a large slide.

    Args:
        values: shape ``grid.shape``; NaN yields to any number.
        grid: of the slide.
        size: of the picture.
    """
    pixel_l0 = max(grid.size_l0.width / size.width, grid.size_l0.height / size.height)
    if pixel_l0 <= grid.cell_l0:
        rows, cols = cell_index(grid, size)
        return values[np.ix_(rows, cols)]
    starts_y = _first_cells(size.height, grid.size_l0.height, grid.cell_l0, grid.rows)
    starts_x = _first_cells(size.width, grid.size_l0.width, grid.cell_l0, grid.cols)
    by_row = np.fmax.reduceat(values, starts_y, axis=0)
    return np.asarray(np.fmax.reduceat(by_row, starts_x, axis=1))


def _first_cells(pixels: int, length_l0: int, cell_l0: float, cells: int) -> NDArray[np.intp]:
    """The first cell whose centre lies in each pixel, along one axis."""
    edges = np.arange(pixels) * (length_l0 / pixels)
    first = np.ceil(edges / cell_l0 - 0.5).astype(np.intp)
    return np.clip(first, 0, cells - 1)


def cell_index(grid: TileGrid, size: Size) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The row of cells under each pixel row, and the column under each pixel column.

    Args:
        grid: of the slide.
        size: of a picture that spans the slide.
    """
    y = (np.arange(size.height) + 0.5) * (grid.size_l0.height / size.height)
    x = (np.arange(size.width) + 0.5) * (grid.size_l0.width / size.width)
    rows = np.minimum((y / grid.cell_l0).astype(np.intp), grid.rows - 1)
    cols = np.minimum((x / grid.cell_l0).astype(np.intp), grid.cols - 1)
    return rows, cols


def draw_overlay(
    heat: Heatmap,
    slide: Slide | None,
    *,
    longest_px: int = DEFAULT_OVERLAY_PX,
    threshold: float = DEFAULT_THRESHOLD,
    class_name: str | None = None,
    lesions: LesionReport | None = None,
) -> Overlay:
    """Draw a heatmap over its slide with colour bar, scale bar and title.

    Args:
        heat: stored heatmap.
        slide: it was scored on; None draws it over plain grey tissue.
        longest_px: longest side of the slide in the picture.
        threshold: cells at or above it are outlined; it stands in the title.
        class_name: None for the tumour class.
        lesions: outlined and numbered instead of the cells above the threshold; they decide the
            class, too.

    Raises:
        StoreError: no such class, or the slide is not the one that was scored.
        SlideReadError: the slide cannot be read.
    """
    grid = heat.grid
    if slide is not None:
        check_same_slide(heat, slide)
        size = fit_size(slide, longest_px)
        thumbnail, _ = read_overview(slide, size)
    else:
        size = _size_on_paper(grid.size_l0, longest_px)
        rows, cols = cell_index(grid, size)
        scored = (heat.status == Status.SCORED)[np.ix_(rows, cols)]
        thumbnail = np.where(scored[..., None], 225, 250).astype(np.uint8).repeat(3, axis=2)
    if lesions is not None:
        class_name, threshold = lesions.settings.class_name, lesions.settings.extend_probability
    probability = heat.probability(class_name)
    picture = blend(thumbnail, grid, probability)
    shown = class_name or heat.tumour_class or heat.classes[1]
    title = f"{heat.metadata['slide']['name']}\n{heat.metadata['model']['name']} · outline: "
    title += f"P({shown}) ≥ {threshold:g}"
    if lesions is not None:
        title += f", with a seed ≥ {lesions.settings.seed_probability:g}"
    canvas = _Canvas(size, title)
    canvas.axes.imshow(picture, extent=(0, grid.size_l0.width, grid.size_l0.height, 0))
    if lesions is None:
        _outline(canvas, grid, probability >= threshold)
    else:
        _outline_lesions(canvas, grid.size_l0, lesions.lesions)
    _hatch(canvas, grid, heat.status == Status.UNREADABLE)
    _scale_bar(canvas, grid.size_l0, grid.slide_mpp.value)
    _colour_bar(canvas, f"P({shown})", threshold)
    return canvas.finish()


def draw_mask(
    slide: Slide, tissue: TissueMask, grid: TileGrid, plan: NDArray[np.uint8], *, longest_px: int
) -> Overlay:
    """Draw mask and grid over the slide, to be checked before hours of scoring.

    Args:
        slide: to show.
        tissue: its mask; what is not tissue is greyed out.
        grid: of the heatmap.
        plan: status of each cell before scoring; cells to be scored are outlined together.
        longest_px: longest side of the slide in the picture.

    Raises:
        SlideReadError: the slide cannot be read.
    """
    size = fit_size(slide, longest_px)
    thumbnail, _ = read_overview(slide, size)
    mask = np.asarray(
        Image.fromarray(tissue.mask).resize((size.width, size.height), Image.Resampling.NEAREST)
    )
    picture = thumbnail.copy()
    picture[~mask] = (picture[~mask] * 0.35 + 255 * 0.65 * np.array(_GREY)).astype(np.uint8)
    count = int((plan == Status.PENDING).sum())
    title = (
        f"{slide.name}\ntissue by {tissue.method}: {tissue.tissue_share:.1%} of the slide · "
        f"{count:,} of {plan.size:,} cells to score"
    )
    canvas = _Canvas(size, title)
    canvas.axes.imshow(picture, extent=(0, grid.size_l0.width, grid.size_l0.height, 0))
    _outline(canvas, grid, plan == Status.PENDING, colour="#1a7f37")
    _tile_example(canvas, grid, plan)
    _scale_bar(canvas, grid.size_l0, grid.slide_mpp.value)
    return canvas.finish()


def draw_difference(
    comparison: Comparison,
    *,
    class_name: str | None = None,
    longest_px: int = DEFAULT_OVERLAY_PX,
    limit: float | None = None,
) -> Overlay:
    """Draw where two heatmaps differ: B minus A over the grid, with colour bar and scale bar.

    Where pixels are larger than cells, the largest difference in a pixel is shown, so that no
    cell vanishes. Cells that change sides of the comparison's threshold are outlined.

    Args:
        comparison: of two heatmaps.
        class_name: see ``Comparison.of``.
        longest_px: longest side of the slide in the picture.
        limit: difference at the ends of the colour map, which is centred at 0; None for a round
            number at or above the largest difference.

    Raises:
        HistoslideError: no such class.
    """
    shown = comparison.of(class_name)
    limit = round_limit(shown.largest or 0) if limit is None else limit
    grid, difference = comparison.a.grid, comparison.differences[shown.name]
    size = _size_on_paper(grid.size_l0, longest_px)
    colours = ScalarMappable(Normalize(-limit, limit), mpl.colormaps[DIFFERENCE_MAP])
    value = _largest_of_either_sign(difference.astype(np.float32), grid, size)
    picture = np.full((size.height, size.width, 3), 255, dtype=np.uint8)
    compared = np.isfinite(value)
    picture[compared] = colours.to_rgba(value[compared], bytes=True)[:, :3]
    title = f"{comparison.a.slide}\nP({shown.name}): {comparison.b.name} minus {comparison.a.name}"
    title += " · none differs" if not shown.largest else f" · largest {shown.largest:.2g}"
    legend = _paint_alone(picture, comparison, size)
    crossing = comparison.crossings[shown.name]
    if crossing.any():
        label = f"changes sides of {comparison.threshold:g}"
        legend.append(Patch(fill=False, edgecolor="black", label=label))
    canvas = _Canvas(size, title, right=8, below=len(legend))
    canvas.axes.imshow(picture, extent=(0, grid.size_l0.width, grid.size_l0.height, 0))
    _outline(canvas, grid, crossing)
    if legend:  # under the slide, where it hides nothing
        canvas.axes.legend(
            handles=legend,
            loc="upper left",
            bbox_to_anchor=(0, 0),
            borderaxespad=0.4,
            frameon=False,
            fontsize=canvas.points * 0.9,
        )
    _frame(canvas, grid.size_l0)
    _scale_bar(canvas, grid.size_l0, grid.slide_mpp.value)
    ticks = [-limit, -limit / 2, 0, limit / 2, limit]
    beyond: Literal["both", "neither"] = "both" if (shown.largest or 0) > limit else "neither"
    _bar(canvas, colours, f"difference of P({shown.name})", ticks, extend=beyond)
    return canvas.finish()


def _paint_alone(picture: NDArray[np.uint8], comparison: Comparison, size: Size) -> list[Patch]:
    """Colour the cells that one side alone scored; returns what the legend says of them."""
    a, b = comparison.a, comparison.b
    in_a, in_b = (comparison.among & (side.status == Status.SCORED) for side in (a, b))
    legend = []
    for side, only, colour in (
        (a, in_a & ~in_b, ONLY_COLOURS[0]),
        (b, in_b & ~in_a, ONLY_COLOURS[1]),
    ):
        if only.any():
            alone = cells_to_pixels(np.where(only, 1, np.nan).astype(np.float32), a.grid, size)
            picture[np.isfinite(alone)] = np.rint(np.array(to_rgb(colour)) * 255)
            legend.append(Patch(color=colour, label=f"scored only in {side.name}"))
    return legend


def round_limit(largest: float) -> float:
    """The smallest of 1, 2 or 5 times a power of ten at or above a difference; 1 at most."""
    if largest <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(largest))
    # A hair of slack, or 0.5 that became 0.5000000001 would be shown on a scale to 1.
    return float(min(1, *(s * power for s in (1, 2, 5, 10) if s * power >= largest * (1 - 1e-6))))


def _largest_of_either_sign(
    values: NDArray[np.float32], grid: TileGrid, size: Size
) -> NDArray[np.float32]:
    above, below = cells_to_pixels(values, grid, size), -cells_to_pixels(-values, grid, size)
    return np.where(np.abs(below) > np.abs(above), below, above)


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


def save_png(
    image: NDArray[np.uint8], path: Path, *, overwrite: bool = False, label: str = ""
) -> None:
    """Write a picture; the file is either the whole new one or what was there before.

    Args:
        image: RGB, shape (h, w, 3).
        path: file to write.
        overwrite: replace an existing file.
        label: kept inside the file, to tell later what it shows; see ``read_png_label``.

    Raises:
        OutputExistsError: the file exists and ``overwrite`` is false.
        StoreError: the folder cannot be written.
    """
    refuse_existing(path, overwrite=overwrite)
    try:
        with whole_file(path) as partial:
            text = PngInfo()
            text.add_text(_LABEL_KEY, label)
            Image.fromarray(image).save(partial, "PNG", pnginfo=text)
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error}") from error


def read_png_label(path: Path) -> str | None:
    """The label of a picture that ``save_png`` wrote, or None where there is no such picture."""
    try:
        data = read_bytes(path)
        if data is None:
            return None
        with Image.open(io.BytesIO(data)) as image:
            return image.info.get(_LABEL_KEY)
    except OSError:
        return None


def check_same_slide(heat: Heatmap, slide: Slide) -> None:
    """Refuse a slide that is not the one a heatmap was made from.

    Raises:
        StoreError: the size or the quickhash differs.
    """
    recorded = heat.metadata["slide"]
    size = [slide.size_l0.width, slide.size_l0.height]
    if recorded["size_l0"] != size or recorded["quickhash"] != slide.quickhash:
        raise StoreError(
            f"{slide.name} is not the slide that {heat.path.name} was scored on "
            f"({recorded['name']}, {recorded['size_l0'][0]}×{recorded['size_l0'][1]} px): "
            "pass the right --slide"
        )


class _Canvas:
    """A figure in which one slide pixel of the picture is one pixel of the image."""

    def __init__(self, size: Size, title: str, *, right: int = 6, below: int = 0) -> None:
        """Lay out the figure.

        Args:
            size: of the slide in the picture.
            title: may have several lines, and long ones are broken.
            right: room for the colour bar, in heights of a letter.
            below: lines of a legend under the slide.
        """
        self.size = size
        # A narrow slide still needs room for its title.
        width = max(size.width, 420)
        self.font_px = int(np.clip(width / 60, 12, 26))
        self.left = self.font_px + (width - size.width) // 2
        self.bottom = round(self.font_px * (1 + 1.8 * below))
        wrapped = "\n".join(
            part
            for line in title.splitlines()
            for part in textwrap.wrap(line, max(20, int(width / self.font_px * 1.7)))
        )
        lines = wrapped.count("\n") + 1
        self.top = round(self.font_px * (1.4 * lines + 1))
        self.width = width + self.font_px * (1 + right)
        self.height = self.top + size.height + self.bottom
        self.figure = Figure(figsize=(self.width / _DPI, self.height / _DPI), dpi=_DPI)
        self.axes = self.figure.add_axes(self.fraction(0, 0, size.width, size.height))
        self.axes.set_axis_off()
        self.figure.text(
            self.font_px / self.width,
            1 - 0.6 * self.font_px / self.height,
            wrapped,
            fontsize=self.points,
            va="top",
            linespacing=1.3,
            parse_math=False,  # a $ in a file name is a $
        )

    @property
    def points(self) -> float:
        """Font size in points."""
        return self.font_px * 72 / _DPI

    def fraction(
        self, x: float, y: float, width: float, height: float
    ) -> tuple[float, float, float, float]:
        """A rectangle in pixels from the slide's upper left corner, as figure fractions."""
        return (
            (self.left + x) / self.width,
            1 - (self.top + y + height) / self.height,
            width / self.width,
            height / self.height,
        )

    def finish(self) -> Overlay:
        """Draw everything."""
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        image = np.asarray(canvas.buffer_rgba())[..., :3].copy()
        return Overlay(image=image, left=self.left, top=self.top, slide_size=self.size)


def _size_on_paper(size_l0: Size, longest_px: int) -> Size:
    """A slide's size shrunk or enlarged to so many pixels on its longer side."""
    factor = longest_px / max(size_l0.width, size_l0.height)
    return Size(max(1, round(size_l0.width * factor)), max(1, round(size_l0.height * factor)))


def _opacity(values: NDArray[np.float64] | NDArray[np.float32]) -> NDArray[np.float64]:
    low, high = _OPACITY
    return np.asarray(low + (high - low) * values, dtype=np.float64)


def _outline(
    canvas: _Canvas, grid: TileGrid, inside: NDArray[np.bool_], colour: str = "black"
) -> None:
    """Draw the border between cells inside and outside a set, along the cells' edges."""
    padded = np.pad(inside, 1)
    across = np.argwhere(padded[:, 1:] != padded[:, :-1])  # edges between column j and j + 1
    down = np.argwhere(padded[1:, :] != padded[:-1, :])
    side = grid.cell_l0
    vertical = [((j, i - 1), (j, i)) for i, j in across]
    horizontal = [((j - 1, i), (j, i)) for i, j in down]
    segments = np.array(vertical + horizontal, dtype=float).reshape(-1, 2, 2) * side
    width = 1.1 if colour == "black" else 0.8
    canvas.axes.add_collection(LineCollection(list(segments), colors=colour, linewidths=width))
    canvas.axes.set_xlim(0, grid.size_l0.width)
    canvas.axes.set_ylim(grid.size_l0.height, 0)


def _outline_lesions(canvas: _Canvas, size_l0: Size, lesions: Sequence[Lesion]) -> None:
    """Draw lesions in the colour of their class on a dark line, with a legend, and number them."""
    halo = [PathStroke(linewidth=3.2, foreground="black"), PathNormal()]
    for kind, rgb in LESION_COLOURS.items():
        rings = [
            shapely.get_coordinates(ring)
            for lesion in lesions
            if lesion.kind == kind
            for ring in shapely.get_rings(shapely.get_parts(lesion.polygon_l0))
        ]
        if rings:
            colour = tuple(value / 255 for value in rgb)
            lines = LineCollection(rings, colors=[colour], linewidths=1.6, label=str(kind))
            lines.set_path_effects(halo)
            canvas.axes.add_collection(lines)
    for lesion in lesions[:_NUMBERED_LESIONS]:
        corners = shapely.get_coordinates(lesion.polygon_l0)
        x, y = corners[corners[:, 1].argmin()]  # at the top of the outline, not of its box
        canvas.axes.text(
            x,
            y,
            str(lesion.number),
            fontsize=canvas.points * 0.8,
            va="bottom",
            ha="left",
            clip_on=True,
            bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1},
        )
    if lesions:
        canvas.axes.legend(loc="upper right", fontsize=canvas.points * 0.8)
    canvas.axes.set_xlim(0, size_l0.width)
    canvas.axes.set_ylim(size_l0.height, 0)


def _hatch(canvas: _Canvas, grid: TileGrid, unreadable: NDArray[np.bool_]) -> None:
    if not unreadable.any():
        return
    side = grid.cell_l0
    # One rectangle a run of cells in a row: thousands of single cells would be slow to draw.
    for row in np.flatnonzero(unreadable.any(axis=1)):
        edges = np.flatnonzero(np.diff(np.pad(unreadable[row], 1).astype(np.int8)))
        for start, stop in edges.reshape(-1, 2):
            box = Rectangle(
                (start * side, row * side),
                (stop - start) * side,
                side,
                facecolor=(1, 1, 1, 0.55),
                edgecolor="#c01c28",
                hatch="////",
                linewidth=0,
            )
            canvas.axes.add_patch(box)
    patch = Patch(facecolor="white", edgecolor="#c01c28", hatch="////", label="could not be read")
    canvas.axes.legend(handles=[patch], loc="lower right", fontsize=canvas.points * 0.8)


def _tile_example(canvas: _Canvas, grid: TileGrid, plan: NDArray[np.uint8]) -> None:
    """Show one tile and its label footprint, to scale, in the middle of what is scored."""
    pending = np.argwhere(plan == Status.PENDING)
    if not len(pending):
        return
    row, col = pending[len(pending) // 2]
    for box, colour, label in (
        (grid.tile_box_l0(row, col), "black", f"a tile, {grid.input_px} px"),
        (grid.label_box_l0(row, col), "#ffd500", f"its label footprint, {grid.label_px} px"),
    ):
        canvas.axes.add_patch(
            Rectangle(
                (box.x, box.y),
                box.width,
                box.height,
                fill=False,
                edgecolor=colour,
                linewidth=1.5,
                label=label,
            )
        )
    canvas.axes.legend(loc="lower right", fontsize=canvas.points * 0.8)


def _frame(canvas: _Canvas, size_l0: Size) -> None:
    """The slide's edge, where its picture is as white as the paper."""
    box = Rectangle(
        (0, 0), size_l0.width, size_l0.height, fill=False, edgecolor="0.6", clip_on=False
    )
    canvas.axes.add_patch(box)


def scale_bar_um(width_um: float) -> float:
    """A round length, 1, 2 or 5 times a power of ten, of about a fifth of a picture's width."""
    target = width_um / 5
    power = 10.0 ** np.floor(np.log10(target))
    return float(max((s * power for s in (1, 2, 5) if s * power <= target), default=power / 2))


def _scale_bar(canvas: _Canvas, size_l0: Size, mpp: float) -> None:
    length_um = scale_bar_um(size_l0.width * mpp)
    per_px = size_l0.width / canvas.size.width
    length, height = length_um / mpp, canvas.font_px * 0.4 * per_px
    x, y = 1.2 * canvas.font_px * per_px, size_l0.height - 1.2 * canvas.font_px * per_px
    label = f"{length_um / 1000:g} mm" if length_um >= 1000 else f"{length_um:g} µm"
    pad = 0.5 * canvas.font_px * per_px
    text_height = 1.5 * canvas.font_px * per_px
    canvas.axes.add_patch(
        Rectangle(
            (x - pad, y - text_height - pad),
            max(length, 4 * canvas.font_px * per_px) + 2 * pad,
            text_height + height + 2 * pad,
            facecolor=(1, 1, 1, 0.8),
            linewidth=0,
        )
    )
    canvas.axes.add_patch(Rectangle((x, y), length, height, facecolor="black", linewidth=0))
    canvas.axes.text(
        x, y - 0.2 * canvas.font_px * per_px, label, fontsize=canvas.points, va="bottom"
    )


def _colour_bar(canvas: _Canvas, label: str, threshold: float) -> None:
    # The bar shows what is seen: the colour blended over a light tissue tone.
    values = np.linspace(0, 1, 256)
    opacity = _opacity(values)[:, None]
    tissue = np.array([0.87, 0.76, 0.85])
    colours = mpl.colormaps[COLOUR_MAP](values)[:, :3] * opacity + tissue * (1 - opacity)
    mappable = ScalarMappable(Normalize(0, 1), ListedColormap(colours))
    axes = _bar(canvas, mappable, label, [0, 0.25, 0.5, 0.75, 1])
    axes.axhline(threshold, color="black", linewidth=1.2)


def _bar(
    canvas: _Canvas,
    mappable: ScalarMappable,
    label: str,
    ticks: list[float],
    *,
    extend: Literal["neither", "both"] = "neither",
) -> Axes:
    """A colour bar right of the slide."""
    size = canvas.size
    length = min(size.height, canvas.font_px * 22)
    rectangle = canvas.fraction(
        size.width + canvas.font_px, (size.height - length) / 2, canvas.font_px, length
    )
    axes = canvas.figure.add_axes(rectangle)
    bar = canvas.figure.colorbar(mappable, cax=axes, ticks=ticks, extend=extend)
    bar.ax.tick_params(labelsize=canvas.points * 0.8)
    bar.set_label(label, fontsize=canvas.points * 0.9, parse_math=False)
    return bar.ax
