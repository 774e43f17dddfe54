"""Annotations of every format, what their classes mean, and what of a box is tumour."""

import json
import tracemalloc
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from histoslide.annotations.class_map import ClassMap, Role
from histoslide.annotations.mask_image import read_mask_image
from histoslide.annotations.reading import read_annotations
from histoslide.annotations.truth import SlideTruth, find_truth, read_truth
from histoslide.errors import AnnotationError, ReviewError
from histoslide.geometry import Size
from histoslide.review import read_review

SIZE = Size(1000, 800)


def square(left: float, top: float, side: float) -> list[list[float]]:
    right, bottom = left + side, top + side
    return [[left, top], [right, top], [right, bottom], [left, bottom]]


def asap(*parts: tuple[str, Sequence[Sequence[object]]], kind: str = "Polygon") -> str:
    drawn = "".join(
        f'<Annotation Name="a{i}" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58"><Coordinates>'
        + "".join(f'<Coordinate Order="{j}" X="{x}" Y="{y}" />' for j, (x, y) in enumerate(ring))
        + "</Coordinates></Annotation>"
        for i, (group, ring) in enumerate(parts)
    )
    return (
        f'<?xml version="1.0"?><ASAP_Annotations><Annotations>{drawn}</Annotations>'
        '<AnnotationGroups><Group Name="Tumor" PartOfGroup="None" Color="#FF0000"><Attributes />'
        "</Group></AnnotationGroups></ASAP_Annotations>"
    )


def feature(ring: Sequence[Sequence[float]], **properties: Any) -> dict[str, Any]:
    geometry = {"type": "Polygon", "coordinates": [[*ring, ring[0]]]}
    return {"type": "Feature", "properties": properties, "geometry": geometry}


def qupath(name: str) -> dict[str, Any]:
    return {"classification": {"name": name, "color": [1, 2, 3]}}


def save(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def boxes(*each: tuple[float, float, float, float]) -> NDArray[np.float64]:
    return np.array(each, dtype=np.float64)


FORMS = {
    "ASAP": asap(("Tumor", square(100, 100, 200)), ("_2", square(150, 150, 50))),
    "QuPath": {
        "type": "FeatureCollection",
        "features": [
            feature(square(100, 100, 200), **qupath("Tumor")),
            feature(square(150, 150, 50), **qupath("Normal")),
        ],
    },
    "bare list": [
        feature(square(100, 100, 200), **qupath("tumour")),
        feature(square(150, 150, 50), classification="normal"),
    ],
    "nested": {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "properties": {"classification": {"names": ["metastases"]}},
                "geometry": {
                    "type": "GeometryCollection",
                    "geometries": [feature(square(100, 100, 200))["geometry"]],
                },
            },
            [feature(square(150, 150, 50), **qupath("Exclusion"))],
        ],
    },
    "NCRF": {
        "positive": [{"name": "_0", "vertices": square(100, 100, 200)}],
        "negative": [{"name": "hole", "vertices": square(150, 150, 50)}],
    },
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backwards", [False, True])
def test_every_format_says_the_same(form: str, backwards: bool, tmp_path: Path) -> None:
    path = save(tmp_path / "of.any.ending", FORMS[form])
    truth = read_truth(path, SIZE)
    found = truth.tumour_in(
        boxes((100, 100, 300, 300), (160, 160, 190, 190), (0, 0, 100, 800), (290, 290, 310, 310))
    )
    np.testing.assert_allclose(found, [1 - 2500 / 40000, 0, 0, 0.25])
    assert not truth.mended
    assert [shapely.area(lesion) for lesion in truth.lesions()] == [40000 - 2500]
    mask = truth.tumour_mask(Size(100, 80))
    assert mask.sum() == 400 - 25
    assert mask[10:30, 10:30].sum() == 375


def test_real_annotations_are_read(real_data: Path) -> None:
    folder = real_data / "annotations"
    node = read_annotations(folder / "patient_004_node_4.xml")
    assert node.classes == ("Tumor",)
    assert [len(item.polygon.outline) for item in node.items] == [8, 15, 12]
    np.testing.assert_array_equal(node.items[0].polygon.outline[0], [12711.2998, 88778.1016])
    size = Size(100_000, 220_000)
    counts = {"Tumor_017": 2, "Tumor_045": 2, "Tumor_093": 1, "Tumor_098": 5, "Normal_015": 0}
    for name, lesions in counts.items():
        truth = read_truth(folder / f"{name}.json", size)
        assert len(truth.lesions()) == lesions
        rings = [
            np.array(part["vertices"], dtype=float)
            for part in json.loads((folder / f"{name}.json").read_text())["positive"]
        ]
        area = sum(
            abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
            for x, y in (ring.T for ring in rings)
        )
        assert sum(shapely.area(lesion) for lesion in truth.lesions()) == pytest.approx(
            area, rel=2e-3
        )
    everywhere = boxes((0, 0, size.width, size.height))
    normal = read_truth(folder / "Normal_015.json", size)
    assert normal.tumour_in(everywhere)[0] == 0
    assert normal.share(Role.NORMAL, everywhere)[0] > 0


