"""napari shows a heatmap where its slide shows the same tissue; needs no window.

The tests ask napari-ome-zarr's own reader, and run the script of the how-to as it is written there.
"""

import re
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from heatmaps import stored_heatmap

from histoslide.geometry import Size
from histoslide.grid.status import Status
from histoslide.store import NgffVersion, convert_heatmap, open_heatmap

napari = pytest.importorskip(
    "napari", reason="napari is not installed: pip install napari napari-ome-zarr"
)
reader = pytest.importorskip("napari_ome_zarr", reason="napari-ome-zarr is not installed")

pytestmark = pytest.mark.filterwarnings(
    "ignore:color_dict did not provide a default color"  # napari-ome-zarr passes colours without
)

HOWTO = Path(__file__).parents[2] / "docs" / "howto" / "viewers.md"
ROWS, COLS = 40, 60
MPP = 0.487
CELL_L0 = 32 / MPP
"""65.7… level-0 pixels: cells end within pixels."""
SIZE = Size(int(COLS * CELL_L0 - CELL_L0 / 3), int(ROWS * CELL_L0 - CELL_L0 / 2))
MARKED = {(11, 31), (12, 31), (0, 0), (39, 59), (20, 7)}
"""Cells of probability 1, black on the slide."""


def write_heatmap(folder: Path, ngff: NgffVersion) -> Path:
    values = np.full((ROWS, COLS), 0.1, np.float32)
    for cell in MARKED:
        values[cell] = 1
    values[30:, :5] = np.nan
    path = folder / "heat.zarr"
    made = stored_heatmap(folder / "made.zarr", values, mpp=MPP, size_l0=SIZE)
    convert_heatmap(made, path, ngff=ngff)
    return path


def write_slide(path: Path) -> None:
    """White, with the marked cells painted by their places in level-0 pixels alone."""
    y, x = np.mgrid[: SIZE.height, : SIZE.width] + 0.5  # the middle of each pixel
    pixels = np.full((SIZE.height, SIZE.width, 3), 255, np.uint8)
    for row, col in MARKED:
        inside = (y // CELL_L0 == row) & (x // CELL_L0 == col)
        pixels[inside] = 0
    with tifffile.TiffWriter(path) as tiff:
        for step in (1, 4):
            tiff.write(
                pixels[::step, ::step], tile=(256, 256), photometric="rgb",
                subifds=1 if step == 1 else 0, subfiletype=0 if step == 1 else 1,
            )  # fmt: skip


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_the_reader_of_napari_finds_values_scale_and_statuses(
    tmp_path: Path, ngff: NgffVersion
) -> None:
    path = write_heatmap(tmp_path, ngff)
    read: Any = reader.napari_get_reader(str(path))
    image, labels = read(str(path))
    heat = open_heatmap(path)
    for (data, facts, kind), expected, truth in (
        (image, "image", heat.probability("tumour")),
        (labels, "labels", heat.status),
    ):
        assert kind == expected
        levels = data if isinstance(data, list) else [data]
        np.testing.assert_array_equal(np.asarray(levels[0]), truth)
        layer = napari.layers.Layer.create(data, facts, kind)
        # Its world, as napari has it: the middle of cell (0, 0) is the origin, in micrometres.
        corner = layer.data_to_world((11 - 0.5, 31 - 0.5))
        assert np.add(corner, heat.grid.cell_um / 2) == pytest.approx([11 * 32.0, 31 * 32.0])
        assert [str(unit) for unit in layer.units] == ["micrometer", "micrometer"]
    assert facts_of(image)["contrast_limits"] in ([0.0, 1.0], [[0.0, 1.0]])
    assert set(facts_of(labels)["properties"]["status"]) == {it.name.lower() for it in Status}


def facts_of(layer: tuple[Any, dict[str, Any], str]) -> dict[str, Any]:
    return layer[1]


@pytest.mark.parametrize("ngff", ["0.5", "0.4"])
def test_the_script_of_the_how_to_puts_the_heatmap_over_the_tissue(
    tmp_path: Path, ngff: NgffVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever one looks, the heatmap is 1 exactly where the slide is black."""
    write_heatmap(tmp_path, ngff)
    write_slide(tmp_path / "slide.tif")
    script = re.search(r"```python\n(import napari\n.*?)```", HOWTO.read_text("utf-8"), re.DOTALL)
    assert script is not None
    from napari.components import ViewerModel
    from npe2 import PluginManager

    PluginManager.instance().discover()  # as a window would when it opens
    monkeypatch.setattr(napari, "Viewer", ViewerModel)  # all of it but the window
    monkeypatch.setattr(napari, "run", lambda: None)
    monkeypatch.chdir(tmp_path)
    shown: dict[str, Any] = {}
    exec(compile(script[1], str(HOWTO), "exec"), shown)
    with closing(shown["store"]):  # which a script leaves to the end of the program
        check_layers(*shown["viewer"].layers)


def check_layers(slide: Any, heat: Any, status: Any) -> None:
    assert (slide.rgb, slide.multiscale, status.visible) == (True, True, False)
    grey, p = np.asarray(slide.data[0])[..., 0], level_0(heat)
    rng = np.random.default_rng(0)
    seen = set()
    marked = np.array(sorted(MARKED)) * 32.0
    spots = [corner + offset for corner in marked for offset in rng.uniform(-40, 72, (1000, 2))]
    for spot in np.array(spots):  # in and around the marked cells, in micrometres
        place = spot / MPP
        if not (place >= 0).all() or not (place < (SIZE.height - 1, SIZE.width - 1)).all():
            continue
        pixel = np.floor(place)
        if (pixel // CELL_L0 != (pixel + 1) // CELL_L0).any():
            continue  # the edge of a cell runs through this pixel of the slide
        world = spot - MPP / 2  # napari's origin is the middle of the slide's first pixel
        black = grey[tuple(np.round(slide.world_to_data(world)).astype(int))] == 0
        cell = tuple(np.round(heat.world_to_data(world)).astype(int))
        assert (p[cell] == 1) == black, f"at {spot} µm"
        assert cell == tuple(np.round(status.world_to_data(world)).astype(int))
        if black:
            seen.add(cell)
    assert seen == MARKED


def level_0(layer: Any) -> Any:
    return np.asarray(layer.data[0] if layer.multiscale else layer.data)
