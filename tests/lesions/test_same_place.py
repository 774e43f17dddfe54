"""One focus, one place: table, overlay, GeoJSON, report and viewer are asked for the same one."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import shapely
from heatmaps import stored_heatmap
from PIL import Image
from starlette.testclient import TestClient

from histoslide.export.geojson import write_geojson
from histoslide.geometry import Box, Size
from histoslide.lesions import find_lesions
from histoslide.render import draw_overlay
from histoslide.report.page import write_report
from histoslide.store import open_heatmap
from histoslide.viewer.catalogue import Catalogue
from histoslide.viewer.server import create_app

FOCUS = (11, 31, 7, 9)
"""Row, column, rows, columns."""


@pytest.mark.parametrize("mpp", [0.25, 0.2501, 0.487])
@pytest.mark.parametrize("bounds", [None, Box(300, 200, 5000, 3000)])
def test_everything_puts_a_focus_at_the_same_place(
    tmp_path: Path, mpp: float, bounds: Box | None
) -> None:
    values = np.full((40, 60), 0.1, np.float32)
    row, col, rows, cols = FOCUS
    values[row : row + rows, col : col + cols] = 0.95
    path, cell = tmp_path / "h.zarr", 32 / mpp
    size = Size(int(60 * cell - cell / 3), int(40 * cell - cell / 2))
    stored_heatmap(path, values, mpp=mpp, size_l0=size, bounds_l0=bounds)
    truth = shapely.box(col * cell, row * cell, (col + cols) * cell, (row + rows) * cell)
    heat = open_heatmap(path)

    (lesion,) = find_lesions(heat).lesions
    assert lesion.polygon_l0.symmetric_difference(truth).area < 1e-6 * truth.area

    write_geojson(heat, find_lesions(heat), tmp_path / "h.geojson")
    (feature,) = json.loads((tmp_path / "h.geojson").read_text(encoding="utf-8"))["features"]
    corner = (0, 0) if bounds is None else (bounds.x, bounds.y)
    exported = shapely.affinity.translate(shapely.geometry.shape(feature["geometry"]), *corner)
    assert exported.symmetric_difference(truth).area < 1e-6 * truth.area

    write_report(Catalogue([path]), tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    (drawn,) = re.findall(r'<path class="line" d="M([^"]+)Z"', page)
    points = [tuple(map(float, point.split())) for point in drawn.split("L")]
    assert shapely.Polygon(points).symmetric_difference(truth).area < 1e-3 * truth.area
    assert f'viewBox="0 0 {size.width} {size.height}"' in page
    (embedded,) = re.findall(r'id="s1-values">([^<]+)<', page)
    coloured = json.loads(embedded)
    numbers = np.frombuffer(base64.b64decode(coloured["values"]), "<u2")
    hot = numbers.reshape(coloured["rows"], coloured["cols"]) / 65534 >= 0.9
    assert edges(hot, coloured["cell_l0"]) == pytest.approx(truth.bounds)

    web = TestClient(create_app(Catalogue([path])), base_url="http://127.0.0.1")
    (focus,) = web.get("/api/heatmaps/h/foci/0").json()["lesions"]
    ((ring,),) = focus["polygons_l0"]
    assert shapely.Polygon(ring).symmetric_difference(truth).area < 1e-6 * truth.area
    facts = web.get("/api/heatmaps/h").json()
    cells = web.get("/api/heatmaps/h/cells/0/0/0/0").content
    served = np.frombuffer(cells, "<f4", 40 * 60).reshape(40, 60)
    assert edges(served >= 0.9, facts["grid"]["cell_l0"]) == pytest.approx(truth.bounds)
    with Image.open(io.BytesIO(web.get("/api/heatmaps/h/thumbnail").content)) as thumbnail:
        assert yellow(np.asarray(thumbnail)) == pytest.approx(
            [edge * thumbnail.width / size.width for edge in truth.bounds], abs=1.5
        )

    overlay = draw_overlay(heat, None, longest_px=1200)
    top, left, inside = overlay.top, overlay.left, overlay.slide_size
    picture = overlay.image[top : top + inside.height, left : left + inside.width]
    assert yellow(picture) == pytest.approx(
        [edge * inside.width / size.width for edge in truth.bounds], abs=2.5
    )


def yellow(picture: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of what is coloured as highly probable."""
    red, _, blue = (picture[..., i].astype(int) for i in range(3))
    left, top, right, bottom = edges(red - blue > 60, 1)
    return int(left), int(top), int(right), int(bottom)


def edges(mask: np.ndarray, side: float) -> tuple[float, float, float, float]:
    """Left, top, right, bottom of what is true, in units of which an element has `side`."""
    rows, cols = np.nonzero(mask)
    return cols.min() * side, rows.min() * side, (cols.max() + 1) * side, (rows.max() + 1) * side