def test_an_unmapped_class_is_named_among_all(tmp_path: Path) -> None:
    path = save(tmp_path / "a.xml", asap(("Tumor", square(1, 1, 9)), ("Stroma", square(20, 20, 9))))
    with pytest.raises(AnnotationError, match=r"a\.xml has the classes 'Tumor', 'Stroma'.*Stroma="):
        read_truth(path, SIZE)
    truth = read_truth(path, SIZE, classes=ClassMap.parse("Stroma = Excluded , tumor=nothing"))
    found = boxes((20, 20, 29, 29), (1, 1, 9, 9), (18, 18, 20, 20), (18, 18, 20.5, 20.5))
    np.testing.assert_array_equal(truth.touches_excluded(found), [True, False, False, True])
    assert not truth.tumour_in(found).any()
    bare = save(tmp_path / "b.geojson", [feature(square(1, 1, 9))])
    with pytest.raises(AnnotationError, match="'Unclassified'"):
        read_truth(bare, SIZE)
    assert read_truth(bare, SIZE, classes=ClassMap.parse("unclassified=tumour")).lesions()


@pytest.mark.parametrize("text", ["Tumor", "=tumour", "Tumor=tumours", "a=normal,A=tumour"])
def test_a_wrong_map_of_classes_is_refused(text: str) -> None:
    with pytest.raises(AnnotationError, match="--classes"):
        ClassMap.parse(text)


def test_what_is_mended_is_counted(tmp_path: Path) -> None:
    bowtie = [[0, 0], [100, 100], [100, 0], [0, 100]]
    content = asap(
        ("Tumor", [["200,5", 200], ["300,5", 200], [300.5, "300"], [200.5, 300]]),
        ("Tumor", square(400, 400, 50)),
        ("Tumor", square(400, 400, 50)),
        ("Tumor", [[1, 1], [2, 2], [3, 3]]),
        ("Tumor", []),
        ("Tumor", bowtie),
        ("Tumor", square(950, 700, 100)),
        ("Tumor", square(5000, 5000, 100)),
        ("None", square(600, 600, 10)),
    )
    truth = read_truth(save(tmp_path / "a.xml", content), SIZE)
    assert truth.mended == {
        "decimal commas taken for points": 2,
        "polygons drawn twice left out": 1,
        "polygons without an area left out": 2,
        "polygons that cross themselves taken by the even-odd rule": 1,
        "polygons cut at the slide's edge": 1,
        "polygons wholly outside the slide left out": 1,
    }
    found = truth.tumour_in(
        boxes(
            (200.5, 200, 300.5, 300), (0, 0, 100, 100), (900, 700, 1100, 900), (600, 600, 610, 610)
        )
    )
    np.testing.assert_allclose(found, [1, 0.5, 0.5, 0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (asap(("Tumor", square(5000, 5000, 100))), "all 1 polygons lie outside the slide"),
        (asap(("Tumor", [[1, "x"], [2, 2], [3, 1]])), "a coordinate of 'a0' is no number"),
        (asap(("Tumor", [[1, "nan"], [2, 2], [3, 1]])), "'a0': a ring must be finite"),
        ("<html/>", "first element is <html>"),
        ("<a", "not valid XML"),
        ('<!DOCTYPE a [<!ENTITY b "c">]><ASAP_Annotations/>', "declares entities"),
        ({"positive": [{"name": "a"}]}, "polygons of 'positive'"),
        ({"positive": [{"vertices": [[1, 2], [3]]}]}, "polygons of 'positive'"),
        ({"positive": 3}, "polygons of 'positive'"),
        ({"lesions": []}, "not valid GeoJSON"),
        ("", "cannot be read as GeoJSON"),
    ],
)
def test_what_is_no_annotation_is_refused_by_name(
    content: object, message: str, tmp_path: Path
) -> None:
    path = save(tmp_path / "a.xml", content)
    with pytest.raises(AnnotationError, match=rf"^[^\n]*a\.xml.*{message}"):
        read_truth(path, SIZE)


