"""Polygons: what GeoJSON may hold, and which pixels they cover."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from histoslide.annotations.polygons import Polygon, Ring
from histoslide.annotations.rasterise import rasterise
from histoslide.annotations.reading import read_annotations
from histoslide.errors import AnnotationError
from histoslide.geometry import Size

SQUARE = [[10.0, 20.0], [50.0, 20.0], [50.0, 60.0], [10.0, 60.0], [10.0, 20.0]]
HOLE = [[20.0, 30.0], [30.0, 30.0], [30.0, 40.0], [20.0, 40.0], [20.0, 30.0]]
POLYGON: dict[str, Any] = {"type": "Polygon", "coordinates": [SQUARE, HOLE]}
MULTI: dict[str, Any] = {"type": "MultiPolygon", "coordinates": [[SQUARE], [SQUARE, HOLE]]}
POINT: dict[str, Any] = {"type": "Point", "coordinates": [1, 2]}


def feature(geometry: dict[str, Any] | None) -> dict[str, Any]:
    return {"type": "Feature", "properties": {}, "geometry": geometry}


def collection(*geometries: dict[str, Any] | None) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": [feature(g) for g in geometries]}


def save(tmp_path: Path, document: object) -> Path:
    path = tmp_path / "roi.geojson"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def polygons_of(path: Path) -> list[Polygon]:
    return [item.polygon for item in read_annotations(path).items]


def rectangle(left: float, top: float, right: float, bottom: float) -> Ring:
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=float)


@pytest.mark.parametrize(
    ("document", "holes"),
    [
        (POLYGON, [1]),
        (MULTI, [0, 1]),
        (feature(POLYGON), [1]),
        (collection(POLYGON, None, POINT, MULTI), [1, 0]),  # one of them is drawn twice
        ([feature(POLYGON), feature(MULTI)], [1, 0]),
        ({"type": "GeometryCollection", "geometries": [POINT, POLYGON]}, [1]),
    ],
    ids=["polygon", "multi", "feature", "collection", "list", "geometries"],
)
def test_every_kind_that_holds_polygons_is_read(
    tmp_path: Path, document: object, holes: list[int]
) -> None:
    polygons = polygons_of(save(tmp_path, document))
    assert [len(polygon.holes) for polygon in polygons] == holes
    for polygon in polygons:
        np.testing.assert_array_equal(polygon.outline, SQUARE)
        for hole in polygon.holes:
            np.testing.assert_array_equal(hole, HOLE)


def test_heights_are_ignored(tmp_path: Path) -> None:
    lifted = {"type": "Polygon", "coordinates": [[[*point, 7.0] for point in SQUARE]]}
    np.testing.assert_array_equal(polygons_of(save(tmp_path, lifted))[0].outline, SQUARE)


@pytest.mark.parametrize(
    "document",
    [
        {"type": "FeatureCollection"},
        {"type": "Feature"},
        {"type": "Polygon", "coordinates": [1, 2, 3]},
        {"type": "Polygon", "coordinates": SQUARE},
        {"type": "Polygon", "coordinates": [[[1], [2], [3]]]},
        {"type": "Polygon", "coordinates": [[[1, 2], [3], [5, 6]]]},
        {"type": "Polygon", "coordinates": [[[1, 2], ["x", 4], [5, 6]]]},
        {"type": "Polygon", "coordinates": [[[1, 2], [float("nan"), 4], [5, 6]]]},
        {"type": "Polygon", "coordinates": [SQUARE, [[1, 2], [float("inf"), 4], [5, 6]]]},
        {"type": "Polygon", "coordinates": None},
        "Polygon",
        17,
        None,
    ],
)
def test_what_is_not_geojson_is_refused_by_name(tmp_path: Path, document: object) -> None:
    with pytest.raises(AnnotationError, match=r"roi\.geojson is not valid GeoJSON"):
        polygons_of(save(tmp_path, document))


@pytest.mark.parametrize("opening", ["[", '{"type":"GeometryCollection","geometries":['])
@pytest.mark.parametrize("depth", [900, 20_000])  # deeper than we look, than Python's reader does
def test_deep_nesting_is_one_line(tmp_path: Path, opening: str, depth: int) -> None:
    path = tmp_path / "roi.geojson"
    closing = "]" if opening == "[" else "]}"
    path.write_text(opening * depth + json.dumps(POINT) + closing * depth)
    with pytest.raises(
        AnnotationError, match=r"roi\.geojson is not valid GeoJSON: it is nested too dee"
    ):
        polygons_of(path)


@pytest.mark.parametrize(
    "empty",
    [[], [[]], [[[1, 2], [3, 4]]], [[[1, 2], [1, 2], [1, 2], [1, 2]]], [[[0, 0], [2, 2], [1, 1]]]],
)
def test_polygons_without_an_area_are_skipped_and_counted(
    tmp_path: Path, empty: list[object]
) -> None:
    polygons = [SQUARE], empty
    for document in (
        {"type": "MultiPolygon", "coordinates": polygons},
        collection(*({"type": "Polygon", "coordinates": rings} for rings in polygons)),
    ):
        found = read_annotations(save(tmp_path, document))
        np.testing.assert_array_equal(found.items[0].polygon.outline, SQUARE)
        assert found.mended == {"polygons without an area left out": 1}
    assert not polygons_of(save(tmp_path, {"type": "Polygon", "coordinates": empty}))
    hole = polygons_of(save(tmp_path, {"type": "Polygon", "coordinates": [SQUARE, *empty]}))
    assert hole[0].holes == ()


@pytest.mark.parametrize(
    "content",
    [
        '{"type":"GeometryCollection","geometries":[' * 800 + "]}" * 800,
        "[" * 100_000,
        '{"type":"Polygon","coordinates":[[[' + "9" * 5000 + ",1],[2,3],[4,9]]]}",
        '{"type":"Polygon","coordinates":[[[1e999,1],[2,3],[4,9]]]}',
        '{"type":"Polygon\0","coordinates":[]}',
        "\0\0\0",
    ],
)
def test_what_is_nested_or_odd_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "roi.geojson"
    path.write_text(content)
    with pytest.raises(AnnotationError, match=r"^[^\n]*roi\.geojson [^\n]*$"):
        polygons_of(path)


def test_a_byte_order_mark_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "roi.geojson"
    path.write_text(json.dumps(POLYGON), encoding="utf-8-sig")
    assert len(polygons_of(path)) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00"])
def test_what_is_not_json_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "roi.geojson"
    path.write_bytes(content)
    with pytest.raises(AnnotationError, match=r"roi\.geojson cannot be read as GeoJSON"):
        polygons_of(path)
    with pytest.raises(
        AnnotationError, match=r"none\.geojson cannot be read: No such file or directory$"
    ):
        polygons_of(tmp_path / "none.geojson")
    with pytest.raises(AnnotationError, match=r"cannot be read: Is a directory$"):
        polygons_of(tmp_path)


@settings(max_examples=60, deadline=None)
@given(
    scale=st.sampled_from([(1, 1), (2, 2), (4, 8), (3, 5), (32, 32)]),
    corners=st.tuples(*[st.integers(0, 30)] * 4),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    backwards=st.booleans(),
)
def test_rectangles_on_pixel_borders_are_exact(
    scale: tuple[int, int],
    corners: tuple[int, int, int, int],
    size: tuple[int, int],
    backwards: bool,
) -> None:
    left, right = sorted(corners[:2])
    top, bottom = sorted(corners[2:])
    across, down = scale
    ring = rectangle(left * across, top * down, right * across, bottom * down)
    polygon = Polygon(ring[::-1] if backwards else ring)
    wanted = np.zeros((size[1], size[0]), dtype=bool)
    wanted[top:bottom, left:right] = True
    size_l0 = Size(size[0] * across, size[1] * down)
    np.testing.assert_array_equal(rasterise([polygon], size_l0, Size(*size)), wanted)


def slow_inside(ring: Ring, x: float, y: float) -> bool:
    """Even-odd rule, one point and one edge after another (Franklin's pnpoly)."""
    inside = False
    for (x0, y0), (x1, y1) in zip(ring, np.roll(ring, 1, axis=0), strict=True):
        if (y0 > y) != (y1 > y) and x < (x1 - x0) * (y - y0) / (y1 - y0) + x0:
            inside = not inside
    return inside


points = st.tuples(st.floats(-20, 120), st.floats(-20, 90))


@settings(max_examples=60, deadline=None)
@given(vertices=st.lists(points, min_size=3, max_size=9))
def test_a_pixel_counts_by_its_centre(vertices: list[tuple[float, float]]) -> None:
    ring = np.array(vertices)
    size_l0, size = Size(100, 70), Size(13, 9)
    found = rasterise([Polygon(ring)], size_l0, size)
    wanted: NDArray[np.bool_] = np.zeros_like(found)
    clear = np.zeros_like(found)  # centres on an edge may fall on either side of it
    for row in range(size.height):
        for col in range(size.width):
            x, y = (col + 0.5) * 100 / 13, (row + 0.5) * 70 / 9
            votes = {
                slow_inside(ring, x + dx, y + dy) for dx in (-1e-7, 1e-7) for dy in (-1e-7, 1e-7)
            }
            clear[row, col] = len(votes) == 1
            wanted[row, col] = votes == {True}
    np.testing.assert_array_equal(found[clear], wanted[clear])


def test_holes_are_left_out_but_not_what_another_polygon_covers() -> None:
    ring, hole = rectangle(10, 10, 90, 90), rectangle(30, 40, 60, 70)
    size_l0, size = Size(100, 100), Size(10, 10)
    wanted = np.zeros((10, 10), dtype=bool)
    wanted[1:9, 1:9] = True
    wanted[4:7, 3:6] = False
    found = rasterise([Polygon(ring, (hole,))], size_l0, size)
    np.testing.assert_array_equal(found, wanted)
    wanted[4:7, 3:6] = True
    for polygons in ([Polygon(ring, (hole,)), Polygon(hole)], [Polygon(hole), Polygon(ring)]):
        np.testing.assert_array_equal(rasterise(polygons, size_l0, size), wanted)


def test_polygons_beyond_the_slide_are_cut() -> None:
    polygon = Polygon(rectangle(-500, 50, 30, 5000))
    wanted = np.zeros((10, 10), dtype=bool)
    wanted[5:, :3] = True
    np.testing.assert_array_equal(rasterise([polygon], Size(100, 100), Size(10, 10)), wanted)
    away = Polygon(rectangle(200, 200, 300, 300))
    assert not rasterise([away], Size(100, 100), Size(10, 10)).any()


def test_no_polygons_cover_nothing() -> None:
    assert not rasterise([], Size(100, 100), Size(10, 10)).any()


def test_the_area_of_a_real_lesion_is_kept(real_data: Path) -> None:
    text = (real_data / "annotations" / "Tumor_017.json").read_text(encoding="utf-8")
    rings = [np.array(part["vertices"], dtype=float) for part in json.loads(text)["positive"]]
    ring = max(rings, key=len)
    ring = ring - ring.min(axis=0) + 100
    side = int(ring.max()) + 100
    x, y = ring.T
    area = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
    mask = rasterise([Polygon(ring)], Size(side, side), Size(500, 500))
    assert mask.sum() * (side / 500) ** 2 == pytest.approx(area, rel=0.01)