def test_files_that_are_not_there_are_named(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=r"a\.xml cannot be read: No such file"):
        read_annotations(tmp_path / "a.xml")
    with pytest.raises(AnnotationError, match="cannot be read: Is a directory"):
        read_annotations(tmp_path)
    with pytest.raises(AnnotationError, match=r"none does not exist"):
        find_truth(tmp_path / "none", "a.svs")


def test_the_file_of_a_slide_is_found_by_its_name(tmp_path: Path) -> None:
    for name in ("a.xml", "B_mask.TIF", "c.svs.geojson", "c.tif", "e.json", "E.xml", ".a.json"):
        (tmp_path / name).touch()
    assert find_truth(tmp_path, "a.svs") == tmp_path / "a.xml"
    assert find_truth(tmp_path, "b.tif") == tmp_path / "B_mask.TIF"
    assert find_truth(tmp_path, "d.tif") is None
    assert find_truth(tmp_path, "c.tif") is None  # c.svs.geojson is another's, c.tif the slide
    assert find_truth(tmp_path, "e.svs") == tmp_path / "e.json"
    assert find_truth(tmp_path / "a.xml", "z.svs") == tmp_path / "a.xml"
    (tmp_path / "a.json").touch()
    with pytest.raises(AnnotationError, match=r"has a\.json and a\.xml for a\.svs"):
        find_truth(tmp_path, "a.svs")


# The share of boxes, against a slow twin in exact numbers.

Point = tuple[Fraction, Fraction]


def clipped(ring: list[Point], axis: int, limit: Fraction, *, keep_low: bool) -> list[Point]:
    """Sutherland and Hodgman: a ring cut by one line."""
    found: list[Point] = []
    for i, end in enumerate(ring):
        start = ring[i - 1]
        inside = [
            (point[axis] <= limit) == keep_low or point[axis] == limit for point in (start, end)
        ]
        if inside[0] != inside[1]:
            t = (limit - start[axis]) / (end[axis] - start[axis])
            found.append((start[0] + t * (end[0] - start[0]), start[1] + t * (end[1] - start[1])))
        if inside[1]:
            found.append(end)
    return found


def slow_share(ring: Sequence[Sequence[float]], box: Sequence[float]) -> Fraction:
    left, top, right, bottom = map(Fraction, box)
    points = [(Fraction(x), Fraction(y)) for x, y in ring]
    for axis, limit, keep_low in (
        (0, left, False),
        (0, right, True),
        (1, top, False),
        (1, bottom, True),
    ):
        points = clipped(points, axis, limit, keep_low=keep_low)
    twice = sum(
        (
            points[i - 1][0] * points[i][1] - points[i][0] * points[i - 1][1]
            for i in range(len(points))
        ),
        Fraction(0),
    )
    return abs(twice) / 2 / ((right - left) * (bottom - top))


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), corners=st.sampled_from([3, 12, 300]))
def test_shares_of_a_polygon_equal_a_slow_twin(
    seed: int, corners: int, tmp_path_factory: Any
) -> None:
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))  # a star: never crosses itself
    radius = rng.uniform(20, 300, corners)
    ring = np.stack([500 + radius * np.cos(angles), 400 + radius * np.sin(angles)], axis=1)
    path = save(
        tmp_path_factory.mktemp("star") / "a.geojson", [feature(ring.tolist(), **qupath("Tumor"))]
    )
    truth = read_truth(path, SIZE)
    if truth.mended:  # angles all on one side: the centre lies outside, and edges may cross
        return
    corner = rng.uniform(0, (900, 700), (12, 2))
    drawn = np.concatenate([corner, corner + rng.uniform(1, 99, (12, 1))], axis=1)
    wanted = [float(slow_share(ring.tolist(), box)) for box in drawn.tolist()]
    np.testing.assert_allclose(truth.tumour_in(drawn), wanted, atol=1e-9)


# Masks.


def write_mask(path: Path, mask: NDArray[np.uint8], **options: Any) -> Path:
    if path.suffix == ".png":
        Image.fromarray(mask).save(path)
        return path
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        file.write(mask, **options)
        file.write(mask[::2, ::2], subfiletype=1, **options)
    return path


def disk(height: int, width: int, value: int = 1) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    inside = (x - width * 0.6) ** 2 + (y - height * 0.4) ** 2 < (min(height, width) * 0.2) ** 2
    return inside.astype(np.uint8) * np.uint8(value)


MASKS: dict[str, tuple[str, dict[str, Any]]] = {
    "tiled, LZW": ("a.tif", {"tile": (32, 48), "compression": "lzw"}),
    "tiled, deflate": ("a.tiff", {"tile": (64, 64), "compression": "deflate"}),
    "strips": ("a.tif", {"rowsperstrip": 7}),
    "png": ("a.png", {}),
}


@pytest.mark.parametrize("kind", MASKS)
@pytest.mark.parametrize("value", [1, 255])
@pytest.mark.parametrize("factor", [1.0, 3.7, 0.5])
def test_shares_of_a_mask_equal_a_slow_twin(
    kind: str, value: int, factor: float, tmp_path: Path
) -> None:
    mask = disk(112, 136, value)
    name, options = MASKS[kind]
    path = write_mask(tmp_path / name, mask, **options)
    size = Size(round(136 * factor), round(112 * factor))
    truth = read_truth(path, size)
    rng = np.random.default_rng(1)
    low = rng.uniform(-0.1, 1, (12, 2)) * (size.width, size.height)
    drawn = np.concatenate([low, low + rng.uniform(1, 0.3 * size.width, (12, 1))], axis=1)
    np.testing.assert_allclose(
        truth.tumour_in(drawn), [slow_mask_share(mask > 0, size, box) for box in drawn], atol=1e-9
    )
    (lesion,) = truth.lesions()
    area = (mask > 0).sum() * size.width * size.height / mask.size
    assert shapely.area(lesion) == pytest.approx(area, rel=1e-9)
    for other in (Size(136, 112), Size(41, 33), Size(500, 17)):
        rows = ((np.arange(other.height) + 0.5) * 112 / other.height).astype(int)
        cols = ((np.arange(other.width) + 0.5) * 136 / other.width).astype(int)
        np.testing.assert_array_equal(truth.tumour_mask(other), mask[np.ix_(rows, cols)] > 0)


def slow_mask_share(mask: NDArray[np.bool_], size: Size, box: NDArray[np.float64]) -> float:
    """Pixel after pixel, as rectangles of the slide."""
    left, top, right, bottom = np.clip(box, 0, [size.width, size.height] * 2)
    if right <= left or bottom <= top:
        return 0.0
    across, down = size.width / mask.shape[1], size.height / mask.shape[0]
    covered = 0.0
    for row, col in np.argwhere(mask).tolist():
        width = min(right, (col + 1) * across) - max(left, col * across)
        height = min(bottom, (row + 1) * down) - max(top, row * down)
        covered += max(0.0, width) * max(0.0, height)
    return covered / ((right - left) * (bottom - top))


def test_values_of_a_mask_are_classes(tmp_path: Path) -> None:
    mask = disk(80, 100)
    mask[:20, :20] = 2
    path = write_mask(tmp_path / "a.png", mask)
    with pytest.raises(AnnotationError, match=r"has the classes '0', '1', '2'.*'2'"):
        read_truth(path, SIZE)
    truth = read_truth(path, SIZE, classes=ClassMap.parse("2=normal"))
    assert truth.share(Role.NORMAL, boxes((0, 0, 200, 200), (0, 0, 400, 200))).tolist() == [1, 0.5]
    assert truth.unknown_in(boxes((0, 0, 400, 200)), exhaustive=False).tolist() == [0.5]
    assert truth.unknown_in(boxes((0, 0, 400, 200))).tolist() == [0]


def test_a_mask_of_colours_is_tumour_where_it_is_not_black(tmp_path: Path) -> None:
    colours = np.zeros((80, 100, 4), np.uint8)
    colours[:40, :50] = (0, 9, 0, 255)
    colours[40:, :50] = (0, 9, 0, 0)
    Image.fromarray(colours).save(tmp_path / "a.png")
    truth = read_truth(tmp_path / "a.png", SIZE)
    assert truth.tumour_in(boxes((0, 0, 500, 400), (0, 400, 500, 800))).tolist() == [1, 0]


def test_pictures_that_are_no_masks_of_this_slide_are_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (80, 100), np.uint8)
    for name in ("a.png", "a.tif"):
        path = write_mask(tmp_path / name, noise)
        with pytest.raises(AnnotationError, match="more than 8 values"):
            read_truth(path, SIZE)
        with pytest.raises(AnnotationError, match="is a picture"):
            read_annotations(path)
    path = write_mask(tmp_path / "b.png", disk(80, 80))
    with pytest.raises(AnnotationError, match=r"b\.png is 80×80 px, which is not in proportion"):
        read_truth(path, SIZE)
    (tmp_path / "c.tif").write_bytes((tmp_path / "a.tif").read_bytes()[:200])
    with pytest.raises(AnnotationError, match=r"c\.tif cannot be read as a mask"):
        read_truth(tmp_path / "c.tif", SIZE)


@pytest.mark.parametrize(
    "options",
    [
        {"tile": (1536, 2048)}, {"tile": (1040, 624)}, {"tile": (2096, 4192)},
        {"rowsperstrip": 1}, {"rowsperstrip": 300}, {"rowsperstrip": 5000},
    ],
)  # fmt: skip
def test_large_segments_are_kept_in_pieces(options: dict[str, Any], tmp_path: Path) -> None:
    mask = disk(2090, 4170, 255)
    mask[500:520, 1000:3000], mask[-3:, -2:] = 2, 1
    path = write_mask(tmp_path / "a.tif", mask, compression="deflate", **options)
    image = read_mask_image(path)
    np.testing.assert_array_equal(image.window(0, 0, 4170, 2090), mask)
    np.testing.assert_array_equal(image.window(777, 499, 4170, 2090), mask[499:, 777:])
    assert image.values == (0, 1, 2, 255)
    if options != {"tile": (2096, 4192)}:  # 2096 is 4 times a prime, so that it stays 524
        assert image.tile.width * image.tile.height <= 2 * 512**2


@pytest.mark.parametrize("segment", [{"tile": (512, 512)}, {"rowsperstrip": 64}])
def test_memory_does_not_grow_with_a_mask(segment: dict[str, Any], tmp_path: Path) -> None:
    """Nor with the bytes of a strip that many of them, all unlike each other, have."""
    peaks = []
    for side in (2048, 8192):
        mask = np.zeros((side, side), np.uint8)
        rows = np.arange(side)[:, None]
        mask[:, :2000] = (np.arange(2000) < 900 + rows % 1000) * 255  # no two rows are equal
        path = tmp_path / f"{side}.tif"
        tifffile.imwrite(path, mask, compression="deflate", metadata=None, **segment)
        del mask
        tracemalloc.start()
        truth = read_truth(path, Size(side, side))
        far = side - 100
        found = truth.tumour_in(boxes((10, 10, 110, 110), (10, far, 110, side), (far, 9, side, 99)))
        peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
        tracemalloc.stop()
        assert found.tolist() == [1, 1, 0]
    assert peaks[1] < 40  # MB; the picture has 64
    assert peaks[1] < peaks[0] + 32


def test_nothing_drawn_is_no_tumour() -> None:
    truth = SlideTruth.nothing(SIZE)
    everywhere = boxes((0, 0, 1000, 800))
    assert truth.tumour_in(everywhere).tolist() == [0]
    assert truth.unknown_in(everywhere).tolist() == [0]
    assert truth.unknown_in(everywhere, exhaustive=False).tolist() == [1]
    assert not truth.lesions()
    assert not truth.tumour_mask(Size(10, 8)).any()


@pytest.mark.parametrize("form", ["export", "review"])
def test_what_counts_from_a_corner_is_moved_back(form: str, tmp_path: Path) -> None:
    """QuPath crops a slide to its bounds; our files for it say where they count from."""
    facts = {"corner_l0": [1000.5, 40]}
    document = {
        "type": "FeatureCollection",
        "histoslide": facts if form == "export" else {"review": facts},
        "features": [feature(square(1, 2, 9), **qupath("Tumor"))],
    }
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(document))
    (drawn,) = read_annotations(path).items
    assert drawn.polygon.outline.min(axis=0).tolist() == [1001.5, 42]
    facts["corner_l0"] = [float("nan"), 0]
    path.write_text(json.dumps(document))
    with pytest.raises(AnnotationError, match="corner_l0"):
        read_annotations(path)


@pytest.mark.parametrize("corner", [10**400, "x", None, [1], [1, 2, 3], ["a", 0], [10**400, 0]])
def test_a_corner_that_is_no_place_is_one_line(corner: object, tmp_path: Path) -> None:
    path = tmp_path / "a.geojson"
    document = {
        "type": "FeatureCollection",
        "features": [feature(square(1, 2, 9), **qupath("Tumor"))],
    }
    path.write_text(json.dumps(document | {"histoslide": {"review": {"corner_l0": corner}}}))
    with pytest.raises(AnnotationError, match="not valid GeoJSON"):
        read_annotations(path)
    with pytest.raises(ReviewError, match="its corner_l0 is no place"):
        read_review(path)
